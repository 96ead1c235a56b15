"""The errors that a user can cause, and the wording they share; raised before work is wasted."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
  """A config names something that does not exist, or a value that cannot be used."""


class DataError(ValueError):
  """A raw file, a data set or a label is not what its format says."""


class NonFiniteError(FloatingPointError):
  """A task's loss or gradient became NaN or infinite during training."""


class WorkdirError(RuntimeError):
  """A run's directory cannot be used: another run's, unwritable, or out of space."""


def nearest(name: str, choices: Iterable[str]) -> str:
  """Returns `"; did you mean 'x'? Valid: a, b, c"` for an unknown name; the hint if close."""
  choices = sorted(map(str, choices))
  close = difflib.get_close_matches(str(name), choices, n=1)
  hint = f"; did you mean '{close[0]}'?" if close else ';'
  return f'{hint} Valid: {", ".join(choices) or "(none)"}'
