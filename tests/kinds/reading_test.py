"""A batch reads as its examples do one by one, to the last digit: names, numbers, probabilities."""

import numpy as np
import pytest

from mtl_jax import kinds

NAMES = ('a', 'b', 'c d', 'ä')
ODD = (0.0, -0.0, 1e-45, 1.17549435e-38, 3.4e38, 0.1, 1 / 3, 1e8 + 8, 1e16, 1e-5, 0.9999999)


def plain(value):
  """A float32 by the shortest digits that tell it from its neighbours, found by trying."""
  value = np.float32(value)
  for digits in range(1, 10):
    found = float(f'{value:.{digits - 1}e}')
    if np.float32(found) == value:
      return found
  raise AssertionError(value)


def floats(shape, seed=0):
  rng = np.random.default_rng(seed)
  values = rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, shape)
  values.reshape(-1)[: len(ODD)] = ODD
  return values.astype(np.float32)


def shares(shape, seed=0):
  values = np.random.default_rng(seed).random(shape).astype(np.float32)
  values.reshape(-1)[:3] = 0, 1, 1e-30
  return values


def cases():
  rng = np.random.default_rng(1)
  lengths = (3, 1, 7, 2)
  return {
    'classification': (rng.integers(0, 4, 20).astype(np.int32), shares((20, 4))),
    'multilabel': (rng.random((20, 4)) > 0.5, shares((20, 4))),
    'regression': (floats((40,)), None),
    'tagging': (
      [rng.integers(0, 4, n).astype(np.int32) for n in lengths],
      [shares((n, 4), n) for n in lengths],
    ),
  }


@pytest.mark.parametrize('name', sorted(kinds.KINDS))
def test_a_batch_reads_as_its_examples(name):
  kind = kinds.get(name)
  assert name in cases(), 'a new kind joins the cases'
  predictions, probabilities = cases()[name]
  found = kind.read_all(predictions, NAMES)
  assert repr(found) == repr([kind.read(row, NAMES) for row in predictions])
  if probabilities is not None:
    found = kind.read_all_probabilities(probabilities, NAMES)
    assert repr(found) == repr([kind.read_probabilities(row, NAMES) for row in probabilities])


def test_numbers_are_the_shortest_that_are_the_same():
  values = floats((300,))
  assert repr(kinds.get('regression').read_all(values, ())) == repr([plain(v) for v in values])
  table = shares((50, 4))
  found = kinds.get('classification').read_all_probabilities(table, NAMES)
  assert found == [dict(zip(NAMES, map(plain, row), strict=True)) for row in table]


def test_what_is_read_of_classes_and_tags():
  assert kinds.get('classification').read_all(np.array([2, 0]), NAMES) == ['c d', 'a']
  chosen = np.array([[True, False, False, True], [False] * 4])
  assert kinds.get('multilabel').read_all(chosen, NAMES) == [['a', 'ä'], []]
  tags = [np.array([1, 0]), np.array([3])]
  assert kinds.get('tagging').read_all(tags, NAMES) == [['b', 'a'], ['ä']]
  rows = [shares((2, 4), 1), shares((1, 4), 2)]
  found = kinds.get('tagging').read_all_probabilities(rows, NAMES)
  assert found == [[plain(max(word)) for word in row] for row in rows]
