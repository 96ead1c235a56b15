"""What a config says of files and of the columns that are tasks: keys, defaults, what fits them."""

from collections.abc import Mapping
from typing import Any

from mtl_jax import errors
from mtl_jax.plain import Plain, is_int, is_number, is_section

FILE: Plain = {
  # A path, a list of them, or a pattern with * and ?; relative ones start where the command does.
  'train': (),
  # The same; or the share of the training examples that is held out.
  'validation': 0.1,
  'test': 0.1,
  'split': '',  # a column that names the split of each row: train, validation (dev, valid) or test
  'stratify': '',  # a column whose values have the same share of every held-out split
  'group': '',  # a column: rows of one value are all in one split
  'seed': 0,  # of what is held out
  # The column that is read; two columns of texts are a pair; for numbers a list, or patterns.
  'input': (),
  'input_kind': '',  # text, pair, words, numbers or array; '': as the values tell
  'format': '',  # '': by the ending of the name
  'encoding': '',  # '': UTF-8, or UTF-16 with a byte order mark
  'delimiter': '',  # between the fields of a line; '': as the header tells
  'quote': '"',  # around fields; '': nothing, and " is a character like others
  'columns': (),  # names of the columns, where the file does not have them
  'data_dir': '',  # of data sets of TFDS, 'tfds:NAME:SPLIT'
  'missing': (),  # texts that stand for no label or no number, beside empty ones
  'on_error': 'stop',  # 'skip' leaves malformed lines out, and counts them in the results
}
"""The keys of `dataset.files.NAME` and their defaults."""

COLUMN: Plain = {
  'files': (),  # names in dataset.files; (): the only one
  'column': '',  # '': called like the task
  'kind': '',  # '': as the values tell
  'labels': (),  # the classes in order, where others are an error; (): those that occur
  'metrics': (),  # the main one first; (): the usual ones of the kind
  'separator': ',',  # between the labels in a field of a kind with several
}
"""The keys of `tasks.NAME` that say which column a task is, and their defaults."""

INPUT_KINDS = ('text', 'pair', 'words', 'numbers', 'array')
"""What can be read: a text, two of them, a list of words, columns of numbers, an array."""

ROLES = ('train', 'validation', 'test')
"""The splits."""


def file_options(name: str, given: Any) -> Plain:
  """Returns the options of a file, whole.

  Raises:
    ConfigError: a key that does not exist, a value that does not fit, or no file to train on.
  """
  where = f'dataset.files.{name}'
  if not is_section(given):
    raise errors.ConfigError(
      f"{where}: need a section with keys, such as {{'train': 'a.csv', 'input': 'text'}}, not "
      f'{given!r}'
    )
  options = dict(FILE)
  for key, value in given.items():
    if key not in FILE:
      raise errors.ConfigError(f'{where}: no key {key!r}{errors.nearest(key, FILE)}')
    options[key] = _fit(f'{where}.{key}', key, value)
  if not options['train']:
    raise errors.ConfigError(f'{where}.train: name the file with the training examples')
  if not options['input']:
    raise errors.ConfigError(f'{where}.input: name the column that is read')
  for key, valid in (('on_error', ('stop', 'skip')), ('input_kind', ('', *INPUT_KINDS))):
    if options[key] not in valid:
      near = errors.nearest(options[key], filter(None, valid))
      raise errors.ConfigError(f'{where}.{key}: no {options[key]!r}{near}')
  if options['quote'] not in ('', '"'):
    raise errors.ConfigError(f"{where}.quote: need '\"', or '' for none: {options['quote']!r}")
  _check_splits(where, options)
  return options


def _fit(where: str, key: str, value: Any) -> Any:
  base = FILE[key]
  if key in ROLES and is_number(value):
    if key == 'train' or not 0 <= value < 1:
      need = 'a path' if key == 'train' else 'a path, or a share from 0 to below 1'
      raise errors.ConfigError(f'{where}: need {need}, not {value}')
    return float(value)
  if key in ROLES or isinstance(base, tuple):
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, tuple | list) or not all(isinstance(v, str) and v for v in values):
      raise errors.ConfigError(f'{where}: need a text or a list of texts, not {value!r}')
    return tuple(values)
  if is_int(base):
    if not is_int(value) or value < 0:
      raise errors.ConfigError(f'{where}: need an integer from 0, not {value!r}')
    return value
  if not isinstance(value, str):
    raise errors.ConfigError(f'{where}: need a text, not {value!r}')
  return value


def _check_splits(where: str, options: Mapping[str, Any]) -> None:
  shares = [options[role] for role in ROLES[1:] if is_number(options[role])]
  if sum(shares) >= 1:
    raise errors.ConfigError(f'{where}: validation and test are to be held out, and leave nothing')
  if options['split'] and len(shares) < 2:
    raise errors.ConfigError(
      f'{where}.split: a column names the splits, so that validation and test have no files'
    )
  if options['stratify'] and options['group']:
    raise errors.ConfigError(f'{where}: stratify or group, not both')
