"""Examples a second of reading, encoding and batching, beside what a training step takes.

python -m benchmarks.data [--examples 5000] [--steps 40]

Made-up files with texts of 10 or of 300 words: read as CSV, JSON Lines or CoNLL columns; split into
words, or into word pieces of a vocabulary of 2000; made into batches of 32 by one thread. The step
is that of a BiLSTM of width 128 with pcgrad on two tasks, on the CPU. "Waiting" is what a step
waits in `next(batches)`, where a thread of its own makes batches ahead, of what a step takes.
"""

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import machine
from mtl_jax import config as config_lib
from mtl_jax.build import program, start
from mtl_jax.data import formats, pipeline, specs

TASKS = {
  'kind': specs.TaskSpec('classification', 'kind', ('accuracy',)),
  'size': specs.TaskSpec('regression', 'size', ('mae',)),
}


def examples(count: int, words: int) -> list[dict[str, Any]]:
  """Texts of about so many words, of a vocabulary as uneven as that of natural texts."""
  rng = np.random.default_rng(0)
  ranks = np.minimum(rng.zipf(1.3, (count, words)), 20_000)
  lengths = rng.integers(words * 3 // 4, words + 1, count)
  return [
    {
      'text': ' '.join(f'word{n:x}' for n in row[:length]),
      'kind': 'abc'[i % 3],
      'size': str(i % 7),
    }
    for i, (row, length) in enumerate(zip(ranks.tolist(), lengths.tolist(), strict=True))
  ]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')


def write_conll(path: Path, rows: list[dict[str, Any]]) -> None:
  sentences = ('\n'.join(f'{word}\tO' for word in row['text'].split()) for row in rows)
  path.write_text('\n\n'.join(sentences) + '\n', encoding='utf-8')


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
  'csv': write_csv,
  'jsonl': write_jsonl,
  'conll': write_conll,
}


def seconds(work: Callable[[], Any]) -> float:
  """The median of three."""
  taken = []
  for _ in range(3):
    begun = time.perf_counter()
    work()
    taken.append(time.perf_counter() - begun)
  return statistics.median(taken)


def encoded(rows: list[dict[str, Any]], options: dict[str, Any]) -> pipeline.Data:
  numbered = [row | {'size': float(row['size'])} for row in rows]
  spec = specs.InputSpec('text', 'text', 'words')
  return pipeline.from_examples({'train': numbered}, spec, TASKS, options, 32, 0)


def preparing(folder: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
  """What is done to the examples, and examples a second."""
  for name, write in WRITERS.items():
    path = folder / f'rows.{name}'
    write(path, rows)
    reading = formats.Reading(columns=('word', 'tag') if name == 'conll' else ())
    taken = seconds(lambda path=path, reading=reading: list(formats.read(path, reading)))
    yield f'reading {name}', len(rows) / taken
  ways: dict[str, dict[str, Any]] = {
    'splitting into words': {},
    'splitting into word pieces': {'tokenizer': 'wordpiece', 'vocab_size': 2000},
  }
  for name, options in ways.items():
    tokenizer = encoded(rows, options).vocabularies
    taken = seconds(
      lambda o=options, v=tokenizer: pipeline.from_examples(
        {'train': [row | {'size': 1.0} for row in rows]},
        specs.InputSpec('text', 'text', 'words'),
        TASKS,
        o,
        32,
        0,
        v,
      )
    )
    yield name, len(rows) / taken
  stream = encoded(rows, {})._training
  count = min(300, stream.batches_per_epoch)
  taken = seconds(lambda: [stream[number] for number in range(count)])
  yield 'batching', 32 * count / taken


def training(folder: Path, steps: int) -> tuple[float, float]:
  """Milliseconds of a step, and of waiting for its batch."""
  config = config_lib.complete(
    {
      'name': 'data',
      'dataset': {'files': {'rows': {'train': str(folder / 'rows.csv'), 'input': 'text'}}},
      'tasks': {'kind': {}, 'size': {'kind': 'regression'}},
      'encoder': {'name': 'bilstm', 'embedding': {'features': 128}, 'bilstm': {'features': 128}},
      'balance': {'name': 'pcgrad'},
    }
  )
  (run,) = config_lib.resolve(config)
  data = start.load_data(run)
  made = program.program(run, data, steps)
  state = made.init(0)
  batches = data.train()
  seen: set[Any] = set()
  waits: list[float] = []
  wholes: list[float] = []
  while len(wholes) < steps:
    begun = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - begun
    state, _ = made.step(state, batch)
    jax.block_until_ready(state)
    shape = batch['inputs']['tokens'].shape
    if shape in seen:  # compiled before
      waits.append(waited)
      wholes.append(time.perf_counter() - begun)
    seen.add(shape)
  return 1e3 * sum(wholes) / steps, 1e3 * sum(waits) / steps


def main() -> None:
  parser = argparse.ArgumentParser(
    description=(__doc__ or '').split('\n', maxsplit=1)[0], prog='python -m benchmarks.data'
  )
  parser.add_argument('--examples', type=int, default=5000)
  parser.add_argument('--steps', type=int, default=40)
  arguments = parser.parse_args()
  print(machine.begin(), end='\n\n')
  print('| words | what | examples/s |\n| --: | --- | --: |')
  waiting = []
  for words in (10, 300):
    with tempfile.TemporaryDirectory() as name:
      folder = Path(name)
      rows = examples(arguments.examples, words)
      for what, rate in preparing(folder, rows):
        print(f'| {words} | {what} | {rate:,.0f} |', flush=True)
        machine.record('data', words=words, what=what, rate=rate)
      step, wait = training(folder, arguments.steps)
      print(f'| {words} | a training step | {32e3 / step:,.0f} |', flush=True)
      machine.record('data_step', words=words, step=step, wait=wait)
      waiting.append((words, step, wait))
  print('\n| words | step | waiting | share |\n| --: | --: | --: | --: |')
  for words, step, wait in waiting:
    print(f'| {words} | {step:.0f} ms | {wait:.2f} ms | {wait / step:.1%} |')


if __name__ == '__main__':
  main()
