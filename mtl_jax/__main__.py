"""`mtl-jax NAME ...` is `python -m mtl_jax.NAME ...`."""

import runpy
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command of the package; returns its exit code.

  Args:
    argv: the command's name and its arguments; None for those of the process.
  """
  name, *rest = sys.argv[1:] if argv is None else argv
  sys.argv = [name, *rest]
  try:
    runpy.run_module(f'mtl_jax.{name}', run_name='__main__', alter_sys=True)
  except SystemExit as e:
    return int(e.code or 0)
  return 0


if __name__ == '__main__':
  sys.exit(main())
