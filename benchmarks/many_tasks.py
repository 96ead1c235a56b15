"""Many tasks of one kind: time to compile and time of a step, beside the plain sum, as T grows.

    python -m benchmarks.many_tasks [--tasks 8 64 512] [--examples 16] [--rounds 5]

A trunk of two layers of 256 over 27 inputs and a linear head a task (`sharing.ManyTasks`). The
steps of one table row are timed in turns; a time is the median over the rounds.
"""

import argparse
import statistics
import time

import jax
import numpy as np
import optax

import mtl_jax
from mtl_jax import Task, encoders, heads, memory, optim, sharing

METHODS = {
  'plain sum': optim.sum_tasks,
  'famo': optim.famo,
  'uncertainty': optim.uncertainty,
  'pcgrad': optim.pcgrad,
  'upgrad': optim.upgrad,
}


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--tasks', type=int, nargs='+', default=[8, 64, 512])
  parser.add_argument('--examples', type=int, default=16, help='of each task in a batch')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
  args = parser.parse_args(argv)
  memory.keep_freed()
  print(f'{jax.devices()[0].device_kind}, {args.examples} examples a task, own inputs\n')
  print('| T | method | compile (s) | step (ms) | of the plain sum |')
  print('|---|---|---|---|---|')
  for tasks in args.tasks:
    steps = {name: compiled(name, tasks, args.examples) for name in args.methods}
    times = {name: [] for name in steps}
    for _ in range(args.rounds):
      for name, (run, _) in steps.items():
        times[name].append(run())
    plain = statistics.median(times[args.methods[0]])
    for name, (_, seconds) in steps.items():
      middle = statistics.median(times[name])
      print(f'| {tasks} | {name} | {seconds:.1f} | {middle * 1e3:.2f} | {middle / plain:.2f} |')


def compiled(name, tasks, examples):
  """A function that takes steps and returns the seconds of one, and the seconds to compile it."""
  task = Task('task', heads.get('regression'), kind='regression')
  model = sharing.ManyTasks(encoders.MLP((256, 256)), task, tasks)
  rng = np.random.default_rng(0)
  batch = {
    'inputs': rng.normal(size=(tasks, examples, 27)).astype(np.float32),
    'targets': rng.normal(size=(tasks, examples)).astype(np.float32),
  }
  balance, optimizer = METHODS[name](), optax.adam(1e-3)
  state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(0), batch)
  step = mtl_jax.make_train_step(model, balance, optimizer)
  start = time.perf_counter()
  program = step.lower(state, batch).compile()
  seconds = time.perf_counter() - start
  batch = jax.device_put(batch)
  count = max(3, 2000 // tasks // examples)

  def run():
    nonlocal state
    begin = time.perf_counter()
    for _ in range(count):
      state, _ = program(state, batch)
    jax.block_until_ready(state)
    return (time.perf_counter() - begin) / count

  run()
  return run, seconds


if __name__ == '__main__':
  main()
