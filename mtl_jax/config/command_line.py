"""Command lines: flags, overrides of the config, and exit codes."""

import dataclasses
import importlib.util
import pathlib
import re
import traceback
from collections.abc import Sequence

from absl import flags
from ml_collections import config_dict, config_flags

from mtl_jax import config as config_lib
from mtl_jax import errors, plain
from mtl_jax.config import shipped

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
  --config=mtl_jax:NAME        a config that ships with the package
  --config.KEY=VALUE           changes a key of the config
  --workdir=DIR                where the runs are kept; required
  --variants=A,B               these variants only
  --help, --helpshort          this text, or the flags alone

environment:
  MTL_JAX_KEEP_MEMORY=0        on a CPU, memory that a step frees goes back to the system: less of
                               it is held, and steps are slower (on Linux with glibc)
"""


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
  path, rest = _take_config(argv)
  config = load(path)
  found = [re.match(r'--?(?:no)?config\.([^=]*)', arg) for arg in rest[1:]]
  overrides = [match[1] for match in found if match]
  for key in overrides:
    config_lib.check_path(config, key)
  values = flags.FlagValues()
  if needs_workdir:
    flags.DEFINE_string('workdir', None, '', flag_values=values)
  flags.DEFINE_list('variants', [], '', flag_values=values)
  try:
    config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=rest)
    left = values(rest)[1:]
    given = values['workdir'].value if needs_workdir else '.'
    workdir = str(pathlib.Path(given or '').expanduser())
  except (flags.Error, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as e:
    raise errors.ConfigError(f'{e}\nSee --help.') from None
  if left:
    raise errors.ConfigError(f'unexpected argument {left[0]!r}. See --help.')
  if not given:
    raise errors.ConfigError('the flag --workdir=DIR is required. See --help.')
  variants = tuple(values['variants'].value or ())
  _check_shadowed(config, variants, overrides)
  return Arguments(config, workdir, variants)


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
  """Returns the config of `FILE.py` or `mtl_jax:NAME`, either with `:ARGUMENT` or without.

  Raises:
    ConfigError: there is no such config, or it fails; the message names the line.
  """
  name, *argument = shipped.split(path)
  spec = importlib.util.spec_from_file_location('config_file', name)
  if not pathlib.Path(name).is_file() or spec is None or spec.loader is None:
    directory = pathlib.Path(name).parent
    near = errors.nearest(pathlib.Path(name).name, (p.name for p in directory.glob('*.py')))
    raise errors.ConfigError(f'no config file {name!r}{near}')
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


def _take_config(argv: Sequence[str]) -> tuple[str, list[str]]:
  """Returns the value of --config and the arguments without it."""
  for i, arg in enumerate(argv[1:], start=1):
    name, has_value, value = arg.partition('=')
    if name in ('--config', '-config'):
      if has_value:
        return value, [*argv[:i], *argv[i + 1 :]]
      if i + 1 < len(argv):
        return argv[i + 1], [*argv[:i], *argv[i + 2 :]]
  raise errors.ConfigError('the flag --config=FILE.py is required. See --help.')
