"""Reading raw files so that a damaged one is named, text with its line. Knows no data set."""

import gzip
import hashlib
import zlib
from pathlib import Path

from mtl_jax import errors


def sha256(path: Path) -> str:
  """Returns the SHA-256 of a file, in hexadecimal digits.

  Raises:
    DataError: the file is missing or cannot be read.
  """
  return hashlib.sha256(_content(path)).hexdigest()


def read_lines(path: Path) -> list[str]:
  """Returns the lines of a UTF-8 text file, gzipped if its name ends in .gz, without line ends.

  Args:
    path: the file.

  Raises:
    DataError: the file is missing, cannot be read, is a truncated or damaged gzip file, or holds
      bytes that are not UTF-8 (with the line and the offset of the first).
  """
  content = _content(path)
  if path.suffix == '.gz':
    try:
      content = gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
      raise errors.DataError(
        f'{path}: truncated or damaged gzip file ({error}); get a fresh copy'
      ) from error
  try:
    text = content.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    # Offsets of the codec start after a byte order mark.
    offset = error.start + (3 if content.startswith(b'\xef\xbb\xbf') else 0)
    line = content.count(b'\n', 0, offset) + 1
    raise errors.DataError(
      f'{path}, line {line}: byte 0x{content[offset]:02x} at offset {offset} is not UTF-8'
    ) from error
  lines = text.split('\n')  # not splitlines(), which also splits at other Unicode line ends
  if lines[-1] == '':
    lines.pop()
  return [line.removesuffix('\r') for line in lines]


def _content(path: Path) -> bytes:
  try:
    return path.read_bytes()
  except FileNotFoundError as error:
    raise errors.DataError(f'{path}: no such file') from error
  except OSError as error:
    raise errors.DataError(f'{path}: cannot be read ({error.strerror or error})') from error
