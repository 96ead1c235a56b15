"""Plots of runs over training: learning curves, what the tasks' gradients did. No tables here."""

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mtl_jax.report import _figures
from mtl_jax.report._runs import Entry, Experiment, Run

# Okabe and Ito's palette, told apart by the colour-blind; its yellow is too pale for a line.
_ENTRIES = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
# Paul Tol's muted palette, so that tasks do not look like entries.
_TASKS = ('#332288', '#CC6677', '#117733', '#DDCC77', '#88CCEE', '#882255', '#44AA99', '#AA4499')
_DASHES = ('-', '--', ':', '-.')

Series = Mapping[float, float]  # step -> value


def plots(experiment: Experiment) -> dict[str, bytes]:
  """Returns PNGs by name, those that the runs have data for.

  They are 'curves', 'weights', 'norms' (of the tasks' gradients), 'cosines' (between them) and
  'conflicts'.
  """
  figures = {
    'curves': _curves(experiment),
    'weights': _by_task(experiment, 'weight', 'weight'),
    'norms': _by_task(experiment, 'gradient_norm', 'norm of the gradient'),
    'cosines': _cosines(experiment),
    'conflicts': _conflicts(experiment),
  }
  out = {}
  for name, figure in figures.items():
    if figure is not None:
      out[name] = _figures.png(figure)
  return out


def _curves(experiment: Experiment) -> Figure | None:
  """Returns a row of panels per task: main metric on the validation split, training loss."""
  tasks = experiment.tasks
  figure = _figures.figure(9, 2.6 * len(tasks) + 0.6)
  axes = figure.subplots(len(tasks), 2, squeeze=False)
  handles: dict[str, object] = {}
  for row, task in zip(axes, tasks, strict=True):
    name = experiment.main_metrics[task]
    metric = experiment.main_direction(task)
    for i, entry in enumerate(experiment.entries):
      runs = entry.runs.get(task, ())
      style = _entry_style(experiment, i)
      validation = [_series(run, 'validation', 'metrics', task, name) for run in runs]
      if metric.fraction:
        validation = [{step: 100 * v for step, v in series.items()} for series in validation]
      train = [_series(run, 'train', 'loss', task) for run in runs]
      for axis, series in zip(row, (validation, train), strict=True):
        if line := _draw(axis, series, **style):
          handles.setdefault(entry.label, line)
    unit = ' (%)' if metric.fraction else ''
    _label(row[0], f'{name}{unit}', f'{task}: validation {name}')
    _label(row[1], 'loss', f'{task}: training loss')
    _log_if_wide(row[1:])
  if not handles:
    return None
  order = [entry.label for entry in experiment.entries if entry.label in handles]
  _legend(figure, [handles[label] for label in order], order)
  _caption(figure, experiment)
  return figure


def _by_task(experiment: Experiment, name: str, label_y: str) -> Figure | None:
  """Returns a panel per entry of several tasks: a training metric of each task over the steps."""
  found = {}
  for entry in experiment.entries:
    if len(entry.runs) > 1 and not entry.single:
      by_task = {
        task: [_series(run, 'train', name, task) for run in runs]
        for task, runs in entry.runs.items()
      }
      if any(series for group in by_task.values() for series in group):
        found[entry.label] = by_task
  if not found:
    return None
  figure, axes = _grid(len(found), 3.6, 2.8, share=True)
  handles: dict[str, object] = {}
  for axis, (label, by_task) in zip(axes, found.items(), strict=True):
    for task, series in by_task.items():
      i = experiment.tasks.index(task)
      dash = _DASHES[(i + i // len(_TASKS)) % len(_DASHES)]  # differs when colours come round again
      style = {'color': _TASKS[i % len(_TASKS)], 'linestyle': dash}
      if line := _draw(axis, series, **style):
        handles.setdefault(task, line)
    _label(axis, label_y, label)
  _log_if_wide(axes)
  _legend(figure, list(handles.values()), list(handles))
  _caption(figure, experiment)
  return figure


def _cosines(experiment: Experiment) -> Figure | None:
  """Returns a heat map per entry: the tasks' gradient cosines, averaged over training and seeds."""
  found = {}
  for entry in experiment.entries:
    if len(entry.runs) > 1 and not entry.single:
      matrix = _mean_cosine(entry)
      if matrix is not None:
        found[entry.label] = (list(entry.runs), matrix)
  if not found:
    return None
  norm = Normalize(-1, 1)
  size = max(2.6, 0.55 * len(experiment.tasks) + 1.2)
  figure, axes = _grid(len(found), size + 0.4, size)
  for axis, (label, (tasks, matrix)) in zip(axes, found.items(), strict=True):
    axis.imshow(matrix, norm=norm, cmap='RdBu')
    axis.set_xticks(range(len(tasks)), tasks, rotation=45, ha='right', rotation_mode='anchor')
    axis.set_yticks(range(len(tasks)), tasks)
    axis.set_title(label, fontsize=10)
    for i, j in np.argwhere(np.isfinite(matrix)):
      colour = 'white' if abs(matrix[i, j]) > 0.6 else 'black'
      text = f'{matrix[i, j]:.2f}'.replace('-0.00', '0.00')
      # Not in the layout, whose time would grow with T².
      style: dict[str, Any] = {'ha': 'center', 'va': 'center', 'fontsize': 8, 'in_layout': False}
      axis.text(j, i, text, color=colour, **style)
  figure.colorbar(ScalarMappable(norm, 'RdBu'), ax=axes, shrink=0.8)
  title = f'{experiment.name}: cosines of task gradients,\nmean over training and seeds'
  figure.suptitle(title, fontsize=10)
  return figure


def _conflicts(experiment: Experiment) -> Figure | None:
  """Returns two panels over the steps, where runs were monitored, with a line per entry."""
  panels = {
    'conflict': 'pairs of tasks in conflict',
    'improved': 'tasks improved to first order',
  }
  figure, axes = _grid(len(panels), 4.2, 2.8, share=True)
  handles: dict[str, object] = {}
  for axis, (name, title) in zip(axes, panels.items(), strict=True):
    for i, entry in enumerate(experiment.entries):
      if len(entry.runs) > 1 and not entry.single:
        runs = next(iter(entry.runs.values()))  # the tasks of an entry share their runs
        series = [_series(run, 'train', name) for run in runs]
        if line := _draw(axis, series, **_entry_style(experiment, i)):
          handles.setdefault(entry.label, line)
    axis.set_ylim(-0.03, 1.03)
    _label(axis, 'share', title)
  if not handles:
    return None
  _legend(figure, list(handles.values()), list(handles))
  _caption(figure, experiment)
  return figure


def _mean_cosine(entry: Entry) -> np.ndarray | None:
  """Returns the mean cosine matrix [T, T], NaN where never computed; None without any."""
  means = []
  tasks = list(entry.runs)
  for run in entry.runs[tasks[0]]:
    steps = [r['cosine'] for r in run.records.get('train', ()) if r.get('cosine') is not None]
    if steps:
      means.append(_nanmean(np.array(steps, float)))  # null in the file becomes NaN
  return _nanmean(np.stack(means)) if means else None


def _nanmean(stack: np.ndarray) -> np.ndarray:
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', RuntimeWarning)  # all NaN: the mean is NaN, and that is meant
    return np.nanmean(stack, axis=0)


def _series(run: Run, split: str, *keys: str) -> dict[float, float]:
  """Returns {step: value} of one number in the records of a split."""
  out: dict[float, float] = {}
  for record in run.records.get(split, ()):
    value: Any = record
    for key in keys:
      value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, int | float):
      out[record['step']] = value
  return out


def _draw(axis: Axes, seeds: Sequence[Series], **style: Any) -> Line2D | None:
  """Draws the mean over seeds, thin once a seed has stopped, with a band from lowest to highest.

  Returns the line, or None if no seed has a value.
  """
  seeds = [series for series in seeds if series]
  if not seeds:
    return None
  steps = np.array(sorted({step for series in seeds for step in series}))
  # [seeds, steps]
  values = np.array([[series.get(step, np.nan) for step in steps] for series in seeds])
  mean = _nanmean(values)
  full = steps <= min(max(series) for series in seeds)  # every seed still trains
  marker = 'o' if len(steps) < 4 else None
  (line,) = axis.plot(steps[full], mean[full], linewidth=1.5, marker=marker, markersize=4, **style)
  if not full.all():
    rest = slice(max(int(full.sum()) - 1, 0), None)
    axis.plot(steps[rest], mean[rest], linewidth=0.7, **style)
  if len(seeds) > 1:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', RuntimeWarning)  # a step without any finite value: no band
      low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    axis.fill_between(
      steps[full], low[full], high[full], color=style['color'], alpha=0.18, linewidth=0
    )
  return line


def _entry_style(experiment: Experiment, index: int) -> dict[str, str]:
  if experiment.entries[index].single:
    return {'color': '#444444', 'linestyle': '--'}
  index -= experiment.entries[0].single  # the single-task entry comes first and takes no colour
  return {
    'color': _ENTRIES[index % len(_ENTRIES)],
    'linestyle': _DASHES[index // len(_ENTRIES) % len(_DASHES)],
  }


def _grid(
  count: int, width: float, height: float, share: bool = False
) -> tuple[Figure, list[Axes]]:
  """Returns a figure with `count` panels of the given size in inches, at most three in a row."""
  columns = min(count, 3)
  rows = math.ceil(count / columns)
  figure = _figures.figure(width * columns + 0.8, height * rows + 0.8)
  axes = list(figure.subplots(rows, columns, squeeze=False, sharey=share).flat)
  for axis in axes[count:]:
    axis.set_axis_off()
  return figure, axes[:count]


def _label(axis: Axes, y: str, title: str) -> None:
  axis.set_xlabel('step', fontsize=9)
  axis.set_ylabel(y, fontsize=9)
  axis.set_title(title, fontsize=10)
  axis.tick_params(labelsize=8)
  axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axis.grid(alpha=0.25, linewidth=0.6)
  axis.spines[['top', 'right']].set_visible(False)


def _log_if_wide(axes: Sequence[Axes]) -> None:
  """Uses logarithmic axes where their values are positive and span more than a factor of 20."""
  lines = [np.asarray(line.get_ydata(), float) for axis in axes for line in axis.lines]
  values = np.concatenate([np.empty(0), *lines])
  values = values[np.isfinite(values)]
  if values.size and values.min() > 0 and values.max() > 20 * values.min():
    for axis in axes:
      axis.set_yscale('log')
      axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
      axis.yaxis.set_major_formatter('{x:g}')
      axis.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, handles: Sequence, labels: Sequence[str]) -> None:
  fitting = int(10 * figure.get_figwidth() / (max(map(len, labels)) + 6))  # 10 letters an inch
  columns = max(1, min(fitting, len(labels)))
  figure.legend(
    handles, labels, loc='outside lower center', ncols=columns, frameon=False, fontsize=9
  )


def _caption(figure: Figure, experiment: Experiment) -> None:
  seeds = max(len(runs) for entry in experiment.entries for runs in entry.runs.values())
  suffix = ''
  if seeds > 1:
    suffix = f': mean of {seeds} seeds (thin once one has stopped), band from lowest to highest'
  title = f'{experiment.name}{suffix}'
  width = int(12 * figure.get_figwidth())  # 12 letters an inch
  figure.suptitle(textwrap.fill(title, width), fontsize=10)
