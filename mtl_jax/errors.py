"""The errors that a user can cause, and the wording they share; raised before work is wasted."""

import difflib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
  """A config names something that does not exist, or a value that cannot be used."""


class DataError(ValueError):
  """A raw file, a data set or a label is not what its format says."""


class NonFiniteError(FloatingPointError):
  """A task's loss or gradient became NaN or infinite during training."""


class WorkdirError(RuntimeError):
  """A run's directory cannot be used: another run's, unwritable, or out of space."""


def no_text(value: Any) -> str:
  """Returns what is wrong with a text, or with one in a list, that UTF-8 cannot write; else ''.

  >>> no_text('a\\ud800b')
  "has a lone surrogate, half of a character, at place 1: 'a\\\\ud800b'"
  """
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
