"""What changing inputs at random (`dataset.augment`) adds to the making of a training batch.

python -m benchmarks.augment [--batches 200]

Random texts of 8 to 64 words, 32 a batch, with their characters as pieces, and images of 32 × 32
pixels with 3 channels, 256 a batch; one thread. Milliseconds are the median of a batch's; the ways
take turns.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from mtl_jax.data import _data, pipeline, specs

TASK = {'label': specs.TaskSpec('classification', 'label', ('accuracy',))}
TEXTS: list[dict[str, Any]] = [
  {},
  {'cutoff': 0.1},
  {'swap': 0.1},
  {'delete': 0.1},
  {'synonyms': 'FILE', 'replace': 0.1},
]
IMAGES: list[dict[str, Any]] = [{}, {'flip': 0.5}, {'crop': 4}, {'cutout': 8}]


def texts(given: dict[str, Any], synonyms: Path) -> _data.Data:
  rng = np.random.default_rng(0)
  words = np.array([f'word{i}' for i in range(5000)])
  rows = [
    {'text': rng.choice(words, rng.integers(8, 65)).tolist(), 'label': 'ab'[i % 2]}
    for i in range(4096)
  ]
  if given.get('synonyms'):
    given = given | {'synonyms': str(synonyms)}
  options = {'augment': given, 'pieces': 'characters'}
  spec = specs.InputSpec('text', 'words', 'words')
  return pipeline.from_examples({'train': rows}, spec, TASK, options, 32, 0)


def images(given: dict[str, Any], _: Path) -> _data.Data:
  rng = np.random.default_rng(0)
  rows = [
    {'x': rng.integers(0, 256, (32, 32, 3)).astype(np.uint8), 'label': 'ab'[i % 2]}
    for i in range(2048)
  ]
  spec = specs.InputSpec('x', 'array', mean=(0.5,), std=(0.25,))
  return pipeline.from_examples({'train': rows}, spec, TASK, {'augment': given}, 256, 0)


def all_of(ways: list[dict[str, Any]]) -> dict[str, Any]:
  return {name: value for way in ways for name, value in way.items()}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n', maxsplit=1)[0], prog='python -m benchmarks.augment'
  )
  parser.add_argument('--batches', type=int, default=200)
  arguments = parser.parse_args()
  print(machine.begin(), end='\n\n')
  print('| inputs | changed by | ms a batch | ms more |')
  print('| --- | --- | --: | --: |')
  with tempfile.TemporaryDirectory() as folder:
    synonyms = Path(folder) / 'synonyms.tsv'
    lines = [f'word{i}\tword{(7 * i + 1) % 5000}\tword{(11 * i + 5) % 5000}' for i in range(5000)]
    synonyms.write_text('\n'.join(lines), encoding='utf-8')
    for make, ways in ((texts, TEXTS), (images, IMAGES)):
      ways = [*ways, all_of(ways)]
      streams = [make(way, synonyms)._training for way in ways]
      times: list[list[float]] = [[] for _ in ways]
      for number in range(arguments.batches):
        for stream, seconds in zip(streams, times, strict=True):
          start = time.perf_counter()
          stream[number]
          seconds.append(1e3 * (time.perf_counter() - start))
      medians = [statistics.median(seconds) for seconds in times]
      for way, median in zip(ways, medians, strict=True):
        name = ', '.join(key for key in way if key != 'synonyms') or 'nothing'
        more = median - medians[0]
        print(f'| {make.__name__} | {name} | {median:.2f} | {more:.2f} |', flush=True)
        machine.record('augment', inputs=make.__name__, way=name, milliseconds=median, more=more)


if __name__ == '__main__':
  main()
