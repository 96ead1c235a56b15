"""The data sets by name. A builder's module is imported when it is first asked for."""

import importlib
from typing import TYPE_CHECKING

from mtl_jax import errors

if TYPE_CHECKING:
  from mtl_jax.data.builders import _base

SOURCES = 'sources.json'
"""The file in a prepared data set's folder that holds name -> SHA-256 of its raw files."""

# Name -> module and class.
REGISTRY: dict[str, tuple[str, str]] = {
  'english_words': ('mtl_jax.data.builders.english_words', 'EnglishWords'),
  'fudan16': ('mtl_jax.data.builders.fudan16', 'Fudan16'),
  'glue_small': ('mtl_jax.data.builders.glue_small', 'GlueSmall'),
  'multi_mnist': ('mtl_jax.data.builders.multi_mnist', 'MultiMnist'),
  'snips': ('mtl_jax.data.builders.snips', 'Snips'),
}


def get(name: str) -> 'type[_base.Builder]':
  """Returns the builder class of a data set.

  Raises:
    ConfigError: there is no such data set.
  """
  if name not in REGISTRY:
    raise errors.ConfigError(f'no data set {name!r}{errors.nearest(name, REGISTRY)}')
  module, attribute = REGISTRY[name]
  return getattr(importlib.import_module(module), attribute)
