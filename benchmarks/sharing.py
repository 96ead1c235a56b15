"""A training step of every way to share, 16 tasks, beside products of the same operations.

python -m benchmarks.sharing [--only mmoe ltb ...] [--tasks 16] [--examples 256] [--width 1024]

The encoder is an MLP 256-W-W on examples that every task labels, so that matrix products are what a
step consists of; plain sum, SGD. `operations` are those of the step's products, forward and
backward, counted on its jaxpr. The products are the three of a layer in training (x·W, g·Wᵀ, xᵀ·g),
timed in turns with the steps and scaled to their operations: what a step would cost if it were
nothing but loop-free products. x is [T, B, W] and W [T, W, W] where columns or experts are stacked,
[T·B, W] and [W, W] where tasks have a common trunk. The ratio is the median of those of each turn.
PALs need tokens and are not here.
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
from mtl_jax.build import flops

INPUTS = 256
BOUND = 1.3
COMMON_TRUNK = ('hard', 'hierarchical', 'mtan', 'adapters', 'lora', 'hyper_adapters')
LAYERS = {'layers': r'Dense_\d'}
OPTIONS = dict.fromkeys(('adapters', 'lora', 'hyper_adapters', 'mtan', 'hierarchical'), LAYERS)
OPTIONS |= {'mmoe': {'experts': 16}, 'dselect_k': {'experts': 16}, 'ltb': {'children': 16}}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
  names = [name for name in sharing.SHARING if name != 'pals']
  parser.add_argument('--only', nargs='+', choices=names, default=names, metavar='NAME')
  parser.add_argument('--tasks', type=int, default=16, help='default: 16')
  parser.add_argument('--examples', type=int, default=256, metavar='B', help='default: 256')
  parser.add_argument('--width', type=int, default=1024, metavar='W', help='default: 1024')
  parser.add_argument('--rounds', type=int, default=7, help='default: 7')
  arguments = parser.parse_args()
  tasks, examples, width = arguments.tasks, arguments.examples, arguments.width
  rng = np.random.default_rng(0)
  print(machine.begin(), end='\n\n')
  print(
    f'| {tasks} tasks, {examples} examples, width {width} | operations | ms a step '
    f'| ms of products | ratio (bound {BOUND}) |'
  )
  print('| --- | --: | --: | --: | --: |')
  x, g = jnp.asarray(rng.normal(size=(2, tasks, examples, width)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(tasks, width, width)), jnp.float32)
  stacked, trunk = (x, w, g), (x.reshape(-1, width), w[0], g.reshape(-1, width))
  products = jax.jit(lambda x, w, g: (x @ w, g @ w.mT, x.mT @ g))
  products_operations = 3 * 2 * tasks * examples * width * width
  batch = {
    'inputs': jnp.asarray(rng.normal(size=(examples, INPUTS)), jnp.float32),
    'targets': {
      f'task_{i}': jnp.asarray(rng.integers(0, 5, examples), jnp.int32) for i in range(tasks)
    },
  }
  made = [Task(f'task_{i}', heads.Classification(5)) for i in range(tasks)]
  for name in arguments.only:
    model = sharing.get(name)(encoders.MLP((width, width)), made, **OPTIONS.get(name, {}))
    balance, optimizer = optim.sum_tasks(), optax.sgd(1e-3)
    state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(0), batch)
    plain = mtl_jax.make_train_step(model, balance, optimizer, jit=False)
    operations = flops.count(plain, state, batch)
    step = jax.jit(plain, donate_argnums=0)
    state, _ = step(state, batch)
    layer = trunk if name in COMMON_TRUNK else stacked
    jax.block_until_ready(products(*layer))
    times = []
    for _ in range(arguments.rounds):
      start = time.perf_counter()
      state, metrics = jax.block_until_ready(step(state, batch))
      middle = time.perf_counter()
      jax.block_until_ready(products(*layer))
      times.append((middle - start, time.perf_counter() - middle))
    assert np.isfinite(metrics['loss']).all(), name
    taken, reference = 1e3 * np.array(times[1:]).T
    reference *= operations / products_operations
    ratio = float(np.median(taken / reference))
    row = {'tasks': tasks, 'examples': examples, 'width': width, 'operations': operations}
    machine.record('sharing', of=name, milliseconds=float(np.median(taken)), ratio=ratio, **row)
    print(
      f'| {name} | {operations / 1e9:.1f} G | {np.median(taken):.3g} | {np.median(reference):.3g} '
      f'| {ratio:.2f} |',
      flush=True,
    )


if __name__ == '__main__':
  main()
