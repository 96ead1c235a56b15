"""Inputs to compact integer arrays, once at the start of a run. Labels are done in `_labels`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import errors
from mtl_jax.data import _labels, _ragged, specs, text
from mtl_jax.kinds import MISSING


@dataclasses.dataclass(frozen=True)
class Split:
  """The N encoded examples of one split.

  Attributes:
    tokens: the ids of each example.
    targets: task -> labels: arrays with a first axis of N, or one label a token.
    units: with pieces: the row in `Inputs.pieces` of each token.
    truncated: how many examples were cut at max_length.
    segments: with pairs of texts: 0 for tokens of the first, 1 for those of the second.
    starts: of words: 1 for the first token of each, 0 for others.
  """

  tokens: _ragged.Ragged
  targets: Mapping[str, _labels.Targets]
  units: _ragged.Ragged | None
  truncated: int
  segments: _ragged.Ragged | None = None
  starts: _ragged.Ragged | None = None

  def __len__(self) -> int:
    return len(self.tokens.offsets) - 1

  @property
  def lengths(self) -> np.ndarray:
    """The tokens of each example, int64 `[N]`."""
    return self.tokens.lengths

  def word_starts(self, rows: Sequence[int]) -> list[np.ndarray]:
    """The places of the first token of each word, one array for each of these examples."""
    assert self.starts is not None, 'texts are split into words where a task labels them'
    bounds = self.starts.offsets
    return [np.flatnonzero(self.starts.values[bounds[row] : bounds[row + 1]]) for row in rows]

  @property
  def content(self) -> Any:
    """The arrays, for a fingerprint."""
    return self.tokens, self.units, dict(self.targets)


class Words:
  """The distinct words of a data set, numbered from 1; 0 is padding."""

  def __init__(self) -> None:
    self._ids: dict[str, int] = {'': 0}

  def number(self, rows: Sequence[Sequence[str]]) -> _ragged.Ragged:
    """Returns the number of every word."""
    ids = self._ids
    return _ragged.from_rows([[ids.setdefault(word, len(ids)) for word in row] for row in rows])

  def encode(self, tokenizer: text.Tokenizer) -> _ragged.Ragged:
    """Returns the ids of each distinct word, in one row each."""
    return tokenizer.encode_words(list(self._ids))


def inputs(
  where: str, spec: specs.InputSpec, examples: Sequence[Mapping[str, Any]], as_words: bool
) -> list[Any]:
  """Returns the input of each example: a string, two of them, or a list of words with `as_words`.

  Raises:
    DataError: an example has no such field, one of the wrong type, or no words in it.
  """
  result: list[Any] = []
  for index, example in enumerate(examples):
    if spec.field not in example:
      raise errors.DataError(
        f'{where}, example {index}: no field {spec.field!r}{errors.nearest(spec.field, example)}'
      )
    value = example[spec.field]
    if spec.kind == 'text':
      right = isinstance(value, str)
    else:
      right = isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
    if not right:
      expected = 'a string' if spec.kind == 'text' else 'a list of strings'
      raise errors.DataError(
        f'{where}, example {index}: field {spec.field!r} should be {expected}, not {value!r}'
      )
    if as_words and spec.kind == 'text':
      value = value.split()
    if not len(value):
      raise errors.DataError(f'{where}, example {index}: field {spec.field!r} is empty')
    second = example.get(spec.pair, '') if spec.pair else ''
    if not isinstance(second, str):
      raise errors.DataError(
        f'{where}, example {index}: field {spec.pair!r} should be a string, not {second!r}'
      )
    result.append((value, second) if second else value)
  return result


def piece_table(pieces: _ragged.Ragged, max_pieces: int) -> np.ndarray:
  """Returns int32 `[words, P]`, row 0 all padding, for the ragged pieces of `Words.encode`."""
  width = min(int(pieces.lengths[1:].max(initial=1)), max_pieces or np.iinfo(np.int32).max)
  table = pieces.padded(np.arange(len(pieces.lengths)), width, text.PAD_ID)
  table[0] = text.PAD_ID
  return table


def check_lengths(where: str, task: str, words: _ragged.Ragged, tags: _ragged.Ragged) -> None:
  """Raises DataError for the first example whose tags and words differ in number."""
  differ = np.flatnonzero(words.lengths != tags.lengths)
  if len(differ):
    index = int(differ[0])
    raise errors.DataError(
      f'{where}, example {index}, task {task!r}: {tags.lengths[index]} tags for '
      f'{words.lengths[index]} words'
    )


def split_words(
  words: _ragged.Ragged, ids: _ragged.Ragged, targets: Mapping[str, _labels.Targets]
) -> tuple[_ragged.Ragged, dict[str, _labels.Targets], _ragged.Ragged]:
  """Replaces words by their pieces; the first piece of a word has its label, the others none.

  Args:
    words: the number of each word.
    ids: the pieces of each distinct word.
    targets: task -> labels; ragged ones have one label a word.

  Returns:
    The pieces of each example, targets with one label a piece where they are ragged, and which
    pieces begin a word, 0 or 1.
  """
  pieces = ids.take(words.values)
  starts = np.zeros(len(pieces.values), np.int32)
  starts[pieces.offsets[:-1]] = 1
  rows = pieces.offsets[words.offsets]
  result: dict[str, _labels.Targets] = {}
  for task, target in targets.items():
    if isinstance(target, _ragged.Ragged):
      labels = np.full(len(pieces.values), MISSING, np.int32)
      labels[pieces.offsets[:-1]] = target.values
      result[task] = _ragged.Ragged(labels, rows)
    else:
      result[task] = target
  return pieces.merge(words.offsets), result, _ragged.Ragged(starts, rows)


def frame(split: Split, before: Sequence[int], after: Sequence[int]) -> Split:
  """Returns the examples with tokens before and after each, which carry no labels."""
  blank = [MISSING] * len(before), [MISSING] * len(after)
  targets = {
    task: target.surround(*blank) if isinstance(target, _ragged.Ragged) else target
    for task, target in split.targets.items()
  }
  starts = split.starts and split.starts.surround([0] * len(before), [0] * len(after))
  tokens = split.tokens.surround(before, after)
  return dataclasses.replace(split, tokens=tokens, targets=targets, starts=starts)


def cut(split: Split, max_length: int) -> Split:
  """Returns the examples with at most `max_length` tokens each; 0: as they are."""
  too_long = int((split.tokens.lengths > max_length).sum()) if max_length else 0
  if not too_long:
    return split
  return Split(
    split.tokens.cut(max_length),
    {
      task: target.cut(max_length) if isinstance(target, _ragged.Ragged) else target
      for task, target in split.targets.items()
    },
    None if split.units is None else split.units.cut(max_length),
    too_long,
    starts=split.starts and split.starts.cut(max_length),
  )
