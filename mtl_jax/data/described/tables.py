"""The rows of a described file: read once, with what is malformed in them. Knows no kinds."""

import fnmatch
import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtl_jax import errors
from mtl_jax.data import formats
from mtl_jax.data.described import columns, options
from mtl_jax.plain import Plain, is_number

_SHOWN = 10  # malformed lines in a message
_SPLITS = {'dev': 'validation', 'valid': 'validation', 'val': 'validation', 'training': 'train'}


class Row(NamedTuple):
  """A row: its file and place in it, for messages, and the columns that are needed."""

  path: str
  where: str
  fields: dict[str, Any]

  @property
  def place(self) -> str:
    """File and place."""
    return f'{self.path}, {self.where}'


class Table(NamedTuple):
  """All rows of a described file.

  Attributes:
    rows: split -> rows.
    inputs: the columns that are read.
    faults: what is malformed.
    notes: what was counted.
  """

  rows: dict[str, list[Row]]
  inputs: tuple[str, ...]
  faults: tuple[formats.Fault, ...]
  notes: dict[str, int]


def reading(given: Plain) -> formats.Reading:
  """How the options of a file say that it is to be read."""
  return formats.Reading(
    given['format'],
    given['encoding'],
    given['delimiter'],
    given['columns'],
    given['data_dir'],
    given['quote'],
  )


def columns_of(path: str, how: formats.Reading) -> list[str]:
  """The columns of a file, by its first record.

  Raises:
    DataError: it cannot be read, or has no record.
  """
  for item in formats.read(path, how):
    if isinstance(item, formats.Record):
      return list(item.fields)
  raise errors.DataError(f'{path}: there is no row that can be read')


def read(name: str, given: Plain, wanted: Mapping[str, str]) -> Table:
  """Returns the rows of a described file; a second call for the same files reads nothing again.

  Args:
    name: of the file in the config.
    given: its options.
    wanted: key of the config -> the column that it names, of labels and weights.

  Raises:
    DataError: a file or a column is missing, or it cannot be read at all.
  """
  paths = {
    role: tuple(map(str, formats.find(given[role])))
    for role in options.ROLES
    if not is_number(given[role])
  }
  stamps = tuple(_stamp(path) for found in paths.values() for path in found)
  return _read(name, tuple(given.items()), tuple(wanted.items()), tuple(paths.items()), stamps)


def _stamp(path: str) -> tuple[int, int]:
  """Tells a file from another one in its place."""
  try:
    stat = Path(path).stat()
  except OSError:  # what is no file says so when it is read
    return 0, 0
  return stat.st_mtime_ns, stat.st_size


def newer(files: Mapping[str, Plain], path: Path) -> list[str]:
  """The described files that were written after `path` was; what is not there is left out."""
  since, found = _stamp(str(path))[0], []
  for given in files.values():
    for role in options.ROLES:
      try:
        named = () if is_number(given[role]) else formats.find(given[role])
      except errors.DataError:
        continue
      found += [str(file) for file in named if _stamp(str(file))[0] > since]
  return list(dict.fromkeys(found))


@functools.lru_cache(maxsize=8)
def _read(
  name: str,
  options_of: tuple[tuple[str, Any], ...],
  columns_of: tuple[tuple[str, str], ...],
  paths: tuple[tuple[str, tuple[str, ...]], ...],
  stamps: tuple[tuple[int, int], ...],
) -> Table:
  del stamps
  given = dict(options_of)
  where = f'dataset.files.{name}'
  told = {f'{where}.{key}': given[key] for key in ('split', 'stratify', 'group') if given[key]}
  wanted = dict(columns_of) | told
  seen: dict[str, None] = {}
  rows: dict[str, list[Row]] = {role: [] for role in options.ROLES}
  faults: list[formats.Fault] = []
  notes: Counter[str] = Counter()
  keep = _Keep(given['input'], wanted.values())
  for role, found in paths:
    for item in _records(found, given, notes):
      if isinstance(item, formats.Fault):
        faults.append(item)
        continue
      path, record = item
      seen.update(dict.fromkeys(record.fields))
      row = Row(path, record.place, keep(record.fields))
      split = _split_of(row, given['split']) if given['split'] else role
      if split in rows:
        rows[split].append(row)
      else:
        faults.append(fault(row, f'column {given["split"]!r} names no split: {split!r}'))
  for key, column in wanted.items():
    if seen and column not in seen:
      raise errors.DataError(
        f'{key}: {", ".join(dict(paths)["train"])} has no column {column!r}'
        f'{errors.nearest(column, seen)}'
      )
  if not rows['train']:
    more = '' if not faults else f'; {faults[0].place}: {faults[0].reason}'
    raise errors.DataError(
      f'{where}: no row to train on in {", ".join(dict(paths)["train"])}{more}'
    )
  inputs = columns.matching(given['input'], seen, f'{where}.input')
  for row in itertools.chain(*rows.values()):  # objects may lack a key
    for column in (*inputs, *wanted.values()):
      row.fields.setdefault(column, None)
  return Table(rows, inputs, tuple(faults), {f'{name}: {key}': n for key, n in notes.items()})


class _Keep:
  """Takes the columns out of a record that are wanted, by name or pattern."""

  def __init__(self, patterns: Sequence[str], names: Any):
    self._patterns = tuple(patterns)
    self._names = {*patterns, *names}
    self._by_columns: dict[tuple[str, ...], list[str]] = {}

  def __call__(self, fields: Mapping[str, Any]) -> dict[str, Any]:
    key = tuple(fields)
    if key not in self._by_columns:
      self._by_columns[key] = [
        column
        for column in key
        if column in self._names
        or any(fnmatch.fnmatchcase(column, pattern) for pattern in self._patterns)
      ]
    return {column: fields[column] for column in self._by_columns[key]}


def _records(
  paths: Sequence[str], given: Plain, notes: Counter[str]
) -> Iterator[tuple[str, formats.Record] | formats.Fault]:
  for path in paths:
    for item in formats.read(path, reading(given), notes):
      yield item if isinstance(item, formats.Fault) else (path, item)


def _split_of(row: Row, column: str) -> str:
  value = str(row.fields.get(column)).strip().lower()
  return _SPLITS.get(value, value)


def fault(row: Row, reason: str) -> formats.Fault:
  """A row that was read, and cannot be used."""
  text = ', '.join(f'{key}={value!r}' for key, value in row.fields.items())
  return formats.Fault(row.path, row.where, reason, text[:80])


def settle(
  name: str, given: Plain, faults: Sequence[formats.Fault], rows: int, notes: dict[str, int]
) -> None:
  """Stops at malformed rows, or counts them, as the file says.

  Raises:
    DataError: with a table of the first ones.
  """
  if not faults:
    return
  if given['on_error'] == 'skip':
    notes[f'{name}: malformed rows left out'] = len(faults)
    return
  lines = [f'  {item.path}, {item.place}: {item.reason}' for item in faults[:_SHOWN]]
  more = len(faults) - _SHOWN
  if more > 0:
    lines.append(f'  and {more:,} more')
  raise errors.DataError(
    f'dataset.files.{name}: {len(faults):,} of {rows:,} rows cannot be used:\n'
    + '\n'.join(lines)
    + f"\nMend them, or set dataset.files.{name}.on_error = 'skip' to leave them out."
  )
