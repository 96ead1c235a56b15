"""A config as nested dicts of numbers, strings, bools and tuples."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import config_dict

Plain = dict[str, Any]


def leaves(section: Mapping[str, Any], prefix: str = '') -> Iterable[tuple[str, Any]]:
  """Yields (dotted path, value) of everything that is no section."""
  for name, value in section.items():
    if is_section(value) and value:
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def is_section(value: Any) -> bool:
  """Whether it has keys."""
  return isinstance(value, Mapping | config_dict.ConfigDict)


def is_int(value: Any) -> bool:
  """An integer, and no bool."""
  return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
  """An integer or float, and no bool."""
  return isinstance(value, int | float) and not isinstance(value, bool)
