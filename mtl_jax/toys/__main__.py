"""Runs published toy problems, on which a method's behaviour is known; tables and plots."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

from mtl_jax import errors, files, optim, toys

_REACHED = 0.2
_SLOW = 'gradnorm_regression_10'

_DESCRIPTION = """\
Run balancing methods on the toy problems of their papers: prints where each run ended, and draws
the ways there, a row a method and a column a problem. Needs no data and no network."""

_EPILOG = f"""\
examples:
  python -m mtl_jax.toys
  python -m mtl_jax.toys --methods sum_tasks,pcgrad,mgda --problems nash_2d,fonseca --out out.png

Without --problems all run but {_SLOW}, whose ten tasks take long.
All methods on these take about five minutes on two cores.

exit codes: 0 done; 1 the picture cannot be written; 2 wrong arguments"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m mtl_jax.toys',
    description=_DESCRIPTION,
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--out', type=Path, default=Path('toys.png'), metavar='FILE', help='default: toys.png'
  )
  parser.add_argument(
    '--methods', metavar='A,B', type=_names, help='default: every method of mtl_jax.optim'
  )
  parser.add_argument(
    '--problems', metavar='X,Y', type=_names, help=f'of {", ".join(toys.PROBLEMS)}'
  )
  parser.add_argument(
    '--steps-scale',
    type=_positive,
    default=1.0,
    metavar='S',
    help='run S times the published number of steps (default: 1)',
  )
  args = parser.parse_args(argv)
  methods = args.methods or list(optim.METHODS)
  problems = args.problems or [name for name in toys.PROBLEMS if name != _SLOW]
  out = args.out.expanduser()
  try:
    _known('method', methods, optim.METHODS)
    _known('toy problem', problems, toys.PROBLEMS)
    if out.suffix != '.png':
      raise errors.ConfigError(f'--out: {str(out)!r} must end in .png')
    with _replaced(out) as file:
      file.write(_run([toys.get(name) for name in problems], methods, args.steps_scale))
    print(f'Wrote {out}')
  except (errors.ConfigError, errors.WorkdirError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2 if isinstance(error, errors.ConfigError) else 1
  return 0


def _run(problems: Sequence[toys.Problem], methods: Sequence[str], scale: float) -> bytes:
  """Runs every method on every problem, prints where they ended, and returns the picture."""
  from mtl_jax.toys import _plots  # matplotlib is slow to import, and --help does without

  console = rich.console.Console()
  if not console.is_terminal:
    console = rich.console.Console(width=1000)
  results: dict[tuple[str, str], toys.Trajectory | str] = {}
  with rich.progress.Progress(
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeRemainingColumn(),
    console=console,
    transient=True,
    disable=not console.is_terminal,
  ) as progress:
    task = progress.add_task('', total=len(methods) * len(problems))
    for method in methods:
      begin = time.monotonic()
      for problem in problems:
        progress.update(task, description=f'{method} on {problem.name}')
        steps = max(1, round(problem.steps * scale))
        results[method, problem.name] = _try(problem, method, steps)
        progress.advance(task)
      console.print(f'{method}: {time.monotonic() - begin:.1f} s', highlight=False)
  for problem in problems:
    what, headers = _columns(problem)
    console.print(f'\n{problem.name}: {what}', highlight=False, style='bold')
    console.print(problem.citation, highlight=False, style='dim')
    console.print(_table(problem, headers, methods, results))
    for method in methods:
      if isinstance(reason := results[method, problem.name], str):
        console.print(reason, highlight=False, markup=False, style='dim')
  console.print(f'* within {_REACHED} of the Pareto set', highlight=False, style='dim')
  return _plots.grid(methods, problems, results)


def _try(problem: toys.Problem, method: str, steps: int) -> toys.Trajectory | str:
  """The run, or why a method does not take the problem, such as its number of tasks."""
  try:
    return toys.run(problem, problem.method(method), steps=steps)
  except ValueError as error:
    if not str(error).startswith(f'{method}:'):
      raise
    return str(error)


def _table(
  problem: toys.Problem,
  headers: Sequence[str],
  methods: Sequence[str],
  results: dict[tuple[str, str], toys.Trajectory | str],
) -> rich.table.Table:
  out = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
  out.add_column('')
  for header in headers:
    out.add_column(header, justify='right')
  for method in methods:
    way = results[method, problem.name]
    if isinstance(way, str):
      out.add_row(method, *['-' for _ in headers])
    else:
      out.add_row(method, *_cells(problem, way))
  return out


def _columns(problem: toys.Problem) -> tuple[str, list[str]]:
  if problem.box is not None:
    return 'last (x1, x2), by start', [_pair(start) for start in problem.starts]
  if problem.pareto_set is not None:
    return 'last (f1, f2), by start', [f'start {i + 1}' for i in range(len(problem.starts))]
  tasks = [f'task {i + 1}' for i in range(len(problem.lower))]
  return 'last loss relative to the first', ['mean', *tasks]


def _cells(problem: toys.Problem, way: toys.Trajectory) -> list[rich.text.Text]:
  losses = np.asarray(way.losses)
  if problem.pareto_set is None:
    relative = losses[0, -1] / losses[0, 0]
    return [rich.text.Text(f'{value:.3f}') for value in (relative.mean(), *relative)]
  assert way.points is not None
  points = np.asarray(way.points[:, -1])
  shown = points if problem.box is not None else losses[:, -1]
  reached = toys.distance(problem, points) < _REACHED
  return [
    rich.text.Text(f'{_pair(values)}{"*" if near else " "}', 'bold green' if near else '')
    for values, near in zip(shown, reached, strict=True)
  ]


def _pair(values: Iterable[float]) -> str:
  shown = (f'{value:.2f}' if abs(value) < 1000 else f'{value:.0e}' for value in values)
  return ', '.join('0.00' if text == '-0.00' else text for text in shown)


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
  """A file beside `path` that takes its place when all went well; made at once, as a check."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as file:
      yield file
  except OSError as error:
    raise errors.WorkdirError(
      f'cannot write {path}: {error.strerror}; write elsewhere with --out'
    ) from error


def _known(what: str, names: Sequence[str], choices: Iterable[str]) -> None:
  for name in names:
    if name not in choices:
      raise errors.ConfigError(f'unknown {what} {name!r}{errors.nearest(name, choices)}')


def _names(text: str) -> list[str]:
  return list(dict.fromkeys(name.strip() for name in text.split(',') if name.strip()))


def _positive(text: str) -> float:
  value = float(text)
  if not 0 < value < float('inf'):
    raise argparse.ArgumentTypeError(f'must be positive, not {text}')
  return value


if __name__ == '__main__':
  sys.exit(main())
