"""CoNLL columns: one word a line, its layers in columns, a blank line after each sentence.

Columns stand between tabs if the first word's line has one, else between blanks. `-DOCSTART-` lines
are no words. A line that begins with `#` and has another number of columns than words have is a
comment in front of a sentence; within one only if a blank follows the `#`. A comment
`# key = value` right before a sentence is its field `comment.key`. All lines are kept for the
writer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from mtl_jax.data.formats import _base, _sink, _source

_BLANKS = ' \t'
_RUNS = re.compile('[ \t]+')
_NUMBER = re.compile(r'[0-9]+(?:[-.][0-9]+)?')
_TOLD = '# global.columns ='
_UD = ('id', 'form', 'lemma', 'upos', 'xpos', 'feats', 'head', 'deprel', 'deps', 'misc')


class _Shape(NamedTuple):
  """How the lines of words look.

  Attributes:
    tabs: whether tabs alone stand between columns.
    columns: their names.
    exact: whether no further columns may follow.
  """

  tabs: bool
  columns: tuple[str, ...]
  exact: bool


class _Sentence(NamedTuple):
  """The lines of a sentence, those before it and the blank ones after it, for the writer."""

  lines: list[_source.Line]
  words: frozenset[int]  # their line numbers
  shape: _Shape


class Conll(_base.Format):
  """A file of words in columns; a line with too few loses its sentence, which is a fault.

  With columns given, lines may have more than these, which are kept for writing; else all must
  have as many as the first.
  """

  name = 'conll'
  suffixes: ClassVar[tuple[str, ...]] = ('.conll', '.iob2', '.bio', '.iob')
  ids = False  # the first column counts words, with ranges and empty nodes between

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the sentences, each field a list of text."""
    shape = self.shape()
    count = 0
    for block in self._blocks(shape):
      count += 1
      item = self._sentence(block, shape)
      if self.ids and isinstance(item, _base.Record) and (parts := _parts(item.extra)):
        notes['multiword lines and empty nodes'] += len(parts)
      yield item
    if not count:
      raise self.error('holds no sentence')

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer of the same lines with further columns.

    A value that is a list, one text a word, is a column behind those that have names; any other is
    a comment `# name = value` before its sentence.
    """
    return _Writer(self, self.shape(), out, new)

  def lines(self) -> Iterator[_source.Line]:
    """Yields the lines of the file."""
    return _source.lines(self.path, self.reading.encoding, 'CoNLL columns')

  def shape(self) -> _Shape:
    """Returns how this file's lines of words look.

    Raises:
      DataError: the file cannot be read, or names of columns or the delimiter cannot be used.
    """
    given, delimiter = self.reading.columns, self.reading.delimiter
    wrong = _base.check_names(given)
    if wrong:
      raise self.error(f'{wrong} in the columns given: {list(given)}')
    if delimiter not in ('', ' ', '\t'):
      raise self.error(f'delimiter {delimiter!r}: columns stand between tabs or blanks')
    if self.ids:
      told = next(self.lines()).text
      if not given and told.startswith(_TOLD):
        names = told.partition('=')[2].split()
        given = tuple(name.lower() if name.lower() in _UD else name for name in names)
        wrong = _base.check_names(given) or ('' if given[:1] == _UD[:1] else 'the first is not ID')
        if wrong:
          raise self.error(f'{wrong} in {told!r}', 1)
        return _Shape(True, given, True)
      return _Shape(delimiter != ' ', given or _UD, not given)
    texts = (line.text for line in self.lines())
    words = (text for text in texts if text.strip(_BLANKS) and not _is_docstart(text))
    # A first word that begins with # is found if no other word comes.
    hashes: list[str] = []
    first = next((text for text in words if not _hash(text, hashes)), None)
    if first is None:
      tagged = [text for text in hashes if text[1:2] not in ('', ' ')]
      first = next((text for text in tagged if '\t' in text), tagged[0] if tagged else None)
    if first is None:
      raise self.error('holds no word')
    tabs = '\t' in first.strip(_BLANKS) if not delimiter else delimiter == '\t'
    width = len(_split(first, tabs))
    columns = given or tuple(f'column_{index}' for index in range(width))
    return _Shape(tabs, columns, not given)

  def _blocks(self, shape: _Shape) -> Iterator[list[_source.Line]]:
    """Yields sentences with what stands before each and blank lines after; the last with the rest.

    A file without a word has no sentence.
    """
    held: list[_source.Line] = []
    block: list[_source.Line] = []
    words = ended = False
    for line in self.lines():
      blank = not line.text.strip(_BLANKS)
      if words and (_is_docstart(line.text) or (ended and not blank)):
        if held:
          yield held
        held, block, words = block, [], False
      words = words or _is_word(line, shape, front=True)
      ended = blank
      block.append(line)
    if words and held:
      yield held
      held = []
    if words or held:
      yield held + block

  def _sentence(self, block: list[_source.Line], shape: _Shape) -> _base.Record | _base.Fault:
    rows: list[list[str]] = []
    numbers: list[int] = []
    comments: dict[str, str] = {}
    for line in block:
      if not line.text.strip(_BLANKS) or _is_docstart(line.text):
        comments = comments if rows else {}
        continue
      if not _is_word(line, shape, not rows):
        key, equals, value = line.text[1:].partition('=')
        if equals and key.strip() and not rows:
          comments[f'comment.{key.strip()}'] = value.removeprefix(' ')
        continue
      row = _split(line.text, shape.tabs)
      reason = self._wrong(row, line.text, shape)
      if self.ids and not reason:
        if not row[0].isdecimal():
          continue  # a range of words, or an empty node
        if row[0] != str(len(rows) + 1):
          reason = f'word {row[0]} follows word {len(rows)}'
      if reason:
        first, last = _extent(block)
        lost = f'; its sentence, {_base.lines_place(first, last)}, is lost'
        return self.fault(f'line {line.number}', reason + lost, line.text)
      rows.append(row)
      numbers.append(line.number)
    if not rows:
      first, last = _extent(block)
      return self.fault(_base.lines_place(first, last), 'no words', block[0].text)
    layers = zip(*(row[: len(shape.columns)] for row in rows), strict=True)
    fields: dict[str, Any] = dict(comments)
    fields = {name: list(layer) for name, layer in zip(shape.columns, layers, strict=True)} | fields
    sentence = _Sentence(block, frozenset(numbers), shape)
    return _base.Record(f'line {numbers[0]}', fields, sentence)

  def _wrong(self, row: list[str], text: str, shape: _Shape) -> str:
    width = len(shape.columns)
    if '\0' in text:
      return 'a NUL byte'
    if len(row) < width or (shape.exact and len(row) > width):
      between = 'tabs' if shape.tabs else 'blanks'
      columns = 'column' if len(row) == 1 else 'columns'
      return f'{len(row)} {columns} between {between}, expected {width}'
    if self.ids and not _NUMBER.fullmatch(row[0]):
      return f'{row[0][:20]!r} is no number of a word'
    return ''


class ConllU(Conll):
  """CoNLL-U, with its ten columns: numbered words, multiword lines `1-2`, empty nodes `1.1`.

  The latter two are kept for the writer, and are no words. With further columns it is CoNLL-U Plus,
  whose first line has the names of all: https://universaldependencies.org/ext-format.html
  """

  name = 'conllu'
  suffixes = ('.conllu',)
  ids = True


def _hash(text: str, seen: list[str]) -> bool:
  if text.startswith('#'):
    seen[1000:] = [text]  # the first thousand, and the last
    return True
  return False


def _is_docstart(text: str) -> bool:
  return text.startswith('-DOCSTART-') and text[10:11] in ('', ' ', '\t')


def _split(text: str, tabs: bool) -> list[str]:
  return text.split('\t') if tabs else _RUNS.split(text.strip(_BLANKS))


def _is_word(line: _source.Line, shape: _Shape, front: bool) -> bool:
  """Whether a line should be a word.

  Args:
    line: of a file.
    shape: of lines of words in it.
    front: whether no word of the sentence came before.
  """
  text = line.text
  if not text.strip(_BLANKS) or _is_docstart(text):
    return False
  if not text.startswith('#'):
    return True
  if shape.columns[0] == 'id' or (shape.tabs and text[1:2] == ' '):
    return False  # words begin with their number, and hold no blank
  width = len(_split(text, shape.tabs))
  if width == len(shape.columns) or (not shape.exact and shape.tabs and width > len(shape.columns)):
    return True
  return not front and text[1:2] not in ('', ' ')


def _extent(block: Sequence[_source.Line]) -> tuple[int, int]:
  """Returns the first and last line of a block that are not blank."""
  numbers = [line.number for line in block if line.text.strip(_BLANKS)]
  return numbers[0], numbers[-1]


def _parts(sentence: _Sentence) -> list[_source.Line]:
  """Returns the multiword lines and empty nodes of a sentence."""
  return [
    line
    for line in sentence.lines
    if line.number not in sentence.words and line.text[:1].isdecimal()
  ]


class _Writer(_base.Writer):
  def __init__(self, source: Conll, shape: _Shape, out: _base.Out, new: Sequence[str]):
    self._source = source
    self._shape = shape
    self._new = list(new)
    first = next(source.lines())
    self._end = first.end or '\n'
    self._after_blank = True
    self._told = not source.ids  # whether the names of all columns stand in the first line
    self._layers: set[str] = set()  # the new names that are columns
    self._sink = _sink.Sink(out, _source.coding_of(source.path, source.reading.encoding))

  def write(self, record: _base.Record, values: Mapping[str, Any]) -> None:
    """Writes the lines of a sentence, with new columns, and new comments before its words."""
    sentence = record.extra if isinstance(record.extra, _Sentence) else self._made(record)
    columns, comments = self._sorted(record, values, len(sentence.words))
    word = 0
    if columns and not self._told:
      self._line(self._names(record), '')
      self._told = self._after_blank = True
    if sentence.lines and sentence.lines[0].text.strip(_BLANKS) and not self._after_blank:
      self._line('', '')
    begins = min(sentence.words)
    for line in sentence.lines:
      text = line.text
      if self._source.ids and columns and text.startswith(_TOLD):
        continue
      if line.number in sentence.words:
        text = self._extended(text, [column[word] for column in columns], sentence.shape)
        word += 1
      elif _is_docstart(text):
        text = self._extended(text, ['O'] * len(columns), sentence.shape)
      elif self._source.ids and text[:1].isdecimal():
        text = self._extended(text, ['_'] * len(columns), sentence.shape)
      # A range stands before its words.
      if comments and (line.number == begins or (self._source.ids and text[:1].isdecimal())):
        for comment in comments:
          self._line(comment, line.end)
        comments = []
      self._line(text, line.end)

  def _sorted(
    self, record: _base.Record, values: Mapping[str, Any], words: int
  ) -> tuple[list[list[str]], list[str]]:
    """Returns the new columns and the new comments."""
    columns: list[list[str]] = []
    comments: list[str] = []
    taken = {name.removeprefix('comment.') for name in record.fields}
    names = _base.fresh(self._new, taken)
    for name in self._new:
      value = _base.plain(values.get(name))
      if value is None:
        if name in self._layers:
          columns.append(['_'] * words)
      elif isinstance(value, list) and len(value) == words:
        self._layers.add(name)
        columns.append([self._cell(record, name, item) for item in value])
      elif isinstance(value, list):
        raise self._source.error(
          f'{record.place}: {len(value)} values of {name!r} for {words} words'
        )
      else:
        text = ' '.join(_base.as_text(value).splitlines())
        comments.append(f'# {names[name]} = {text}')
    return columns, comments

  def _names(self, record: _base.Record) -> str:
    """The first line of a file with further columns."""
    old = [name.upper() if name in _UD else name for name in self._shape.columns]
    new = _base.fresh([name for name in self._new if name in self._layers], record.fields)
    return f'{_TOLD} {" ".join([*old, *new.values()])}'

  def _cell(self, record: _base.Record, name: str, value: Any) -> str:
    text = _base.as_text(value) or '_'
    if re.search('[\t\r\n]' if self._shape.tabs else '[ \t\r\n]', text):
      raise self._source.error(f'{record.place}: {name!r}: {text!r} cannot stand in a column')
    return text

  def _extended(self, text: str, new: list[str], shape: _Shape) -> str:
    between = '\t' if shape.tabs else ' '
    parts = _split(text, shape.tabs)
    if len(parts) <= len(shape.columns):
      return between.join([text if shape.tabs else text.rstrip(_BLANKS), *new])
    return between.join([*parts[: len(shape.columns)], *new, *parts[len(shape.columns) :]])

  def _made(self, record: _base.Record) -> _Sentence:
    """Returns a sentence for a record that comes from elsewhere."""
    columns = self._shape.columns
    missing = [name for name in columns if not isinstance(record.fields.get(name), list)]
    if missing:
      raise self._source.error(f'{record.place}: no list of text for the column {missing[0]!r}')
    if len({len(record.fields[name]) for name in columns}) != 1 or not record.fields[columns[0]]:
      raise self._source.error(f'{record.place}: columns without words, or of several lengths')
    texts = [
      ('\t' if self._shape.tabs else ' ').join(self._cell(record, 'a column', item) for item in row)
      for row in zip(*(record.fields[name] for name in columns), strict=True)
    ]
    lines = [_source.Line(at, text, self._end) for at, text in enumerate([*texts, ''], start=1)]
    return _Sentence(lines, frozenset(range(1, len(lines))), self._shape)

  def _line(self, text: str, end: str) -> None:
    self._sink.write(text + (end or self._end))
    self._after_blank = not text.strip(_BLANKS)

  def close(self) -> None:
    """Puts the file in its place."""
    self._sink.close()

  def discard(self) -> None:
    """Leaves the file as it was."""
    self._sink.discard()
