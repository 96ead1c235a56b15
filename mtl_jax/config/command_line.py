"""Command lines: flags, overrides of the config, and exit codes."""

import argparse
import ast
import contextlib
import dataclasses
import importlib.util
import logging
import os
import pathlib
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import config_dict

from mtl_jax import config as config_lib
from mtl_jax import errors, files, plain
from mtl_jax.config import fit, shipped, toml
from mtl_jax.data import described

EXIT_CODES: dict[type[Exception], int] = {
  errors.ConfigError: 2,
  errors.DataError: 3,
  errors.WorkdirError: 4,
  errors.NonFiniteError: 5,
}
"""What the command ends with for each error that a user can cause."""

_FLAGS_HELP = """\
flags:
  --config=FILE.py[:ARGUMENT]  the file defines get_config([argument]); required
  --config=FILE.toml           or one with the same keys in TOML
  --config=mtl_jax:NAME        a config that ships with the package
  --config.KEY=VALUE           changes a key of the config
  --workdir=DIR                where the runs are kept; required
  --variants=A,B               these variants only
  --help, --helpshort          this text, or the flags alone

environment:
  MTL_JAX_KEEP_MEMORY=0        on a CPU, memory that a step frees goes back to the system: less of
                               it is held, and steps are slower (on Linux with glibc)
"""
_HELP = ('help', 'helpfull', 'helpshort', 'h')
_BOOLS = {
  **dict.fromkeys(('true', 't', 'yes', '1'), True),
  **dict.fromkeys(('false', 'f', 'no', '0'), False),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
  """The parsed command line: the config with its overrides, and the other flags."""

  config: config_dict.ConfigDict
  workdir: str
  variants: tuple[str, ...]


def parse(argv: Sequence[str], description: str, *, needs_workdir: bool = True) -> Arguments | None:
  """Parses a command line.

  Args:
    argv: the program's name and its arguments.
    description: what `--help` tells.
    needs_workdir: whether there is a flag --workdir, which is required then.

  Returns:
    the arguments; None if help was asked for, and printed.

  Raises:
    ConfigError: a flag or a key of the config does not exist, or a value does not fit.
  """
  flags_help = ''.join(
    line for line in _FLAGS_HELP.splitlines(True) if needs_workdir or '--workdir' not in line
  )
  wanted = {arg.lstrip('-') for arg in argv[1:] if arg.startswith('-')} | {'h'} & set(argv[1:])
  if wanted & {'help', 'helpfull', 'h'}:
    print(f'{description}\n{flags_help}')
    return None
  if 'helpshort' in wanted:
    print(flags_help)
    return None
  flags = dict(_flags(argv[1:], ('config', 'variants', *(['workdir'] if needs_workdir else []))))
  path = flags.get('config')
  if path is None:
    raise errors.ConfigError('the flag --config=FILE.py is required. See --help.')
  config = load(path)
  overrides = {name[len('config.') :]: text for name, text in flags.items() if '.' in name}
  for key, text in overrides.items():
    _override(config, key, text)
  if needs_workdir and not flags.get('workdir'):
    raise errors.ConfigError('the flag --workdir=DIR is required. See --help.')
  try:
    workdir = str(pathlib.Path(flags.get('workdir') or '').expanduser())
  except RuntimeError as e:  # ~ of nobody
    raise errors.ConfigError(f'--workdir={flags["workdir"]}: {e}') from None
  variants = tuple(
    name.strip() for name in (flags.get('variants') or '').split(',') if name.strip()
  )
  _check_shadowed(config, variants, list(overrides))
  return Arguments(config, workdir, variants)


def _flags(arguments: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, str | None]]:
  """Yields (name, value) of `--name=value` and `--name value`; 'false' for `--noconfig.KEY`.

  The value is None where none is given: one of these names alone at the end, or `--config.KEY`
  before another flag.
  """
  left = list(arguments)
  while left:
    argument = left.pop(0)
    match = re.fullmatch(r'--?([^-=][^=]*)(?:=(.*))?', argument, re.DOTALL)
    if match is None:
      config_file = argument.endswith(('.toml', '.py'))
      meant = f'; did you mean --config={argument}?' if config_file else '.'
      raise errors.ConfigError(f'unexpected argument {argument!r}{meant} See --help.')
    name, value = match.groups()
    if name.startswith('noconfig.') and value is None:
      yield name[len('no') :], 'false'
      continue
    if name.split('.')[0] not in names or ('.' in name and not name.startswith('config.')):
      valid = [f'--{flag}' for flag in (*names, 'config.KEY', *_HELP[::2])]
      near = errors.nearest(f'--{name.split(".")[0]}', valid)
      raise errors.ConfigError(f'no flag {"--" + name!r}{near}')
    if value is None and left and (name in names or not left[0].startswith('--')):
      value = left.pop(0)
    yield name, value


def _override(config: config_dict.ConfigDict, key: str, text: str | None) -> None:
  """Sets a key of the config to what stands on the command line."""
  config_lib.check_path(config, key)
  *sections, last = key.split('.')
  node = config
  for section in sections:
    node = node[section]
  base = node[last]
  if plain.is_section(base):
    inside = ', '.join(f'--config.{key}.{name}' for name in list(base)[:3])
    raise errors.ConfigError(f'config.{key}: is a section; change one of its keys: {inside} ...')
  if text is None and not isinstance(base, bool):
    raise errors.ConfigError(f'--config.{key} needs a value: --config.{key}=VALUE')
  try:
    if sections[:2] == ['dataset', 'files'] and last in described.ROLES:
      with node.ignore_type():  # a share may become a path, and a path a share
        node[last] = _share_or_paths(text or '')
    else:
      node[last] = _convert(text or '', base) if text is not None else True
  except (ValueError, TypeError):
    raise errors.ConfigError(f'config.{key}: need {fit.describe(base)}, not {text!r}') from None


def _convert(text: str, base: Any) -> Any:
  """Returns a text as a value of the type of `base`; raises ValueError for what is none."""
  if isinstance(base, bool):
    if text.lower() not in _BOOLS:
      raise ValueError(text)
    return _BOOLS[text.lower()]
  if isinstance(base, int | float | str):
    return type(base)(text)
  if not isinstance(base, tuple | list):
    raise ValueError(text)
  try:
    value = ast.literal_eval(text or '()')
  except (ValueError, SyntaxError, MemoryError, RecursionError):  # texts without quotes
    if re.search(r'[()\[\]{}\'"]', text) and ',' in text:
      raise ValueError(text) from None
    value = tuple(text.split(','))
  items = value if isinstance(value, tuple | list) else (value,)
  if not all(isinstance(item, int | float | str | tuple | list) for item in items):
    raise ValueError(text)
  return type(base)(items)


def _share_or_paths(text: str) -> Any:
  """Returns the number that a text is, or the paths that it names."""
  try:
    return float(text)
  except ValueError:
    return _convert(text, ())


def _check_shadowed(
  config: config_dict.ConfigDict, variants: Sequence[str], overrides: Sequence[str]
) -> None:
  """Raises ConfigError for an override that a variant to be trained would undo."""
  for name, change in config_lib.plain(config.variants).items():
    for key, value in plain.leaves(change) if not variants or name in variants else ():
      if key in overrides:
        raise errors.ConfigError(
          f'--config.{key} has no effect: variant {name!r} sets {key} to {value!r}. Choose other '
          'variants with --variants, or change that one in the config.'
        )


def load(path: str) -> config_dict.ConfigDict:
  """Returns the config of `FILE.py` or `mtl_jax:NAME`, either with `:ARGUMENT` or without, or of
  `FILE.toml`.

  Raises:
    ConfigError: there is no such config, or it fails; the message names the line.
  """
  name, *argument = shipped.split(path)
  if name.endswith('.toml') and files.is_file(name):
    return toml.load(name, argument)
  spec = importlib.util.spec_from_file_location('config_file', name)
  if not files.is_file(name) or spec is None or spec.loader is None:
    raise errors.ConfigError(f'no config file {name!r}{_near(pathlib.Path(name))}')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not callable(getattr(module, 'get_config', None)):
      raise errors.ConfigError(f'{name} defines no get_config()')
    config = module.get_config(*argument)
  except errors.ConfigError:
    raise
  except (Exception, SystemExit) as e:
    lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == spec.origin]
    where = f'{name}, line {lines[-1]}' if lines else name
    raise errors.ConfigError(f'{where}: {_explain(e)}') from e
  if not isinstance(config, config_dict.ConfigDict):
    raise errors.ConfigError(
      f'{name}: get_config must return mtl_jax.config.default() with changes'
    )
  return config


def _near(path: pathlib.Path) -> str:
  """The config file beside `path` whose name is the nearest."""
  try:
    return errors.nearest(
      path.name, [p.name for p in path.parent.iterdir() if p.suffix in ('.py', '.toml')]
    )
  except OSError:  # there is no such directory, nor could there be
    return ''


def _explain(error: BaseException) -> str:
  """What went wrong in a config file; a misspelt key is told in our words."""
  text = str(error)
  key = re.search(r'^\W*(?:Key ")?(\w+)', text)
  locked = 'config is locked' in text
  if key and (locked or 'Did you mean' in text):
    fields = re.findall(r"[{ ]\\?'(\w+)\\?': ", text) if locked else config_lib.default()
    return f'no key {key[1]!r}{errors.nearest(key[1], fields)}'
  return f'{type(error).__name__}: {error}'


def exit_code(error: BaseException) -> int:
  """The exit code for one of the errors in `EXIT_CODES`."""
  return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))


def quietly(work: Callable[[], int], output: str = 'standard output') -> int:
  """Runs the work of a command that shows nothing but its result; returns its exit code.

  Errors that a user can cause become one line on stderr; warnings of libraries are not shown, and
  who closes the pipe has had enough.

  Args:
    work: returns an exit code.
    output: what is written, for messages.
  """
  before = logging.root.manager.disable
  logging.disable(logging.INFO)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      code = work()
      sys.stdout.flush()
      return code
  except KeyboardInterrupt:
    return 130
  except BrokenPipeError:
    with contextlib.suppress(OSError):  # so that Python, too, has nothing to say of it at its end
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except OSError as e:
    print(f'error: {output}: {e.strerror or e}', file=sys.stderr)
    return 4
  except tuple(EXIT_CODES) as e:
    print(f'error: {e}', file=sys.stderr)
    return exit_code(e)
  except Exception as e:
    errors.shorten(e)
    raise
  finally:
    logging.disable(before)


def add_run(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments that choose a trained run: see `chosen_seeds` for --seeds."""
  add = parser.add_argument
  add('workdir', metavar='WORKDIR', help='a run, or a directory with runs')
  add('--variant', default='', metavar='NAME', help='which, where WORKDIR has several')
  add('--seeds', default='', metavar='K,L', help="these seeds, averaged; 'all'")


def chosen_seeds(text: str) -> str | Sequence[int | str] | None:
  """What --seeds means to `trained.load`: 'all', some, or None where it is not given."""
  return (text if text == 'all' else text.split(',')) if text else None
