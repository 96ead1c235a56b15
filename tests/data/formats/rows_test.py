"""Rows in memory: lists of dicts, and what is used of a DataFrame; pandas need not be there."""

import numpy as np
import pytest

from mtl_jax import errors
from mtl_jax.data import formats


class NAType:
  """As pandas.NA: it compares to no truth value."""

  def __ne__(self, other):
    return self

  def __bool__(self):
    raise TypeError

  __hash__ = None


class Frame:
  """What is used of a pandas DataFrame."""

  def __init__(self, columns, rows):
    self.columns = columns
    self._rows = rows

  def itertuples(self, index, name):
    assert index is False
    assert name is None
    return iter(self._rows)


def test_a_list_of_dicts():
  rows = [{'a': 'x', 'b': 1}, {'a': float('nan'), 'b': np.int64(3), 'c': np.float32('nan')}, {}]
  found = list(formats.from_rows(rows))
  assert found == [
    formats.Record('row 1', {'a': 'x', 'b': 1}),
    formats.Record('row 2', {'a': None, 'b': 3, 'c': None}),
    formats.Record('row 3', {}),
  ]
  assert type(found[1].fields['b']) is int


def test_a_generator_is_not_read_ahead():
  seen = []
  rows = ({'a': seen.append(index)} for index in range(3))
  found = formats.from_rows(rows)
  next(found)
  assert len(seen) == 1


def test_a_frame():
  frame = Frame(['a', 'b'], [('x', NAType()), (np.nan, np.arange(2))])
  first, second = formats.from_rows(frame)
  assert first.fields == {'a': 'x', 'b': None}
  assert second.fields['a'] is None
  np.testing.assert_array_equal(second.fields['b'], [0, 1])


def test_a_real_frame():
  pandas = pytest.importorskip('pandas')
  frame = pandas.DataFrame({'a': ['x', None], 'b': [1, 2], 't': [pandas.NaT, pandas.NaT]})
  assert [record.fields for record in formats.from_rows(frame)] == [
    {'a': 'x', 'b': 1, 't': None},
    {'a': None, 'b': 2, 't': None},
  ]


@pytest.mark.parametrize(
  ('row', 'reason'),
  [
    (['x'], 'list, and no dict of column to value'),
    ({1: 'x'}, 'the column 1 has a name that is no text'),
    ({'a': 'x\ud800'}, "'a' has a lone surrogate"),
    ({'a': ['x', '\ud800']}, "'a' has a lone surrogate"),
  ],
)
def test_faults(row, reason):
  good, fault, last = formats.from_rows([{'a': 1}, row, {'a': 2}])
  assert (good.fields, last.fields) == ({'a': 1}, {'a': 2})
  assert fault.place == 'row 2'
  assert fault.reason.startswith(reason)


@pytest.mark.parametrize(
  'rows', ['text', {'a': [1]}, 3, Frame(['a', 'a'], []), Frame([0], []), Frame([''], [])]
)
def test_what_is_no_rows(rows):
  with pytest.raises(errors.DataError, match='the rows given: '):
    formats.from_rows(rows)
