"""Trains every variant of a config with every seed, then prints their table and writes plots.

  python -m mtl_jax.train --config=configs/NAME.py[:ARGUMENT] --workdir=DIR

Each run has a directory DIR/VARIANT/seed_K with config.json, versions.json, metrics.jsonl,
tensorboard/, checkpoints/ and, when it is finished, results.json. The same command again goes on
from the last checkpoint, with exactly the numbers of a run that was never stopped; finished runs
are left as they are.

Any key of the config can be changed on the command line, after --config:

  --config.optimizer.learning_rate=1e-3  --config.balance.name=gradnorm+pcgrad  --config.seeds=0,1

Exit codes:
    0  all runs are finished
    1  an unexpected error
    2  the command line or the config is wrong
    3  the data set is missing or damaged
    4  the work directory cannot be used: another config's run, no permission, a full disk
    5  a loss or gradient became NaN or infinite; the last good checkpoint is intact
  130  interrupted (Ctrl-C, SIGINT): the state was saved after the current step
  143  terminated (SIGTERM): likewise; a second signal ends the command without saving, and so does
       the first where nothing is unsaved, as while data are prepared or the first step compiles
"""

import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging
from ml_collections import config_dict

from mtl_jax import config as config_lib
from mtl_jax import errors, memory, report
from mtl_jax.build import program as program_lib
from mtl_jax.build import ready, start
from mtl_jax.config import command_line
from mtl_jax.data import pipeline
from mtl_jax.data.described import in_memory, tables
from mtl_jax.run import console as console_lib
from mtl_jax.run import loop
from mtl_jax.run import signals as signals_lib
from mtl_jax.run import workdir as workdir_lib

Interrupted = loop.Interrupted


def run(
  config: config_dict.ConfigDict | Mapping[str, Any],
  workdir: str | os.PathLike[str],
  *,
  variants: Iterable[str] = (),
  should_stop: Callable[[], bool] = lambda: False,
  unsaved: Callable[[bool], None] = lambda _: None,
) -> list[dict[str, Any]]:
  """Trains the runs of a config that are not finished, one after the other.

  Args:
    config: `mtl_jax.config.default()` with changes.
    workdir: where the runs' directories are, or will be.
    variants: names of the variants to train; () for all.
    should_stop: asked after every step; once it is true, the state is saved and training ends.
    unsaved: told True when there may be steps that no checkpoint has, so that a process which ended
      now would have to train them again, and False when there are none.

  Returns:
    the results of all runs, as in their results.json: by variant, then by seed.

  Raises:
    ConfigError: the config is wrong; nothing was done.
    DataError: the data set is missing or damaged.
    WorkdirError: a run's directory holds another config's run, or one begun on other data, or it
      cannot be read or written.
    NonFiniteError: a loss or gradient is NaN or infinite; the last good checkpoint is intact.
    Interrupted: `should_stop` said so.
  """
  runs = config_lib.resolve(config, variants)
  directories = [_directory(workdir, single) for single in runs]
  found = [directory.check() for directory in directories]
  results = []
  prepared: dict[str, _Prepared] = {}
  console = console_lib.for_process(len(runs), jax.process_index())
  with console, console_lib.log_to(console):
    for single, directory, result in zip(runs, directories, found, strict=True):
      variant = single['variant']
      if result is not None:
        console.finish(f'{variant} seed {single["seed"]} was finished before: {_summary(result)}')
        changed = tables.newer(single['dataset'].get('files', {}), directory.path / 'results.json')
        if changed:
          console.message(
            f'{", ".join(changed)}: written after that run was finished, whose results are of what '
            'was there before; choose another workdir to train on what is there now'
          )
      else:
        if should_stop():
          raise Interrupted(f'{variant} seed {single["seed"]}: stopped before it began')
        if variant not in prepared:
          console.message(f'{variant}: preparing data')
          prepared = {variant: _prepare(single)}  # the last variant's is no longer needed
        data = prepared[variant].data.with_seed(single['seed'])
        with directory.open(prepared[variant].identity) as result:
          if result is None:  # no other command has finished it meanwhile
            with directory.guard():
              data.write(directory.path)
            training = loop.Training(
              single,
              data,
              prepared[variant].program,
              directory,
              console,
              prepared[variant].steps,
              should_stop,
              unsaved,
            )
            result = training.train()
        console.finish(_summary(result))
      results.append(result)
  return results


def fit(
  config: config_dict.ConfigDict | Mapping[str, Any],
  workdir: str | os.PathLike[str],
  data: Any,
  *,
  variants: Iterable[str] = (),
) -> list[dict[str, Any]]:
  """Trains on rows in memory: `run`, with the rows as files in the work directory.

  They are kept as WORKDIR/data/NAME.SPLIT.jsonl (or .npz, where a field is an array), so that a
  second call goes on, and what was trained can be evaluated.

  Args:
    config: `mtl_jax.config.default()` with changes, or a plain dict of them; `dataset.files` says
      of each table which columns are read, as for files, and `train` is not given there.
    workdir: where the runs' directories are, or will be.
    data: name in `dataset.files` -> rows, or -> `{'train': rows, 'validation': rows, 'test':
      rows}`, of which what is missing is held out. Rows are a list of dicts or a pandas DataFrame.
      Where there is one table, what belongs to it alone.
    variants: names of the variants to train; () for all.

  Returns:
    the results of all runs, as `run`.

  Raises:
    ConfigError: the config and the tables do not fit.
    DataError: a row is malformed.
    WorkdirError: as `run`; or what was trained in `workdir` was trained on other rows.

  Example:
    >>> rows = [{'text': 'late again', 'mood': 'bad'}, ...]  # doctest: +SKIP
    >>> config = {'dataset': {'files': {'t': {'input': 'text'}}}, 'tasks': {'mood': {}}}
    >>> fit(config, 'runs/mood', rows)  # doctest: +SKIP
    >>> mtl_jax.load('runs/mood').predict(['on time'])  # doctest: +SKIP
  """
  whole = config_lib.plain(config)
  names = list(whole.get('dataset', {}).get('files', {})) or ['data']
  if len(names) == 1 and not (isinstance(data, Mapping) and names[0] in data):
    data = {names[0]: data}
  for name in [*names, *data]:
    if name not in data or name not in names:
      raise errors.ConfigError(
        f'dataset.files has {", ".join(names)}, and data has {", ".join(map(str, data))}'
      )
  dataset = dict(whole.get('dataset', {}))
  dataset['files'] = {
    name: dict(dataset.get('files', {}).get(name, {})) | in_memory.write(workdir, name, rows)
    for name, rows in data.items()
  }
  return run(config_lib.complete(whole | {'dataset': dataset}), workdir, variants=variants)


class _Prepared(NamedTuple):
  """What all seeds of a variant share: the data, the number of steps, what is compiled."""

  data: pipeline.Data
  identity: dict[str, Any]
  steps: int
  program: program_lib.Program


def _prepare(run: config_lib.Plain) -> _Prepared:
  train = run['train']
  with errors.as_config_errors():
    data = start.load_data(run)
    ready.check(run, data)
  steps = train['steps'] or max(1, round(train['epochs'] * data.steps_per_epoch))
  program = program_lib.program(run, data, steps)
  return _Prepared(data, workdir_lib.identity(data), steps, program)


def _directory(workdir: str | os.PathLike[str], run: config_lib.Plain) -> workdir_lib.Workdir:
  if complaint := errors.no_text(os.fspath(workdir)):
    raise errors.ConfigError(f'workdir {complaint}')
  path = pathlib.Path(workdir).expanduser() / run['variant'] / f'seed_{run["seed"]}'
  return workdir_lib.Workdir(path.absolute(), run)


def _summary(result: Mapping[str, Any]) -> str:
  split = 'test' if result.get('test') else 'validation'
  metrics = result[split]['metrics']
  found = {task: metrics.get(task, {}).get(name) for task, name in result['main_metrics'].items()}
  shown = '  '.join(f'{task} {value:.4f}' for task, value in found.items() if value is not None)
  return (
    f'{result["steps"]} steps in {result["seconds"]:.0f} s, best at {result["best_step"]}; '
    f'{split}: {shown}'
  )


def _report(workdir: str) -> None:
  """Reports finished runs; what fails here takes nothing away from them."""
  try:
    report.report([workdir])
  except Exception as e:
    command = f'python -m mtl_jax.report {shlex.quote(workdir)}'
    print(f'warning: all runs are finished, but not reported: {e}\n  {command}', file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  memory.keep_freed()
  logging.set_verbosity(logging.ERROR)  # orbax tells of every file
  with signals_lib.Signals() as signals:
    try:
      arguments = command_line.parse(sys.argv if argv is None else argv, __doc__)
      if arguments is None:
        return 0
      run(
        arguments.config,
        arguments.workdir,
        variants=arguments.variants,
        should_stop=lambda: signals.received is not None,
        unsaved=signals.hold,
      )
      if jax.process_index() == 0:
        _report(arguments.workdir)
    except Interrupted as e:
      print(e, file=sys.stderr)
      return signals.exit_code
    except tuple(command_line.EXIT_CODES) as e:
      print(f'error: {e}', file=sys.stderr)
      return command_line.exit_code(e)
    except Exception as e:
      errors.shorten(e)
      raise
  return 0


if __name__ == '__main__':
  sys.exit(main())
