"""Training steps of every kind of method beside the plain summed-loss step, in one run.

python -m benchmarks.steps [--only shared mlp ...] [--tasks 2 ...] [--methods pcgrad ...] [--all]

Tables, each with the bounds the project holds itself to on a CPU at the sizes by default:

* shared: a 4-layer Transformer (width 256, feed-forward 4 × as wide, heads of 64) on 32 sequences
  of 64 tokens that every task labels;
* representation: the same, balanced at the features;
* own: the same Transformer, 16 sequences of each task's own;
* mlp: an MLP 256-512-512 on 256 examples, where overhead shows;
* memory: what XLA plans for a step besides arguments and outputs, stacked and matrix-free;
* instances: one loss an example on the MLP, stacked and matrix-free.

The steps of a table's group take turns, so that a drift of the machine's speed meets all of them;
a ratio is that of the medians. Compile time is that of one `lower().compile()`. `--operations` adds
those of a step's products, counted on its jaxpr, their number a second and, in bfloat16, their
share of what the device could do, where `benchmarks.machine` knows that.
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtl_jax
from benchmarks import machine
from mtl_jax import Task, encoders, heads, optim, sharing
from mtl_jax.build import flops

VOCABULARY = 1000
PLAIN = 'sum_tasks'
ONE_FORWARD = 'famo, one forward'
LOSSES = ('uncertainty', 'dwa', ONE_FORWARD)
GRAMIAN = ('pcgrad', 'mgda', 'upgrad', 'nash_mtl', 'cagrad', 'aligned_mtl', 'config')
MORE = ('gradvac', 'imtl_g', 'fairgrad', 'dualproj', 'krum', 'gradnorm+pcgrad')
SHARED_BOUNDS = {2: 1.45, 4: 2.5, 8: 4.3, 16: 8.5}


class Setup(NamedTuple):
  """What the command line chose; the defaults are what the bounds are for."""

  repeats: int = 9
  tasks: tuple[int, ...] = tuple(SHARED_BOUNDS)
  losses: tuple[str, ...] = (*LOSSES, 'famo')
  gramian: tuple[str, ...] = GRAMIAN
  width: int = 256
  layers: int = 4
  length: int = 64
  examples: int = 32
  classes: int = 5
  dtype: str = 'float32'
  optimizer: str = 'sgd'
  operations: bool = False


Cases = dict[str, tuple[str, dict]]
"""Name -> a method and options of `make_train_step`."""


def method(name: str) -> optim.Balancer:
  if name == ONE_FORWARD:
    return optim.famo(second_forward=False)
  return optim.compose(*(optim.get(part) for part in name.split('+')))


def transformer(tasks: int, setup: Setup) -> mtl_jax.MultiTaskModel:
  dtype = jnp.dtype(setup.dtype)
  encoder = encoders.Transformer(
    encoders.Embedding(VOCABULARY, setup.width, dropout=0.0, dtype=dtype),
    features=setup.width,
    layers=setup.layers,
    heads=max(setup.width // 64, 1),
    mlp_features=4 * setup.width,
    max_length=setup.length,
    dropout=0.0,
    dtype=dtype,
  )
  return sharing.hard(encoder, _tasks(tasks, setup.classes))


def mlp(tasks: int, setup: Setup) -> mtl_jax.MultiTaskModel:
  return sharing.hard(encoders.MLP((512, 512)), _tasks(tasks, setup.classes))


def _tasks(count: int, classes: int) -> list[Task]:
  return [Task(f'task_{i}', heads.Classification(classes)) for i in range(count)]


def tokens(setup: Setup, examples: int, rng: np.random.Generator) -> dict:
  values = rng.integers(2, VOCABULARY, (examples, setup.length)).astype(np.int32)
  return {'tokens': values, 'mask': np.ones(values.shape, bool)}


def vectors(setup: Setup, examples: int, rng: np.random.Generator) -> np.ndarray:
  del setup
  return rng.normal(size=(examples, 256)).astype(np.float32)


def batch_of(inputs, tasks: int, examples: int, setup: Setup, own: bool = False) -> dict:
  rng = np.random.default_rng(0)
  names = [f'task_{i}' for i in range(tasks)]

  def labels():
    return rng.integers(0, setup.classes, examples).astype(np.int32)

  if own:
    return {name: {'inputs': inputs(setup, examples, rng), 'targets': labels()} for name in names}
  return {'inputs': inputs(setup, examples, rng), 'targets': {name: labels() for name in names}}


class Measured(NamedTuple):
  seconds: float  # the median
  memory: float  # MiB that XLA plans
  compiling: float  # seconds
  operations: int | None


def measure(model, batch, cases: Cases, setup: Setup, repeats: int = 0, params=None):
  """`{case: Measured}`."""
  steps, states, rows = {}, {}, {}
  for case, (name, options) in cases.items():
    balance = method(name)
    optimizer = optax.adam(1e-4) if setup.optimizer == 'adam' else optax.sgd(1e-3)
    state = mtl_jax.init_train_state(
      model, balance, optimizer, jax.random.key(0), batch, params=params
    )
    step = mtl_jax.make_train_step(model, balance, optimizer, **options)
    start = time.perf_counter()
    plan = step.lower(state, batch).compile()
    seconds = time.perf_counter() - start
    operations = None
    if setup.operations:
      plain = mtl_jax.make_train_step(model, balance, optimizer, jit=False, **options)
      operations = flops.count(plain, state, batch)
    rows[case] = (plan.memory_analysis().temp_size_in_bytes / 2**20, seconds, operations)
    steps[case], states[case] = plan, jax.block_until_ready(plan(state, batch)[0])
  times: dict[str, list[float]] = {case: [] for case in cases}
  for _ in range(repeats or setup.repeats):
    for case, step in steps.items():
      start = time.perf_counter()
      states[case] = jax.block_until_ready(step(states[case], batch)[0])
      times[case].append(time.perf_counter() - start)
  return {case: Measured(float(np.median(times[case])), *rows[case]) for case in cases}


def show(title: str, results: dict[str, Measured], bounds: dict[str, float], setup: Setup) -> None:
  """One row a case beside the first, which is the plain step."""
  plain = next(iter(results.values()))
  for case, one in results.items():
    bound = f'{bounds[case]:.2f}' if case in bounds and jax.default_backend() == 'cpu' else ''
    print(
      f'| {title} | {case} | {1e3 * one.seconds:.4g} ms | {one.seconds / plain.seconds:.2f} '
      f'| {bound} | {one.memory:.0f} MiB | {one.compiling:.1f} s '
      f'| {1.5 * plain.compiling + 2:.1f} s |{_rate(one, setup)}',
      flush=True,
    )
    ratio = one.seconds / plain.seconds
    machine.record('steps', inputs=title, method=case, ratio=ratio, **one._asdict())


def _rate(one: Measured, setup: Setup) -> str:
  """Operations, their number a second and its share of the device's peak, as columns."""
  if one.operations is None:
    return ''
  rate, peak = one.operations / one.seconds, machine.peak()
  share = f'{rate / peak:.1%}' if peak and setup.dtype == 'bfloat16' else ''
  return f' {one.operations / 1e12:.4g} T | {rate / 1e12:.4g} T/s | {share} |'


def cases_of(names) -> Cases:
  return {PLAIN: (PLAIN, {})} | {name: (name, {}) for name in names}


def shared(setup: Setup) -> None:
  for tasks in setup.tasks:
    cases = cases_of([*setup.losses, *setup.gramian])
    batch = batch_of(tokens, tasks, setup.examples, setup)
    results = measure(transformer(tasks, setup), batch, cases, setup)
    bounds = dict.fromkeys(LOSSES, 1.05)
    if tasks in SHARED_BOUNDS:
      bounds |= dict.fromkeys(setup.gramian, SHARED_BOUNDS[tasks])
    show(f'shared, T = {tasks}', results, bounds, setup)


def representation(setup: Setup) -> None:
  for tasks in setup.tasks:
    chosen = setup.gramian[:3]
    names = [f'{name}, representation' for name in chosen]
    cases = {PLAIN: (PLAIN, {})}
    cases |= {
      label: (name, {'at': 'representation'}) for label, name in zip(names, chosen, strict=True)
    }
    batch = batch_of(tokens, tasks, setup.examples, setup)
    results = measure(transformer(tasks, setup), batch, cases, setup)
    show(f'shared, T = {tasks}', results, dict.fromkeys(names, 1.15), setup)


def own(setup: Setup) -> None:
  chosen = setup.gramian[:4]
  batch = batch_of(tokens, 8, max(setup.examples // 2, 1), setup, own=True)
  results = measure(transformer(8, setup), batch, cases_of(chosen), setup)
  show('own, T = 8', results, dict.fromkeys(chosen, 1.05), setup)


def small(setup: Setup) -> None:
  batch = batch_of(vectors, 10, 256, setup)
  results = measure(mlp(10, setup), batch, cases_of(setup.gramian), setup, 5 * setup.repeats)
  show('MLP, T = 10', results, dict.fromkeys(setup.gramian, 6.0), setup)


def memory(setup: Setup) -> None:
  for tasks in (2, 8, 32):
    cases = {PLAIN: (PLAIN, {})}
    cases |= {
      f'pcgrad, {way}': ('pcgrad', {'jacobian': way})
      for way in ('stacked', 'sequential', 'matrix_free')
    }
    results = measure(transformer(tasks, setup), batch_of(tokens, tasks, 4, setup), cases, setup)
    show(f'4 sequences, T = {tasks}', results, {}, setup)


def instances(setup: Setup) -> None:
  rng = np.random.default_rng(0)
  params = {
    f'layer_{i}': {'kernel': jnp.asarray(rng.normal(size=shape) / 16, jnp.float32)}
    for i, shape in enumerate([(256, 512), (512, 512), (512, 5)])
  }
  batch = (vectors(setup, 64, rng), rng.integers(0, 5, 64).astype(np.int32))

  def losses(params, batch, key):
    del key
    x, labels = batch
    for i in range(3):
      x = x @ params[f'layer_{i}']['kernel']
      x = jax.nn.relu(x) if i < 2 else x
    return optax.losses.softmax_cross_entropy_with_integer_labels(x, labels)

  cases = {PLAIN: (PLAIN, {})}
  cases |= {f'upgrad, {way}': ('upgrad', {'jacobian': way}) for way in ('stacked', 'matrix_free')}
  results = measure(losses, batch, cases, setup, params=params)
  show('64 losses, one an example', results, {}, setup)


TABLES = {
  'shared': shared,
  'representation': representation,
  'own': own,
  'mlp': small,
  'memory': memory,
  'instances': instances,
}


def parse() -> tuple[list[str], Setup]:
  """The tables to make, and everything else."""
  usual = Setup()
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n', maxsplit=1)[0], prog='python -m benchmarks.steps'
  )
  parser.add_argument('--only', nargs='+', choices=TABLES, default=list(TABLES), help='tables')
  parser.add_argument('--repeats', type=int, default=usual.repeats, help='timed steps of each')
  parser.add_argument('--tasks', type=int, nargs='+', default=usual.tasks, metavar='T')
  parser.add_argument('--methods', nargs='+', metavar='NAME', help='in place of the usual ones')
  parser.add_argument('--all', action='store_true', help='more methods on the Gramian')
  for name in ('width', 'layers', 'length', 'examples', 'classes'):
    number = getattr(usual, name)
    parser.add_argument(f'--{name}', type=int, default=number, metavar='N', help=f'usual: {number}')
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default=usual.dtype)
  parser.add_argument('--optimizer', choices=('sgd', 'adam'), default=usual.optimizer)
  parser.add_argument('--operations', action='store_true', help='counts them, see above')
  given = vars(parser.parse_args())
  only, methods, every = given.pop('only'), given.pop('methods'), given.pop('all')
  setup = Setup(**given)
  if methods:
    setup = setup._replace(losses=(), gramian=tuple(methods))
  elif every:
    setup = setup._replace(gramian=(*GRAMIAN, *MORE))
  return only, setup


def main() -> None:
  only, setup = parse()
  print(machine.begin(), end='\n\n')
  more = ' operations | a second | of the peak |' if setup.operations else ''
  print(
    '| inputs | method | step | × plain | at most | temporary memory | compiling | at most '
    f'|{more}\n| --- | --- | --- | --- | --- | --- | --- | --- |{" --- |" * more.count("|")}'
  )
  for name in only:
    TABLES[name](setup)


if __name__ == '__main__':
  main()
