"""Rows of different lengths in one flat NumPy array, so that batches are slices and not loops."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Ragged(NamedTuple):
  """N rows of integers.

  Attributes:
    values: int32 `[sum of lengths]`.
    offsets: int64 `[N + 1]`; row i is `values[offsets[i]:offsets[i + 1]]`.
  """

  values: np.ndarray
  offsets: np.ndarray

  @property
  def lengths(self) -> np.ndarray:
    """int64 `[N]`."""
    return np.diff(self.offsets)

  def padded(self, rows: np.ndarray, width: int, fill: int) -> np.ndarray:
    """Returns rows as int32 `[len(rows), width]`, cut at `width`, filled up with `fill`."""
    column = np.arange(width)[None, :]
    start = self.offsets[rows][:, None]
    valid = column < (self.offsets[rows + 1][:, None] - start)
    if not len(self.values):
      return np.full((len(rows), width), fill, np.int32)
    return np.where(valid, self.values[np.where(valid, start + column, 0)], np.int32(fill))

  def take(self, rows: np.ndarray) -> 'Ragged':
    """Returns the given rows, in that order."""
    lengths = self.lengths[rows]
    offsets = _offsets(lengths)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Ragged(self.values[np.repeat(self.offsets[rows], lengths) + within], offsets)

  def cut(self, width: int) -> 'Ragged':
    """Returns the rows with at most `width` values each."""
    within = np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)
    return Ragged(self.values[within < width], _offsets(np.minimum(self.lengths, width)))

  def surround(self, before: Sequence[int], after: Sequence[int]) -> 'Ragged':
    """Returns the rows with the same values before and after each."""
    rows = np.arange(len(self.offsets))
    offsets = self.offsets + (len(before) + len(after)) * rows
    values = np.empty(offsets[-1], np.int32)
    shift = np.repeat(offsets[:-1] - self.offsets[:-1] + len(before), self.lengths)
    values[np.arange(len(self.values)) + shift] = self.values
    values[offsets[:-1, None] + np.arange(len(before))] = before
    values[offsets[1:, None] - len(after) + np.arange(len(after))] = after
    return Ragged(values, offsets)

  def extend(self, other: 'Ragged') -> 'Ragged':
    """Returns the rows of both."""
    offsets = [self.offsets, self.offsets[-1] + other.offsets[1:]]
    return Ragged(np.concatenate([self.values, other.values]), np.concatenate(offsets))

  def equal(self, other: 'Ragged') -> np.ndarray:
    """Returns which rows are the same in both, which have as many: bool `[N]`."""
    same = self.lengths == other.lengths
    rows = np.flatnonzero(same)
    mine, others = self.take(rows), other.take(rows)
    differ = np.repeat(rows, mine.lengths)[mine.values != others.values]
    same[differ] = False
    return same

  def merge(self, groups: np.ndarray) -> 'Ragged':
    """Joins neighbouring rows.

    Args:
      groups: int64 `[M + 1]`, offsets into the rows: rows groups[j] to groups[j + 1] become row j.
    """
    return Ragged(self.values, self.offsets[groups])


def from_rows(rows: Sequence[Sequence[int]]) -> Ragged:
  """Returns the rows in one array."""
  return from_lengths(itertools.chain.from_iterable(rows), list(map(len, rows)))


def from_lengths(values: Iterable[int], lengths: Sequence[int]) -> Ragged:
  """Returns rows of these lengths, whose values come one after the other."""
  offsets = _offsets(np.array(lengths, np.int64))
  return Ragged(np.fromiter(values, np.int32, int(offsets[-1])), offsets)


def _offsets(lengths: np.ndarray) -> np.ndarray:
  return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
