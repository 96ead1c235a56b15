"""Lists the commands, or runs one.

python -m mtl_jax [COMMAND ...]
"""

import ast
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

from mtl_jax import errors

COMMANDS = (
  *('train', 'evaluate', 'predict', 'describe', 'report', 'optim', 'toys'),
  *('data.prepare', 'data.inspect', 'data.samples'),
)
"""The modules that are commands, as in `python -m mtl_jax.COMMAND`."""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code of the command, 2 if there is no such one."""
  name, *rest = (sys.argv if argv is None else argv)[1:] or ['--help']
  if name in ('-h', '--help', 'help'):
    print(_listing())
    return 0
  if name not in COMMANDS:
    print(f'error: no command {name!r}{errors.nearest(name, COMMANDS)}', file=sys.stderr)
    return 2
  module = importlib.import_module(f'mtl_jax.{name}')
  if hasattr(module, '__path__'):
    module = importlib.import_module(f'mtl_jax.{name}.__main__')
  sys.argv = [f'python -m mtl_jax.{name}', *rest]
  return module.main()


def _listing() -> str:
  width = max(map(len, COMMANDS))
  lines = [f'  {name:<{width}}  {_about(name)}' for name in COMMANDS]
  return '\n'.join(
    ['commands, as python -m mtl_jax COMMAND or python -m mtl_jax.COMMAND, with --help:', *lines]
  )


def _about(name: str) -> str:
  """The first line of a command's documentation, without importing it."""
  spec = importlib.util.find_spec(f'mtl_jax.{name}')
  assert spec is not None
  if spec.submodule_search_locations is not None:  # a folder: its command
    spec = importlib.util.find_spec(f'mtl_jax.{name}.__main__')
    assert spec is not None
  assert spec.origin is not None
  source = pathlib.Path(spec.origin).read_text(encoding='utf-8')
  return (ast.get_docstring(ast.parse(source)) or '').split('\n')[0]


if __name__ == '__main__':
  sys.exit(main())
