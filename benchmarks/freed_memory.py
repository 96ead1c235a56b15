"""Training steps with freed memory kept (`mtl_jax.memory`) and given back, in pairs of processes.

python -m benchmarks.freed_memory [--pairs 5] [--only Transformer BERT]

The Transformer of `benchmarks.steps` with two tasks, and a BERT of MiniLM's size (six layers of 384
features, random weights) on 32 sequences of 64 tokens; plain sum, float32, AdamW. Milliseconds are
the median of a process's steps, page faults those of one step, and the peak is the process's
(VmHWM), imports and compilation included. The table has the medians over the pairs, whose two
processes take turns; the ratio is the median of those of each pair.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import optax

import mtl_jax
from benchmarks import machine, steps
from mtl_jax import encoders, memory, optim, sharing

WARM = 3


def transformer(setup: steps.Setup) -> mtl_jax.MultiTaskModel:
  return steps.transformer(2, setup)


def bert(setup: steps.Setup) -> mtl_jax.MultiTaskModel:
  encoder = encoders.Bert(30522, features=384, layers=6, heads=12, mlp_features=1536)
  return sharing.hard(encoder, steps.transformer(2, setup).tasks)


MODELS = {'Transformer': transformer, 'BERT': bert}


def one(name: str, repeats: int) -> dict[str, Any]:
  """What a single process measures."""
  kept, setup = memory.keep_freed(), steps.Setup()
  model, batch = MODELS[name](setup), steps.batch_of(steps.tokens, 2, setup.examples, setup)
  balance, optimizer = optim.sum_tasks(), optax.adamw(1e-4)
  state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(0), batch)
  step = mtl_jax.make_train_step(model, balance, optimizer)
  times, faults = [], []
  for _ in range(WARM + repeats):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    state, _ = jax.block_until_ready(step(state, batch))
    times.append(1e3 * (time.perf_counter() - start))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
  return {
    'kept': kept,
    'milliseconds': statistics.median(times[WARM:]),
    'faults': statistics.median(faults[WARM:]),
    'peak': peak(),
  }


def peak() -> float:
  """The most memory that this process has held, in MiB."""
  with open('/proc/self/status', encoding='utf-8') as lines:
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith('VmHWM'))


def apart(name: str, repeats: int, keep: bool) -> dict[str, Any]:
  command = [sys.executable, '-m', 'benchmarks.freed_memory', '--one', name]
  environment = os.environ | {memory.VARIABLE: '1' if keep else '0', 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    [*command, '--repeats', str(repeats)],
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n', maxsplit=1)[0], prog='python -m benchmarks.freed_memory'
  )
  parser.add_argument('--pairs', type=int, default=5)
  parser.add_argument('--repeats', type=int, default=15, help='timed steps of a process')
  parser.add_argument('--only', nargs='+', choices=MODELS, default=list(MODELS))
  parser.add_argument('--one', choices=MODELS, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.one:
    print(json.dumps(one(arguments.one, arguments.repeats)))
    return
  print(machine.begin(), end='\n\n')
  print('| model | freed memory | ms a step | page faults a step | peak | × the time given back |')
  print('| --- | --- | --: | --: | --: | --: |')
  for name in arguments.only:
    pairs = []
    for index in range(arguments.pairs):
      order = (False, True) if index % 2 else (True, False)
      pairs.append({keep: apart(name, arguments.repeats, keep) for keep in order})
    ratios = [pair[True]['milliseconds'] / pair[False]['milliseconds'] for pair in pairs]
    for keep in (False, True):
      values = {
        key: statistics.median(pair[keep][key] for pair in pairs)
        for key in ('milliseconds', 'faults', 'peak')
      }
      ratio = statistics.median(ratios) if keep else 1.0
      assert all(pair[keep]['kept'] == keep for pair in pairs)
      print(
        f'| {name} | {"kept" if keep else "given back"} | {values["milliseconds"]:.0f} '
        f'| {values["faults"]:.0f} | {values["peak"]:.0f} MiB | {ratio:.2f} |',
        flush=True,
      )
      machine.record('freed_memory', model=name, kept=keep, ratio=ratio, **values)


if __name__ == '__main__':
  main()
