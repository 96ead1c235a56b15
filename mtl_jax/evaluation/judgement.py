"""An evaluation of one run as tables, JSON and pictures. What it holds is computed elsewhere."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.table
from rich.box import SIMPLE_HEAD

from mtl_jax import evaluate, trained
from mtl_jax.evaluation import _judge
from mtl_jax.report import _evaluation_plots

Slices = Mapping[str, Sequence[evaluate.Slice]]
"""Task -> its main metric for each value of a column."""


class Judgement:
  """What is shown of an evaluation.

  Attributes:
    title: the run, and what it was evaluated on.
    judged: task -> what came out.
    others: name of another run -> the same of it.
    count: the number of examples.
  """

  def __init__(
    self,
    title: str,
    judged: Mapping[str, _judge.Judged],
    others: Mapping[str, Mapping[str, _judge.Judged]],
    count: int,
    samples: int,
  ):
    self.title = title
    self.judged = judged
    self.others = others
    self.count = count
    self._samples = samples

  @functools.cached_property
  def intervals(self) -> dict[tuple[str, str], evaluate.Interval]:
    """(task, metric) -> value and interval."""
    return {
      (task, name): one.interval(name, self._samples)
      for task, one in self.judged.items()
      for name in one.metrics
    }

  @functools.cached_property
  def comparisons(self) -> dict[str, dict[tuple[str, str], evaluate.Comparison]]:
    """Other run -> (task, metric) -> the difference from it."""
    found: dict[str, dict[tuple[str, str], evaluate.Comparison]] = {}
    for label, other in self.others.items():
      found[label] = {}
      for task, one in self.judged.items():
        for name in one.metrics if task in other else ():
          compared = one.against(other[task], name, self._samples)
          if compared is not None:
            found[label][task, name] = compared
    return found

  @functools.cached_property
  def ranks(self) -> dict[str, float | None]:
    """Run -> its mean rank among this one ('this run') and the others, over the main metrics."""
    table, higher = {}, {}
    for label, judged in {'this run': self.judged, **self.others}.items():
      table[label] = {
        f'{task}.{one.metrics[0]}': one.value(one.metrics[0])
        for task, one in judged.items()
        if task in self.judged
      }
    for task, one in self.judged.items():
      higher[f'{task}.{one.metrics[0]}'] = one.rules.metrics[one.metrics[0]].higher_is_better
    return evaluate.average_rank(table, higher)

  def as_json(self, sliced: Slices) -> dict[str, Any]:
    """All numbers, as JSON can hold them."""
    tasks: dict[str, Any] = {}
    for task, one in self.judged.items():
      tasks[task] = {
        'examples': len(one.examples),
        'metrics': {name: self.intervals[task, name]._asdict() for name in one.metrics},
      }
      if task in sliced:
        tasks[task]['slices'] = [part._asdict() for part in sliced[task]]
    against = {
      label: {
        'delta_m': _judge.delta_m(self.judged, self.others[label]),
        'differences': {f'{t}.{m}': c._asdict() for (t, m), c in found.items()},
      }
      for label, found in self.comparisons.items()
    }
    return {
      'of': self.title,
      'examples': self.count,
      'mean': _judge.summary(self.judged),
      'tasks': tasks,
      'against': against,
      'ranks': self.ranks if self.others else {},
    }


def slices(
  judged: Mapping[str, _judge.Judged], column: str, examples: Sequence[Mapping[str, Any]]
) -> dict[str, list[evaluate.Slice]]:
  """Task -> its main metric for each value of a column."""
  values = [str(example.get(column)) for example in examples]
  return {
    task: one.slices(values, one.metrics[0]) for task, one in judged.items() if len(one.examples)
  }


def tables(found: Judgement, sliced: Slices) -> Iterator[rich.table.Table]:
  """Yields what the terminal shows."""
  table = _table(
    found.title, 'task.metric', 'value', '95% interval', 'examples', *_compared_with(found)
  )
  for (task, name), interval in found.intervals.items():
    one = found.judged[task]
    arrow = '↑' if one.rules.metrics[name].higher_is_better else '↓'
    cells = [_number(interval.value), _range(interval.low, interval.high), f'{len(one.examples):,}']
    for compared in found.comparisons.values():
      cells.append(_difference(compared.get((task, name))))
    table.add_row(f'{task}.{name} {arrow}', *cells)
  table.add_row('mean of the main ones', _number(_judge.summary(found.judged)), '', '')
  yield table
  if found.others:
    table = _table('against', 'run', 'mean rank', 'Δm of this run from it, % ↓')
    for label, rank in found.ranks.items():
      delta = None
      if label in found.others:
        delta = _judge.delta_m(found.judged, found.others[label])
      table.add_row(label, '—' if rank is None else f'{rank:.2f}', _number(delta))
    yield table
  for task, parts in sliced.items():
    name = found.judged[task].metrics[0]
    table = _table(f'{task}.{name} by value', '', name, 'examples')
    for part in parts:
      label = f'{part.value} ({part.pooled} rare values)' if part.pooled else str(part.value)
      table.add_row(label, _number(part.metric), f'{part.examples:,}')
    yield table


def _compared_with(found: Judgement) -> list[str]:
  return [f'minus {label} (p)' for label in found.others]


def _table(title: str, *columns: str) -> rich.table.Table:
  table = rich.table.Table(title=title, title_justify='left', box=SIMPLE_HEAD, pad_edge=False)
  for number, column in enumerate(columns):
    table.add_column(column, justify='right' if number else 'left', overflow='fold')
  return table


def _number(value: float | None) -> str:
  return '—' if value is None else f'{value:.4f}'


def _range(low: float | None, high: float | None) -> str:
  return '' if low is None or high is None else f'{low:.4f} to {high:.4f}'


def _difference(compared: evaluate.Comparison | None) -> str:
  if compared is None or compared.difference is None:
    return '—'
  return f'{compared.difference:+.4f} ({compared.p_value:.3f})'


def output(found: Judgement, sliced: Slices, model: trained.Trained) -> dict[str, bytes]:
  """File -> its content: evaluation.json, table.md, and of tasks of classes two pictures each."""
  content = json.dumps(found.as_json(sliced), indent=2, ensure_ascii=False, default=float)
  made = {'evaluation.json': f'{content}\n'.encode(), 'table.md': _markdown(found).encode()}
  del model
  for task, one in found.judged.items():
    if not (one.rules.discrete and len(one.examples)):
      continue
    y, p, s = (_flat(values) for values in (one.targets, one.predictions, one.scores))
    if y.ndim > 1:  # several labels an example have no one matrix
      continue
    matrix = evaluate.confusion(y, p, one.names)
    made[f'confusion_{task}.png'] = _evaluation_plots.confusion(matrix, one.names, task)
    measured = evaluate.calibration(s, y)
    made[f'reliability_{task}.png'] = _evaluation_plots.reliability(measured, task)
  return made


def _flat(values: Any) -> np.ndarray:
  """Values of all examples in one array; those of words one after the other."""
  return np.concatenate(values) if isinstance(values, list) else np.asarray(values)


def _markdown(found: Judgement) -> str:
  lines = [f'{found.title}', '', '| task.metric | value | 95% interval | examples |']
  lines.append('| :-- | --: | --: | --: |')
  for (task, name), interval in found.intervals.items():
    count = len(found.judged[task].examples)
    lines.append(
      f'| {task}.{name} | {_number(interval.value)} | {_range(interval.low, interval.high)} '
      f'| {count:,} |'
    )
  return '\n'.join(lines) + '\n'
