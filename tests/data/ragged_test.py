"""Ragged arrays against lists."""

import hypothesis
import numpy as np
from hypothesis import strategies

from mtl_jax.data import _ragged

ROWS = strategies.lists(strategies.lists(strategies.integers(0, 99), max_size=5), max_size=6)


def lists(ragged):
  return [row.tolist() for row in np.split(ragged.values, ragged.offsets[1:-1])][
    : len(ragged.offsets) - 1
  ]


@hypothesis.given(ROWS, strategies.data())
@hypothesis.settings(deadline=None)
def test_as_lists(rows, data):
  ragged = _ragged.from_rows(rows)
  assert ragged.values.dtype == np.int32
  assert lists(ragged) == rows
  assert ragged.lengths.tolist() == [len(row) for row in rows]
  width = data.draw(strategies.integers(0, 6))
  assert lists(ragged.cut(width)) == [row[:width] for row in rows]
  if rows:
    chosen = data.draw(strategies.lists(strategies.integers(0, len(rows) - 1), max_size=8))
    chosen = np.array(chosen, np.int64)
    assert lists(ragged.take(chosen)) == [rows[i] for i in chosen]
    padded = ragged.padded(chosen, width, -7)
    assert padded.dtype == np.int32
    assert padded.shape == (len(chosen), width)
    assert padded.tolist() == [(rows[i] + [-7] * width)[:width] for i in chosen]


def test_merge():
  ragged = _ragged.from_rows([[1], [2, 3], [], [4]])
  assert lists(ragged.merge(np.array([0, 2, 2, 4]))) == [[1, 2, 3], [], [4]]
