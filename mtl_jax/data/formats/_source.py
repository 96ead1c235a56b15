"""The bytes and lines of a file, whatever its packing and encoding. Knows no format."""

import codecs
import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from mtl_jax import errors

CHUNK = 1 << 16  # bytes at a time
LONGEST = 1 << 28  # characters of a line
_ENDS = re.compile(r'(\r\n|\n|\r(?!\Z))')
_MARKS = (
  (codecs.BOM_UTF8, 'utf-8'),
  (codecs.BOM_UTF32_LE, 'utf-32-le'),  # before UTF-16, whose mark it begins with
  (codecs.BOM_UTF32_BE, 'utf-32-be'),
  (codecs.BOM_UTF16_LE, 'utf-16-le'),
  (codecs.BOM_UTF16_BE, 'utf-16-be'),
)
_FRESH = 'get a fresh copy'
_PACKED = 'unpack it first (only .gz is unpacked here)'
# How a file begins -> what it is, and what to do.
_KINDS = (
  (re.compile(rb'\x1f\x8b\x08'), 'gzipped', 'give it a name that ends in .gz'),
  (re.compile(rb'PK\x03\x04'), 'a zip file, as .xlsx and .npz are', 'save a sheet as CSV'),
  (re.compile(rb'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1'), 'an old Office file', 'save it as CSV'),
  (re.compile(rb'%PDF-'), 'a PDF', 'give the data themselves'),
  (re.compile(rb'PAR1\x15'), 'a Parquet file', "set format to 'parquet'"),
  (re.compile(rb'ARROW1\x00\x00|\xff\xff\xff\xff'), 'an Arrow file', "set format to 'datasets'"),
  (re.compile(rb'\x93NUMPY'), 'a NumPy array', 'save named arrays with numpy.savez'),
  (re.compile(rb'\x89HDF\r\n|SQLite format 3\x00'), 'a database', 'export it as CSV or Parquet'),
  (re.compile(rb'BZh[1-9]1AY&SY|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|7z\xbc\xaf'), 'packed', _PACKED),
  (re.compile(rb'version https://git-lfs'), 'a pointer of Git LFS', 'run `git lfs pull`'),
  (
    re.compile(rb'(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|\?xml)', re.IGNORECASE),
    'a web page or XML',
    'download the file itself, not the page about it',
  ),
)


class Line(NamedTuple):
  r"""A line of text.

  Attributes:
    number: from 1.
    text: without its end.
    end: `'\n'`, `'\r\n'` or `'\r'`; '' of a last line that has none.
  """

  number: int
  text: str
  end: str


class Coding(NamedTuple):
  """How text stands in bytes.

  Attributes:
    name: of the codec.
    mark: the byte order mark before the text, or nothing.
  """

  name: str
  mark: bytes


class _UndecodableError(Exception):
  """A byte that is not of the encoding."""

  def __init__(self, offset: int, byte: str):
    super().__init__()
    self.offset = offset
    self.byte = byte


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
  """Yields the bytes of a file, unpacked if its name ends in .gz.

  Raises:
    DataError: it is missing, no file, cannot be read, or truncated or damaged gzip.
  """
  packed = path.suffix.lower() == '.gz'
  try:
    with contextlib.ExitStack() as stack:
      file = stack.enter_context(_open(path))
      if packed:
        file = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=file)))
      yield file
  except FileNotFoundError as error:
    raise errors.DataError(f'{path}: no such file{near(path)}') from error
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise errors.DataError(f'{path}: truncated or damaged gzip file ({error}); {_FRESH}') from error
  except OSError as error:
    raise errors.DataError(f'{path}: cannot be read ({error.strerror or error})') from error


def _open(path: Path) -> BinaryIO:
  try:
    if path.exists() and not path.is_file():
      what = 'a folder' if path.is_dir() else 'a pipe or a device, which cannot be read twice'
      raise errors.DataError(f'{path}: no file, but {what}')
    return path.open('rb')
  except errors.DataError:
    raise
  except ValueError as error:  # a NUL, half of a character
    raise errors.DataError(f'{str(path)!r} cannot be a path ({error})') from error


def near(path: Path) -> str:
  """Returns a hint at the file in the same folder whose name is nearest."""
  try:
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.name[0] != '.')
  except (OSError, ValueError):
    return f'; there is no folder {str(path.parent)!r}'
  more = len(names) - 20
  hint = errors.nearest(path.name, names)
  if more <= 0:
    return hint
  return f'{hint.partition(" Valid:")[0]} (of {len(names)} files in {str(path.parent)!r})'


def content(path: Path) -> bytes:
  """Returns all bytes of a file; see `opened`."""
  with opened(path) as file:
    return file.read()


def head(path: Path, size: int = CHUNK) -> bytes:
  """Returns the first bytes of a file; see `opened`."""
  with opened(path) as file:
    return _filled(file, size)


def _filled(file: BinaryIO, size: int) -> bytes:
  parts: list[bytes] = []
  while size > 0 and (part := file.read(size)):
    parts.append(part)
    size -= len(part)
  return b''.join(parts)


def check_text(path: Path, start: bytes, name: str) -> None:
  """Raises DataError where the first bytes are those of another format than text."""
  for pattern, what, advice in _KINDS:
    if pattern.match(start):
      raise errors.DataError(f'{path}: this is {what}, and should be {name}: {advice}')


def coding(path: Path, start: bytes, encoding: str) -> Coding:
  """Returns the encoding of a text that begins with these bytes.

  Args:
    path: for messages.
    start: its first bytes.
    encoding: what it is said to be; '': what a byte order mark says, else UTF-8.

  Raises:
    DataError: no encoding of text has this name.
  """
  found = next((Coding(name, mark) for mark, name in _MARKS if start.startswith(mark)), None)
  if not encoding:
    return found or Coding('utf-8', b'')
  try:
    name = codecs.lookup(encoding).name
    ''.encode(name)  # LookupError for codecs that are not of text
  except (LookupError, ValueError) as error:
    choices = ['utf-8', 'utf-16', 'utf-32', 'latin-1', 'cp1252', 'shift_jis', 'gb18030']
    raise errors.DataError(
      f'{path}: unknown encoding {encoding!r}{errors.nearest(encoding, choices)}'
    ) from error
  if name == 'utf-8-sig':
    name = 'utf-8'
  if found and found.name.startswith(name):  # utf-16 stands for both orders
    return found
  return Coding(f'{name}-le' if name in ('utf-16', 'utf-32') else name, b'')


def coding_of(path: Path, encoding: str) -> Coding:
  """Returns the encoding of a file; see `coding`."""
  return coding(path, head(path, 4), encoding)


def lines(path: Path, encoding: str, name: str) -> Iterator[Line]:
  """Yields the lines of a text file, which end with CRLF, CR or LF, in bounded memory.

  Args:
    path: the file.
    encoding: see `coding`.
    name: what the file should be, for messages.

  Raises:
    DataError: as `opened` and `coding` say; it is another kind of file or empty; it holds bytes
      that are not of its encoding, with the line and the offset of the first; a line is too long.
  """
  number, carry, size = 1, '', 0
  pending: list[str] = []
  try:
    for text in _texts(path, encoding, name):
      pieces = _ENDS.split(carry + text)
      last, carry = pieces.pop(), ''
      for at in range(0, len(pieces), 2):
        line = pieces[at]
        if pending:
          line = ''.join([*pending, line])
          pending.clear()
          size = 0
        yield Line(number, line, pieces[at + 1])
        number += 1
      if last.endswith('\r'):  # the first half of a CRLF, perhaps
        last, carry = last[:-1], '\r'
      if last:
        pending.append(last)
        size += len(last)
      if size > LONGEST:
        raise errors.DataError(f'{path}, line {number}: longer than {LONGEST:,} characters')
  except _UndecodableError as error:
    name = coding_of(path, encoding).name.upper()
    raise errors.DataError(
      f'{path}, line {number}: {error.byte} at offset {error.offset} is not {name}; '
      "set the encoding it has ('latin-1', 'cp1252', 'utf-16', ...)"
    ) from error
  if pending or carry:
    yield Line(number, ''.join(pending), carry)
  elif number == 1:
    raise errors.DataError(f'{path}: empty')


def _texts(path: Path, encoding: str, name: str) -> Iterator[str]:
  """Yields the text of a file piece by piece, up to the first byte that is none."""
  with opened(path) as file:
    chunk = _filled(file, CHUNK)
    check_text(path, chunk, name)
    found = coding(path, chunk, encoding)
    decoder = codecs.getincrementaldecoder(found.name)()
    offset = len(found.mark)
    chunk = chunk[offset:]
    while True:
      offset += len(chunk)
      try:
        text = decoder.decode(chunk, final=not chunk)
      except UnicodeDecodeError as error:
        yield error.object[: error.start].decode(found.name, 'replace')
        # Counted from the end: what the decoder held back stands before the chunk.
        place = offset - len(error.object) + error.start
        raise _UndecodableError(place, f'byte 0x{error.object[error.start]:02x}') from error
      except UnicodeError as error:
        raise _UndecodableError(offset - len(chunk), str(error)) from error
      yield text
      if not chunk:
        return
      chunk = file.read(CHUNK)


def text(path: Path, encoding: str, name: str) -> str:
  """Returns the whole text of a file, with its line ends; raises as `lines` does."""
  return ''.join(line.text + line.end for line in lines(path, encoding, name))
