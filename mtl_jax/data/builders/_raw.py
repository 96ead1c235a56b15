"""Reading raw files so that a damaged one is named, text with its line. Knows no data set."""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from mtl_jax import errors


def sha256(path: Path, unpack: bool = True) -> str:
  """Returns the SHA-256 of a file, in hexadecimal digits.

  Args:
    path: the file, gzipped if its name ends in .gz, or if it is only there with that ending.
    unpack: of what a gzipped file unpacks to; False: of the file as it is.

  Raises:
    DataError: the file is missing or cannot be read.
  """
  return hashlib.sha256(_content(path, unpack)).hexdigest()


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


def read_idx(path: Path, axes: int) -> np.ndarray:
  """Returns uint8 of an IDX file, the format of MNIST.

  Args:
    path: the file, gzipped if its name ends in .gz, or if it is only there with that ending.
    axes: how many it must have.

  Raises:
    DataError: the file is missing, cannot be read, has another type or other axes, or holds fewer
      or more numbers than its header says.
  """
  content = _content(path)
  start = 4 + 4 * axes  # two zeros, the type, the axes; the length of each axis
  if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
    raise errors.DataError(
      f'{path}: no IDX file of bytes with {axes} axes: it begins with {content[:4].hex(" ")!r}, '
      f'not {bytes([0, 0, 8, axes]).hex(" ")!r}'
    )
  shape = struct.unpack(f'>{axes}I', content[4:start])
  if len(content) - start != math.prod(shape):
    raise errors.DataError(
      f'{path}: {len(content) - start} numbers, and its header says {math.prod(shape)}: get a '
      'fresh copy'
    )
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path, unpack: bool = True) -> bytes:
  packed = path if path.suffix == '.gz' else path.with_name(f'{path.name}.gz')
  try:
    if unpack and packed.exists() and (packed == path or not path.exists()):
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
