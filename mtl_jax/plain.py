"""A config as nested dicts of numbers, strings, bools and tuples; what of it tells runs apart."""

import copy
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

Plain = dict[str, Any]
_PATHS = ('data_dir', 'manual_dir')


def plain(config: Any) -> Plain:
  """Returns a config as nested dicts, whatever it was made from."""
  return {name: plain(value) if is_section(value) else value for name, value in config.items()}


def leaves(section: Mapping[str, Any], prefix: str = '') -> Iterable[tuple[str, Any]]:
  """Yields (dotted path, value) of everything that is no section."""
  for name, value in section.items():
    if is_section(value) and value:
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def is_section(value: Any) -> bool:
  """Whether it has keys: a mapping, or a ConfigDict, which is none by type."""
  return isinstance(value, Mapping) or (hasattr(value, 'keys') and hasattr(value, 'items'))


def is_int(value: Any) -> bool:
  """An integer, and no bool."""
  return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
  """An integer or float, and no bool."""
  return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
  """A text that files and their names can hold: UTF-8 (no lone surrogates), and no NUL."""
  try:
    return isinstance(value, str) and b'\0' not in value.encode()
  except UnicodeEncodeError:
    return False


def to_json(run: Plain) -> str:
  """Returns a run's config as text; equal `portable` configs give equal texts."""
  return json.dumps(portable(run), indent=2, ensure_ascii=False) + '\n'


def portable(run: Plain) -> Plain:
  """Returns a run's config without the paths of this machine, and the variants beside it."""
  run = copy.deepcopy(run)
  run.pop('order', None)
  for key in _PATHS:
    if is_section(run.get('dataset')):
      run['dataset'].pop(key, None)
  dataset = run.get('dataset', {})
  files: Any = dataset.get('files', {}) if is_section(dataset) else {}
  for given in files.values() if is_section(files) else ():
    for key in ('train', 'validation', 'test') if is_section(given) else ():
      if isinstance(given.get(key), tuple | list):
        given[key] = [_from_here(path) for path in given[key]]
    if is_section(given):
      given.pop('data_dir', None)
  augment: Any = dataset.get('augment', {}) if is_section(dataset) else {}
  if is_section(augment) and isinstance(augment.get('synonyms'), str):
    augment['synonyms'] = pathlib.PurePath(augment['synonyms']).name
  encoder = run.get('encoder', {})
  for name, node in [('', run), *(encoder.items() if is_section(encoder) else ())]:
    # An encoder's section calls a file `vectors` or `path`; those of a user's own are its business.
    for key in ('init_from', 'vectors', 'path') if is_section(node) and name != 'custom' else ():
      if isinstance(node.get(key), str) and node[key]:
        parts = pathlib.PurePath(node[key]).parts
        node[key] = '/'.join(parts[-2:] if key == 'init_from' else parts[-1:])
  return run


def _from_here(path: Any) -> str:
  """A path as it is, if relative; else its last part: the rest is this machine's."""
  path = str(path)
  absolute = path.startswith(('~', '/')) or pathlib.PurePath(path).is_absolute()
  return pathlib.PurePath(path).name if absolute else path


def differences(old: Plain, new: Plain, most: int = 10) -> list[str]:
  """Returns `key: old -> new` for what differs in two configs read from JSON, in a few lines.

  A section that only one of them has takes one line; what is beyond `most` lines is counted.
  """
  lines = list(_differences(old, new, ''))
  more = len(lines) - most
  return lines if more <= 0 else [*lines[:most], f'and {more} more']


def _differences(old: Plain, new: Plain, prefix: str) -> Iterable[str]:
  for key in old | new:
    path, sections = f'{prefix}{key}', [is_section(side.get(key)) for side in (old, new)]
    name = f'task {key}' if prefix == 'tasks.' else path
    if all(sections):
      yield from _differences(old[key], new[key], f'{path}.')
    elif any(sections) and not (key in old and key in new):
      yield f'{name}: {"new" if key in new else "gone"}'
    elif key not in old or key not in new or old[key] != new[key]:
      before, after = (repr(side[key]) if key in side else '(absent)' for side in (old, new))
      yield f'{path}: {before} -> {after}'
