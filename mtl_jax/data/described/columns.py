"""Fields of files as inputs and labels: what their values tell of themselves, and their reading."""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import errors, kinds
from mtl_jax.data import specs

INPUT, SECOND = 'input', 'second'
"""The fields of an example that is read from a file; its labels have the names of their tasks."""

_MANY = 50  # different values, from which on a column of texts may be no label
_MOST_NUMBERS = 0.9  # share of numbers from which on the other values are thought to be mistakes
_FEW_WORDS = 3  # different texts beside numbers, which may stand for no label, such as n/a
_SPACELESS = (  # letters of scripts that put no blanks between words
  ('\u0e00', '\u0eff'),  # Thai, Lao
  ('\u1000', '\u109f'),  # Myanmar
  ('\u1780', '\u17ff'),  # Khmer
  ('\u3040', '\u30ff'),  # kana
  ('\u3400', '\u9fff'),  # Han
  ('\U00020000', '\U0003ffff'),
)


def is_missing(value: Any, missing: Iterable[str] = ()) -> bool:
  """Whether a field stands for nothing: empty, None, NaN, or one of the texts in `missing`."""
  if isinstance(value, str):
    return not value.strip() or value.strip() in missing
  return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Any) -> float:
  """A field as a number; ValueError for one that is none, or infinite."""
  if isinstance(value, str | int | float | np.number) and not isinstance(value, bool):
    try:
      found = float(value)
    except ValueError:
      found = math.inf
    if not math.isinf(found):
      return found
  raise ValueError(f'{value!r} is no number')


def weight(column: str, value: Any) -> float:
  """What an example weighs; ValueError for what is no number from 0 on."""
  try:
    found = number(value)
  except ValueError:
    found = -1.0
  if not found >= 0:
    raise ValueError(f'column {column!r}: {value!r} is no weight, a number from 0 on')
  return found


def _is_number(value: Any) -> bool:
  try:
    number(value)
  except ValueError:
    return False
  return True


def matching(patterns: Sequence[str], columns: Iterable[str], where: str) -> tuple[str, ...]:
  """The columns that are read: those named, and those that a pattern with * or ? matches.

  Raises:
    DataError: there is no such column; the message names the nearest.
  """
  columns = list(columns)
  found: dict[str, None] = {}
  for pattern in patterns:
    if pattern in columns:
      found[pattern] = None
      continue
    matched = [name for name in columns if fnmatch.fnmatchcase(name, pattern)]
    if not matched:
      raise errors.DataError(f'{where}: no column {pattern!r}{errors.nearest(pattern, columns)}')
    found |= dict.fromkeys(matched)
  return tuple(found)


def input_kind(
  rows: Sequence[tuple[str, Mapping[str, Any]]],
  columns: Sequence[str],
  where: str,
  missing: Iterable[str] = (),
) -> str:
  """What the input of a file is, by the values of its columns in some rows.

  Args:
    rows: place and fields of each.
    columns: those that are read.
    where: the key of the file, for messages.
    missing: texts that stand for nothing.

  Raises:
    DataError: the columns do not make an input together.
  """
  texts = {}  # column -> place and value of the first text in it
  for column in columns:
    for place, fields in rows:
      value = fields[column]
      if isinstance(value, str) and not is_missing(value, missing) and not _is_number(value):
        texts[column] = place, value
        break
  if not texts and len(columns) > 1:
    return 'numbers'
  if len(columns) == 1:
    found = (fields[columns[0]] for _, fields in rows)
    first = next((value for value in found if not is_missing(value)), '')
    if isinstance(first, np.ndarray):
      return 'array'
    if isinstance(first, list | tuple):
      return 'words' if all(isinstance(item, str) for item in first) else 'array'
    return 'text' if texts or isinstance(first, str) else 'numbers'
  if len(columns) == 2:
    return 'pair'
  column, (place, value) = next(iter(texts.items()))
  raise errors.DataError(
    f'{where}.input: {len(columns)} columns are read as numbers, and {column!r} has texts, such as '
    f'{value[:60]!r} ({place}): if that is a gap, name it in {where}.missing; else leave the '
    'column out, or name one or two columns of texts'
  )


def read_input(
  row: Mapping[str, Any], columns: Sequence[str], kind: str, missing: Iterable[str] = ()
) -> dict[str, Any]:
  """The input of a row, as fields of an example; ValueError for one that cannot be read."""
  if kind == 'numbers':
    values = [math.nan if is_missing(row[name], missing) else number(row[name]) for name in columns]
    return {INPUT: np.array(values, np.float32)}
  value = row[columns[0]]
  if kind == 'array':
    return {INPUT: value}
  if kind == 'words':
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
      raise ValueError(f'column {columns[0]!r} should be a list of words, not {value!r}')
    if not words:
      raise ValueError(f'column {columns[0]!r} has no words')
    return {INPUT: list(words)}
  if not isinstance(value, str):
    raise ValueError(f'column {columns[0]!r} should be a text, not {value!r}')
  if not value.strip():
    raise ValueError(f'column {columns[0]!r} is empty')
  if kind == 'text':
    return {INPUT: value}
  second = row[columns[1]]
  second = '' if second is None else second
  if not isinstance(second, str):
    raise ValueError(f'column {columns[1]!r} should be a text, not {second!r}')
  return {INPUT: value, SECOND: second}


def input_spec(found: set[str], texts: Iterable[Any]) -> specs.InputSpec:
  """The input of all files together.

  Args:
    found: their `options.INPUT_KINDS`.
    texts: inputs, of which some are looked at for the way they are to be split.

  Raises:
    ConfigError: one model cannot read them all.
  """
  if found <= {'text', 'pair'}:
    spaceless = any(map(_spaceless, texts))
    return specs.InputSpec(
      INPUT, 'text', 'characters' if spaceless else 'words', SECOND if 'pair' in found else ''
    )
  if found == {'words'}:
    return specs.InputSpec(INPUT, 'words', 'words')
  if found == {'numbers'}:
    return specs.InputSpec(INPUT, 'array', standardize=True)
  if found == {'array'}:
    return specs.InputSpec(INPUT, 'array')
  raise errors.ConfigError(
    f'dataset.files: one model cannot read {" and ".join(sorted(found))} at once; give the files '
    'inputs of one kind'
  )


def _spaceless(value: Any) -> bool:
  """Whether most letters of a text are of a script without blanks between words."""
  if not isinstance(value, str):
    return False
  letters = [c for c in value if c.isalpha()]
  odd = sum(any(low <= c <= high for low, high in _SPACELESS) for c in letters)
  return odd > len(letters) / 2


def infer(where: str, values: Sequence[tuple[str, Any]], per_word: bool) -> kinds.Kind:
  """The kind of task whose labels a column holds.

  Args:
    where: task and column, for messages.
    values: place and field of each row that has one.
    per_word: whether the input is a list of words.

  Raises:
    DataError: there is no label, or the values do not tell.
  """
  if not values:
    raise errors.DataError(f'{where}: it has no labels')
  fields = [field for _, field in values]
  for kind in kinds.KINDS.values():
    if kind().claims(fields, per_word):
      break
  else:
    raise errors.DataError(
      f'{where}: {values[0][0]}: {fields[0]!r} is no label of any kind; say which one by kind = ...'
    )
  if all(isinstance(field, str) for field in fields):
    _check_texts(where, values)
  return kind()


def _check_texts(where: str, values: Sequence[tuple[str, str]]) -> None:
  """Raises DataError for texts that are neither classes nor numbers throughout."""
  odd = [(place, text) for place, text in values if not _is_number(text)]
  numeric = [text for _, text in values if _is_number(text)]
  words = len({text for _, text in odd})
  mostly = len(numeric) >= _MOST_NUMBERS * len(values) or (
    words <= _FEW_WORDS and len(numeric) > len(values) / 2
  )
  if odd and numeric and mostly and kinds.kind.are_amounts(numeric):
    raise errors.DataError(
      f'{where}: {len(numeric):,} of {len(values):,} values are numbers, and others are not, such '
      f'as {odd[0][1]!r} ({odd[0][0]}): name what stands for no label in the missing of the file, '
      'or say the kind'
    )
  different = len({text for _, text in values})
  if odd and different > max(_MANY, len(values) / 2):
    raise errors.DataError(
      f'{where}: {different:,} different values in {len(values):,} rows look like no classes, such '
      f'as {odd[0][1][:60]!r}: name another column, or say the kind'
    )
