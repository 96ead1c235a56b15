"""CSV and TSV: one record a line, fields between delimiters, quotes as RFC 4180 has them, or none.

What is between quotes may hold delimiters, line breaks and doubled quotes. A quote inside a field
that does not begin with one is a character like others. Blank lines are left out, and counted.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mtl_jax.data.formats import _base, _sink, _source

LONGEST = 1 << 24  # characters of a field in quotes that spans lines
_HEADER = 100  # lines that a header may span
_SNIFFED = ',;\t|'
_NO_QUOTES = "if a quote is like other characters in this file, set its quote = ''"
_QUOTED = re.compile(r'"[^"]*(?:"|\Z)')


class Row(NamedTuple):
  """A record of a delimited file.

  Attributes:
    first: the line that it begins on.
    last: the line that it ends on.
    fields: without their quotes.
    raw: as it stands in the file.
    end: of its last line.
    broken: what is wrong with its quotes, else ''.
  """

  first: int
  last: int
  fields: list[str]
  raw: str
  end: str
  broken: str = ''


class _Raw(NamedTuple):
  """A record as it stands in its file, for the writer."""

  text: str
  delimiter: str


class _Dialect(NamedTuple):
  columns: list[str]
  header: Row | None
  delimiter: str
  end: str
  quoted: bool  # all fields, also where none is needed
  coding: _source.Coding


def split(lines: Iterator[_source.Line], delimiter: str, quotes: bool = True) -> Iterator[Row]:
  """Yields the rows of a delimited file, blank ones too; without `quotes` a " is as any character.

  A row with a broken quote has all lines up to where that was noticed; reading goes on after them.
  """
  for line in lines:
    if quotes and '"' in line.text:
      yield _quoted(line, lines, delimiter)
    else:
      yield Row(line.number, line.number, line.text.split(delimiter), line.text, line.end)


def _quoted(line: _source.Line, more: Iterator[_source.Line], delimiter: str) -> Row:
  """Returns a row with quotes, taking as many more lines as they span."""
  first, fields, raw, at, size = line.number, list[str](), [line.text], 0, 0
  while True:
    text = line.text
    if not text.startswith('"', at):
      stop = text.find(delimiter, at)
      fields.append(text[at:] if stop < 0 else text[at:stop])
      if stop < 0:
        return Row(first, line.number, fields, ''.join(raw), line.end)
      at = stop + 1
      continue
    parts, opened, at = list[str](), line.number, at + 1
    while True:
      close = text.find('"', at)
      if close < 0:
        following = next(more, None)
        if following is None:
          broken = (
            f'a quote that opens in line {opened} and is not closed up to the end of the file'
            f'; {_NO_QUOTES}'
          )
          return Row(first, line.number, fields, ''.join(raw), line.end, broken)
        parts += (text[at:], line.end)
        raw += (line.end, following.text)
        size += len(text)
        if size > LONGEST:  # what is lost anyway takes no memory
          parts, raw = [], raw[:1]
        line, text, at = following, following.text, 0
      elif text.startswith('"', close + 1):
        parts.append(text[at : close + 1])
        at = close + 2
      else:
        parts.append(text[at:close])
        at = close + 1
        break
    fields.append(''.join(parts))
    broken = ''
    if size > LONGEST:
      broken = f'a quote that opens in line {opened} and holds more than {LONGEST:,} characters'
    elif at < len(text) and text[at] != delimiter:
      broken = f'{text[at]!r} follows a closing quote in line {line.number}: double quotes inside'
      broken += f', or, {_NO_QUOTES}'
    if broken or at == len(text):
      return Row(first, line.number, fields, ''.join(raw), line.end, broken)
    at += 1


class Delimited(_base.Format):
  """A file of delimited fields, with the names of its columns in the first line.

  Any number of fields but the header's is a fault, as are broken quotes and NUL bytes.
  """

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the records, all fields as text."""
    dialect, rows = self._open()
    columns, count = dialect.columns, len(dialect.columns)
    for row in rows:
      if not row.raw:
        notes['blank lines'] += 1
        continue
      reason = row.broken
      if not reason and len(row.fields) != count:
        reason = f'{len(row.fields)} {_fields(row.fields)}, expected {count}'
      elif not reason and '\0' in row.raw:
        reason = 'a NUL byte'
      if row.raw[0] == '{' and count > 1 and _is_object(row.raw):
        raise self.error(
          f'a JSON object in a file of {self.name.upper()}: two formats in one file; split it',
          row.first,
        )
      if reason:
        yield self.fault(_base.lines_place(row.first, row.last), reason, row.raw)
      else:
        fields = dict(zip(columns, row.fields, strict=True))
        raw = _Raw(row.raw, dialect.delimiter)
        yield _base.Record(f'line {row.first}', fields, raw)

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer with this file's delimiter, line ends, quotes, encoding and mark."""
    return _Writer(self, self._open()[0], out, new)

  def _open(self) -> tuple[_Dialect, Iterator[Row]]:
    """Returns how the file is written, and its rows below the header."""
    lines = _source.lines(self.path, self.reading.encoding, self.name.upper())
    first = next((line for line in lines if line.text), None)
    if first is None:
      raise self.error('holds blank lines alone')
    header = [first]
    quotes = bool(self.reading.quote)
    while quotes and sum(line.text.count('"') for line in header) % 2 and len(header) < _HEADER:
      following = next(lines, None)
      if following is None:
        break
      header.append(following)
    columns = list(self.reading.columns)
    delimiter = self._delimiter('\n'.join(line.text for line in header), len(columns))
    rows = split(itertools.chain(header, lines), delimiter, quotes)
    coding = _source.coding_of(self.path, self.reading.encoding)
    top = next(rows)
    quoted = quotes and all(part.startswith('"') for part in _outside(top.raw, delimiter))
    if self.reading.columns:
      wrong = _base.check_names(columns)
      if wrong:
        raise self.error(f'{wrong} in the columns given: {columns}')
      rows = itertools.chain([top], rows)
      return _Dialect(columns, None, delimiter, top.end or '\n', quoted, coding), rows
    self._check_header(top)
    return _Dialect(top.fields, top, delimiter, top.end or '\n', quoted, coding), rows

  def _check_header(self, row: Row) -> None:
    wrong = row.broken or _base.check_names(row.fields)
    if '\0' in row.raw:
      wrong = 'a NUL byte; is it UTF-16, or no text at all? Set the encoding'
    elif row.raw[0] in '{[' and (row.raw.strip() in '{[' or _is_json(row.raw)):
      wrong = "this is JSON: name the file .jsonl or .json, or set format to 'jsonl' or 'json'"
    elif wrong.endswith('has no name'):
      wrong += '; name it in the file (pandas: to_csv(index=False) writes no column for its index)'
    if wrong:
      raise self.error(f'the header {_base.excerpt(row.raw)!r}: {wrong}', row.first)

  def _delimiter(self, header: str, columns: int) -> str:
    given = self.reading.delimiter
    if given:
      if len(given) != 1 or given in '"\r\n\0':
        raise self.error(f'delimiter {given!r} is not one character, or a quote or line end')
      return given
    if self.name == 'tsv':
      return '\t'
    outside = _QUOTED.sub('', header) if self.reading.quote else header
    counts = {char: outside.count(char) for char in _SNIFFED}
    fitting = [char for char in _SNIFFED if columns > 1 and counts[char] == columns - 1]
    return fitting[0] if fitting else max(_SNIFFED, key=lambda char: counts[char])


class Csv(Delimited):
  """Comma-separated values, also with semicolons, tabs or bars."""

  name = 'csv'
  suffixes = ('.csv',)


class Tsv(Delimited):
  """Tab-separated values."""

  name = 'tsv'
  suffixes = ('.tsv', '.tab')


def _fields(fields: Sequence[str]) -> str:
  return 'field' if len(fields) == 1 else 'fields'


def _is_json(text: str) -> bool:
  try:
    return isinstance(json.loads(text), list | dict)
  except (ValueError, RecursionError):
    return False


def _is_object(text: str) -> bool:
  return text.rstrip()[-1:] == '}' and _is_json(text)


def _outside(raw: str, delimiter: str) -> list[str]:
  """Returns the fields of a row with their quotes, and nothing between these."""
  return _QUOTED.sub('""', raw).split(delimiter)


class _Writer(_base.Writer):
  def __init__(self, source: Delimited, dialect: _Dialect, out: _base.Out, new: Sequence[str]):
    self._source = source
    self._dialect = dialect
    self._columns = _base.fresh(new, dialect.columns)
    self._sink = _sink.Sink(out, dialect.coding)
    if dialect.header is not None:
      self._lines([[dialect.header.raw, *map(self._field, self._columns.values())]])

  def write(self, record: _base.Record, values: Mapping[str, Any]) -> None:
    """Writes the record as it was, and the new fields after it."""
    self.write_all([record], {column: [value] for column, value in values.items()})

  def write_all(
    self, records: Sequence[_base.Record], columns: Mapping[str, Sequence[Any]]
  ) -> None:
    """Writes the records as they were, and the new fields after them."""
    blank = [None] * len(records)
    new = [list(map(self._field, columns.get(column, blank))) for column in self._columns]
    self._lines(zip(map(self._old, records), *new, strict=True))

  def _old(self, record: _base.Record) -> str:
    """The fields that a record has, as they stand in a line."""
    raw = record.extra
    if (
      isinstance(raw, _Raw)
      and raw.delimiter == self._dialect.delimiter
      and list(record.fields) == self._dialect.columns
    ):
      return raw.text
    return self._dialect.delimiter.join(self._fields_of(record))

  def _fields_of(self, record: _base.Record) -> list[str]:
    columns = self._dialect.columns
    strange = [name for name in record.fields if name not in columns]
    if strange:
      raise self._source.error(f'{record.place}: there is no column {strange[0]!r}: {columns}')
    only = len(columns) + len(self._columns) == 1  # an empty field alone would be a blank line
    return [self._field(record.fields.get(name), only) for name in columns]

  def _field(self, value: Any, only: bool = False) -> str:
    text = _base.as_text(value)
    special = self._special.search(text) or (only and not text)
    if not self._source.reading.quote:
      if special:
        raise self._source.error(
          f'{_base.excerpt(text)!r} cannot be a field: it holds the delimiter or a line end, or is '
          'all that the line would have, and the file has no quotes'
        )
      return text
    return '"{}"'.format(text.replace('"', '""')) if special or self._dialect.quoted else text

  @functools.cached_property
  def _special(self) -> re.Pattern[str]:
    quote = self._source.reading.quote
    return re.compile(f'[{quote}\r\n{re.escape(self._dialect.delimiter)}]')

  def _lines(self, rows: Iterable[Sequence[str]]) -> None:
    lines = [self._dialect.delimiter.join(fields) + self._dialect.end for fields in rows]
    self._sink.write(''.join(lines))

  def close(self) -> None:
    """Puts the file in its place."""
    self._sink.close()

  def discard(self) -> None:
    """Leaves the file as it was."""
    self._sink.discard()
