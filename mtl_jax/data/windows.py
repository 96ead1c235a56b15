"""Texts that are longer than a bound as overlapping windows, and which window a token is read in.

A window of `width` tokens begins `width − stride` after the one before, until one reaches the end.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from mtl_jax.data import _ragged


class Cuts(NamedTuple):
  """Where windows are cut out of N rows of tokens.

  Attributes:
    owners: int64 `[W]`, the row of each window; those of a row stand together, in order.
    starts: int64 `[W]`, its first token in the row.
    lengths: int64 `[W]`, its tokens.
  """

  owners: np.ndarray
  starts: np.ndarray
  lengths: np.ndarray

  def take(self, values: _ragged.Ragged) -> _ragged.Ragged:
    """Cuts rows of one value a token: one row a window."""
    within = np.arange(self.lengths.sum()) - np.repeat(
      np.cumsum(self.lengths) - self.lengths, self.lengths
    )
    at = np.repeat(values.offsets[self.owners] + self.starts, self.lengths) + within
    return _ragged.Ragged(
      values.values[at], np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
    )

  def best(self) -> _ragged.Ragged:
    """1 for a token in the window where it has most context on both sides, 0 in all others.

    That is the one with the greatest distance to the nearer end of the window, the first of equals.
    """
    offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], self.lengths)
    context = np.minimum(within, np.repeat(self.lengths, self.lengths) - 1 - within)
    ends = np.zeros(int(self.owners[-1]) + 1, np.int64)
    np.maximum.at(ends, self.owners, self.starts + self.lengths)
    place = np.repeat((np.cumsum(ends) - ends)[self.owners] + self.starts, self.lengths) + within
    order = np.lexsort((-context, place))  # stable: the first window of equals comes first
    chosen = np.zeros(len(place), np.int32)
    chosen[order[np.unique(place[order], return_index=True)[1]]] = 1
    return _ragged.Ragged(chosen, offsets)


def cuts(lengths: np.ndarray, width: int, stride: int) -> Cuts:
  """Returns the windows of rows of tokens.

  Args:
    lengths: int64 `[N]`, the tokens of each row.
    width: the most tokens of a window.
    stride: how many tokens a window shares with the one before, 0 < stride < width.
  """
  step = width - stride
  counts = 1 + np.maximum(0, -(-(lengths - width) // step))
  owners = np.repeat(np.arange(len(lengths)), counts)
  number = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
  starts = number * step
  return Cuts(owners, starts, np.minimum(width, lengths[owners] - starts))


@dataclasses.dataclass(frozen=True)
class Windows:
  """Which rows are windows of which examples.

  Attributes:
    owners: int64 `[W]`, the example of each row; those of an example stand together, in order.
    best: of texts as words: 1 for each token in the one window that it is read in, else 0.
  """

  owners: np.ndarray
  best: _ragged.Ragged | None = None

  @functools.cached_property
  def firsts(self) -> np.ndarray:
    """The first row of each example, int64 `[N]`."""
    return np.flatnonzero(np.diff(self.owners, prepend=-1))

  @functools.cached_property
  def counts(self) -> np.ndarray:
    """The rows of each example, int64 `[N]`."""
    return np.bincount(self.owners)

  @property
  def several(self) -> int:
    """How many examples have more than one."""
    return int((self.counts > 1).sum())
