"""Character spans in JSON Lines, as doccano exports them, turned into one tag a word.

Words are what stands between blanks. A word that a span touches is in it as a whole, counted where
the span begins or ends inside. Of spans that share a word the longest is taken, the earlier one of
equals; the others are counted.
"""

import bisect
import collections
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mtl_jax.data.formats import _base, _objects, json_lines, whole_json

KEYS = ('entities', 'spans', 'labels', 'label')
_ENDS = (('start_offset', 'end_offset'), ('start', 'end'))
_WORD = re.compile(r'\S+')
_BEGINS_INSIDE = 'spans that begin inside a word'
_ENDS_INSIDE = 'spans that end inside a word'
_OVERLAP = 'spans left out: a longer one has their word'


class _Span(NamedTuple):
  start: int
  stop: int
  name: str


class _Extra(NamedTuple):
  """What the writer needs: the object as it was, and where its words and how its spans stand."""

  text: _objects.Text
  words: list[tuple[int, int]]
  like: Any  # one of the spans as it was, if there is any


class Spans(_base.Format):
  """JSON Lines, or a list in JSON, of objects with a `text` and a list of spans in it.

  The list is called `entities`, `spans`, `labels` or `label`, and holds `[start, end, name]`, or
  objects with `start_offset`, `end_offset` and `label`, or with `start`, `end` and `label`.
  """

  name = 'spans'

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the objects with two more fields: `words`, and `tags` (IOB2).

    `tags` is None where there is no list of spans.
    """
    for item in self.source().read(notes):
      if isinstance(item, _base.Fault):
        yield item
        continue
      try:
        yield _tagged(item, notes)
      except _objects.BrokenError as error:
        yield self.fault(item.place, str(error), item.extra.text)

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer of the same objects with new keys.

    A list of IOB2 tags, one a word, is written as the spans that it says; all else as it is.
    """
    return _Writer(self.source().writer(out, new))

  def source(self) -> json_lines.JsonLines | whole_json.Json:
    """Returns the same file as JSON."""
    kind = whole_json.Json if '.json' in self.path.suffixes[-2:] else json_lines.JsonLines
    return kind(self.path, self.reading)


def is_spans(records: Iterator[_base.Record | _base.Fault]) -> bool:
  """Returns whether the first record that can tell, of a hundred, has a text with spans."""
  for item in itertools.islice(records, 100):
    if isinstance(item, _base.Record) and isinstance(item.fields.get('text'), str):
      lists = [value for key in KEYS if isinstance(value := item.fields.get(key), list) and value]
      if lists:
        return any(_bounds(values[0]) is not None for values in lists)
  return False


def _bounds(value: Any) -> tuple[Any, Any, Any] | None:
  """Returns start, end and name of what looks like a span."""
  if isinstance(value, list) and len(value) == 3:
    start, stop, name = value
    return (start, stop, name) if _objects.kind(start) == 'a number' else None
  if isinstance(value, dict):
    for start, stop in _ENDS:
      if start in value and stop in value:
        return value[start], value[stop], value.get('label')
  return None


def _tagged(record: _base.Record, notes: _base.Notes) -> _base.Record:
  fields = record.fields
  text = fields.get('text')
  if not isinstance(text, str):
    raise _objects.BrokenError("no field 'text' with a text")
  strange = [name for name in ('words', 'tags') if name in fields]
  if strange:
    raise _objects.BrokenError(f'a field {strange[0]!r} of its own, which is made from the spans')
  words = [found.span() for found in _WORD.finditer(text)]
  lists = [key for key in KEYS if isinstance(fields.get(key), list)]
  key = next((key for key in lists if fields[key]), lists[0] if lists else None)
  values = fields[key] if key else []
  spans = [_checked(value, text) for value in values]
  found: collections.Counter[str] = collections.Counter()
  tags = _tags(spans, words, found) if key else None
  notes.update(+found)
  more = {'words': [text[start:stop] for start, stop in words], 'tags': tags}
  extra = _Extra(record.extra, words, values[0] if values else None)
  return _base.Record(record.place, {**fields, **more}, extra)


def _checked(value: Any, text: str) -> _Span:
  bounds = _bounds(value)
  shown = _base.excerpt(_objects.dumps(value))
  if bounds is None:
    raise _objects.BrokenError(f'{shown} is no span [start, end, name]')
  start, stop, name = bounds
  if not (type(start) is int and type(stop) is int):
    raise _objects.BrokenError(f'the span {shown} does not begin and end at whole numbers')
  if not isinstance(name, str) or not name.strip():
    raise _objects.BrokenError(f'the span {shown} has no name')
  if start >= stop:
    raise _objects.BrokenError(f'the span {shown} is empty')
  if start < 0 or stop > len(text):
    raise _objects.BrokenError(
      f'the span {shown} is outside of the text, which ends at {len(text)}'
    )
  if not text[start:stop].strip():
    raise _objects.BrokenError(f'the span {shown} holds blanks alone')
  return _Span(start, stop, name)


def _tags(
  spans: Sequence[_Span], words: Sequence[tuple[int, int]], notes: _base.Notes
) -> list[str]:
  tags = ['O'] * len(words)
  starts, stops = [start for start, _ in words], [stop for _, stop in words]
  for span in sorted(spans, key=lambda span: (span.start - span.stop, span.start)):
    first = bisect.bisect_right(stops, span.start)
    last = bisect.bisect_left(starts, span.stop) - 1
    if any(tag != 'O' for tag in tags[first : last + 1]):
      notes[_OVERLAP] += 1
      continue
    notes[_BEGINS_INSIDE] += span.start > words[first][0]
    notes[_ENDS_INSIDE] += span.stop < words[last][1]
    tags[first : last + 1] = [f'B-{span.name}'] + [f'I-{span.name}'] * (last - first)
  return tags


def _spans(tags: Sequence[str], words: Sequence[tuple[int, int]]) -> list[_Span]:
  """Returns the spans that IOB2 tags say; an I of another name begins one, as a B does."""
  spans: list[_Span] = []
  before = None
  for tag, (start, stop) in zip(tags, words, strict=True):
    sign, _, name = tag.partition('-')
    if sign == 'I' and before == name:
      spans[-1] = spans[-1]._replace(stop=stop)
    elif sign in ('B', 'I'):
      spans.append(_Span(start, stop, name))
    before = name if sign in ('B', 'I') else None
  return spans


class _Writer(_base.Writer):
  def __init__(self, writer: _base.Writer):
    self._writer = writer

  def write(self, record: _base.Record, values: Mapping[str, Any]) -> None:
    """Writes the object as it was, with new keys at its end."""
    fields = {name: value for name, value in record.fields.items() if name not in ('words', 'tags')}
    extra = record.extra
    if isinstance(extra, _Extra):
      values = {name: _as_spans(value, extra) for name, value in values.items()}
      record = _base.Record(record.place, fields, extra.text)
    self._writer.write(record, values)

  def close(self) -> None:
    """Puts the file in its place."""
    self._writer.close()

  def discard(self) -> None:
    """Leaves the file as it was."""
    self._writer.discard()


def _as_spans(value: Any, extra: _Extra) -> Any:
  value = _base.plain(value)
  tags = (
    isinstance(value, list)
    and len(value) == len(extra.words)
    and all(
      tag is None or (isinstance(tag, str) and re.fullmatch(r'O|[BI]-.+', tag, re.DOTALL))
      for tag in value
    )
  )
  if not tags:
    return value
  spans = _spans([tag or 'O' for tag in value], extra.words)
  if isinstance(extra.like, dict):
    keys = next(keys for keys in _ENDS if keys[0] in extra.like)
    return [dict(zip((*keys, 'label'), span, strict=True)) for span in spans]
  return [list(span) for span in spans]
