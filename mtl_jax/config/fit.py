"""Values given for keys: whether there is such a key, and its type."""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from mtl_jax import errors, kinds, options
from mtl_jax.config import sections
from mtl_jax.data import described
from mtl_jax.plain import Plain, is_int, is_number, is_section, plain
from mtl_jax.tasks import is_name

COMMON: Plain = options.defaults(sections.Task)
"""The options of every task."""


def task_section() -> Plain:
  """The options of a task: those of all, of the kinds and their heads, and of a file's column."""
  section: Plain = dict(COMMON)
  for kind in kinds.KINDS.values():
    section |= kinds.head_options_of(kind) | kinds.options_of(kind)
  return section | described.COLUMN


def check_path(config: config_dict.ConfigDict | Mapping[str, Any], path: str) -> None:
  """Raises ConfigError, with the nearest valid name, unless `path` names a key of the config."""
  node: Any = plain(config)
  walked: list[str] = []
  for part in path.split('.'):
    where = '.'.join(walked)
    if not is_section(node):
      raise errors.ConfigError(f'{where} is a single value and has no key {part!r}')
    if part not in node and where == 'encoder.custom':
      raise errors.ConfigError(f'no key {part!r} in {where}: set it in the config file first')
    if part not in node:
      inside = f' in {where}' if where else ''
      raise errors.ConfigError(f'no key {part!r}{inside}{errors.nearest(part, node)}')
    node = node[part]
    walked.append(part)


def merge(path: str, base: Plain, given: Mapping[str, Any]) -> Plain:
  """Returns `base` with the values of `given`, which may only have keys and types that base has."""
  merged = dict(base)
  for name, value in given.items():
    where = f'{path}.{name}' if path else name
    if name not in base:
      inside = f' in {path}' if path else ''
      raise errors.ConfigError(f'no key {name!r}{inside}{errors.nearest(name, base)}')
    merged[name] = _fit(where, base[name], value)
  return merged


def merge_task(name: str, given: Any) -> Plain:
  """Returns the options of a task, with the values of `given`."""
  if not is_section(given):
    raise errors.ConfigError(f'tasks.{name}: need {describe({})}, not {given!r}')
  if not is_name(name):
    raise errors.ConfigError(
      f'tasks.{name}: a task is called by letters, digits and _, and not inputs, targets or mask; '
      f'give it such a name, and column = {name!r} where that is the name of a column'
    )
  return merge(f'tasks.{name}', task_section(), given)


def _fit(where: str, base: Any, value: Any) -> Any:
  """Returns `value` in the type of `base`."""
  if where in ('variants', 'paper') and is_section(value):
    return dict(value)  # their names are the user's own
  if where == 'dataset.rates' and is_section(value):
    return plain(value)  # by task
  if where == 'encoder.custom' and is_section(value):
    return plain(value)
  if where == 'tasks' and is_section(value):
    return {name: merge_task(name, given) for name, given in value.items()}
  if where == 'dataset.files' and is_section(value):
    return {name: described.file_options(name, given) for name, given in value.items()}
  if where.startswith('tasks.') and where.split('.')[2] in described.COLUMN:
    value = (value,) if isinstance(base, tuple) and isinstance(value, str) else value
  if is_section(base) and is_section(value):
    return merge(where, base, value)
  if isinstance(base, tuple) and isinstance(value, tuple | list):
    return tuple(value)
  if isinstance(base, float) and is_number(value):
    try:
      return float(value)
    except OverflowError:
      raise errors.ConfigError(f'{where}: need a number below 1e308') from None
  if is_int(base) and is_int(value):
    return value
  if isinstance(base, bool | str) and type(base) is type(value):
    return value
  raise errors.ConfigError(f'{where}: need {describe(base)}, not {value!r}')


def describe(base: Any) -> str:
  """What a key with the default `base` needs, in the words of an error."""
  if is_section(base):
    return 'a section with keys'
  kinds = {bool: 'True or False', int: 'an integer', float: 'a number', str: 'a text'}
  kinds |= {tuple: "a tuple, such as 1,2 or ('a', 'b')"}
  return kinds.get(type(base), f'a {type(base).__name__}')


def check_sound(where: str, value: Any) -> None:
  """Raises ConfigError for what no file, path or array could hold: odd texts, enormous integers."""
  if is_section(value):
    for name, inner in value.items():
      check_sound(where, name)
      check_sound(f'{where}.{name}', inner)
  elif isinstance(value, tuple | list):
    for item in value:
      check_sound(where, item)
  elif complaint := errors.no_text(value) or errors.no_text(where):
    raise errors.ConfigError(f'{ascii(where)[1:-1]} {complaint}')
  elif isinstance(value, str) and '\0' in value:
    raise errors.ConfigError(f'{where}: {value!r} has a NUL, which no file could hold')
  elif is_int(value) and not -(2**31) <= value < 2**31 and where != 'seeds':
    raise errors.ConfigError(f'{where}: need an integer from -2**31 to 2**31 - 1')


def assign(run: Plain, path: str, value: Any, where: str) -> None:
  """Sets the key at a dotted path."""
  *parents, last = path.split('.')
  if parents == ['encoder', 'custom']:
    run['encoder']['custom'][last] = value
    return
  try:
    check_path(run, path)
    node = run
    for part in parents:
      node = node[part]
    node[last] = _fit(path, node[last], value)
  except errors.ConfigError as e:
    raise errors.ConfigError(f'{where}{e}') from None
