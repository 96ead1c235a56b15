"""Reads finished runs and writes their tables and plots; never trains, evaluates or changes one."""

import argparse
import sys
from collections.abc import Sequence

from mtl_jax import report
from mtl_jax.errors import WorkdirError

_DESCRIPTION = """\
Compare finished runs: tables (terminal, Markdown, LaTeX, CSV) with mean and 95% interval over
seeds, the change against single-task runs (Δm), published numbers beside ours, and plots.
Reads results.json and metrics.jsonl; never trains or changes a run."""

_EPILOG = """\
examples:
  python -m mtl_jax.report runs/quickstart
  python -m mtl_jax.report runs/a runs/b --out=report --format=tex --digits=1

exit codes: 0 reported; 1 no finished run, unreadable or unfitting runs, or unwritable output;
2 wrong arguments"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m mtl_jax.report',
    description=_DESCRIPTION,
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('dirs', nargs='+', metavar='DIR', help='directory with runs in or below it')
  parser.add_argument('--out', metavar='DIR', help='where to write (default: the first DIR)')
  parser.add_argument(
    '--format',
    action='append',
    choices=report.FORMATS,
    help='a table file to write; may be repeated (default: all three)',
  )
  parser.add_argument(
    '--split',
    choices=('test', 'validation'),
    help='default: test, or validation where a run has no results on test',
  )
  parser.add_argument(
    '--digits', type=int, choices=range(7), default=2, help='decimals of percentages (default: 2)'
  )
  parser.add_argument(
    '--all-metrics', action='store_true', help='every metric of each task, not only the main one'
  )
  parser.add_argument(
    '--costs', action='store_true', help='also parameters (millions) and ms a training step'
  )
  parser.add_argument(
    '--branches', action='store_true', help='also the trees that runs with sharing.ltb found'
  )
  parser.add_argument(
    '--verdicts',
    action='store_true',
    help="all that the tasks' gradients say of conflicts and scales, not only a line for each run",
  )
  parser.add_argument('--no-plots', action='store_true', help='write tables only')
  args = parser.parse_args(argv)
  try:
    report.report(
      args.dirs,
      args.out,
      plots=not args.no_plots,
      split=args.split,
      formats=tuple(dict.fromkeys(args.format or report.FORMATS)),
      digits=args.digits,
      all_metrics=args.all_metrics,
      costs=args.costs,
      branches=args.branches,
      verdicts=args.verdicts,
    )
  except WorkdirError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
