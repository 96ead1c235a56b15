"""Reading raw files so that a damaged one is named, text with its line. Knows no data set."""

import gzip
import hashlib
import zlib
from pathlib import Path

from mtl_jax import errors


def sha256(path: Path) -> str:
  """Returns the SHA-256 of a file, in hexadecimal digits.

  Args:
    path: the file; if it is only there gzipped, with `.gz` after its name, what that unpacks to.

  Raises:
    DataError: the file is missing or cannot be read.
  """
  return hashlib.sha256(_content(path)).hexdigest()


def read_lines(path: Path, encoding: str = 'utf-8-sig', replace: bool = False) -> list[str]:
  """Returns the lines of a text file without line ends.

  Args:
    path: the file, gzipped if its name ends in .gz, or if it is only there with that ending.
    encoding: of its text; a byte order mark of UTF-8 is left out.
    replace: bytes that are no text become U+FFFD, in place of an error.

  Raises:
    DataError: the file is missing, cannot be read, is a truncated or damaged gzip file, or holds
      bytes that are not of its encoding (with the line and the offset of the first).
  """
  content = _content(path)
  if path.suffix == '.gz':
    content = _unpacked(path, content)
  try:
    text = content.decode(encoding, 'replace' if replace else 'strict')
  except UnicodeDecodeError as error:
    # Offsets of the codec start after a byte order mark.
    marked = encoding == 'utf-8-sig' and content.startswith(b'\xef\xbb\xbf')
    offset = error.start + (3 if marked else 0)
    line = content.count(b'\n', 0, offset) + 1
    name = encoding.removesuffix('-sig').upper()
    raise errors.DataError(
      f'{path}, line {line}: byte 0x{content[offset]:02x} at offset {offset} is not {name}'
    ) from error
  lines = text.split('\n')  # not splitlines(), which also splits at other Unicode line ends
  if lines[-1] == '':
    lines.pop()
  return [line.removesuffix('\r') for line in lines]


def _content(path: Path) -> bytes:
  packed = path.with_name(f'{path.name}.gz')
  try:
    if packed.exists() and not path.exists():
      return _unpacked(packed, packed.read_bytes())
    return path.read_bytes()
  except FileNotFoundError as error:
    raise errors.DataError(f'{path}: no such file') from error
  except OSError as error:
    raise errors.DataError(f'{path}: cannot be read ({error.strerror or error})') from error


def _unpacked(path: Path, content: bytes) -> bytes:
  try:
    return gzip.decompress(content)
  except (EOFError, OSError, zlib.error) as error:
    raise errors.DataError(
      f'{path}: truncated or damaged gzip file ({error}); get a fresh copy'
    ) from error
