"""Lists every balancing method: what it needs, its state, its options, its paper.

python -m mtl_jax.optim [METHOD ...] [--markdown]
"""

import argparse
import inspect
import sys

import rich.console
import rich.table

from mtl_jax import errors, optim
from mtl_jax.optim import _listing


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m mtl_jax.optim', description=__doc__.split('\n', maxsplit=1)[0]
  )
  parser.add_argument('methods', nargs='*', metavar='METHOD', help='print its documentation')
  parser.add_argument('--markdown', action='store_true', help='the table as Markdown')
  arguments = parser.parse_args(argv)
  for name in arguments.methods:
    if name not in optim.METHODS:
      print(f'error: no method {name!r}{errors.nearest(name, optim.METHODS)}', file=sys.stderr)
      return 2
  for name in arguments.methods:
    function = optim.METHODS[name]
    print(f'{name}{inspect.signature(function)}\n\n{inspect.getdoc(function)}\n')
  if arguments.methods:
    return 0
  if arguments.markdown:
    print(_listing.markdown(), end='')
    return 0
  table = rich.table.Table('method', 'needs', 'state', 'options', 'paper')
  for method in _listing.methods():
    table.add_row(method.name, method.needs, method.state, method.defaults, method.paper)
  console = rich.console.Console(width=None if sys.stdout.isatty() else 200)
  console.print(table, markup=False)
  console.print('python -m mtl_jax.optim METHOD prints the documentation of one.', markup=False)
  return 0


if __name__ == '__main__':
  sys.exit(main())
