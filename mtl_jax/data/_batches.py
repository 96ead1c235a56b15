"""Which examples make which batch, and the batch as padded NumPy arrays. Reads no files.

Everything follows from the seed and the number of the batch.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import numpy as np

from mtl_jax.data import _encode, _labels, _ragged

Batch = dict[str, Any]

_ORDER, SHUFFLE, _DROPOUT = range(3)  # streams of random numbers


@dataclasses.dataclass(frozen=True)
class Assembler:
  """Makes padded arrays of examples.

  Attributes:
    pad_id: fills up `tokens`.
    unknown_id: replaces tokens under word dropout.
    pieces: int32 `[words, P]`, row 0 for padding, or None.
  """

  pad_id: int
  unknown_id: int
  pieces: np.ndarray | None

  def __call__(self, split: _encode.Split, rows: np.ndarray, size: int, width: int) -> Batch:
    """Returns the examples `rows`, filled up to `size` with padding, `width` tokens each."""
    inputs = {
      'tokens': _fill(split.tokens.padded(rows, width, self.pad_id), size, self.pad_id),
      'mask': _fill(np.arange(width) < split.tokens.lengths[rows][:, None], size, False),
    }
    if split.segments is not None:
      inputs['segments'] = _fill(split.segments.padded(rows, width, 0), size, 0)
    if self.pieces is not None and split.units is not None:
      inputs['pieces'] = self.pieces[_fill(split.units.padded(rows, width, 0), size, 0)]
    targets, mask = {}, {}
    for task, target in split.targets.items():
      if isinstance(target, _ragged.Ragged):
        values = target.padded(rows, width, _labels.MISSING)
      else:
        values = target[rows]
      if values.dtype == np.float32:
        known = ~np.isnan(values)
        targets[task] = _fill(np.where(known, values, np.float32(0)), size, 0)
      else:
        known = values != _labels.MISSING
        targets[task] = _fill(values, size, _labels.MISSING)
      mask[task] = _fill(known.any(axis=tuple(range(1, known.ndim))), size, False)
    return {'inputs': inputs, 'targets': targets, 'mask': mask}


class Training:
  """Item i is the i-th batch of an endless stream; a source for grain.

  An epoch is a fresh permutation. First the remainder that fills no batch is dropped from its end,
  so every example is left out equally often. Each bucket then gives whole batches, and what is
  left over joins the next longer bucket. The batches come in random order.
  """

  def __init__(
    self,
    split: _encode.Split,
    assembler: Assembler,
    bucket_lengths: tuple[int, ...],
    batch_size: int,
    seed: tuple[int, ...],
    word_dropout: float,
    process: tuple[int, int],
    draws: Callable[[int, int], np.ndarray] | None = None,
  ):
    """`draws(start, stop)` gives each batch a number: long batches come where it is large."""
    self._split = split
    self._assembler = assembler
    self._bucket_lengths = bucket_lengths
    self._batch_size = batch_size
    self._seed = seed
    self._draws = draws
    self._thresholds = _drop_thresholds(split.tokens.values, word_dropout)
    index, count = process
    local = batch_size // count
    self._local = slice(index * local, (index + 1) * local)
    self._bucket = np.searchsorted(bucket_lengths, split.tokens.lengths)
    self.batches_per_epoch = len(split) // batch_size
    # The plan of this epoch and, while batches are made ahead, of the next.
    self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: SupportsIndex) -> Batch:
    number = index.__index__()
    return self.batch(number, self.width(number))

  def width(self, number: int) -> int:
    """The length that a batch needs."""
    epoch, position = divmod(number, self.batches_per_epoch)
    return self._plan(epoch)[1][position]

  def batch(self, number: int, width: int) -> Batch:
    """A batch padded to `width`."""
    epoch, position = divmod(number, self.batches_per_epoch)
    batch = self._assembler(
      self._split,
      self._plan(epoch)[0][position, self._local],
      self._local.stop - self._local.start,
      width,
    )
    if self._thresholds is not None:
      # Drawn for the batch of all processes, so that their number changes nothing.
      shape = (self._batch_size, width)
      draws = random_bits(self._seed, _DROPOUT, number, shape[0] * shape[1]).reshape(shape)
      inputs = batch['inputs']
      dropped = draws[self._local] < self._thresholds[inputs['tokens']]
      unknown = np.int32(self._assembler.unknown_id)
      inputs['tokens'] = np.where(dropped & inputs['mask'], unknown, inputs['tokens'])
    return batch

  def _make_plan(self, epoch: int) -> tuple[np.ndarray, list[int]]:
    """Returns the rows of each batch `[batches, B]` and its width."""
    size, count = self._batch_size, self.batches_per_epoch
    order = _permutation(self._seed, _ORDER, epoch, len(self._split))[: count * size]
    bucket = self._bucket[order]
    groups, widths = [], []
    rest = order[:0]
    for number, width in enumerate(self._bucket_lengths):
      members = np.concatenate([rest, order[bucket == number]])
      batches = len(members) // size
      groups.append(members[: batches * size].reshape(batches, size))
      widths += [width] * batches
      rest = members[batches * size :]
    if self._draws is None:
      shuffle = _permutation(self._seed, SHUFFLE, epoch, count)
    else:  # the ranks of the draws
      drawn = self._draws(epoch * count, (epoch + 1) * count)
      shuffle = np.argsort(np.argsort(drawn, kind='stable'), kind='stable')
    return np.concatenate(groups)[shuffle], [widths[i] for i in shuffle]


@dataclasses.dataclass(frozen=True)
class EvaluationBatch:
  """A batch of evaluation.

  Attributes:
    batch: arrays with a first axis of the batch size; padding rows have no labels.
    count: how many rows are examples; they come first.
    indices: int64 `[count]`: which examples of the split these are.
  """

  batch: Batch
  count: int
  indices: np.ndarray


class Evaluation:
  """All batches of a split, each example once; short examples first. Can be iterated again."""

  def __init__(
    self,
    split: _encode.Split,
    assembler: Assembler,
    bucket_lengths: tuple[int, ...],
    batch_size: int,
    process: tuple[int, int],
  ):
    self._split = split
    self._assembler = assembler
    self._bucket_lengths = bucket_lengths
    self._batch_size = batch_size
    index, count = process
    local = batch_size // count
    self._local = slice(index * local, (index + 1) * local)
    self._bucket = np.searchsorted(bucket_lengths, split.tokens.lengths)
    self._order = np.argsort(self._bucket, kind='stable')
    self.num_examples = len(split)

  def __len__(self) -> int:
    return -(-self.num_examples // self._batch_size)

  def __iter__(self) -> Iterator[EvaluationBatch]:
    for start in range(0, self.num_examples, self._batch_size):
      rows = self._order[start : start + self._batch_size]
      width = self._bucket_lengths[self._bucket[rows[-1]]]
      rows = rows[self._local]
      batch = self._assembler(self._split, rows, self._local.stop - self._local.start, width)
      yield EvaluationBatch(batch, len(rows), rows)


def bucket_lengths(
  train: np.ndarray, longest: int, buckets: int, lengths: tuple[int, ...]
) -> tuple[int, ...]:
  """Returns the widths that batches are padded to, ascending; the last one holds every example.

  Args:
    train: the lengths of the training examples.
    longest: the longest example of any split.
    buckets: how many to choose at most, for the least padding of the training examples.
    lengths: the widths to use instead; the caller checks that the last holds `longest`.
  """
  if lengths:
    return tuple(sorted(set(lengths)))
  sizes, counts = np.unique(np.append(train, longest), return_counts=True)
  below = np.concatenate([[0], np.cumsum(counts)])
  # cost[j]: the fewest tokens that hold the examples up to sizes[j], in one bucket more each round.
  cost = sizes * below[1:].astype(float)
  choices: list[np.ndarray] = []
  for _ in range(min(buckets, len(sizes)) - 1):
    # [i, j]: up to sizes[i] in the buckets so far, from there to sizes[j] in one more.
    total = cost[:, None] + sizes * (below[1:] - below[1:, None])
    total[np.tril_indices(len(sizes))] = np.inf
    choices.append(total.argmin(axis=0))
    cost = total.min(axis=0)
  last = len(sizes) - 1
  chosen = [last]
  for choice in reversed(choices):
    last = int(choice[last])
    chosen.append(last)
  return tuple(int(sizes[index]) for index in reversed(chosen))


def _drop_thresholds(tokens: np.ndarray, strength: float) -> np.ndarray | None:
  """uint64 by token id: below which raw random bits the token is dropped; None: never."""
  if not strength:
    return None
  counts = np.bincount(tokens)
  return (strength / (strength + counts) * 0.999_999 * 2.0**64).astype(np.uint64)


def random_bits(seed: tuple[int, ...], stream: int, index: int, count: int) -> np.ndarray:
  """Returns uint64 `[count]`."""
  # Raw bits are the same in every NumPy; what its distributions make of them may change.
  bits = np.random.Philox(np.random.SeedSequence([*seed, stream, index]))
  return bits.random_raw(count)


def _permutation(seed: tuple[int, ...], stream: int, index: int, count: int) -> np.ndarray:
  return np.argsort(random_bits(seed, stream, index, count), kind='stable')


def _fill(values: np.ndarray, size: int, fill: Any) -> np.ndarray:
  """Returns `values` with rows of `fill` added up to `size` rows."""
  if len(values) == size:
    return values
  return np.concatenate(
    [values, np.full((size - len(values), *values.shape[1:]), fill, values.dtype)]
  )
