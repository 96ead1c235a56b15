"""A step of many seeds at once, by `vmap` over their states, beside that of one.

python -m benchmarks.seeds [--seeds 8] [--methods sum_tasks pcgrad]

The models, batches and sizes are those of `benchmarks.steps`, with four tasks that share inputs;
every seed sees the same batch. The ratio is to as many steps of one seed, one after the other.
"""

import argparse
import time

import jax
import numpy as np
import optax

import mtl_jax
from benchmarks import machine, steps

TASKS = 4


def measure(model, batch, name: str, seeds: int, repeats: int) -> tuple[float, float]:
  """Median seconds of a step of one seed, and of one of all seeds, taken in turns."""
  balance, optimizer = steps.method(name), optax.adam(1e-4)
  step = mtl_jax.make_train_step(model, balance, optimizer, jit=False)

  def init(key):
    return mtl_jax.init_train_state(model, balance, optimizer, key, batch)

  one = jax.jit(step, donate_argnums=0)
  many = jax.jit(jax.vmap(step, in_axes=(0, None)), donate_argnums=0)
  states = [
    init(jax.random.key(0)),
    jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), seeds)),
  ]
  times: list[list[float]] = [[], []]
  for _ in range(repeats + 1):
    for which, function in enumerate((one, many)):
      start = time.perf_counter()
      states[which] = jax.block_until_ready(function(states[which], batch)[0])
      times[which].append(time.perf_counter() - start)
  alone, together = (float(np.median(taken[1:])) for taken in times)  # the first ones compile
  return alone, together


def main() -> None:
  usual = steps.Setup()
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n', maxsplit=1)[0], prog='python -m benchmarks.seeds'
  )
  parser.add_argument('--seeds', type=int, default=8)
  parser.add_argument('--methods', nargs='+', default=['sum_tasks', 'pcgrad'], metavar='NAME')
  parser.add_argument('--repeats', type=int, default=usual.repeats)
  for name in ('width', 'layers', 'length', 'examples'):
    number = getattr(usual, name)
    parser.add_argument(f'--{name}', type=int, default=number, metavar='N', help=f'usual: {number}')
  given = vars(parser.parse_args())
  seeds, methods = given.pop('seeds'), given.pop('methods')
  setup = steps.Setup(**given)
  print(machine.begin(), end='\n\n')
  print(f'| model | method | one seed | {seeds} seeds | × {seeds} steps of one |')
  print('| --- | --- | --- | --- | --- |')
  models = {
    'MLP': (steps.mlp(TASKS, setup), steps.batch_of(steps.vectors, TASKS, 256, setup)),
    'Transformer': (
      steps.transformer(TASKS, setup),
      steps.batch_of(steps.tokens, TASKS, setup.examples, setup),
    ),
  }
  for title, (model, batch) in models.items():
    for name in methods:
      alone, together = measure(model, batch, name, seeds, setup.repeats)
      ratio = together / (seeds * alone)
      print(
        f'| {title} | {name} | {1e3 * alone:.4g} ms | {1e3 * together:.4g} ms | {ratio:.2f} |',
        flush=True,
      )
      machine.record(
        'seeds', model=title, method=name, seeds=seeds, one=alone, many=together, ratio=ratio
      )


if __name__ == '__main__':
  main()
