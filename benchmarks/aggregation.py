"""Balancing alone: from stacked gradients of 11 million parameters to one direction.

python -m benchmarks.aggregation [--tasks 2 4 8 16 40] [--methods pcgrad ...]

The leaves are those of a ResNet-18 (11.2 M parameters). The limit that a ratio is of: reading J
twice, once for G and once for Jᵀw, at the speed at which this machine sums J; a method that looks
inside the gradients reads them once. "At most" is what the PyTorch libraries take on two cores; on
the same machine, `python -m benchmarks.aggregation_torch`.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from mtl_jax import gradients, optim

METHODS = (
  'sum_tasks',
  'pcgrad',
  'mgda',
  'upgrad',
  'nash_mtl',
  'cagrad',
  'aligned_mtl',
  'config',
  'gradvac',
  'graddrop',
)
BOUNDS = {2: 34, 4: 50, 8: 85, 16: 95, 40: 380}  # milliseconds


def leaves() -> dict[str, tuple[int, ...]]:
  """The parameters of a ResNet-18 without its classifier."""
  shapes: dict[str, tuple[int, ...]] = {'stem': (7, 7, 3, 64)}
  channels = 64
  for stage, width in enumerate((64, 128, 256, 512)):
    for block in range(2):
      name = f'stage_{stage}_{block}'
      shapes[f'{name}/conv_0'] = (3, 3, channels, width)
      shapes[f'{name}/conv_1'] = (3, 3, width, width)
      if channels != width:
        shapes[f'{name}/short'] = (1, 1, channels, width)
      for norm in ('norm_0', 'norm_1'):
        shapes[f'{name}/{norm}'] = (2, width)
      channels = width
  return shapes


def jacobian(tasks: int) -> dict[str, jax.Array]:
  keys = jax.random.split(jax.random.key(0), len(leaves()))
  draw = jax.jit(lambda key, shape: jax.random.normal(key, shape), static_argnums=1)
  return {
    name: draw(key, (tasks, *shape))
    for key, (name, shape) in zip(keys, leaves().items(), strict=True)
  }


def seconds(function, argument, repeats: int) -> float:
  jax.block_until_ready(function(argument))
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function(argument))
    times.append(time.perf_counter() - start)
  return float(np.median(times))


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n', maxsplit=1)[0], prog='python -m benchmarks.aggregation'
  )
  parser.add_argument('--tasks', type=int, nargs='+', default=list(BOUNDS))
  parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=list(optim.METHODS))
  parser.add_argument('--repeats', type=int, default=7)
  arguments = parser.parse_args()
  size = sum(int(np.prod(shape)) for shape in leaves().values())
  print(machine.begin(), end='\n\n')
  print(f'{size / 1e6:.1f} M parameters, float32. Milliseconds; × the limit by memory bandwidth.\n')
  print('| method | ' + ' | '.join(f'T = {t}' for t in arguments.tasks) + ' |')
  print('| --- |' + ' --- |' * len(arguments.tasks))
  table: dict[str, list[str]] = {}
  for tasks in arguments.tasks:
    rows = jacobian(tasks)
    total = jax.jit(lambda tree: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree)))
    read = seconds(total, rows, arguments.repeats)
    bound = BOUNDS.get(tasks) if jax.default_backend() == 'cpu' else None
    table.setdefault('at most', []).append(f'{bound or ""}')
    table.setdefault('reading J twice', []).append(f'{2e3 * read:.3g}')

    def note(name, taken, reads, tasks=tasks, read=read):
      ratio = taken / (reads * read)
      table.setdefault(name, []).append(f'{1e3 * taken:.3g} ({ratio:.1f})')
      machine.record('aggregation', tasks=tasks, method=name, seconds=taken, ratio=ratio)

    gram = seconds(jax.jit(gradients.gramian), rows, arguments.repeats)
    note('Gramian', gram, 1)
    combine = jax.jit(lambda tree, t=tasks: gradients.combine(jnp.ones(t), tree))
    once = seconds(combine, rows, arguments.repeats)
    note('Jᵀw', once, 1)
    for name in arguments.methods:
      tx = optim.get(name)
      state = tx.init_tasks(jax.tree.map(lambda leaf: leaf[0], rows), tasks)
      update = jax.jit(lambda tree, tx=tx, s=state, t=tasks: tx.update(tree, s, losses=jnp.ones(t)))
      reads = 1 if tx.needs in ('losses', 'jacobian') else 2
      value = seconds(update, rows, 3 if tasks > 16 else arguments.repeats)
      note(name, value, reads)
  for name, cells in table.items():
    print(f'| {name} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
  main()
