"""Aggregates an experiment's runs over seeds into a table of numbers. `_render` makes it text."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mtl_jax import metrics
from mtl_jax.errors import WorkdirError
from mtl_jax.report._runs import Entry, Experiment, Run, Runs, experiments

DELTA_M = 'delta_m'
JOINT, MEAN = 'joint.exact_match', 'mean'
PARAMETERS, STEP = 'parameters.M', 'step.ms'
OF_ALL = (JOINT, MEAN, DELTA_M, PARAMETERS, STEP)
"""Columns of no one task."""
MANY = 8
"""Of more tasks than these, each is a line of a table, and each run a column."""


@dataclasses.dataclass(frozen=True)
class Column:
  """A column: 'task.metric', 'joint.exact_match' or 'delta_m'.

  Attributes:
    key: its name.
    scale: what its raw values are multiplied by to be shown: 100 for fractions.
    percent: whether the shown values are in percent.
    higher_is_better: its direction.
  """

  key: str
  scale: float
  percent: bool
  higher_is_better: bool


@dataclasses.dataclass(frozen=True)
class Cell:
  """A mean over seeds, raw (as in results.json), and the half-width of its interval, if any."""

  mean: float
  half_width: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
  """An entry's cells by column key, or published ones (`paper`). `seeds` is '3', '2-3' or ''."""

  label: str
  cells: Mapping[str, Cell]
  seeds: str
  paper: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """One config's table, with the notes that belong below it.

  With `many` tasks it is shown with a line for each column, and a column for each row.
  """

  name: str
  split: str
  columns: tuple[Column, ...]
  rows: tuple[Row, ...]
  notes: tuple[str, ...]
  many: bool = False


def tables(
  runs: Runs, split: str = 'test', all_metrics: bool = False, costs: bool = False
) -> list[Table]:
  """Returns one table for each config among the runs.

  A row is a variant; the single-task variants of a config share the row 'single task', in which
  each task comes from its own runs. Cells are means over seeds with 95% intervals. Δm compares a
  row's main metrics with the single-task means: its point estimate is that of the row's means
  (equally the mean of the seeds' Δm, which is linear in the row's metrics), its interval comes from
  the seeds' Δm. The joint exact match stands only for rows that train all tasks of the config;
  where tasks do not share examples, or are many, the mean of the main metrics stands there.

  Args:
    runs: what `load` found.
    split: 'test' or 'validation'.
    all_metrics: whether to show every metric of each task instead of the main one.
    costs: whether to show the millions of parameters and the milliseconds of a training step, the
      median over the log, without compiling; those of single-task runs are added up.

  Raises:
    WorkdirError: if a run lacks the split or a metric, or if runs cannot be put in one table.
  """
  found = experiments(runs.finished)
  return [_table(experiment, runs, split, all_metrics, costs) for experiment in found]


def _table(experiment: Experiment, runs: Runs, split: str, all_metrics: bool, costs: bool) -> Table:
  columns = _columns(experiment, split, all_metrics)
  if costs:
    columns += [Column(PARAMETERS, 1e-6, False, False), Column(STEP, 1, False, False)]
  values = {  # by entry label, then by column: one raw value a seed
    entry.label: {column.key: _values(experiment, entry, column.key, split) for column in columns}
    for entry in experiment.entries
  }
  deltas, notes = _deltas(experiment, values)
  empty = [c.key for c in columns if not any(v[c.key] for v in values.values())]
  columns = [c for c in columns if c.key not in empty]
  paper = _published(experiment)
  told = any(MEAN in row for row in paper['rows'].values()) or len(experiment.tasks) > MANY
  if any(c.key == JOINT for c in columns) and not told:
    columns = [column for column in columns if column.key != MEAN]
  if deltas:
    place = len([c for c in columns if c.key not in (PARAMETERS, STEP)])
    columns.insert(place, Column(DELTA_M, 1, True, False))
  rows = []
  for entry in experiment.entries:
    cells = {key: Cell(*metrics.mean_interval(v)) for key, v in values[entry.label].items() if v}
    if PARAMETERS in cells:
      cells[PARAMETERS] = Cell(cells[PARAMETERS].mean)  # the same for every seed
    if entry.label in deltas:
      cells[DELTA_M] = deltas[entry.label]
    counts = sorted({len(group) for group in entry.runs.values()})
    rows.append(Row(entry.label, cells, '-'.join(str(n) for n in counts[:1] + counts[1:][-1:])))
  paper_rows, paper_notes = _paper(paper, columns)
  many = any(len(group) > 1 for entry in experiment.entries for group in entry.runs.values())
  opening = f'{split.capitalize()} split; {"mean over seeds" if many else "one seed"}'
  if any(cell.half_width is not None for row in rows for cell in row.cells.values()):
    opening += ' ± half-width of the 95% interval (Student t)'
  without = [key for key in empty if key.split('.')[0] in experiment.tasks]
  if without:
    notes.insert(0, f'No value on this split: {", ".join(without)}.')
  notes = [opening + '.', *notes, *paper_notes, *_continued(experiment)]
  if runs.unfinished:
    notes.append(f'Unfinished runs, left out: {", ".join(runs.unfinished)}.')
  shown = (*rows, *paper_rows)
  wide = len(experiment.tasks) > MANY
  return Table(experiment.name, split, tuple(columns), shown, tuple(notes), wide)


def _continued(experiment: Experiment) -> list[str]:
  """Returns a note on the runs that went on under other versions than they began under."""
  found = []
  for run in {run.path: run for run in experiment.runs}.values():
    for later in run.continued:
      changed = ', '.join(f'{k} {v}' for k, v in later.items() if k != 'after_step')
      found.append(f'{run.label} after step {later.get("after_step")}: {changed}')
  return [f'Went on under other versions: {"; ".join(found)}.'] if found else []


def _columns(experiment: Experiment, split: str, all_metrics: bool) -> list[Column]:
  columns = []
  for task in experiment.tasks:
    names = [experiment.main_metrics[task]]
    if all_metrics:
      run = next(run for run in experiment.runs if task in run.tasks)
      others = _split(run, split)['metrics'].get(task, {})
      names += [name for name in others if name not in names and experiment.direction(name)]
    for name in names:
      metric = experiment.direction(name)
      assert metric is not None
      scale = 100 if metric.fraction else 1
      columns.append(Column(f'{task}.{name}', scale, metric.fraction, metric.higher_is_better))
  if len(experiment.tasks) > 1:
    columns.append(Column(JOINT, 100, True, True))
    if all(experiment.main_direction(task).fraction for task in experiment.tasks):
      columns.append(Column(MEAN, 100, True, True))
  return columns


def _split(run: Run, split: str) -> Mapping[str, Any]:
  found = run.results.get(split)
  if not isinstance(found, dict):
    have = [name for name in ('test', 'validation') if run.results.get(name)]
    raise WorkdirError(f'{run.label} has no results for split {split!r}; it has {have}')
  return found


def _values(experiment: Experiment, entry: Entry, key: str, split: str) -> list[float]:
  """Returns the raw values of a column over an entry's seeds; [] where it has none."""
  if key == JOINT:
    if entry.single or len(entry.runs) < len(experiment.tasks):
      return []
    group = entry.runs[experiment.tasks[0]]
    found = [(_split(run, split).get('joint') or {}).get('exact_match') for run in group]
  elif key == MEAN:
    if entry.single or len(entry.runs) < len(experiment.tasks):
      return []
    found = [_split(run, split).get('mean') for run in entry.runs[experiment.tasks[0]]]
  elif key in (PARAMETERS, STEP):
    groups = list(entry.runs.values()) if entry.single else [next(iter(entry.runs.values()))]
    costs = [[_cost(run, key) for run in group] for group in groups]
    found = [None if None in seed else sum(seed) for seed in zip(*costs, strict=False)]
  else:
    task, name = key.rsplit('.', 1)
    found = []
    for run in entry.runs.get(task, ()):
      try:
        found.append(_split(run, split)['metrics'][task][name])
      except (KeyError, TypeError):
        raise WorkdirError(f'{run.label}/results.json has no {split} {key}') from None
  return [value for value in found if value is not None]


def _cost(run: Run, key: str) -> Any:
  """The parameters of a run, or the milliseconds of its median step; None where not logged."""
  if key == PARAMETERS:
    return run.results.get('parameters')
  found = (record.get('steps_per_second') for record in run.records.get('train', ()))
  rates = [float(rate) for rate in found if rate]
  return 1e3 / statistics.median(rates) if rates else None


def _deltas(
  experiment: Experiment, values: Mapping[str, Mapping[str, Sequence[float]]]
) -> tuple[dict[str, Cell], list[str]]:
  """Returns Δm by entry label, and notes on it; nothing without single-task runs."""
  entries = experiment.entries
  single = next((entry for entry in entries if entry.single), None)
  if single is None or len(entries) == 1:
    repeated = [entry.label for entry in entries if len(entry.runs) == 1]
    if len(experiment.tasks) > 1 and repeated:
      return {}, [
        f'No Δm: several single-task variants train the same task ({", ".join(repeated)}).'
      ]
    return {}, []
  keys = {task: f'{task}.{name}' for task, name in experiment.main_metrics.items()}
  reference = {
    task: metrics.mean_interval(values[single.label][keys[task]])[0]
    for task in single.runs
    if values[single.label][keys[task]]
  }
  usable = {task for task, value in reference.items() if value != 0}
  deltas: dict[str, Cell] = {}
  missing: set[str] = set()
  for entry in entries:
    if entry.single:
      continue
    tasks = list(entry.runs)
    missing.update(task for task in tasks if task not in usable)
    columns = [values[entry.label][keys[task]] for task in tasks]
    if not usable.issuperset(tasks) or {len(v) for v in columns} != {len(entry.runs[tasks[0]])}:
      continue  # no reference, or a seed without a value
    directions = [experiment.main_direction(t).higher_is_better for t in tasks]
    base = [reference[task] for task in tasks]
    per_seed = [metrics.delta_m(m, base, directions) for m in zip(*columns, strict=True)]
    deltas[entry.label] = Cell(*metrics.mean_interval(per_seed))
  notes = []
  if deltas:
    if usable.issuperset(experiment.tasks):
      deltas[single.label] = Cell(0.0)
    notes.append(
      'Δm: mean relative change of the main metrics from the single-task runs, signed so that '
      'lower is better; its interval is over the seeds of the row.'
    )
  if missing:
    notes.append(
      'No Δm for rows with a task that lacks a single-task value other than 0: '
      f'{", ".join(sorted(missing))}.'
    )
  return deltas, notes


def _published(experiment: Experiment) -> Mapping[str, Any]:
  """The published numbers of the config: `'rows'`, none if there are none, and `'source'`."""
  found = next((p for run in experiment.runs if (p := run.results.get('paper'))), None) or {}
  return {**found, 'rows': found.get('rows') or {}}


def _paper(paper: Mapping[str, Any], columns: Sequence[Column]) -> tuple[list[Row], list[str]]:
  """Returns the published rows, raw, and notes on them."""
  if not paper['rows']:
    return [], []
  scales = {column.key: column.scale for column in columns}
  rows, hidden = [], set()
  for label, published in paper['rows'].items():
    cells = {}
    for key, value in published.items():
      key = JOINT if key == 'exact_match' else key
      if key in scales and value is not None:
        cells[key] = Cell(value / scales[key])
      elif key not in scales:
        hidden.add(key)
    rows.append(Row(label, cells, '', paper=True))
  notes = [f'† published: {paper.get("source", "source not given")}.']
  if hidden:
    notes.append(f'Published, but no column of this table: {", ".join(sorted(hidden))}.')
  return rows, notes
