"""Inputs without labels as batches, for a model that was trained before."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import errors
from mtl_jax.data import _arrays, _batches, _encode, _labels, _ragged, _texts, known, specs
from mtl_jax.data import vocabularies as vocabularies_lib
from mtl_jax.data import windows as windows_lib
from mtl_jax.data.pipeline import DEFAULTS

BATCH = 64
"""Rows of a whole batch; what is left over makes smaller ones."""

_SIZES = (1, 8, BATCH)  # few, so that few programs are compiled


class Batch(NamedTuple):
  """A padded batch.

  Attributes:
    inputs: what a model reads, of `_SIZES` rows.
    rows: int64 `[n]`: which of the inputs, or of their windows, the first n rows are.
    starts: of each of them, the places of the first token of each word; None where no task labels
      words.
  """

  inputs: Any
  rows: np.ndarray
  starts: list[np.ndarray] | None


class Batches(NamedTuple):
  """The batches of some inputs.

  Attributes:
    cut: how many of the inputs were cut, since they were longer than any in training.
    batches: short inputs first.
    windows: where rows are windows of inputs, of which; None where each is an input.
  """

  cut: int
  batches: Iterator[Batch]
  windows: windows_lib.Windows | None = None


class Serving(known.Known):
  """Encodes new inputs as those of a run's training were. Safe for threads.

  Attributes:
    input: what a model reads.
  """

  def __init__(
    self,
    input_spec: specs.InputSpec,
    task_specs: Mapping[str, specs.TaskSpec],
    vocabularies: vocabularies_lib.Vocabularies,
    options: Mapping[str, Any],
    pretrained: bool = False,
  ):
    """Gets ready.

    Args:
      input_spec: of the run's data set.
      task_specs: the run's tasks.
      vocabularies: those of the run.
      options: its config's `dataset`.
      pretrained: whether the tokenizer is one that an encoder brought.
    """
    buckets = vocabularies.buckets or ((vocabularies.longest,) if vocabularies.longest else (1,))
    super().__init__(task_specs, vocabularies, buckets)
    self.input = input_spec
    self._options = DEFAULTS | dict(options)
    if not self._options['stride'] or vocabularies.tokenizer is None:
      longest = buckets[-1] if vocabularies.tokenizer is not None else 0
      self._options |= {'max_length': longest}
    self._pretrained = pretrained

  def targets(
    self, task: str, examples: Sequence[Mapping[str, Any]], where: str
  ) -> list[np.ndarray]:
    """Returns the target of each example, by the classes of the run; of words `[words]`.

    Args:
      task: its name.
      examples: each with the field of the task's labels.
      where: what messages call them.

    Raises:
      DataError: one has no such field, or a label that is none of the task's kind.
    """
    spec, names = self.specs[task], self.label_names[task]
    _labels.check(where, task, spec, examples)
    made = _labels.encode(where, task, dataclasses.replace(spec, labels=None), examples, names)
    if isinstance(made, _ragged.Ragged):
      return np.split(made.values, made.offsets[1:-1])
    return list(made)

  def batches(self, examples: Sequence[Mapping[str, Any]], where: str, first: int = 0) -> Batches:
    """Returns the batches of some inputs.

    Args:
      examples: each with the fields of the input.
      where: what messages call them.
      first: the number of the first one in messages.

    Raises:
      DataError: one has no such field, or not of its type.
    """
    if not len(examples):
      return Batches(0, iter(()))
    if self.input.kind == 'array':
      values = _arrays.stack(where, self.input, examples, number=first)
      return Batches(0, self._of_arrays(where, values, first))
    split, assembler, as_words = _texts.serve(
      where,
      self.input,
      self._options,
      self.vocabularies,
      examples,
      self._pretrained,
      first,
    )
    words = as_words and any(spec.rules.per_token for spec in self.specs.values())
    windows = split.windows if split.windows and split.windows.several else None
    return Batches(split.truncated, self._of_texts(split, assembler, words), windows)

  def _of_texts(
    self, split: _encode.Split, assembler: _texts.Assembler, words: bool
  ) -> Iterator[Batch]:
    bucket = _batches.bucket_of(split, self.bucket_lengths)
    order = np.argsort(bucket, kind='stable')
    for rows, size in _cut_up(order, bucket):
      width = self.bucket_lengths[bucket[rows[-1]]]
      batch = assembler(split, rows, size, width)
      starts = split.word_starts(rows.tolist()) if words else None
      yield Batch(batch['inputs'], rows, starts)

  def _of_arrays(self, where: str, values: np.ndarray, first: int) -> Iterator[Batch]:
    mean, std = (
      np.array(x or (y,), np.float32) for x, y in ((self.input.mean, 0), (self.input.std, 1))
    )
    if self.vocabularies.numbers is not None:
      mean, std = (np.array(part, np.float32) for part in self.vocabularies.numbers)
      if values.shape[-1] != len(mean):
        raise errors.DataError(
          f'{where}, example {first}: {values.shape[-1]} numbers, and the model reads {len(mean)}'
        )
    split = _arrays.Split(values, mean, std, {}, {})
    for rows, size in _cut_up(np.arange(len(values)), np.zeros(len(values), np.int64)):
      yield Batch(_arrays.assemble(split, rows, size, 1)['inputs'], rows, None)


def _cut_up(order: np.ndarray, bucket: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
  """Yields the rows of each batch, of one bucket each but for the rests, and its size."""
  left = order[:0]
  for number in np.unique(bucket):
    members = np.concatenate([left, order[bucket[order] == number]])
    whole = len(members) // BATCH * BATCH
    for start in range(0, whole, BATCH):
      yield members[start : start + BATCH], BATCH
    left = members[whole:]
  while len(left):
    size = next(size for size in _SIZES if size >= len(left) or size == BATCH)
    if size == BATCH and len(left) <= 3 * _SIZES[1]:
      size = _SIZES[1]
    yield left[:size], size
    left = left[size:]
