"""What every format has in common: records, faults, how to read, and what a format must do."""

import abc
import collections
import dataclasses
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, NamedTuple, Self, TextIO

from mtl_jax import errors

Out = TextIO | BinaryIO | Path
Notes = collections.Counter[str]


class Record(NamedTuple):
  """One example as its file has it.

  Attributes:
    place: where it stands in its file, for messages: `'line 12'`, `'row 3'`, `'cats/1.png'`.
    fields: column -> value. Text of delimited files, JSON values, lists of text of CoNLL columns.
    extra: what the writer of its format needs to give it back as it was.
  """

  place: str
  fields: dict[str, Any]
  extra: Any = None


class Fault(NamedTuple):
  """What should have been a record and is none; the caller stops, or skips and counts it.

  Attributes:
    path: the file.
    place: where in it; `'lines 3 to 5'` where several lines are lost.
    reason: what is wrong.
    text: the first 80 characters of it, on one line.
  """

  path: str
  place: str
  reason: str
  text: str


@dataclasses.dataclass(frozen=True)
class Reading:
  """How a file is to be read; what is empty is found out from the file.

  Attributes:
    format: a name in `FORMATS`; '': by the suffix, `.gz` aside.
    encoding: of text; '': what a byte order mark says, else UTF-8.
    delimiter: one character between fields; '': a tab in `.tsv`, else the one of `, ; tab |` that
      the first line has most of.
    columns: their names where the file has none. A delimited file then has no header line.
    quote: what may stand around the fields of a delimited file; '': nothing, and a " is a character
      like others.
    data_dir: where TFDS keeps its data sets; '': where TFDS does.
  """

  format: str = ''
  encoding: str = ''
  delimiter: str = ''
  columns: tuple[str, ...] = ()
  data_dir: str = ''
  quote: str = '"'


class Writer(abc.ABC):
  """Writes records in the format of the file that they came from, with new columns.

  A context manager: a file takes its place when all went well, and only then.
  """

  @abc.abstractmethod
  def write(self, record: Record, values: Mapping[str, Any]) -> None:
    """Writes one record.

    Args:
      record: as it was read.
      values: new column -> value; a column without a value stays empty.

    Raises:
      DataError: a value, or the record, cannot stand in this format.
      OSError: it cannot be written.
    """

  def write_all(self, records: Sequence[Record], columns: Mapping[str, Sequence[Any]]) -> None:
    """Writes records, with new column -> a value for each of them; see `write`."""
    for index, record in enumerate(records):
      self.write(record, {name: values[index] for name, values in columns.items()})

  @abc.abstractmethod
  def close(self) -> None:
    """Writes what is left, and puts the file in its place."""

  @abc.abstractmethod
  def discard(self) -> None:
    """Leaves a file as it was before; of a stream, what was written is out."""

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if kind is None:
      self.close()
    else:
      self.discard()


class Format(abc.ABC):
  """A file, folder or data set of one format.

  Attributes:
    path: where it is.
    reading: how it is to be read.
    name: of the format.
    suffixes: of its files, without `.gz`.
  """

  name: ClassVar[str]
  suffixes: ClassVar[tuple[str, ...]] = ()

  def __init__(self, path: Path, reading: Reading):
    self.path = path
    self.reading = reading

  @abc.abstractmethod
  def read(self, notes: Notes) -> Iterator[Record | Fault]:
    """Yields the records, in their order, and a fault for what is none.

    Args:
      notes: counts what was settled by a rule, by what it was.

    Raises:
      DataError: the file as a whole cannot be read as this format.
    """

  @abc.abstractmethod
  def writer(self, out: Out, new: Sequence[str]) -> Writer:
    """Returns a writer of this file's format and dialect, with `new` columns after the old.

    Raises:
      DataError: this file cannot be read, or its format cannot go to such an `out`.
      OSError: `out` cannot be written.
    """

  def fault(self, place: str, reason: str, text: str) -> Fault:
    """Returns a fault in this file."""
    return Fault(str(self.path), place, reason, excerpt(text))

  def error(self, reason: str, line: int = 0) -> errors.DataError:
    """Returns an error about this file, and a line of it."""
    return errors.DataError(f'{self.path}{f", line {line}" if line else ""}: {reason}')


def excerpt(text: str) -> str:
  r"""Returns the first 80 characters of a text on one line.

  >>> excerpt('a\tb\n')
  'a\\tb\\n'
  """
  return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text[:80])


def lines_place(first: int, last: int) -> str:
  """Returns the place of some lines, for messages."""
  return f'line {first}' if first == last else f'lines {first} to {last}'


def check_names(names: Sequence[str]) -> str:
  """Returns what is wrong with the names of columns, else ''."""
  for index, name in enumerate(names, start=1):
    if not name.strip():
      return f'column {index} of {len(names)} has no name'
    if name in names[: index - 1]:
      return f'two columns are called {name!r}'
  return ''


def fresh(new: Sequence[str], taken: Collection[str]) -> dict[str, str]:
  """Returns new column -> a name that is not taken: itself, else with `_predicted`.

  >>> fresh(['label', 'score'], ['text', 'label'])
  {'label': 'label_predicted', 'score': 'score'}
  """
  names: dict[str, str] = {}
  used = set(taken)
  for column in new:
    name, number = column, 1
    while name in used:
      name = f'{column}_predicted' + (f'_{number}' if number > 1 else '')
      number += 1
    names[column] = name
    used.add(name)
  return names


def plain(value: Any) -> Any:
  """Returns a value that JSON can hold: arrays as lists, what is no finite number as None."""
  if hasattr(value, 'tolist'):
    value = value.tolist()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  return value


def as_text(value: Any) -> str:
  """Returns a value as a field of text: None as nothing, lists and mappings as JSON."""
  if isinstance(value, str):
    return value
  if type(value) is float:
    return str(value) if math.isfinite(value) else ''
  value = plain(value)
  if value is None:
    return ''
  if isinstance(value, list | dict):
    return json.dumps(value, ensure_ascii=False)
  return str(value)
