"""From raw files to batches: builders, text processing, the input pipeline. Models come later."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from mtl_jax.data.sources import DataSet
  from mtl_jax.data.specs import InputSpec, TaskSpec

__all__ = ['DataSet', 'InputSpec', 'TaskSpec']
_HOMES = {'DataSet': 'sources', 'InputSpec': 'specs', 'TaskSpec': 'specs'}


def __getattr__(name: str) -> Any:
  """The public names, imported when they are first asked for: they bring more than steps need."""
  import importlib

  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
