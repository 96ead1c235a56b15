"""Runs to predict with, made in no time: the directory that training leaves, without the training.

Parameters are random, so that each of them counts. That training leaves
such a directory is held by tests/fit_test.py and tests/your_data_test.py.
"""

import json
import pathlib
import random
import zlib

import jax
import numpy as np

from mtl_jax import checkpoint, trained
from mtl_jax import config as config_lib
from mtl_jax.build import start
from mtl_jax.build.model import build_model
from mtl_jax.data import sources

_NAMES = ('Anna', 'Boris', 'visits', 'leaves', 'unhurriedly', 'Rome')
_TOPICS = {'billing': 'invoice charge refund', 'login': 'password code', 'other': 'box parcel'}
_FILLERS = ('the', 'my', 'is', 'a', 'with', 'again', 'please')
TRANSFORMER = {
  'name': 'transformer',
  'embedding': {'features': 8},
  'transformer': {'layers': 1, 'heads': 2, 'features': 8, 'mlp_features': 8},
}


def texts(count=120):
  """Rows of a text of 2 to 20 words, with labels of three kinds, some of them missing."""
  rng = random.Random(0)
  rows = []
  for i in range(count):
    topics = sorted(rng.sample(list(_TOPICS), rng.choice((1, 1, 2))))
    words = [rng.choice(_TOPICS[topic].split()) for topic in topics]
    words += rng.choices(_FILLERS, k=rng.choice((1, 2, 5, 18)))
    rng.shuffle(words)
    rows.append(
      {
        'text': ' '.join(words),
        'category': topics[0],
        'urgency': len(words) + rng.random() if i % 5 else None,
        'topics': topics,
      }
    )
  return rows


def sentences(count=120):
  """Rows of a list of words with tags of each, and one label of all."""
  rng = random.Random(1)
  rows = []
  for _ in range(count):
    words = rng.choices(_NAMES, k=rng.randint(1, 9))
    rows.append(
      {
        'words': words,
        'name': ['B-NAME' if word[0].isupper() else 'O' for word in words],
        'mood': rng.choice(('good', 'bad')),
      }
    )
  return rows


def pairs(count=120):
  rng = random.Random(2)
  made = [
    [' '.join(rng.choices(_FILLERS, k=rng.randint(1, 6))) for _ in range(2)] for _ in range(count)
  ]
  return [{'one': a, 'two': b, 'same': str(a[0] == b[0]), 'length': len(a) / 7} for a, b in made]


def numbers(count=120):
  rng = random.Random(3)
  rows = []
  for _ in range(count):
    x = [rng.gauss(5 * i, 1 + i) for i in range(3)]
    gaps = {f'x{i}': value if rng.random() < 0.9 else None for i, value in enumerate(x)}
    rows.append(gaps | {'state': 'high' if x[0] > 0 else 'low', 'output': x[1] - x[0]})
  return rows


def images(count=120):
  rng = np.random.default_rng(4)
  return [
    {'image': rng.integers(0, 256, (4, 4, 1)).astype(np.uint8), 'digit': str(i % 3)}
    for i in range(count)
  ]


_TEXT = ({'rows': {'input': 'text'}}, {'category': {}, 'urgency': {}, 'topics': {}})
_WORDS = ({'rows': {'input': 'words'}}, {'name': {}, 'mood': {}})
_KINDS = {
  'text': (texts, *_TEXT, {'encoder': TRANSFORMER}),
  'soft': (texts, *_TEXT, {'encoder': TRANSFORMER, 'sharing': {'name': 'soft'}}),
  'mmoe': (texts, *_TEXT, {'encoder': TRANSFORMER, 'sharing': {'name': 'mmoe'}}),
  'adapters': (texts, *_TEXT, {'encoder': TRANSFORMER, 'sharing': {'name': 'adapters'}}),
  'wordpiece': (
    sentences,
    *_WORDS,
    {'encoder': TRANSFORMER, 'dataset': {'tokenizer': 'wordpiece', 'vocab_size': 20}},
  ),
  'pieces': (
    sentences,
    *_WORDS,
    {
      'encoder': {'name': 'bilstm', 'embedding': {'features': 8}},
      'dataset': {'pieces': 'characters'},
    },
  ),
  'pairs': (
    pairs,
    {'rows': {'input': ('one', 'two')}},
    {'same': {}, 'length': {}},
    {'encoder': TRANSFORMER},
  ),
  'numbers': (numbers, {'rows': {'input': 'x*'}}, {'state': {}, 'output': {}}, {}),
  'images': (images, {'rows': {'input': 'image'}}, {'digit': {}}, {}),
}
KINDS = (*_KINDS, 'apart', 'apart_soft')


def config(kind, folder):
  """A config for made-up files of some kind, which are written to a folder."""
  folder = pathlib.Path(folder)
  if kind.startswith('apart'):
    made = {'tickets': texts(), 'reviews': [{'review': r['text'], 'good': g} for r, g in _rated()]}
    files = {
      'tickets': {'input': 'text', 'train': write_rows(folder / 'tickets.jsonl', made['tickets'])},
      'reviews': {
        'input': 'review',
        'train': write_rows(folder / 'reviews.jsonl', made['reviews']),
      },
    }
    tasks = {'category': {'files': ('tickets',)}, 'good': {'files': ('reviews',)}}
    more = {'encoder': TRANSFORMER}
    if kind == 'apart_soft':
      more |= {'sharing': {'name': 'soft'}}
  else:
    make, files, tasks, more = _KINDS[kind]
    path = write_rows(folder / f'rows.{"npz" if kind == "images" else "jsonl"}', make())
    files = {'rows': files['rows'] | {'train': path}}
  arrays = kind in ('numbers', 'images')
  dataset = {'files': files} | ({} if arrays else {'buckets': 2}) | more.get('dataset', {})
  given = {'name': kind, 'tasks': tasks, 'train': {'batch_size': 16, 'steps': 2}}
  return config_lib.complete(given | more | {'dataset': dataset})


def _rated():
  return [(row, ('yes', 'no')[i % 2]) for i, row in enumerate(texts(80))]


def write_rows(path, rows):
  if path.suffix == '.npz':
    np.savez(path, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})
  else:
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
  return str(path)


def write(config, workdir):
  """Writes the directories of a config's runs, with parameters of no training; returns the runs."""
  runs = config_lib.resolve(config)
  for run in runs:
    data = start.load_data(run)
    model = build_model(run, data)
    shapes = jax.eval_shape(model.init, jax.random.key(0), data.example_batch())
    rng = np.random.default_rng([run['seed'], zlib.crc32(run['variant'].encode())])
    params = jax.tree.map(
      lambda leaf, rng=rng: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shapes
    )
    path = pathlib.Path(workdir) / run['variant'] / f'seed_{run["seed"]}'
    path.mkdir(parents=True)
    data.write(path)
    (path / 'config.json').write_text(config_lib.to_json(run))
    with checkpoint.Checkpoints(path / 'checkpoints') as checkpoints:
      checkpoints.save(1, {'params': params}, {}, best=True)
  return runs


def inputs_of(source, examples):
  """Examples as what `Trained.predict` takes."""
  spec = source.input
  if spec.pair:
    return [(e[spec.field], e[spec.pair]) for e in examples]
  return [e[spec.field] for e in examples]


class Made:
  """A run that `write` wrote, with its data and the model that it was written of."""

  def __init__(self, kind, folder):
    folder.mkdir()
    self.workdir = folder / 'runs'
    (self.run,) = write(config(kind, folder), self.workdir)
    self.path = self.workdir / 'default' / 'seed_0'
    self.source = sources.of(self.run['dataset'], self.run['tasks'])
    self.examples = self.source.read()
    self.data = start.load_data(self.run)
    self.model = build_model(self.run, self.data)
    self.loaded = trained.load(self.path)
    self.inputs = {split: inputs_of(self.source, found) for split, found in self.examples.items()}
