"""Pretrained word vectors from a text file of GloVe or fastText. Knows no models."""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np

from mtl_jax import errors


@dataclasses.dataclass(frozen=True, eq=False)  # equal if the same: a module's field needs a hash
class Vectors:
  """Word vectors for a vocabulary.

  Attributes:
    table: float32 `[V, E]`; zeros for tokens without a vector.
    known: bool `[V]`: which tokens have a vector.
  """

  table: np.ndarray
  known: np.ndarray

  @property
  def coverage(self) -> float:
    """The share of the vocabulary that has a vector."""
    return float(self.known.mean())


def load_vectors(
  path: str | os.PathLike[str], vocabulary: Sequence[str], features: int | None = None
) -> Vectors:
  """Reads the vectors of a vocabulary: each token's own or, if it has none, its lower-case form's.

  A line is a word and its numbers, with blanks between them; a first line with two integers, as in
  a `.vec` file of fastText, is the number of words and their width. The first of several lines for
  a word counts. Only the lines of words that are looked for are read number by number.

  Args:
    path: the file, UTF-8.
    vocabulary: the V tokens, in the order of their ids; '' has no vector.
    features: E that is needed; None: any.

  Raises:
    ValueError: there is no such file, its vectors have another width, or it has none for the
      vocabulary.
    DataError: a line is not a word and its numbers, or lines are missing; the line is named.
  """
  try:
    with open(path, 'rb') as file:
      found = _read(file, str(path), vocabulary, features)
  except OSError as error:
    raise ValueError(f'vectors {str(path)!r} cannot be read: {error.strerror}') from None
  if not found:
    raise ValueError(
      f'{path} has a vector for none of {len(vocabulary)} tokens; word vectors need a vocabulary '
      "of words: dataset.tokenizer='words'"
    )
  rows = [found.get(word.encode()) or found.get(word.lower().encode()) for word in vocabulary]
  blank = (0.0,) * len(next(iter(found.values())))
  table = np.array([row or blank for row in rows], np.float32)
  return Vectors(table, np.array([row is not None for row in rows]))


def _read(
  file: Iterable[bytes], path: str, vocabulary: Sequence[str], features: int | None
) -> dict[bytes, tuple[float, ...]]:
  """Returns the vectors of the words that the vocabulary has, or whose lower case it has."""
  wanted = {form.encode() for word in vocabulary for form in (word, word.lower()) if word}
  found: dict[bytes, tuple[float, ...]] = {}
  promised: int | None = None
  width, words = 0, 0
  for number, line in enumerate(file, start=1):
    line = line.rstrip(b' \r\n')
    count = line.count(b' ')  # of numbers, unless blanks are part of the word
    if number == 1:
      header = _header(line)
      promised, width = header or (None, count)
      _check_width(path, line, width, features)
      if header:
        continue
    words += 1
    word = line[: line.find(b' ')] if count == width else line.rsplit(b' ', width)[0]
    if count < width or not word or (count > width and _is_number(word.split(b' ')[-1])):
      raise errors.DataError(
        f'{path}, line {number}: need a word and {width} numbers, found {line[:40]!r} of '
        f'{count + 1} parts{_BINARY if 0 in line else ""}'
      )
    if word in wanted and word not in found:
      found[word] = _numbers(line[len(word) + 1 :], f'{path}, line {number}')
  if not words and not promised:
    raise errors.DataError(f'{path} is empty')
  if promised is not None and promised != words:
    raise errors.DataError(
      f'{path}: its first line promises {promised} words, and {words} follow: is it incomplete?'
    )
  return found


_BINARY = ': this looks like a binary or packed file; unpack it, or take the text format (.vec)'


def _header(line: bytes) -> tuple[int, int] | None:
  parts = line.split(b' ')
  if len(parts) != 2 or not all(part.isdigit() for part in parts):
    return None
  return int(parts[0]), int(parts[1])


def _check_width(path: str, line: bytes, width: int, features: int | None) -> None:
  if not width or 0 in line:
    raise errors.DataError(
      f'{path}, line 1: need a word and its numbers, found {line[:40]!r}{_BINARY}'
    )
  if features not in (None, width):
    raise ValueError(
      f'{path} has vectors of {width} numbers, and the embedding has features={features}: set '
      f'features={width}, or take another file'
    )


def _numbers(text: bytes, where: str) -> tuple[float, ...]:
  parts = text.split(b' ')
  for part in parts:
    if not _is_number(part) or not math.isfinite(float(part)):
      raise errors.DataError(f'{where}: {part.decode(errors="replace")!r} is no finite number')
  return tuple(map(float, parts))


def _is_number(text: bytes) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True
