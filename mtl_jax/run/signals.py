"""SIGINT and SIGTERM while runs train."""

import os
import signal
from types import FrameType


class Stopped(BaseException):
  """A second signal: the user does not want to wait."""


class Signals:
  """While entered, notes SIGINT and SIGTERM for the training loop; a second one raises `Stopped`.

  Attributes:
    received: the signal's number; None before one.
  """

  def __init__(self) -> None:
    self.received: int | None = None

  def __enter__(self) -> 'Signals':
    self._before = {
      number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
    }
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  @property
  def exit_code(self) -> int:
    """128 + the signal's number, as shells have it."""
    return 128 + (self.received or 0)

  def _note(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.received is not None:
      raise Stopped
    self.received = number
    os.write(2, b'stopping after this step; once more to stop at once\n')  # print may be mid-way
