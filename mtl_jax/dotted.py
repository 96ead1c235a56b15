"""Objects of a user's own by name: 'package.module:Name', or 'FILE.py:Name'."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from mtl_jax import errors


def is_dotted(name: str) -> bool:
  """Whether a name is meant as one of these, and not as one of ours."""
  return ':' in name or '.' in name


def load(name: str, what: str) -> Any:
  """Returns what a name names.

  Args:
    name: 'package.module:Name', or the path of a file and a name in it, 'FILE.py:Name'.
    what: what messages call it, such as 'encoder'.

  Raises:
    ValueError: another form, no such module or file, one that fails when it is imported, or has no
      such name.
  """
  where = f'{what} {name!r}'
  module_name, _, path = name.rpartition(':')
  if not module_name or not path:
    raise ValueError(
      f"{where}: write 'package.module:Name', with a colon before the name in the module"
    )
  found = _module(where, module_name)
  for part in path.split('.'):
    if not hasattr(found, part):
      near = [key for key, value in vars(found).items() if callable(value) and key[0] != '_']
      raise ValueError(f'{where}: {module_name} has no {part!r}{errors.nearest(part, near)}')
    found = getattr(found, part)
  return found


def _module(where: str, name: str) -> Any:
  try:
    return _of_file(name) if name.endswith('.py') else importlib.import_module(name)
  except FileNotFoundError:
    raise ValueError(f'{where}: there is no file {name!r}') from None
  except (Exception, SystemExit) as error:  # whatever a user's module does
    if isinstance(error, ModuleNotFoundError) and f'{name}.'.startswith(f'{error.name}.'):
      raise ValueError(
        f'{where}: there is no module {error.name!r}; start from the directory that holds it, or '
        'put that on PYTHONPATH'
      ) from None
    raise ValueError(
      f'{where}: importing {name} failed: {type(error).__name__}: {error}'
    ) from error


def _of_file(name: str) -> Any:
  """The module in a file, made once a process while the file stays as it is."""
  path = Path(name).expanduser().absolute()
  alias = f'mtl_jax_own_{path.stem}_{path.stat().st_mtime_ns}'
  known = sys.modules.get(alias)
  if known is not None and known.__file__ == str(path):
    return known
  spec = importlib.util.spec_from_file_location(alias, path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[alias] = module  # dataclasses look there
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[alias]
    raise
  return module
