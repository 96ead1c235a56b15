"""What outputs beside the losses and a model state cost a step: times in turns, beside one without.

    python -m benchmarks.extras [--rounds 15]

Three tasks on a network of four layers of 512 over a batch of 256 × 256, all in one function to a
dict of losses. 'aux' returns the hidden states and outputs, 'state' a running mean of every layer.
"""

import argparse
import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtl_jax
from mtl_jax import memory, optim

METHODS = {'sum_tasks': optim.sum_tasks, 'pcgrad': optim.pcgrad}


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--rounds', type=int, default=15)
  args = parser.parse_args(argv)
  memory.keep_freed()
  print('| method | without (ms) | aux | state | both |\n|---|---|---|---|---|')
  for method in METHODS:
    steps = [stepper(method, aux, state) for aux in (False, True) for state in (False, True)]
    times = [[] for _ in steps]
    for _ in range(args.rounds):
      for run, found in zip(steps, times, strict=True):
        found.append(run())
    plain, state, aux, both = map(statistics.median, times)
    ratios = ' | '.join(f'{t / plain:.3f}' for t in (aux, state, both))
    print(f'| {method} | {plain * 1e3:.1f} | {ratios} |')


def stepper(method, has_aux, has_state):
  """A function that takes steps and returns the seconds of one."""
  rng = np.random.default_rng(0)
  sizes = [256, 512, 512, 512, 512, 3]
  params = [
    jnp.asarray(rng.normal(size=(a, b)) / np.sqrt(a), jnp.float32)
    for a, b in itertools.pairwise(sizes)
  ]
  x, y = (jnp.asarray(rng.normal(size=(256, n)), jnp.float32) for n in (256, 3))

  def losses(params, *given):
    means = given[0] if has_state else None
    hidden, new = given[-1][0], []
    kept = []
    for i, w in enumerate(params[:-1]):
      hidden = jnp.tanh(hidden @ w)
      kept.append(hidden)
      if has_state:
        new.append(0.9 * means[i] + 0.1 * hidden.mean(axis=0))
    out = hidden @ params[-1]
    errors = jnp.mean((out - given[-1][1]) ** 2, axis=0)
    found = {'a': errors[0], 'b': errors[1], 'c': errors[2]}
    aux = {'hidden': kept, 'out': out}
    if has_state:
      return (found, (new, aux)) if has_aux else (found, new)
    return (found, aux) if has_aux else found

  def of_batch(params, batch):
    return losses(params, batch)

  def of_state(params, model_state, batch):
    return losses(params, model_state, batch)

  function = of_state if has_state else of_batch
  first = [jnp.zeros(512) for _ in range(4)] if has_state else None
  balance, optimizer = METHODS[method](), optax.adam(1e-3)
  state = mtl_jax.init_train_state(
    function, balance, optimizer, jax.random.key(0), (x, y), params=params, model_state=first
  )
  step = mtl_jax.make_train_step(function, balance, optimizer, has_aux=has_aux)

  def run(count=8):
    nonlocal state
    begin = time.perf_counter()
    for _ in range(count):
      state, metrics = step(state, (x, y))
    jax.block_until_ready((state, metrics))
    return (time.perf_counter() - begin) / count

  run()
  return run


if __name__ == '__main__':
  main()
