"""Where the configs that ship with the package lie, found by name: `mtl_jax:quickstart`.

They stand in the repository's folder configs/, which a wheel holds as mtl_jax/configs/.
"""

import pathlib

from mtl_jax import errors

_PACKAGE = pathlib.Path(__file__).parents[1]
_SUFFIXES = ('.py', '.toml')


def split(path: str) -> tuple[str, ...]:
  """Splits the value of --config into a file and, where there is one, its argument.

  Args:
    path: `FILE[:ARGUMENT]`, or `mtl_jax:NAME[:ARGUMENT]` for a config that ships.

  Raises:
    ConfigError: no config of this name ships; the message names those that do.
  """
  package, *rest = path.split(':', 1)
  if package != 'mtl_jax':
    return package, *rest
  name, *argument = rest[0].split(':', 1) if rest else ('',)
  configs = found()
  if name not in configs:
    raise errors.ConfigError(f'no config {name!r} ships{errors.nearest(name, configs)}')
  return str(configs[name]), *argument


def found() -> dict[str, pathlib.Path]:
  """The configs that ship: their names, `papers/NAME` in a folder, and their files."""
  for folder in (_PACKAGE / 'configs', _PACKAGE.parent / 'configs'):  # installed; a checkout
    if folder.is_dir():
      return {
        path.relative_to(folder).with_suffix('').as_posix(): path
        for path in sorted(folder.rglob('*'))
        if path.suffix in _SUFFIXES
      }
  return {}
