"""SIGINT and SIGTERM while runs train.

A handler in Python waits for the main thread to come out of XLA, and what it raised there would
pass through C++ and crash. So a thread of its own reads the signals, from a pipe that the system's
handler writes to, and raises nothing: it tells the training loop, or ends the process on the spot.
That is safe at any moment, as SIGKILL is: what runs write is there whole or not at all.
"""

import atexit
import os
import signal
import sys
import threading
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Signals:
  """While entered, answers SIGINT and SIGTERM.

  Between two steps of training (`hold`) a first signal is noted, for the loop to save and stop;
  a second one ends the process. At any other time, as while data are prepared or the first step is
  compiled, there is nothing to save, and the first one ends it.

  Attributes:
    received: the number of the signal that was noted; None before one.
  """

  def __init__(self) -> None:
    self.received: int | None = None
    self._held = False

  def __enter__(self) -> 'Signals':
    self._reader, self._writer = os.pipe()
    os.set_blocking(self._writer, False)
    self._thread = threading.Thread(target=self._watch, name='signals', daemon=True)
    self._thread.start()
    self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
    self._before = {number: signal.signal(number, _do_nothing) for number in _NUMBERS}
    return self

  def __exit__(self, *_: object) -> None:
    if self.received is not None:  # the process is ending, and one more is to change no exit code
      atexit.register(_ignore)
      return
    for number, handler in self._before.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._wakeup)
    os.close(self._writer)  # which ends the thread
    self._thread.join()
    os.close(self._reader)

  @property
  def exit_code(self) -> int:
    """128 + the signal's number, as shells have it."""
    return 128 + (self.received or 0)

  def hold(self, held: bool) -> None:
    """Says whether steps may stand that no checkpoint has."""
    self._held = held

  def _watch(self) -> None:
    while numbers := os.read(self._reader, 64):
      for number in numbers:
        if number in _NUMBERS:
          self._take(number)

  def _take(self, number: int) -> None:
    if self.received is not None:
      _end(self.exit_code, 'stopped at once; the same command goes on from the last checkpoint')
    elif self._held:
      self.received = number
      _say('stopping after this step; once more to stop at once')
    else:
      self.received = number
      _end(self.exit_code, 'stopped at once: no trained step was lost; the same command goes on')


def _do_nothing(number: int, frame: FrameType | None) -> None:
  """Python's part of the handler; without one the signal would not reach the pipe."""
  del number, frame


def _ignore() -> None:
  for number in _NUMBERS:
    signal.signal(number, signal.SIG_IGN)  # what else is set, Python takes back before it is gone


def _say(text: str) -> None:
  os.write(2, f'{text}\n'.encode())  # print may be mid-way in the main thread


def _end(code: int, text: str) -> None:
  """Ends the process; all that was printed before has been flushed."""
  if sys.stdout is not None and sys.stdout.isatty():
    os.write(1, b'\x1b[?25h\n')  # the cursor, which the live display hides
  _say(text)
  os._exit(code)
