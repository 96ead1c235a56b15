"""The errors that a user can cause, and the wording they share; raised before work is wasted."""

import contextlib
import difflib
import os
import pathlib
import sysconfig
import types
from collections.abc import Iterable, Iterator
from typing import Any

TRACEBACK = 'MTL_JAX_TRACEBACK'
"""The environment variable: 'full' keeps all lines in traces of what a user's own code raised."""


class ConfigError(ValueError):
  """A config names something that does not exist, or a value that cannot be used."""


class DataError(ValueError):
  """A raw file, a data set or a label is not what its format says."""


class NonFiniteError(FloatingPointError):
  """A task's loss or gradient became NaN or infinite during training."""


class WorkdirError(RuntimeError):
  """A run's directory cannot be used: another run's, unwritable, or out of space."""


@contextlib.contextmanager
def as_config_errors(where: str = '') -> Iterator[None]:
  """What the library says of its own arguments becomes a ConfigError: they come from a config.

  A ValueError that was raised elsewhere, as in a user's own module, is let through with its trace.

  Args:
    where: what goes before the message.
  """
  try:
    yield
  except (ConfigError, DataError):
    raise
  except ValueError as error:
    if not _is_ours(error):
      raise
    raise ConfigError(f'{where}{error}') from None


def _is_ours(error: BaseException) -> bool:
  """Whether it was raised by a line of this package."""
  trace = error.__traceback__
  while trace is not None and trace.tb_next is not None:
    trace = trace.tb_next
  return trace is not None and _is_in(trace, pathlib.Path(__file__).parent)


def _is_in(trace: types.TracebackType, *folders: pathlib.Path) -> bool:
  parents = pathlib.Path(trace.tb_frame.f_code.co_filename).parents
  return any(folder in parents for folder in folders)


def shorten(error: BaseException) -> None:
  """Takes the lines of this package out of the trace of an error that a user's own code raised.

  What stands between the call and the user's lines tells nothing of these, as JAX thinks of its
  own. An error without a line of the user's keeps all of them, and so does any with
  `MTL_JAX_TRACEBACK=full`.

  Args:
    error: as it was caught; it is changed.
  """
  ours = pathlib.Path(__file__).parent
  libraries = [pathlib.Path(sysconfig.get_path(name)) for name in ('stdlib', 'purelib', 'platlib')]
  traces, trace = [], error.__traceback__
  while trace is not None:
    traces.append(trace)
    trace = trace.tb_next
  real = [t for t in traces if not t.tb_frame.f_code.co_filename.startswith('<')]
  if os.environ.get(TRACEBACK) == 'full' or all(_is_in(t, ours, *libraries) for t in real):
    return
  kept: types.TracebackType | None = None
  for trace in reversed(traces):
    if not _is_in(trace, ours):
      kept = types.TracebackType(kept, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)
  error.add_note(f'The lines of mtl_jax are left out of this trace; {TRACEBACK}=full shows them.')
  error.__traceback__ = kept


def no_text(value: Any) -> str:
  """Returns what is wrong with a text, or with one in a list, that UTF-8 cannot write; else ''.

  >>> no_text('a\\ud800b')
  "has a lone surrogate, half of a character, at place 1: 'a\\\\ud800b'"
  """
  if isinstance(value, str) and value.isascii():
    return ''
  for text in value if isinstance(value, list | tuple) else (value,):
    try:
      if isinstance(text, str):
        text.encode()
    except UnicodeEncodeError as error:
      part = text[max(0, error.start - 20) : error.start + 20]
      return f'has a lone surrogate, half of a character, at place {error.start}: {part!r}'
  return ''


def nearest(name: str, choices: Iterable[str]) -> str:
  """Returns `"; did you mean 'x'? Valid: a, b, c"` for an unknown name; the hint if close."""
  choices = sorted(map(str, choices))
  close = difflib.get_close_matches(str(name), choices, n=1)
  hint = f"; did you mean '{close[0]}'?" if close else ';'
  return f'{hint} Valid: {", ".join(choices) or "(none)"}'
