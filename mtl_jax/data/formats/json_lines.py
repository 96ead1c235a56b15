"""JSON Lines: one JSON object a line, its keys the columns. Blank lines are left out."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtl_jax.data.formats import _base, _objects, _sink, _source

_OPEN_LIST = re.compile(r'\s*\[\s*($|\{)')


class JsonLines(_base.Format):
  """A file with one JSON object a line; a line that is none is a fault."""

  name = 'jsonl'
  suffixes = ('.jsonl', '.ndjson')

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the objects, with JSON values."""
    seen = False
    for line in _source.lines(self.path, self.reading.encoding, 'JSON Lines'):
      if not line.text.strip():
        notes['blank lines'] += 1
        continue
      if not seen and _OPEN_LIST.match(line.text):
        raise self.error("this is one JSON list: name it .json, or set format to 'json'")
      seen = True
      try:
        fields = _objects.parse(line.text)
        yield _base.Record(f'line {line.number}', fields, _objects.Text(line.text))
      except _objects.BrokenError as error:
        yield self.fault(f'line {line.number}', str(error), line.text)
    if not seen:
      raise self.error('holds blank lines alone')

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer of objects with new keys, one a line."""
    return LinesWriter(self, out, new)

  def first(self) -> _base.Record | None:
    """Returns the first record that is whole, if there is one in the first hundred lines."""
    for item in itertools.islice(self.read(_base.Notes()), 100):
      if isinstance(item, _base.Record):
        return item
    return None


class LinesWriter(_base.Writer):
  """Writes objects one a line: the text they had, with new keys."""

  def __init__(self, source: JsonLines, out: _base.Out, new: Sequence[str]):
    reading = source.reading
    start = next(_source.lines(source.path, reading.encoding, 'JSON Lines'))
    record = source.first()
    self._names = _base.fresh(new, record.fields if record else ())
    self._end = start.end or '\n'
    self._sink = _sink.Sink(out, _source.coding_of(source.path, reading.encoding))

  def write(self, record: _base.Record, values: Mapping[str, Any]) -> None:
    """Writes the object as it was, with new keys at its end."""
    line = _objects.extended(record, values, self._names)
    self._sink.write(line.replace('\n', ' ').replace('\r', ' ') + self._end)

  def close(self) -> None:
    """Puts the file in its place."""
    self._sink.close()

  def discard(self) -> None:
    """Leaves the file as it was."""
    self._sink.discard()
