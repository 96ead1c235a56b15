"""Modules that are imported when they are first used: what takes long, and is for scores alone."""

import importlib
from typing import Any


class Later:
  """A module whose import waits until something of it is asked for.

  >>> Later('string').digits
  '0123456789'
  """

  def __init__(self, name: str):
    """Nothing is imported yet."""
    self._name = name

  def __getattr__(self, attribute: str) -> Any:
    return getattr(importlib.import_module(self._name), attribute)
