"""Where writers put their text or bytes: a stream, or a file that is replaced when all is there."""

import contextlib
import gzip
import io
from pathlib import Path
from typing import BinaryIO, cast

from mtl_jax import errors, files
from mtl_jax.data.formats import _base, _source

_UTF8 = _source.Coding('utf-8', b'')


class Sink:
  """A stream or file to write to.

  A text stream keeps its own encoding and gets no byte order mark; a path that ends in .gz is
  packed.
  """

  def __init__(self, out: _base.Out, coding: _source.Coding = _UTF8):
    """Opens it.

    Args:
      out: a stream, which stays open, or the path of a file.
      coding: of text.

    Raises:
      OSError: the file cannot be written.
    """
    self._stack = contextlib.ExitStack()
    self._out: _base.Out = out
    self._encoding = coding.name
    self._begun = not coding.mark
    self._mark = coding.mark
    if isinstance(out, str | Path):
      file = self._stack.enter_context(files.replacing(Path(out)))
      if Path(out).suffix.lower() == '.gz':
        packed = gzip.GzipFile(filename='', mode='wb', fileobj=file, mtime=0)
        file = cast(BinaryIO, self._stack.enter_context(packed))
      self._out = file

  def write(self, text: str) -> None:
    """Writes text.

    Raises:
      DataError: a character that the encoding does not have.
      OSError: it cannot be written.
    """
    try:
      if isinstance(self._out, io.TextIOBase):
        self._out.write(text)
      else:
        content = text.encode(self._encoding)
        cast(BinaryIO, self._out).write(content if self._begun else self._mark + content)
        self._begun = True
    except UnicodeEncodeError as error:
      raise errors.DataError(
        f'{error.object[error.start]!r} cannot be written in {error.encoding.upper()}, the '
        'encoding of the file that was read; give that file in UTF-8'
      ) from error

  def binary(self, name: str) -> BinaryIO:
    """Returns the stream of bytes.

    Args:
      name: what is to be written, for messages.

    Raises:
      DataError: it is a stream of text.
    """
    if isinstance(self._out, io.TextIOBase):
      raise errors.DataError(f'{name} is no text: write it to a file, or a stream of bytes')
    return cast(BinaryIO, self._out)

  def close(self) -> None:
    """Puts the file in its place."""
    self._stack.close()

  def discard(self) -> None:
    """Leaves the file as it was."""
    error = InterruptedError()
    with contextlib.suppress(InterruptedError):
      self._stack.__exit__(InterruptedError, error, None)
