"""Predicts with what was trained: reads a file, and writes it with a column for each task.

  python -m mtl_jax.predict WORKDIR[/VARIANT[/seed_K]] [INPUT] > OUTPUT

INPUT is a file such as those of training, in any of their formats; the output is of the same format
and has the same rows in the same order, with the predictions as new columns. Without INPUT, or with
'-', texts come from standard input, one a line, and JSON Lines go out as they come.

Exit codes:
    0  all is predicted
    1  an unexpected error
    2  the command line is wrong, or the run does not have what it asks for
    3  the input is malformed, or cannot be read
    4  WORKDIR holds no trained run, or the output cannot be written
  130  interrupted (Ctrl-C)
"""

import argparse
import collections
import contextlib
import itertools
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_jax import errors, memory, trained
from mtl_jax.config import command_line
from mtl_jax.data import described, formats

_SHOWN = 10  # malformed rows that are told of


def predict_file(
  model: trained.Trained,
  path: str | Path,
  out: Any,
  *,
  tasks: Sequence[str] = (),
  probabilities: bool = False,
  file: str = '',
  reading: formats.Reading | None = None,
  skip: bool = False,
) -> tuple[int, list[formats.Fault]]:
  """Writes a file with predictions beside its columns, in bounded memory.

  Args:
    model: what was trained.
    path: the file.
    out: a path, or a stream of bytes.
    tasks: their names; (): all.
    probabilities: whether to add them, as `TASK_probabilities`.
    file: the one of the described files that `path` is like; '': found out by its columns.
    reading: how it is to be read; None: as `file`.
    skip: malformed rows are left out of the output, in place of an error.

  Returns:
    the number of rows written, and the malformed ones.

  Raises:
    ConfigError: no such task or file.
    DataError: a row is malformed, or the file cannot be read.
  """
  columns = Columns(model, file)
  how = reading or columns.reading
  chosen = tuple(tasks) or model.tasks
  new = list(chosen)
  if probabilities:
    new += [f'{task}_probabilities' for task in chosen if model.model.task(task).rules.discrete]
  faults: list[formats.Fault] = []
  kept: collections.deque[formats.Record] = collections.deque()  # read, and not yet written

  def examples() -> Iterator[dict[str, Any]]:
    for item in formats.read(path, how):
      fault = item if isinstance(item, formats.Fault) else None
      if not isinstance(item, formats.Fault):
        try:
          example = columns.example(item.fields)
          kept.append(item)
          yield example
        except errors.ConfigError as error:
          raise errors.ConfigError(f'{path}: {error}') from None
        except ValueError as error:
          fault = formats.Fault(str(path), item.place, str(error), '')
      if fault is not None:
        faults.append(fault)
        if not skip:
          raise errors.DataError(
            f'{path}, {fault.place}: {fault.reason}. Mend it, or leave such rows out by '
            '--on_error=skip'
          )

  count = 0
  with formats.writer(out, path, how, new) as writer:
    found = model.stream(examples(), chosen, probabilities=probabilities, where=str(path))
    for row in found:
      writer.write(kept.popleft(), _values(row))
      count += 1
  return count, faults


class Columns:
  """Makes examples of the rows of a file: those of a run's files, or by the fields of its input."""

  def __init__(self, model: trained.Trained, file: str = ''):
    self._model = model
    self._source = model.source if isinstance(model.source, described.Described) else None
    self._file = file
    if file and (self._source is None or file not in self._source.files):
      names = self._source.files if self._source else ()
      raise errors.ConfigError(f'--file: no file {file!r} in the run{errors.nearest(file, names)}')

  @property
  def reading(self) -> formats.Reading:
    """How the file that new ones are like is read."""
    if self._source is None:
      return formats.Reading()
    name = self._file or next(iter(self._source.files))
    return described.reading(self._source.files[name])

  def example(self, fields: Mapping[str, Any]) -> dict[str, Any]:
    """One row as an example; ValueError for one that cannot be read."""
    if self._source is None:
      spec = self._model.serving.input
      if spec.field not in fields:
        raise ValueError(f'no column {spec.field!r}{errors.nearest(spec.field, fields)}')
      value = fields[spec.field]
      if spec.kind == 'words' and isinstance(value, str):
        value = value.split()
      example = {spec.field: value}
      if spec.pair:
        example[spec.pair] = fields.get(spec.pair) or ''
      return example
    if not self._file:
      self._file = self._source.file_with(fields)
    return self._source.example(self._file, fields)


def _values(row: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  values = {task: found['label'] for task, found in row.items()}
  for task, found in row.items():
    if 'probabilities' in found:
      values[f'{task}_probabilities'] = found['probabilities']
  return values


def predict_lines(
  model: trained.Trained, lines: Iterator[str], tasks: Sequence[str], probabilities: bool
) -> Iterator[str]:
  """Texts, one a line, to JSON Lines; a line is predicted when it has come."""
  for number, line in enumerate(lines, start=1):
    text = line.rstrip('\r\n')
    if not text.strip():
      raise errors.DataError(f'standard input, line {number}: it is empty')
    (found,) = model.predict([text], tasks, probabilities=probabilities)
    yield json.dumps({'text': text, **_values(found)}, ensure_ascii=False)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns its exit code, with the reason on stderr: see `--help`."""
  arguments = _parser().parse_args(argv)
  memory.keep_freed()
  logging.disable(logging.INFO)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      warnings.filterwarnings('default', category=UserWarning, module='mtl_jax')
      return _run(arguments)
  except KeyboardInterrupt:
    return 130
  except BrokenPipeError:  # whoever reads has enough
    sys.stderr.close()
    return 0
  except OSError as e:
    print(f'error: {arguments.output or "standard output"}: {e.strerror or e}', file=sys.stderr)
    return 4
  except tuple(command_line.EXIT_CODES) as e:
    print(f'error: {e}', file=sys.stderr)
    return command_line.exit_code(e)


def _run(arguments: argparse.Namespace) -> int:
  tasks = tuple(itertools.chain(*(given.split(',') for given in arguments.task)))
  seeds = None
  if arguments.seeds:
    seeds = 'all' if arguments.seeds == 'all' else arguments.seeds.split(',')
  model = trained.load(arguments.workdir, variant=arguments.variant, seeds=seeds)
  for task in tasks:
    if task not in model.tasks:
      raise errors.ConfigError(f'--task: no task {task!r}{errors.nearest(task, model.tasks)}')
  if arguments.input in ('', '-'):
    if model.serving.input.kind == 'array':
      raise errors.ConfigError('this model reads numbers: give a file with them as INPUT')
    for line in predict_lines(model, iter(sys.stdin.readline, ''), tasks, arguments.probabilities):
      print(line, flush=True)
    return 0
  reading = formats.Reading(format=arguments.format) if arguments.format else None
  count, faults = predict_file(
    model,
    arguments.input,
    Path(arguments.output) if arguments.output else sys.stdout.buffer,
    tasks=tasks,
    probabilities=arguments.probabilities,
    file=arguments.file,
    reading=reading,
    skip=arguments.on_error == 'skip',
  )
  with contextlib.suppress(BrokenPipeError):
    sys.stdout.flush()
  for fault in faults[:_SHOWN]:
    print(f'left out: {fault.path}, {fault.place}: {fault.reason}', file=sys.stderr)
  if faults:
    print(f'{count:,} rows predicted, {len(faults):,} malformed ones left out', file=sys.stderr)
  return 0


def _parser() -> argparse.ArgumentParser:
  description, _, rest = (__doc__ or '').partition('\n\n')
  parser = argparse.ArgumentParser(
    prog='python -m mtl_jax.predict',
    description=description,
    epilog=rest,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('workdir', metavar='WORKDIR', help='a run, or a directory with runs')
  add('input', metavar='INPUT', nargs='?', default='', help='a file; - or none: standard input')
  add('--task', action='append', default=[], metavar='A,B', help='these tasks only')
  add('--probabilities', action='store_true', help='add the columns TASK_probabilities')
  add('--variant', default='', metavar='NAME', help='which, where WORKDIR has several')
  add('--seeds', default='', metavar='K,L', help="these seeds, averaged; 'all'")
  add('--output', '-o', default='', metavar='FILE', help='written whole or not at all')
  add('--file', default='', metavar='NAME', help='the file of dataset.files that INPUT is like')
  add('--format', default='', metavar='NAME', help='of INPUT; by its ending where not given')
  add('--on_error', choices=('stop', 'skip'), default='stop', help='at malformed rows')
  return parser


if __name__ == '__main__':
  sys.exit(main())
