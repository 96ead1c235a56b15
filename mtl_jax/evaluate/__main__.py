"""Evaluates a trained run: metrics with intervals, tests against other runs, slices, its errors.

  python -m mtl_jax.evaluate WORKDIR[/VARIANT[/seed_K]] [--split test] [--files OTHER.csv]

The examples are those of a split of the data set that the run was trained on, or labelled files
like its own. Intervals are of 95%, over resampled examples; --against runs are compared on the same
examples, by approximate randomization. --output keeps all of it, with confusion matrices and
reliability diagrams; --errors lists what was predicted wrongly, the greatest losses first.

Exit codes: 0 evaluated; 2 the command line is wrong; 3 the data are missing or malformed; 4 there
is no trained run, or the output cannot be written.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console

from mtl_jax import errors, evaluation, files, memory, trained
from mtl_jax.config import command_line
from mtl_jax.data import described
from mtl_jax.evaluation import judgement


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns its exit code, with the reason on stderr: see `--help`."""
  arguments = _parser().parse_args(argv)
  memory.keep_freed()
  output = arguments.output or arguments.errors or 'standard output'
  return command_line.quietly(lambda: _run(arguments), output)


def _run(arguments: argparse.Namespace) -> int:
  seeds = command_line.chosen_seeds(arguments.seeds)
  model = trained.load(arguments.workdir, variant=arguments.variant, seeds=seeds)
  keep = [arguments.slice] if arguments.slice else []
  if arguments.files:
    if not isinstance(model.source, described.Described):
      raise errors.ConfigError(
        f'--files: this run was trained on {model.source.name!r}, which is no described files; '
        'give --split'
      )
    where = ', '.join(arguments.files)
    examples = model.source.read_other(arguments.files, arguments.file, keep)
  else:
    where = f'the {arguments.split} split'
    examples = evaluation.examples_of(model, arguments.split, keep)
  judged = evaluation.judge(model, examples, where)
  others = {}
  for path in arguments.against:
    other = trained.load(path)
    missing = [t for t in other.tasks if t not in judged]
    others[path] = evaluation.judge(other, examples, where)
    if len(missing) == len(other.tasks):
      raise errors.ConfigError(f'--against={path}: it has none of the tasks {", ".join(judged)}')
  found = judgement.Judgement(
    f'{arguments.workdir}, {where}', judged, others, len(examples), arguments.samples
  )
  console = rich.console.Console(width=None if sys.stdout.isatty() else 110)
  sliced = judgement.slices(judged, arguments.slice, examples) if arguments.slice else {}
  for table in judgement.tables(found, sliced):
    console.print(table, markup=False)
  if arguments.output:
    _write(Path(arguments.output), judgement.output(found, sliced, model))
  if arguments.errors:
    _write(Path(arguments.errors), _errors(model, judged, examples, arguments.most))
  return 0


def _errors(
  model: trained.Trained,
  judged: Mapping[str, evaluation.Judged],
  examples: Sequence[Mapping[str, Any]],
  most: int,
) -> dict[str, bytes]:
  """`errors_TASK.jsonl` -> its content: the greatest losses first."""
  made = {}
  spec = model.serving.input
  for task, one in judged.items():
    labels = evaluation.labels_of(model, task, examples)
    lines = []
    for error in one.worst(most, labels):
      example = examples[error.example]
      shown = {key: example[key] for key in (spec.field, spec.pair) if key and key in example}
      row = {key: v.tolist() if hasattr(v, 'tolist') else v for key, v in shown.items()}
      row |= {'label': error.label, 'predicted': error.predicted, 'loss': round(error.loss, 6)}
      lines.append(json.dumps(row, ensure_ascii=False) + '\n')
    made[f'errors_{task}.jsonl'] = ''.join(lines).encode()
  return made


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in contents.items():
    files.write(folder / name, content)
  print(f'wrote {", ".join(contents)} to {folder}')


def _parser() -> argparse.ArgumentParser:
  description, _, rest = (__doc__ or '').partition('\n\n')
  parser = argparse.ArgumentParser(
    prog='python -m mtl_jax.evaluate',
    description=description,
    epilog=rest,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command_line.add_run(parser)
  add = parser.add_argument
  add('--split', default='test', metavar='NAME', help='test, validation or train')
  add('--files', nargs='+', default=[], metavar='FILE', help='labelled files, in place of a split')
  add('--file', default='', metavar='NAME', help='the file of dataset.files that --files are like')
  add('--against', action='append', default=[], metavar='RUN', help='compare with it; repeatable')
  add('--slice', default='', metavar='COLUMN', help='main metrics for each value of a column')
  add('--samples', type=int, default=1000, metavar='N', help='resamples of an interval or test')
  add('--output', default='', metavar='DIR', help='tables, evaluation.json, PNGs')
  add('--errors', default='', metavar='DIR', help='errors_TASK.jsonl')
  add('--most', type=int, default=100, metavar='N', help='errors of a task')
  return parser


if __name__ == '__main__':
  sys.exit(main())
