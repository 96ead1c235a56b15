"""Inputs to compact integer arrays, once at the start of a run. Labels are done in `_labels`."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import errors
from mtl_jax.data import _labels, _ragged, specs, text
from mtl_jax.data import windows as windows_lib
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
    weights: task -> what each example weighs, float32 `[N]`, of the tasks that have weights.
    windows: where rows are windows of examples, of which; else None.
  """

  tokens: _ragged.Ragged
  targets: Mapping[str, _labels.Targets]
  units: _ragged.Ragged | None
  truncated: int
  segments: _ragged.Ragged | None = None
  starts: _ragged.Ragged | None = None
  weights: _labels.Weights = dataclasses.field(default_factory=dict)
  windows: windows_lib.Windows | None = None

  def __len__(self) -> int:
    return len(self.tokens.offsets) - 1

  @property
  def lengths(self) -> np.ndarray:
    """The tokens of each example, int64 `[N]`."""
    return self.tokens.lengths

  def word_starts(self, rows: Sequence[int]) -> list[np.ndarray]:
    """The places of the first token of each word, one array for each of these rows.

    Of windows, those of the words that are read in each.
    """
    assert self.starts is not None, 'texts are split into words where a task labels them'
    bounds, values = self.starts.offsets, self.starts.values
    if self.windows is not None:
      assert self.windows.best is not None
      values = values * self.windows.best.values
    return [np.flatnonzero(values[bounds[row] : bounds[row + 1]]) for row in rows]

  def once(self) -> 'Split':
    """The same for evaluation: a word has its label in the window alone that it is read in."""
    if self.windows is None or self.windows.best is None:
      return self
    best = self.windows.best.values.astype(bool)
    targets = {
      task: _ragged.Ragged(np.where(best, target.values, np.int32(MISSING)), target.offsets)
      if isinstance(target, _ragged.Ragged)
      else target
      for task, target in self.targets.items()
    }
    return dataclasses.replace(self, targets=targets)

  def with_weights(self, weights: _labels.Weights) -> 'Split':
    """The same with weights of its examples, each label of an example with windows shared by them.

    A label of a whole example counts as one, whatever the number of windows that have it.
    """
    if self.windows is None or not self.windows.several:
      found = weights if self.windows is None else _of_rows(weights, self.windows)
      return dataclasses.replace(self, weights=found)
    share = (1 / self.windows.counts[self.windows.owners]).astype(np.float32)
    given = _of_rows(weights, self.windows)
    made = {
      task: given.get(task, np.float32(1)) * share
      if isinstance(target, np.ndarray)
      else given.get(task)
      for task, target in self.targets.items()
    }
    return dataclasses.replace(self, weights={t: w for t, w in made.items() if w is not None})

  @property
  def content(self) -> Any:
    """The arrays, for a fingerprint."""
    return self.tokens, self.units, dict(self.targets), dict(self.weights)


class Words:
  """The distinct words of a data set, numbered from 1; 0 is padding.

  A word that is split in another way where it begins a text has a second number there.
  """

  def __init__(self) -> None:
    self._ids: dict[str, int] = {'': 0}
    self._first: list[str] = []  # words with a second number, which follow the others

  def number(self, rows: Sequence[Sequence[str]]) -> _ragged.Ragged:
    """Returns the number of every word."""
    ids, words = self._ids, list(itertools.chain.from_iterable(rows))
    for word in dict.fromkeys(words):
      ids.setdefault(word, len(ids))
    return _ragged.from_lengths(map(ids.__getitem__, words), list(map(len, rows)))

  def tell_first(
    self, rows: Sequence[_ragged.Ragged], *tokenizers: text.Tokenizer
  ) -> list[_ragged.Ragged]:
    """Returns what `number` gave, with the second numbers of words that begin a row, once all are.

    Args:
      rows: those of the whole data set, none of them empty.
      *tokenizers: which words need one depends on these.
    """
    words = list(self._ids)
    numbers = np.unique(np.concatenate([part.values[part.offsets[:-1]] for part in rows]))
    first = [words[number] for number in numbers]
    differ = np.zeros(len(first), bool)
    for tokenizer in tokenizers:
      here, elsewhere = (tokenizer.encode_words(first, at) for at in (True, False))
      differ |= ~here.equal(elsewhere)
    self._first = [first[index] for index in np.flatnonzero(differ)]
    if not self._first:
      return list(rows)
    second = np.arange(len(words), dtype=np.int32)
    second[numbers[differ]] = len(words) + np.arange(len(self._first))
    result = []
    for part in rows:
      values = part.values.copy()
      values[part.offsets[:-1]] = second[values[part.offsets[:-1]]]
      result.append(_ragged.Ragged(values, part.offsets))
    return result

  def encode(self, tokenizer: text.Tokenizer) -> _ragged.Ragged:
    """Returns the ids of each distinct word, in one row each."""
    return tokenizer.encode_words(list(self._ids)).extend(
      tokenizer.encode_words(self._first, first=True)
    )


def inputs(
  where: str,
  spec: specs.InputSpec,
  examples: Sequence[Mapping[str, Any]],
  as_words: bool,
  clean: Callable[[str], str] = str,
  first: int = 0,
) -> list[Any]:
  """Returns the input of each example: a string, two of them, or a list of words with `as_words`.

  Args:
    where: what messages call the examples.
    spec: what is read.
    examples: each with the fields of the input.
    as_words: whether texts are split at blanks.
    clean: what is made of each text, or of each word of a list, before it is split.
    first: the number of the first example, for messages.

  Raises:
    DataError: an example has no such field, one of the wrong type or with a lone surrogate, or no
      words in it.
  """
  result: list[Any] = []
  for index, example in enumerate(examples, first):
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
    _check_text(where, index, spec.field, value)
    if spec.kind != 'text':
      value = [clean(word) for word in value]
    else:
      value = clean(value).split() if as_words else clean(value)
    if not len(value):
      raise errors.DataError(f'{where}, example {index}: field {spec.field!r} is empty')
    second = example.get(spec.pair, '') if spec.pair else ''
    if not isinstance(second, str):
      raise errors.DataError(
        f'{where}, example {index}: field {spec.pair!r} should be a string, not {second!r}'
      )
    _check_text(where, index, spec.pair, second)
    result.append((value, clean(second)) if second else value)
  return result


def _check_text(where: str, index: int, field: str, value: str | Sequence[str]) -> None:
  if complaint := errors.no_text(value):
    raise errors.DataError(f'{where}, example {index}: field {field!r} {complaint}')


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


def check_whole(
  where: str, tokenizer: text.Tokenizer, items: Sequence[Sequence[str]], tokens: _ragged.Ragged
) -> None:
  """Raises ConfigError for the first text with other pieces than its words have, put together."""
  whole = tokenizer.encode([' '.join(words) for words in items])
  differ = np.flatnonzero(~whole.equal(tokens))
  if len(differ):
    index = int(differ[0])
    string = ' '.join(items[index])
    found = [
      [tokenizer.backend.id_to_token(i) for i in part.take(differ[:1]).values.tolist()]
      for part in (whole, tokens)
    ]
    raise errors.ConfigError(
      f'{where}, example {index}: the tokenizer joins words: {string!r} becomes {found[0]}, and '
      f'word by word {found[1]}; choose one that splits texts at blanks'
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


def _of_rows(weights: _labels.Weights, windows: windows_lib.Windows) -> dict[str, np.ndarray]:
  return {task: values[windows.owners] for task, values in weights.items()}


def window(split: Split, width: int, stride: int) -> Split:
  """Returns the examples as windows of at most `width` tokens; see `windows`."""
  found = windows_lib.cuts(split.tokens.lengths, width, stride)
  return Split(
    found.take(split.tokens),
    {
      task: found.take(target) if isinstance(target, _ragged.Ragged) else target[found.owners]
      for task, target in split.targets.items()
    },
    None if split.units is None else found.take(split.units),
    0,
    starts=split.starts and found.take(split.starts),
    windows=windows_lib.Windows(found.owners, found.best()),
  )


def frame(split: Split, before: Sequence[int], after: Sequence[int]) -> Split:
  """Returns the examples with tokens before and after each, which carry no labels."""
  blank = [MISSING] * len(before), [MISSING] * len(after)
  targets = {
    task: target.surround(*blank) if isinstance(target, _ragged.Ragged) else target
    for task, target in split.targets.items()
  }
  starts = split.starts and split.starts.surround([0] * len(before), [0] * len(after))
  tokens = split.tokens.surround(before, after)
  windows = split.windows
  if windows is not None and windows.best is not None:
    best = windows.best.surround([0] * len(before), [0] * len(after))
    windows = windows_lib.Windows(windows.owners, best)
  return dataclasses.replace(split, tokens=tokens, targets=targets, starts=starts, windows=windows)


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
