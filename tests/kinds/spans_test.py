"""Entities counted as CoNLL's script does, from its description, for tags with and without a type.

An entity begins at B, after O, at the start of a sentence, or where the type changes.
"""

import numpy as np
import pytest

from mtl_jax import metrics


def entities(tags):
  """The entities of a sentence: first and last token, and type, '' without one."""
  found, begun, before = set(), None, ('O', '')
  for place, tag in enumerate([*tags, 'O']):
    mark, _, kind = tag.partition('-')
    new = mark == 'B' or before[0] == 'O' or kind != before[1]
    if begun is not None and (mark == 'O' or new):
      found.add((begun, place - 1, before[1]))
      begun = None
    if mark != 'O' and begun is None:
      begun = place
    before = mark, kind
  return found


def score(names, gold, predicted):
  numbers = {name: index for index, name in enumerate(names)}
  wanted = ('precision', 'recall', 'f1')
  accumulator = metrics.Accumulator({'x': ('tagging', wanted, names)})
  for y, p in zip(gold, predicted, strict=True):
    y, p = (np.array([[numbers[tag] for tag in tags]]) for tags in (y, p))
    result = {'loss_sum': [0.0], 'loss_count': [1.0], 'outputs': {'x': p}}
    accumulator.add({'x': y}, None, result)
  return accumulator.compute()['metrics']['x']


@pytest.mark.parametrize(
  'names',
  [
    ('O', 'B', 'I'),
    ('O', 'I'),
    ('O', 'B-a', 'I-a', 'B-b', 'I-b'),
    ('O', 'B', 'I', 'B-a', 'I-a', 'I-_'),
  ],
)
@pytest.mark.filterwarnings('error')
def test_against_the_rules_of_the_script(names):
  rng = np.random.default_rng(len(names))
  gold = [rng.choice(names, length).tolist() for length in rng.integers(1, 12, 60)]
  predicted = [
    [str(rng.choice(names)) if rng.random() < 0.3 else tag for tag in tags] for tags in gold
  ]
  pairs = [(entities(y), entities(p)) for y, p in zip(gold, predicted, strict=True)]
  right = sum(len(y & p) for y, p in pairs)
  precision = right / sum(len(p) for _, p in pairs)
  recall = right / sum(len(y) for y, _ in pairs)
  assert 0 < right < sum(len(y) for y, _ in pairs)
  assert score(names, gold, predicted) == pytest.approx(
    {
      'precision': precision,
      'recall': recall,
      'f1': 2 * precision * recall / (precision + recall),
    }
  )


def test_by_hand():
  gold = [['B', 'I', 'O', 'B', 'B', 'I']]  # three entities
  predicted = [['I', 'I', 'O', 'B', 'I', 'I']]  # two, the first of them right
  got = score(('O', 'B', 'I'), gold, predicted)
  assert got == pytest.approx({'precision': 1 / 2, 'recall': 1 / 3, 'f1': 2 / 5})
