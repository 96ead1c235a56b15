"""Training steps of every kind of method beside the plain summed-loss step, in one run.

python -m benchmarks.steps [--only shared mlp ...] [--all]

Tables, each with the bounds the project holds itself to:

* shared: a 4-layer Transformer (width 256, feed-forward 1024, 4 heads) on 32 sequences of 64
  tokens that every task labels;
* representation: the same, balanced at the features;
* own: the same Transformer, 16 sequences of each task's own;
* mlp: an MLP 256-512-512 on 256 examples, where overhead shows;
* memory: what XLA plans for a step besides arguments and outputs, stacked and matrix-free;
* instances: one loss an example on the MLP, stacked and matrix-free.

The steps of a table's group take turns, so that a drift of the machine's speed meets all of them;
a ratio is that of the medians. Compile time is that of one `lower().compile()`.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtl_jax
from benchmarks import machine
from mtl_jax import Task, encoders, heads, optim, sharing

LENGTH, VOCABULARY = 64, 1000
PLAIN = 'sum_tasks'
ONE_FORWARD = 'famo, one forward'
LOSSES = ('uncertainty', 'dwa', ONE_FORWARD)
GRAMIAN = ('pcgrad', 'mgda', 'upgrad', 'nash_mtl', 'cagrad', 'aligned_mtl', 'config')
MORE = ('gradvac', 'imtl_g', 'fairgrad', 'dualproj', 'krum', 'gradnorm+pcgrad')
SHARED_BOUNDS = {2: 1.45, 4: 2.5, 8: 4.3, 16: 8.5}


def method(name: str) -> optim.Balancer:
  if name == ONE_FORWARD:
    return optim.famo(second_forward=False)
  return optim.compose(*(optim.get(part) for part in name.split('+')))


def transformer(tasks: int) -> mtl_jax.MultiTaskModel:
  encoder = encoders.Transformer(
    encoders.Embedding(VOCABULARY, 256, dropout=0.0),
    features=256,
    layers=4,
    heads=4,
    mlp_features=1024,
    max_length=LENGTH,
    dropout=0.0,
  )
  return sharing.hard(encoder, _tasks(tasks))


def mlp(tasks: int) -> mtl_jax.MultiTaskModel:
  return sharing.hard(encoders.MLP((512, 512)), _tasks(tasks))


def _tasks(count: int) -> list[Task]:
  return [Task(f'task_{i}', heads.Classification(5)) for i in range(count)]


def tokens(examples: int, rng: np.random.Generator) -> dict:
  values = rng.integers(2, VOCABULARY, (examples, LENGTH)).astype(np.int32)
  return {'tokens': values, 'mask': np.ones(values.shape, bool)}


def vectors(examples: int, rng: np.random.Generator) -> np.ndarray:
  return rng.normal(size=(examples, 256)).astype(np.float32)


def batch_of(inputs, tasks: int, examples: int, own: bool = False) -> dict:
  rng = np.random.default_rng(0)
  names = [f'task_{i}' for i in range(tasks)]

  def labels():
    return rng.integers(0, 5, examples).astype(np.int32)

  if own:
    return {name: {'inputs': inputs(examples, rng), 'targets': labels()} for name in names}
  return {'inputs': inputs(examples, rng), 'targets': {name: labels() for name in names}}


def measure(model, batch, cases: dict[str, tuple[str, dict]], repeats: int, params=None):
  """`{case: (median seconds, MiB planned, compile seconds)}`; cases: (method, step options)."""
  steps, states, rows = {}, {}, {}
  for case, (name, options) in cases.items():
    balance, optimizer = method(name), optax.sgd(1e-3)
    state = mtl_jax.init_train_state(
      model, balance, optimizer, jax.random.key(0), batch, params=params
    )
    step = mtl_jax.make_train_step(model, balance, optimizer, **options)
    start = time.perf_counter()
    plan = step.lower(state, batch).compile()
    seconds = time.perf_counter() - start
    rows[case] = (plan.memory_analysis().temp_size_in_bytes / 2**20, seconds)
    steps[case], states[case] = plan, jax.block_until_ready(plan(state, batch)[0])
  times: dict[str, list[float]] = {case: [] for case in cases}
  for _ in range(repeats):
    for case, step in steps.items():
      start = time.perf_counter()
      states[case] = jax.block_until_ready(step(states[case], batch)[0])
      times[case].append(time.perf_counter() - start)
  return {case: (float(np.median(times[case])), *rows[case]) for case in cases}


def show(title: str, results: dict, bounds: dict[str, float]) -> None:
  """One row a case beside the first, which is the plain step."""
  plain, _, plain_compile = next(iter(results.values()))
  for case, (seconds, memory, compiling) in results.items():
    bound = f'{bounds[case]:.2f}' if case in bounds else ''
    print(
      f'| {title} | {case} | {1e3 * seconds:.4g} ms | {seconds / plain:.2f} | {bound} '
      f'| {memory:.0f} MiB | {compiling:.1f} s | {1.5 * plain_compile + 2:.1f} s |',
      flush=True,
    )


def cases_of(names) -> dict[str, tuple[str, dict]]:
  return {PLAIN: (PLAIN, {})} | {name: (name, {}) for name in names}


def shared(repeats: int, gramian) -> None:
  for tasks, bound in SHARED_BOUNDS.items():
    cases = cases_of([*LOSSES, 'famo', *gramian])
    results = measure(transformer(tasks), batch_of(tokens, tasks, 32), cases, repeats)
    bounds = dict.fromkeys(gramian, bound) | dict.fromkeys(LOSSES, 1.05)
    show(f'shared, T = {tasks}', results, bounds)


def representation(repeats: int, gramian) -> None:
  for tasks in SHARED_BOUNDS:
    names = [f'{name}, representation' for name in gramian[:3]]
    cases = {PLAIN: (PLAIN, {})}
    cases |= {
      label: (name, {'at': 'representation'})
      for label, name in zip(names, gramian[:3], strict=True)
    }
    results = measure(transformer(tasks), batch_of(tokens, tasks, 32), cases, repeats)
    show(f'shared, T = {tasks}', results, dict.fromkeys(names, 1.15))


def own(repeats: int, gramian) -> None:
  results = measure(
    transformer(8), batch_of(tokens, 8, 16, own=True), cases_of(gramian[:4]), repeats
  )
  show('own, T = 8', results, dict.fromkeys(gramian, 1.05))


def small(repeats: int, gramian) -> None:
  results = measure(mlp(10), batch_of(vectors, 10, 256), cases_of(gramian), 5 * repeats)
  show('MLP, T = 10', results, dict.fromkeys(gramian, 6.0))


def memory(repeats: int, gramian) -> None:
  del gramian
  for tasks in (2, 8, 32):
    cases = {PLAIN: (PLAIN, {})}
    cases |= {
      f'pcgrad, {way}': ('pcgrad', {'jacobian': way})
      for way in ('stacked', 'sequential', 'matrix_free')
    }
    batch = batch_of(tokens, tasks, 4)
    show(f'4 sequences, T = {tasks}', measure(transformer(tasks), batch, cases, repeats), {})


def instances(repeats: int, gramian) -> None:
  del gramian
  rng = np.random.default_rng(0)
  params = {
    f'layer_{i}': {'kernel': jnp.asarray(rng.normal(size=shape) / 16, jnp.float32)}
    for i, shape in enumerate([(256, 512), (512, 512), (512, 5)])
  }
  batch = (vectors(64, rng), rng.integers(0, 5, 64).astype(np.int32))

  def losses(params, batch, key):
    del key
    x, labels = batch
    for i in range(3):
      x = x @ params[f'layer_{i}']['kernel']
      x = jax.nn.relu(x) if i < 2 else x
    return optax.losses.softmax_cross_entropy_with_integer_labels(x, labels)

  cases = {PLAIN: (PLAIN, {})}
  cases |= {f'upgrad, {way}': ('upgrad', {'jacobian': way}) for way in ('stacked', 'matrix_free')}
  show('64 losses, one an example', measure(losses, batch, cases, repeats, params), {})


TABLES = {
  'shared': shared,
  'representation': representation,
  'own': own,
  'mlp': small,
  'memory': memory,
  'instances': instances,
}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n', maxsplit=1)[0], prog='python -m benchmarks.steps'
  )
  parser.add_argument('--repeats', type=int, default=9, help='timed steps of each method')
  parser.add_argument('--only', nargs='+', choices=TABLES, default=list(TABLES), help='tables')
  parser.add_argument('--all', action='store_true', help='more methods on the Gramian')
  arguments = parser.parse_args()
  gramian = (*GRAMIAN, *MORE) if arguments.all else GRAMIAN
  print(machine.begin(), end='\n\n')
  print(
    '| inputs | method | step | × plain | at most | temporary memory | compiling | at most |\n'
    '| --- | --- | --- | --- | --- | --- | --- | --- |'
  )
  for name in arguments.only:
    TABLES[name](arguments.repeats, gramian)


if __name__ == '__main__':
  main()
