"""Configs in TOML: the keys of a Python config, without Python."""

import tomllib
from collections.abc import Sequence

from ml_collections import config_dict

from mtl_jax import errors
from mtl_jax.config.default import complete


def load(name: str, argument: Sequence[str] = ()) -> config_dict.ConfigDict:
  """Returns the config in a TOML file: `default()` with the values that it gives.

  Args:
    name: the path of the file.
    argument: what stood after a colon; a config in TOML takes none.

  Raises:
    ConfigError: it cannot be read, is no TOML, or a key or value does not fit.
  """
  if argument:
    raise errors.ConfigError(f'{name}: a config in TOML takes no argument {argument[0]!r}')
  try:
    with open(name, 'rb') as file:
      given = tomllib.load(file)
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
    hint = '; texts stand in quotes' if 'Invalid value' in str(e) else ''
    raise errors.ConfigError(f'{name} is no TOML: {e}{hint}') from None
  except OSError as e:
    raise errors.ConfigError(f'{name} cannot be read: {e.strerror or e}') from None
  try:
    return complete(given)
  except errors.ConfigError as e:
    raise errors.ConfigError(f'{name}: {e}') from None
