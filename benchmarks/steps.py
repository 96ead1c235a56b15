"""Training steps with per-task gradients beside the plain summed-loss step, in one run.

python -m benchmarks.steps

A 4-layer Transformer (width 256, feed-forward 1024, 4 heads) on sequences of 64 tokens. The steps
of a row take turns, so that a drift of the machine's speed meets all of them; a ratio is that of
the medians. Memory is what XLA plans for a step besides its arguments and outputs.
"""

import argparse
import time

import jax
import numpy as np
import optax

import mtl_jax
from benchmarks import machine
from mtl_jax import Task, encoders, heads, optim, sharing

LENGTH, VOCABULARY = 64, 1000
METHODS = {
  'sum_tasks (plain)': optim.sum_tasks,
  'pcgrad': optim.pcgrad,
  'gradnorm + pcgrad': lambda: optim.compose(optim.gradnorm(), optim.pcgrad()),
}
ROWS = [  # regime, tasks, examples (own inputs: a task's), bound on the ratio
  ('shared', 2, 32, 1.45),
  ('shared', 8, 32, 4.3),
  ('own', 8, 16, 1.05),
]


def make_model(tasks: int) -> mtl_jax.MultiTaskModel:
  encoder = encoders.Transformer(
    encoders.Embedding(VOCABULARY, 256),
    features=256,
    layers=4,
    heads=4,
    mlp_features=1024,
    max_length=LENGTH,
  )
  made = [Task(f'task_{i}', heads.Classification(5)) for i in range(tasks)]
  return sharing.hard(encoder, made)


def make_batch(regime: str, tasks: int, examples: int) -> dict:
  rng = np.random.default_rng(0)

  def inputs():
    tokens = rng.integers(2, VOCABULARY, (examples, LENGTH)).astype(np.int32)
    return {'tokens': tokens, 'mask': np.ones(tokens.shape, bool)}

  def labels():
    return rng.integers(0, 5, examples).astype(np.int32)

  names = [f'task_{i}' for i in range(tasks)]
  if regime == 'shared':
    return {'inputs': inputs(), 'targets': {name: labels() for name in names}}
  return {name: {'inputs': inputs(), 'targets': labels()} for name in names}


def measure(regime: str, tasks: int, examples: int, repeats: int) -> dict[str, dict[str, float]]:
  """Seconds of every repetition's step and planned memory in MiB, by method."""
  model, batch, optimizer = make_model(tasks), make_batch(regime, tasks, examples), optax.sgd(1e-3)
  steps, states, memory = {}, {}, {}
  for name, make in METHODS.items():
    balance = make()
    state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(0), batch)
    step = mtl_jax.make_train_step(model, balance, optimizer)
    plan = step.lower(state, batch).compile()
    memory[name] = plan.memory_analysis().temp_size_in_bytes / 2**20
    steps[name] = plan
    states[name] = jax.block_until_ready(plan(state, batch)[0])
  seconds: dict[str, list[float]] = {name: [] for name in METHODS}
  for _ in range(repeats):
    for name, step in steps.items():
      start = time.perf_counter()
      states[name] = jax.block_until_ready(step(states[name], batch)[0])
      seconds[name].append(time.perf_counter() - start)
  return {
    name: {'seconds': float(np.median(seconds[name])), 'memory': memory[name]} for name in METHODS
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
  parser.add_argument('--repeats', type=int, default=9, help='timed steps of each method')
  repeats = parser.parse_args().repeats
  print(machine.describe(), end='\n\n')
  print('| inputs | T | examples | method | step | × plain | at most | temporary memory |')
  print('| --- | --- | --- | --- | --- | --- | --- | --- |')
  for regime, tasks, examples, bound in ROWS:
    results = measure(regime, tasks, examples, repeats)
    plain = results['sum_tasks (plain)']['seconds']
    for name, result in results.items():
      limit = '' if name == 'sum_tasks (plain)' else f'{bound:.2f}'
      print(
        f'| {regime} | {tasks} | {examples} | {name} | {1e3 * result["seconds"]:.0f} ms '
        f'| {result["seconds"] / plain:.2f} | {limit} | {result["memory"]:.0f} MiB |',
        flush=True,
      )


if __name__ == '__main__':
  main()
