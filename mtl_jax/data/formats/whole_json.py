"""JSON in one piece: a list of objects, alone or as `"data"` of an object; or objects one a line.

A list is read whole: JSON has no place where reading could begin but its start.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mtl_jax.data.formats import _base, _objects, _sink, _source, json_lines

_DECODER = json.JSONDecoder()  # takes what `_objects` refuses, to find where an item ends
_BLANK = ' \t\n\r'


class _Whole(NamedTuple):
  """A list in its text: what stands before, between and behind its items."""

  items: list[tuple[int, int]]  # where they start and stop
  before: str
  between: str
  behind: str
  text: str


class Json(_base.Format):
  """A `.json` file; an item that is no object is a fault."""

  name = 'json'
  suffixes = ('.json',)

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the objects, with JSON values."""
    if self.is_lines:
      yield from self.lines().read(notes)
      return
    whole = self._parsed()
    line, counted = 1, 0
    for number, (start, stop) in enumerate(whole.items, start=1):
      line += whole.text.count('\n', counted, start)
      counted = start
      place, raw = f'item {number}, line {line}', whole.text[start:stop]
      try:
        yield _base.Record(place, _objects.parse(raw), _objects.Text(raw))
      except _objects.BrokenError as error:
        yield self.fault(place, str(error), raw)

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer of the same list, or lines, of objects with new keys."""
    if self.is_lines:
      return json_lines.LinesWriter(self.lines(), out, new)
    return _Writer(self, self._parsed(), out, new)

  def lines(self) -> json_lines.JsonLines:
    """Returns the same file as JSON Lines."""
    return json_lines.JsonLines(self.path, self.reading)

  @functools.cached_property
  def is_lines(self) -> bool:
    """Whether it holds objects one a line: the first is one, and not all in `{"data": [...]}`."""
    for line in _source.lines(self.path, self.reading.encoding, 'JSON'):
      text = line.text.strip()
      if text:
        if not text.startswith('{'):
          return False
        try:
          value, stop = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
          return self._second_is_object()  # a broken line among others
        return (stop == len(text) and not _is_data(value)) or self._second_is_object()
    raise self.error('holds blank lines alone')

  def _second_is_object(self) -> bool:
    lines = _source.lines(self.path, self.reading.encoding, 'JSON')
    texts = (line.text.strip() for line in lines)
    second = next(itertools.islice(filter(None, texts), 1, None), '')
    return second.startswith('{') and second.endswith('}')

  def _parsed(self) -> _Whole:
    text = _source.text(self.path, self.reading.encoding, 'JSON')
    at = _skip(text, 0)
    if text[at : at + 1] == '{':
      at = self._data(text, at)
    elif text[at : at + 1] != '[':
      raise self.error(f'no JSON list of objects: it begins with {_base.excerpt(text[at:])!r}')
    opening = at + 1
    items: list[tuple[int, int]] = []
    at = _skip(text, opening)
    while text[at : at + 1] != ']':
      stop = self._item(text, at)
      items.append((at, stop))
      at = _skip(text, stop)
      if text[at : at + 1] == ',':
        at = _skip(text, at + 1)
        if text[at : at + 1] != ']':
          continue
        raise self._invalid(text, at, 'a comma before the end of the list')
      if text[at : at + 1] != ']':
        raise self._invalid(text, at, 'expected a comma or the end of the list')
    first = items[0][0] if items else opening
    last = items[-1][1] if items else opening
    between = text[items[0][1] : items[1][0]] if len(items) > 1 else ',\n'
    if text[_skip(text, 0)] == '[' and _skip(text, at + 1) < len(text):
      raise self._invalid(text, _skip(text, at + 1), 'more after the end of the list')
    return _Whole(items, text[:first], between, text[last:], text)

  def _item(self, text: str, at: int) -> int:
    try:
      return _DECODER.raw_decode(text, at)[1]
    except json.JSONDecodeError as error:
      raise self._invalid(text, error.pos, error.msg) from error
    except RecursionError as error:
      raise self._invalid(text, at, 'nested too deeply') from error
    except ValueError as error:  # an integer of thousands of digits
      raise self._invalid(text, at, str(error)) from error

  def _data(self, text: str, at: int) -> int:
    """Returns where the list of `{"data": [...]}` begins."""
    stop = self._item(text, at)
    if _skip(text, stop) < len(text):
      raise self._invalid(text, _skip(text, stop), 'more after the end of the object')
    at = _skip(text, at + 1)
    found = -1
    while text[at] == '"':
      key_stop = self._item(text, at)
      key = json.loads(text[at:key_stop])
      at = _skip(text, _skip(text, key_stop) + 1)  # behind the colon
      if key == 'data' and text[at] == '[':
        found = at
      at = _skip(text, self._item(text, at))
      at = _skip(text, at + 1) if text[at] == ',' else at
    if found < 0:
      keys = list(json.loads(text))
      raise self.error(
        f'one JSON object with the keys {keys[:10]} and no list of objects under "data"; give a '
        "list of objects (pandas: to_json(orient='records')), or one object a line"
      )
    return found

  def _invalid(self, text: str, at: int, reason: str) -> Exception:
    line = text.count('\n', 0, at) + 1
    return self.error(f'invalid JSON: {reason} at {_base.excerpt(text[at : at + 40])!r}', line)


def _is_data(value: Any) -> bool:
  return isinstance(value, dict) and isinstance(value.get('data'), list)


def _skip(text: str, at: int) -> int:
  while at < len(text) and text[at] in _BLANK:
    at += 1
  return at


class _Writer(_base.Writer):
  def __init__(self, source: Json, whole: _Whole, out: _base.Out, new: Sequence[str]):
    self._whole = whole
    self._empty = True
    taken: dict[str, Any] = {}
    for start, stop in whole.items[:100]:
      try:
        taken |= _objects.parse(whole.text[start:stop])
      except _objects.BrokenError:
        continue
    self._names = _base.fresh(new, taken)
    self._sink = _sink.Sink(out, _source.coding_of(source.path, source.reading.encoding))
    self._sink.write(whole.before)

  def write(self, record: _base.Record, values: Mapping[str, Any]) -> None:
    """Writes the object as it was, with new keys at its end."""
    text = _objects.extended(record, values, self._names)
    self._sink.write(text if self._empty else self._whole.between + text)
    self._empty = False

  def close(self) -> None:
    """Ends the list, and puts the file in its place."""
    self._sink.write(self._whole.behind)
    self._sink.close()

  def discard(self) -> None:
    """Leaves the file as it was."""
    self._sink.discard()
