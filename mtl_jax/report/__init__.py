"""Reads finished runs and writes their tables and plots; never trains, evaluates or changes one.

The command is `python -m mtl_jax.report DIR...`.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from mtl_jax import files
from mtl_jax.errors import WorkdirError
from mtl_jax.report import _render, _verdicts
from mtl_jax.report._runs import Run, Runs, experiments, load
from mtl_jax.report._table import Cell, Column, Row, Table, tables

FORMATS = ('md', 'tex', 'csv')

__all__ = ['FORMATS', 'Cell', 'Column', 'Row', 'Run', 'Runs', 'Table', 'load', 'report', 'tables']


def report(
  dirs: Iterable[str | os.PathLike[str]],
  out: str | os.PathLike[str] | None = None,
  console: Console | None = None,
  plots: bool = True,
  *,
  split: str | None = None,
  formats: Sequence[str] = FORMATS,
  digits: int = 2,
  all_metrics: bool = False,
  costs: bool = False,
  branches: bool = False,
  verdicts: bool = False,
) -> list[Table]:
  """Prints the tables of the runs below `dirs`, and writes them and their plots to `out`.

  The files are table.md, table.tex, table.csv and, where the runs have the data, curves.png,
  weights.png and cosines.png (NAME_curves.png and so on with several configs). Each is replaced
  whole, so that a reader never sees half of one.

  Args:
    dirs: directories with runs in or below them.
    out: where to write, made if it does not exist; by default the first of `dirs`.
    console: where to print; by default standard output.
    plots: whether to plot.
    split: 'test' or 'validation'; None: 'test' if every run has it, else 'validation'.
    formats: which tables to write, of 'md', 'tex' and 'csv'.
    digits: decimals of percentages; other values get two more.
    all_metrics: whether to show every metric of each task instead of the main one.
    costs: whether to show parameters and the time of a training step.
    branches: whether to print the trees that runs with `sharing.ltb` found.
    verdicts: whether to say all that the tasks' gradients tell (see `monitor.verdict`), of runs
      that logged them, rather than a line each.

  Returns:
    The tables, one for each config.

  Raises:
    WorkdirError: if there is no finished run, a run's files cannot be read or do not fit together,
      or `out` cannot be written.
  """
  roots = [_expanded(root) for root in dirs]
  runs = load(roots)
  if split is None:
    split = 'test' if all('test' in run.results for run in runs.finished) else 'validation'
  found = tables(runs, split, all_metrics, costs)
  console = console or _console()
  for table in found:
    console.print(_render.terminal(table, digits, console))
    for note in table.notes:
      console.print(note, markup=False, highlight=False, style='dim')
    console.print()
  groups = experiments(runs.finished)
  said = _verdicts.lines(groups, verdicts)
  for line in ['What the gradients of the tasks say:', *said, ''] if said else []:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
  if branches:
    from mtl_jax.report import _branches  # needs JAX, without which tables are there sooner

    for line in _branches.lines(runs.finished) or ['No run has a learned tree (sharing.ltb).']:
      console.print(line, markup=False, highlight=False, soft_wrap=True)
  render = {
    'md': lambda: _render.markdown(found, digits),
    'tex': lambda: _render.latex(found, digits),
    'csv': lambda: _render.comma_separated(found),
  }
  written = {f'table.{name}': render[name]().encode() for name in formats}
  if plots:
    from mtl_jax.report import _plots  # matplotlib is slow to import, and tables do without

    for group in groups:
      prefix = re.sub(r'[^\w.-]+', '_', group.name) + '_' if len(groups) > 1 else ''
      written |= {f'{prefix}{name}.png': data for name, data in _plots.plots(group).items()}
  folder = _expanded(out) if out is not None else roots[0]
  for name, data in written.items():
    _write(folder, name, data)
  if written:
    where = str(folder).encode(errors='backslashreplace').decode()
    console.print(f'Wrote {", ".join(written)} to {where}', markup=False, highlight=False)
  return found


def _expanded(path: str | os.PathLike[str]) -> Path:
  try:
    return Path(path).expanduser()
  except RuntimeError as error:
    raise WorkdirError(f'{path}: {error}') from error


def _console() -> Console:
  """Returns a console that wraps at the terminal's edge, and not at all in a file or a pipe."""
  console = Console()
  return console if console.is_terminal else Console(width=1000)


def _write(folder: Path, name: str, data: bytes) -> None:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / name, data)
  except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
    reason = getattr(error, 'strerror', None) or error
    raise WorkdirError(
      f'cannot write {name} in {folder}: {reason}; write elsewhere with --out'
    ) from error
