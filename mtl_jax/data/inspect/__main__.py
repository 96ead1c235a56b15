"""Shows what is understood of a config's data: kinds, classes, lengths, gaps, splits, examples.

  python -m mtl_jax.data.inspect --config=FILE [--variants=A] [--html=FILE.html]

Any key of the config can be changed on the command line, as in `mtl_jax.train`. The data are read
and encoded as for training; nothing is trained. With --html the same goes to a page.

Exit codes: 0 shown; 2 the command line or the config is wrong; 3 the data are missing or malformed;
4 the page cannot be written.
"""

import io
import pathlib
import sys
from collections.abc import Sequence

import rich.console
import rich.text

from mtl_jax import config as config_lib
from mtl_jax import errors, files
from mtl_jax.build import start
from mtl_jax.config import command_line
from mtl_jax.data import inspect, sources


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  words = list(sys.argv if argv is None else argv)
  page = [word.split('=', 1)[1] for word in words if word.startswith('--html=')]
  words = [word for word in words if not word.startswith('--html=')]
  html = page[0] if page else ''
  return command_line.quietly(lambda: _run(words, html), f'--html={html}')


def _run(words: Sequence[str], page: str) -> int:
  arguments = command_line.parse(words, __doc__ or '', needs_workdir=False)
  if arguments is None:
    return 0
  console = rich.console.Console(width=None if sys.stdout.isatty() else 110)
  run = config_lib.resolve(arguments.config, arguments.variants)[0]
  with errors.as_config_errors():
    data = start.load_data(run)
  source = sources.of(run['dataset'], run['tasks'])
  found = inspect.look(source, data, run['dataset']['max_length'])
  shown = list(inspect.tables(found))
  for part in shown:
    console.print(part, markup=False)
  if page:
    record = rich.console.Console(record=True, width=140, file=io.StringIO())
    for part in shown:
      record.print(part, markup=False)
    files.write(pathlib.Path(page), record.export_html())
    console.print(rich.text.Text(f'wrote {page}'))
  return 0


if __name__ == '__main__':
  sys.exit(main())
