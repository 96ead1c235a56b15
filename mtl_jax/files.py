"""Files as runs, data sets and reports write them: whole, and where they are said to be."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write(path: Path, content: str | bytes) -> None:
  """Writes a file at once: readers see the old content or the new, also after a crash.

  It has the permissions that the umask leaves; a symbolic link in its place is replaced.

  Raises:
    OSError: it cannot be written; the old content stands, and nothing is left beside it.
    UnicodeEncodeError: the text is none that UTF-8 could hold.
  """
  data = content.encode() if isinstance(content, str) else content
  with replacing(path) as file:
    file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
  """Yields a file beside `path` that takes its place when all went well; see `write`."""
  partial = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
  handle = open_here(partial, os.O_WRONLY | os.O_EXCL)
  try:
    with os.fdopen(handle, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def is_file(path: str | Path) -> bool:
  """Whether there is a file of this name; False also for what could not be a name."""
  try:
    return Path(path).expanduser().is_file()
  except (OSError, ValueError, RuntimeError):  # too long, a NUL, ~ of nobody
    return False


def open_here(path: Path, flags: int) -> int:
  """Opens a file, made if there is none, as it is: not emptied, and never through a link.

  Returns:
    a file descriptor.
  """
  return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)
