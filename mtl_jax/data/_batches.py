"""Which examples make which batch, and the batch as padded NumPy arrays. Reads no files.

Everything follows from the seed and the number of the batch.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, SupportsIndex

import numpy as np

from mtl_jax.data import _labels, _meetings, _ragged, text
from mtl_jax.data import windows as windows_lib
from mtl_jax.kinds import MISSING

Batch = dict[str, Any]
Augment = Callable[[Batch, Callable[[int, int], np.ndarray]], None]

_ORDER, SHUFFLE, _DROPOUT = range(3)  # streams of random numbers; 3 is that of `_mixing`
_AUGMENT = 4  # the first of those of `augment`


class Split(Protocol):
  """The N encoded examples of one split.

  Attributes:
    targets: task -> labels: arrays with a first axis of N, or one label a token.
    weights: task -> what each example weighs, float32 `[N]`, of the tasks that have weights.
    truncated: how many examples were cut.
    windows: where rows are windows of examples, of which; else None.
    lengths: the tokens of each; all 1 where nothing is padded.
    content: all of it as a tree of arrays, for a fingerprint.
  """

  @property
  def targets(self) -> _labels.ByTask: ...

  @property
  def weights(self) -> _labels.Weights: ...

  @property
  def truncated(self) -> int: ...

  @property
  def windows(self) -> windows_lib.Windows | None: ...

  @property
  def lengths(self) -> np.ndarray: ...

  @property
  def content(self) -> Any: ...

  def __len__(self) -> int: ...


class Encoded(NamedTuple):
  """A data set as arrays.

  Attributes:
    splits: split -> its groups of tasks.
    assembler: `(split, rows, size, width) -> batch`: the examples `rows`, filled up to `size` with
      padding, `width` tokens each.
    bucket_lengths: the widths that batches are padded to, ascending.
    tokenizer: what made the tokens; None where the inputs are arrays.
    pieces: what split words, or None.
    numbers: of inputs that are standardized, mean and standard deviation of each number.
    pieces_width: of `pieces`, the most of a word; 0 without pieces.
  """

  splits: Mapping[str, Sequence[Split]]
  assembler: Callable[[Any, np.ndarray, int, int], Batch]
  bucket_lengths: tuple[int, ...]
  tokenizer: text.Tokenizer | None
  pieces: text.Tokenizer | None
  numbers: tuple[tuple[float, ...], tuple[float, ...]] | None = None
  pieces_width: int = 0


def labels(split: Split, rows: np.ndarray, size: int, width: int) -> Batch:
  """Returns `{'targets': {task: ...}, 'mask': {task: bool [size]}}` of the examples `rows`.

  Where tasks have weights, also `'weight': {task: float32 [size]}` of these.
  """
  targets, mask = {}, {}
  for task, target in split.targets.items():
    if isinstance(target, _ragged.Ragged):
      values = target.padded(rows, width, MISSING)
    else:
      values = target[rows]
    if values.dtype == np.float32:
      known = ~np.isnan(values)
      targets[task] = fill(values, size, np.nan)
    else:
      known = values != MISSING
      targets[task] = fill(values, size, MISSING)
    mask[task] = fill(known.any(axis=tuple(range(1, known.ndim))), size, False)
  made = {'targets': targets, 'mask': mask}
  if split.weights:
    made['weight'] = {task: fill(found[rows], size, 0) for task, found in split.weights.items()}
  return made


class WordDropout:
  """Replaces tokens by the unknown id, the rarer the more often.

  A token seen n times is replaced with probability α / (α + n), α being the strength.
  """

  def __init__(self, tokens: np.ndarray, strength: float, unknown_id: int):
    counts = np.bincount(tokens)
    # By token id: below which raw random bits it is dropped.
    self._thresholds = (strength / (strength + counts) * 0.999_999 * 2.0**64).astype(np.uint64)
    self._unknown_id = np.int32(unknown_id)

  def __call__(self, inputs: Batch, draws: np.ndarray) -> None:
    """Changes `inputs['tokens']` `[B, S]`; `draws` are uint64 `[B, S]`."""
    dropped = draws < self._thresholds[inputs['tokens']]
    inputs['tokens'] = np.where(dropped & inputs['mask'], self._unknown_id, inputs['tokens'])


class Training:
  """Item i is the i-th batch of an endless stream; a source for grain.

  An epoch is a fresh permutation. First the remainder that fills no batch is dropped from its end,
  so every example is left out equally often. Each bucket then gives whole batches, and what is
  left over joins the next longer bucket. With strata, whose examples differ in length, each batch
  has its share of every stratum instead, short ones with short ones, and is as long as it needs to
  be. The batches come in random order.
  """

  def __init__(
    self,
    split: Split,
    assembler: Callable[..., Batch],
    bucket_lengths: tuple[int, ...],
    batch_size: int,
    seed: tuple[int, ...],
    word_dropout: WordDropout | None,
    augment: Augment | None,
    process: tuple[int, int],
    draws: Callable[[int, int], np.ndarray] | None = None,
    stratum: np.ndarray | None = None,
  ):
    """Creates the stream.

    Args:
      split: the examples.
      assembler: see `Encoded`.
      bucket_lengths: see `Encoded`.
      batch_size: rows of a batch, over all processes.
      seed: of all random numbers.
      word_dropout: what replaces tokens, or None.
      augment: what changes a batch before that, or None.
      process: which process this is, and of how many.
      draws: `(start, stop)` gives each batch a number: long batches come where it is large.
      stratum: int64 `[N]`, the group of each example; None: all are of one.
    """
    self._split = split
    self._assembler = assembler
    self._bucket_lengths = bucket_lengths
    self._batch_size = batch_size
    self._seed = seed
    self._draws = draws
    self._word_dropout = word_dropout
    self._augment = augment
    index, count = process
    local = batch_size // count
    self._local = slice(index * local, (index + 1) * local)
    self._bucket = bucket_of(split, bucket_lengths)
    self._stratum = stratum
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

  def rows(self, number: int) -> np.ndarray:
    """The examples of a batch of all processes, int64 `[B]`."""
    epoch, position = divmod(number, self.batches_per_epoch)
    return self._plan(epoch)[0][position]

  def batch(self, number: int, width: int) -> Batch:
    """A batch padded to `width`."""
    rows = self.rows(number)[self._local]
    batch = self._assembler(self._split, rows, len(rows), width)

    def draw(stream: int, columns: int) -> np.ndarray:
      # For the batch of all processes, so that their number changes nothing.
      bits = random_bits(self._seed, stream, number, self._batch_size * columns)
      return bits.reshape(self._batch_size, columns)[self._local]

    if self._augment is not None:
      self._augment(batch, lambda stream, columns: draw(_AUGMENT + stream, columns))
    if self._word_dropout is not None:
      self._word_dropout(batch['inputs'], draw(_DROPOUT, width))
    return batch

  def _make_plan(self, epoch: int) -> tuple[np.ndarray, list[int]]:
    """Returns the rows of each batch `[batches, B]` and its width."""
    size, count = self._batch_size, self.batches_per_epoch
    order = _permutation(self._seed, _ORDER, epoch, len(self._split))[: count * size]
    if self._stratum is None:
      rows = self._by_bucket(order)
    else:
      rows = _meetings.mixed(order, self._bucket, self._stratum).reshape(count, size)
    widths = [self._bucket_lengths[longest] for longest in self._bucket[rows].max(axis=1)]
    if self._draws is None:
      shuffle = _permutation(self._seed, SHUFFLE, epoch, count)
    else:  # the ranks of the draws
      drawn = self._draws(epoch * count, (epoch + 1) * count)
      shuffle = np.argsort(np.argsort(drawn, kind='stable'), kind='stable')
    return rows[shuffle], [widths[i] for i in shuffle]

  def _by_bucket(self, order: np.ndarray) -> np.ndarray:
    """Returns batches of one bucket each, `[batches, B]`, where there are enough examples."""
    size = self._batch_size
    bucket = self._bucket[order]
    groups = []
    rest = order[:0]
    for number in range(len(self._bucket_lengths)):
      members = np.concatenate([rest, order[bucket == number]])
      batches = len(members) // size
      groups.append(members[: batches * size].reshape(batches, size))
      rest = members[batches * size :]
    return np.concatenate(groups)


@dataclasses.dataclass(frozen=True)
class EvaluationBatch:
  """A batch of evaluation.

  Attributes:
    batch: arrays with a first axis of the batch size; padding rows have no labels.
    count: how many rows are examples; they come first.
    indices: int64 `[count]`: which examples of the split these are, or which of their windows.
  """

  batch: Batch
  count: int
  indices: np.ndarray


class Evaluation:
  """All batches of a split, each example once; short examples first. Can be iterated again."""

  def __init__(
    self,
    split: Split,
    assembler: Callable[..., Batch],
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
    self._bucket = bucket_of(split, bucket_lengths)
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


def bucket_of(split: Split, lengths: tuple[int, ...]) -> np.ndarray:
  """Returns the number of the shortest of `lengths` that holds an example, int64 `[N]`."""
  return np.searchsorted(lengths, split.lengths)


def random_bits(seed: tuple[int, ...], stream: int, index: int, count: int) -> np.ndarray:
  """Returns uint64 `[count]`."""
  # Raw bits are the same in every NumPy; what its distributions make of them may change.
  bits = np.random.Philox(np.random.SeedSequence([*seed, stream, index]))
  return bits.random_raw(count)


def _permutation(seed: tuple[int, ...], stream: int, index: int, count: int) -> np.ndarray:
  return np.argsort(random_bits(seed, stream, index, count), kind='stable')


def fill(values: np.ndarray, size: int, value: Any) -> np.ndarray:
  """Returns `values` with rows of `value` added up to `size` rows."""
  if len(values) == size:
    return values
  return np.concatenate(
    [values, np.full((size - len(values), *values.shape[1:]), value, values.dtype)]
  )
