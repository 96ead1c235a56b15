"""Finds runs, reads their files and groups them. Computing and drawing is left to other modules."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_jax import results as results_lib
from mtl_jax.errors import WorkdirError
from mtl_jax.plain import is_number


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run: one variant of one config with one seed.

  Attributes:
    label: its directory as reports show it, relative to the directory that was given.
    path: its directory.
    name: the config's name.
    variant: the variant's name.
    seed: the seed.
    tasks: the tasks it trained, in the model's order.
    main_metrics: {task: metric}.
    results: all of results.json.
  """

  label: str
  path: Path
  name: str
  variant: str
  seed: int
  tasks: tuple[str, ...]
  main_metrics: Mapping[str, str]
  results: Mapping[str, Any]

  @functools.cached_property
  def records(self) -> dict[str, list[dict[str, Any]]]:
    """The records of metrics.jsonl by split, in the order of steps; {} without the file.

    A killed run may leave a line cut short, and its continuation repeats the steps since the last
    checkpoint: lines that are no JSON are skipped, and the last record of a step counts.
    """
    try:
      text = (self.path / 'metrics.jsonl').read_text(encoding='utf-8', errors='replace')
    except FileNotFoundError:
      return {}
    by_step: dict[str, dict[int, dict[str, Any]]] = {}
    for line in text.splitlines():
      try:
        record = json.loads(line)
        if isinstance(record['split'], str) and is_number(record['step']):
          by_step.setdefault(record['split'], {})[record['step']] = record
      except (ValueError, KeyError, TypeError):
        continue
    return {split: [found[step] for step in sorted(found)] for split, found in by_step.items()}

  def direction(self, metric: str) -> results_lib.Direction | None:
    """The direction of a metric; None if neither the run nor any kind of task knows it."""
    return results_lib.direction(self.results, metric)

  @functools.cached_property
  def continued(self) -> list[dict[str, Any]]:
    """The versions that the run went on under, 'after_step'; [] if always those it began under."""
    try:
      found = json.loads((self.path / 'versions.json').read_text(encoding='utf-8'))['continued']
      return [dict(later) for later in found]
    except (OSError, ValueError, KeyError, TypeError):
      return []


@dataclasses.dataclass(frozen=True)
class Runs:
  """What was found: finished runs, and the labels of directories whose run has no results yet."""

  finished: tuple[Run, ...]
  unfinished: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
  """What one row of a table and one line of a plot show.

  Attributes:
    label: the variant's name, or 'single task'.
    runs: {task: its runs, one a seed}; the same runs for every task unless `single`.
    single: True if each task comes from runs of its own.
  """

  label: str
  runs: Mapping[str, tuple[Run, ...]]
  single: bool


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All runs of one config: its tasks, their main metrics, and the entries to compare."""

  name: str
  tasks: tuple[str, ...]
  main_metrics: Mapping[str, str]
  entries: tuple[Entry, ...]

  @property
  def runs(self) -> list[Run]:
    """All of them."""
    return [run for entry in self.entries for group in entry.runs.values() for run in group]

  def direction(self, metric: str) -> results_lib.Direction | None:
    """The direction of a metric, as the first run that knows it says."""
    return next((found for run in self.runs if (found := run.direction(metric))), None)

  def main_direction(self, task: str) -> results_lib.Direction:
    """That of a task's main metric."""
    found = self.direction(self.main_metrics[task])
    assert found is not None, 'runs are read with known main metrics only'
    return found


def load(dirs: Iterable[str | os.PathLike[str]]) -> Runs:
  """Finds the runs in and below the given directories.

  Raises:
    WorkdirError: if a directory does not exist, no run is finished, or a results.json cannot be
      read (all such files are named).
  """
  roots = [Path(root) for root in dirs]
  finished, unfinished, bad = [], [], []
  seen = set()
  for root in roots:
    if not _is_directory(root):
      raise WorkdirError(f'{str(root)!r} is not a directory')
    for folder, children, files in os.walk(root):
      children[:] = sorted(c for c in children if c != 'checkpoints' and not c.startswith('.'))
      path = Path(folder)
      if path.resolve() in seen or not {'results.json', 'metrics.jsonl'}.intersection(files):
        continue
      seen.add(path.resolve())
      label = path.relative_to(root).as_posix()
      if len(roots) > 1 or label == '.':
        label = (Path(root.resolve().name) / label).as_posix()
      label = label.encode(errors='backslashreplace').decode()  # names that are no UTF-8
      if 'results.json' not in files:
        unfinished.append(label)
        continue
      try:
        finished.append(_read(path, label))
      except (OSError, ValueError, RecursionError) as error:
        bad.append(f'  {label}/results.json: {error}')
  if bad:
    raise WorkdirError(
      'cannot read these results; train them again or remove their directories:\n' + '\n'.join(bad)
    )
  if not finished:
    where = ', '.join(str(root) for root in roots)
    hint = f'; unfinished runs: {", ".join(unfinished)}' if unfinished else ''
    raise WorkdirError(f'no finished run (no results.json) in {where}{hint}')
  return Runs(tuple(finished), tuple(unfinished))


def _is_directory(path: Path) -> bool:
  try:
    return path.is_dir()
  except OSError:  # too long, or forbidden
    return False


def _read(path: Path, label: str) -> Run:
  results = results_lib.check(json.loads((path / 'results.json').read_text(encoding='utf-8')))
  tasks = tuple(results['tasks'])
  main = {task: results['main_metrics'][task] for task in tasks}
  return Run(
    label, path, results['name'], results['variant'], results['seed'], tasks, main, results
  )


def experiments(runs: Sequence[Run]) -> list[Experiment]:
  """Groups runs by config and variant, and joins the single-task variants of a config in one entry.

  They stay apart where two of them train the same task, or where the config has one task in all.

  Raises:
    WorkdirError: if two runs have the same config, variant and seed, or if runs of a config
      disagree in a variant's tasks or in a task's main metric.
  """
  configs: dict[str, list[Run]] = {}
  for run in runs:
    configs.setdefault(run.name, []).append(run)
  return [_experiment(name, group) for name, group in configs.items()]


def _experiment(name: str, runs: Sequence[Run]) -> Experiment:
  variants: dict[str, dict[int, Run]] = {}
  first: dict[str, Run] = {}  # by task
  for run in sorted(runs, key=lambda run: -len(run.tasks)):  # stable; the widest gives task order
    seeds = variants.setdefault(run.variant, {})
    same = seeds.setdefault(run.seed, run)
    if same is not run:
      raise WorkdirError(
        f'{same.label} and {run.label} are both config {name!r}, variant {run.variant!r}, seed '
        f'{run.seed}: report them one at a time, or rename one config'
      )
    other = next(iter(seeds.values()))
    if other.tasks != run.tasks:
      raise WorkdirError(
        f'variant {run.variant!r} of {name!r} has different tasks in its runs: '
        f'{other.label} {list(other.tasks)}, {run.label} {list(run.tasks)}'
      )
    for task in run.tasks:
      known = first.setdefault(task, run)
      if known.main_metrics[task] != run.main_metrics[task]:
        raise WorkdirError(
          f'task {task!r} of {name!r} has different main metrics: {known.label} has '
          f'{known.main_metrics[task]!r}, {run.label} {run.main_metrics[task]!r}; report them apart'
        )
  ordered = sorted(variants, key=_place(runs))
  groups = {v: tuple(variants[v][seed] for seed in sorted(variants[v])) for v in ordered}
  single = [group for group in groups.values() if len(group[0].tasks) == 1]
  by_task = {group[0].tasks[0]: group for group in single}
  join = single and len(first) > 1 and len(by_task) == len(single)
  entries = (
    [Entry('single task', {t: by_task[t] for t in first if t in by_task}, True)] if join else []
  )
  entries += [
    Entry(variant, dict.fromkeys(group[0].tasks, group), False)
    for variant, group in groups.items()
    if not (join and len(group[0].tasks) == 1)
  ]
  main = {task: run.main_metrics[task] for task, run in first.items()}
  return Experiment(name, tuple(first), main, tuple(entries))


def _place(runs: Iterable[Run]) -> Callable[[str], tuple[int, str]]:
  """What to sort variants by: their place in the config as runs noted it, else their name.

  Where the config grew between runs, the longest list counts, and then what others add.
  """
  lists = {tuple(run.results.get('order', ())) for run in runs}
  known = [
    name for names in sorted(lists, key=lambda names: (-len(names), names)) for name in names
  ]
  places = {name: place for place, name in enumerate(dict.fromkeys(known))}
  return lambda name: (places.get(name, len(places)), name)
