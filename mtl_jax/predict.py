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
import dataclasses
import gc
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mtl_jax import errors, files, memory, trained
from mtl_jax.config import command_line
from mtl_jax.data import described, formats
from mtl_jax.data.described import columns as columns_lib

_SHOWN = 10  # malformed rows that are told of


def predict_file(
  model: trained.Trained,
  path: str | Path,
  out: Any,
  *,
  tasks: Sequence[str] = (),
  probabilities: bool = False,
  file: str = '',
  format: str = '',
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
    format: of `path`; '': as its name says.
    skip: malformed rows are left out of the output, in place of an error.

  Returns:
    the number of rows written, and the malformed ones.

  Raises:
    ConfigError: no such task or file; `out` is the file that is read.
    DataError: a row is malformed, or the file cannot be read.
  """
  if not hasattr(out, 'write') and Path(out).resolve() == Path(path).resolve():
    raise errors.ConfigError(f'--output={out}: that is the input; give the output another name')
  columns = Columns(model, file)
  how = columns.reading(path)
  if format:
    how = dataclasses.replace(how, format=format)
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
          raise _malformed(fault)

  count = 0
  with formats.writer(out, path, how, new) as writer:
    for part in model.columns(examples(), chosen, probabilities=probabilities, where=str(path)):
      records = [kept.popleft() for _ in range(part.size)]
      writer.write_all(records, _named(part))
      count += part.size
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

  def reading(self, path: str | Path) -> formats.Reading:
    """How a file is read: as the one of the run that it is like."""
    if self._source is None:
      return formats.Reading()
    ways = {name: described.reading(given) for name, given in self._source.files.items()}
    if self._file or len(set(ways.values())) == 1:
      return ways[self._file or next(iter(ways))]
    for name, how in ways.items():
      with contextlib.suppress(ValueError):  # those of another file do not fit
        first = next(formats.read(path, how))
        if isinstance(first, formats.Record) and self._source.example(name, first.fields):
          self._file = name
          return how
    return next(iter(ways.values()))

  def example(self, fields: Mapping[str, Any]) -> dict[str, Any]:
    """One row as an example; ValueError for one that cannot be read."""
    if self._source is None:
      spec = self._model.serving.input
      if spec.field not in fields:
        raise ValueError(f'no column {spec.field!r}{errors.nearest(spec.field, fields)}')
      names = [spec.field, spec.pair] if spec.pair else [spec.field]
      row = dict.fromkeys(names) | dict(fields)
      found = columns_lib.read_input(row, names, 'pair' if spec.pair else spec.kind)
      return dict(zip(names, found.values(), strict=True))
    if not self._file:
      self._file = self._source.file_with(fields)
    return self._source.example(self._file, fields)


def _named(part: trained.Columns) -> dict[str, list[Any]]:
  """Columns by the names that they have in files."""
  shares = {f'{task}_probabilities': found for task, found in part.probabilities.items()}
  return part.labels | shares


def predict_lines(
  model: trained.Trained,
  lines: BinaryIO,
  out: BinaryIO,
  *,
  tasks: Sequence[str] = (),
  probabilities: bool = False,
  skip: bool = False,
) -> tuple[int, list[formats.Fault]]:
  """Writes JSON Lines for texts, one a line; a line is answered when it has come.

  Args:
    model: what was trained.
    lines: the texts in UTF-8.
    out: where the answers go.
    tasks: their names; (): all.
    probabilities: whether to add them, as `TASK_probabilities`.
    skip: lines that are no texts are left out, in place of an error.

  Returns:
    the number of texts, and what was left out.

  Raises:
    DataError: a line is empty, or not in UTF-8.
  """
  faults: list[formats.Fault] = []
  number = count = 0
  for chunk in _lines_of(lines):
    texts: list[str] = []
    fault: formats.Fault | None = None
    for line in chunk:
      number += 1
      try:
        text = line.decode('utf-8-sig' if number == 1 else 'utf-8').rstrip('\r')
        reason = '' if text.strip() else 'it is empty'
      except UnicodeDecodeError:
        reason = 'it is not in UTF-8'
      if not reason:
        texts.append(text)
        continue
      fault = formats.Fault('standard input', f'line {number}', reason, '')
      if not skip:
        break
      faults.append(fault)
    examples = map(model.example, texts)
    at = 0
    for part in model.columns(examples, tasks, probabilities=probabilities):
      columns = {'text': texts[at : at + part.size]} | _named(part)
      for row in zip(*columns.values(), strict=True):
        values = dict(zip(columns, row, strict=True))
        out.write(json.dumps(values, ensure_ascii=False).encode() + b'\n')
      at += part.size
    out.flush()
    count += len(texts)
    if fault is not None and not skip:
      raise _malformed(fault)
  return count, faults


def _lines_of(stream: BinaryIO) -> Iterator[list[bytes]]:
  """Yields the lines of a stream, as many at a time as have come; waits where there is none."""
  read = getattr(stream, 'read1', stream.read)
  rest = b''
  while part := read(1 << 16):
    *lines, rest = (rest + part).split(b'\n')
    yield lines
  if rest:
    yield [rest]


def _malformed(fault: formats.Fault) -> errors.DataError:
  return errors.DataError(
    f'{fault.path}, {fault.place}: {fault.reason}. Mend it, or leave such rows out by '
    '--on_error=skip'
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns its exit code, with the reason on stderr: see `--help`."""
  arguments = _parser().parse_args(argv)
  memory.keep_freed()
  output = arguments.output or 'standard output'
  return command_line.quietly(lambda: _run(arguments), output)


def _run(arguments: argparse.Namespace) -> int:
  tasks = tuple(itertools.chain(*(given.split(',') for given in arguments.task)))
  seeds = command_line.chosen_seeds(arguments.seeds)
  model = trained.load(arguments.workdir, variant=arguments.variant, seeds=seeds)
  gc.freeze()  # what is loaded stays: no need to look through it again as rows come and go
  for task in tasks:
    if task not in model.tasks:
      raise errors.ConfigError(f'--task: no task {task!r}{errors.nearest(task, model.tasks)}')
  options: dict[str, Any] = {
    'tasks': tasks,
    'probabilities': arguments.probabilities,
    'skip': arguments.on_error == 'skip',
  }
  with contextlib.ExitStack() as stack:
    if arguments.input in ('', '-'):
      if model.serving.input.kind == 'array':
        raise errors.ConfigError('this model reads numbers: give a file with them as INPUT')
      out = sys.stdout.buffer
      if arguments.output:
        out = stack.enter_context(files.replacing(Path(arguments.output)))
      count, faults = predict_lines(model, sys.stdin.buffer, out, **options)
    else:
      count, faults = predict_file(
        model,
        arguments.input,
        Path(arguments.output) if arguments.output else sys.stdout.buffer,
        file=arguments.file,
        format=arguments.format,
        **options,
      )
  for fault in faults[:_SHOWN]:
    print(f'left out: {fault.path}, {fault.place}: {fault.reason}', file=sys.stderr)
  if faults:
    print(f'{count:,} rows predicted, {len(faults):,} malformed ones left out', file=sys.stderr)
  if model.cut:
    print(
      f'warning: {model.cut:,} of {count:,} inputs were longer than any in training and were cut '
      f'at {model.serving.bucket_lengths[-1]} tokens',
      file=sys.stderr,
    )
  return 0


def _parser() -> argparse.ArgumentParser:
  description, _, rest = (__doc__ or '').partition('\n\n')
  parser = argparse.ArgumentParser(
    prog='python -m mtl_jax.predict',
    description=description,
    epilog=rest,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command_line.add_run(parser)
  add = parser.add_argument
  add('input', metavar='INPUT', nargs='?', default='', help='a file; - or none: standard input')
  add('--task', action='append', default=[], metavar='A,B', help='these tasks only')
  add('--probabilities', action='store_true', help='add the columns TASK_probabilities')
  add('--output', '-o', default='', metavar='FILE', help='written whole or not at all')
  add('--file', default='', metavar='NAME', help='the file of dataset.files that INPUT is like')
  add('--format', default='', metavar='NAME', help='of INPUT; by its ending where not given')
  add('--on_error', choices=('stop', 'skip'), default='stop', help='at malformed rows')
  return parser


if __name__ == '__main__':
  sys.exit(main())
