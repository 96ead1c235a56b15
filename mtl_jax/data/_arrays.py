"""Inputs that are arrays of numbers, all of one shape: images and vectors."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import errors
from mtl_jax.data import _batches, _examples, _labels, specs, text, vocabularies

FOR_TEXTS = (
  'tokenizer',
  'vocab_size',
  'min_count',
  'lowercase',
  'normalize',
  'pieces',
  'pieces_vocab_size',
  'max_pieces',
  'max_length',
  'stride',
  'buckets',
  'bucket_lengths',
  'word_dropout',
)
"""Options that say nothing here."""


@dataclasses.dataclass(frozen=True)
class Split:
  """The N examples of one split.

  Attributes:
    values: uint8 or float32 `[N, ...]`.
    mean: float32 `[C]` or `[1]`, of the last axis, subtracted in batches.
    std: the same, divided by.
    targets: task -> labels: arrays with a first axis of N.
    weights: task -> what each example weighs, float32 `[N]`, of the tasks that have weights.
  """

  values: np.ndarray
  mean: np.ndarray
  std: np.ndarray
  targets: _labels.ByTask
  weights: _labels.Weights
  truncated = 0
  windows: None = None

  def __len__(self) -> int:
    return len(self.values)

  @property
  def lengths(self) -> np.ndarray:
    """All 1: there is nothing to pad."""
    return np.ones(len(self), np.int64)

  @property
  def content(self) -> Any:
    """The arrays, for a fingerprint."""
    return self.values, self.mean, self.std, dict(self.targets), dict(self.weights)


def assemble(split: Split, rows: np.ndarray, size: int, width: int) -> _batches.Batch:
  """Returns the examples `rows` as normalized float32, filled up to `size` with zeros."""
  values = split.values[rows]
  if values.dtype == np.uint8:
    values = values / np.float32(255)
  values = (values - split.mean) / split.std
  inputs = _batches.fill(np.where(np.isnan(values), np.float32(0), values), size, 0)
  return {'inputs': inputs, **_batches.labels(split, rows, size, width)}


def encode(
  examples: _examples.Examples,
  options: Mapping[str, Any],
  labels: Mapping[str, Sequence[str]],
  known: vocabularies.Vocabularies | None,
  tokenizer: text.Tokenizer | None,
) -> _batches.Encoded:
  """Returns the examples as one array a split.

  Args:
    examples: those of a data set of arrays.
    options: none is for arrays.
    labels: task -> the names of its classes.
    known: the vocabularies of an earlier run, of which nothing but the labels is needed.
    tokenizer: must be None.

  Raises:
    ConfigError: a tokenizer, or a task that labels words.
    DataError: an example is no array, or of another shape or type than the others.
  """
  del options
  if tokenizer is not None or (known is not None and known.tokenizer is not None):
    raise errors.ConfigError('a tokenizer is given, and the inputs are arrays of numbers')
  for task, task_spec in examples.tasks.items():
    if task_spec.rules.per_token:
      raise errors.ConfigError(f'task {task!r} labels words, and the inputs are arrays of numbers')
  targets, weights, spec = examples.targets(labels), examples.weights(), examples.input
  values: dict[str, list[np.ndarray]] = {}
  first: np.ndarray | None = None
  for split, items in examples.by_task.items():
    values[split] = []
    for group in examples.groups:
      values[split].append(stack(examples.where[split], spec, items[group[0]], first))
      first = values[split][0][0]
  assert first is not None
  mean, std = (np.array(x or (y,), np.float32) for x, y in ((spec.mean, 0), (spec.std, 1)))
  if spec.standardize:
    if known is not None and known.numbers is not None:
      mean, std = (np.array(x, np.float32) for x in known.numbers)
    else:
      mean, std = _moments(np.concatenate(values['train']))
  if any(len(x) not in (1, first.shape[-1]) for x in (mean, std)):
    raise errors.ConfigError(
      f'input {spec.field!r}: mean and std need one number, or one for each of the '
      f'{first.shape[-1]} channels'
    )
  splits = {
    split: [
      Split(x, mean, std, target, weight)
      for x, target, weight in zip(parts, targets[split], weights[split], strict=True)
    ]
    for split, parts in values.items()
  }
  numbers = (tuple(mean.tolist()), tuple(std.tolist())) if spec.standardize else None
  return _batches.Encoded(splits, assemble, (1,), None, None, numbers)


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of each number `[N, C] -> [C]`; 0 and 1 where there is none."""
  known = ~np.isnan(values)
  count = np.maximum(known.sum(axis=0), 1)
  filled = np.where(known, values, 0).astype(np.float64)
  mean = filled.sum(axis=0) / count
  spread = np.where(known, filled - mean, 0)
  std = np.sqrt((spread**2).sum(axis=0) / count)
  return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def stack(
  where: str,
  spec: specs.InputSpec,
  items: _labels.Examples,
  first: np.ndarray | None = None,
  number: int = 0,
) -> np.ndarray:
  """Returns uint8 or float32 `[N, ...]`; all like `first`, an example, where that is given.

  In messages the first item has this `number`.

  Raises:
    DataError: an example is no array, or of another shape or type than the others.
  """
  stacked: np.ndarray | None = None
  for place, item in enumerate(items):
    index = number + place
    if spec.field not in item:
      raise errors.DataError(
        f'{where}, example {index}: no field {spec.field!r}{errors.nearest(spec.field, item)}'
      )
    try:
      value = np.asarray(item[spec.field])
    except ValueError:  # rows of different lengths
      value = np.empty((), object)
    if value.dtype != np.uint8 and value.dtype.kind in 'fiu':
      with np.errstate(over='ignore'):  # infinity is refused below
        value = value.astype(np.float32)
    if value.dtype not in (np.uint8, np.float32) or not value.ndim or not value.size:
      raise errors.DataError(
        f'{where}, example {index}: field {spec.field!r} should be an array of numbers'
      )
    first = value if first is None else first
    if value.shape != first.shape or value.dtype != first.dtype:
      raise errors.DataError(
        f'{where}, example {index}: field {spec.field!r} is {value.dtype} {list(value.shape)}, and '
        f'in other examples {first.dtype} {list(first.shape)}'
      )
    fine = ~np.isinf(value) if spec.standardize else np.isfinite(value)
    if not fine.all():
      raise errors.DataError(f'{where}, example {index}: field {spec.field!r} is not finite')
    if stacked is None:
      stacked = np.empty((len(items), *value.shape), value.dtype)
    stacked[place] = value
  assert stacked is not None
  return stacked
