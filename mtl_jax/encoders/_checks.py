"""Checks of options that several encoders have."""

from collections.abc import Sequence


def counts(name: str, values: Sequence[int]) -> None:
  """Raises ValueError unless there are values, all of them integers from 1."""
  if not values or not all(isinstance(value, int) and value > 0 for value in values):
    raise ValueError(f'{name}: need one or more integers from 1, not {tuple(values)}')
