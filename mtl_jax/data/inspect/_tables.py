"""A look at a data set as tables for a terminal, or for HTML."""

from collections.abc import Iterator
from typing import Any

import rich.table

from mtl_jax.data.inspect import _look

_CLASSES = 20  # in a table
_PAIRS = 20
_WIDE = 6  # tasks with a column of their own


def tables(look: _look.Look) -> Iterator[Any]:
  """Yields what rich prints of a look, one part after the other."""
  yield _splits(look)
  for name, task in look.tasks.items():
    yield _task(name, task, list(look.examples))
  if look.notes:
    yield _pairs('found while reading', [(k, f'{n:,}') for k, n in look.notes.items()])
  if look.meetings:
    rows = sorted(look.meetings.items(), key=lambda item: item[1])
    shown = [(' and '.join(pair), f'{share:.1%}') for pair, share in rows[:_PAIRS]]
    more = len(rows) - len(shown)
    yield _pairs(
      'steps in which both tasks have labels' + (f' ({more} pairs more)' if more else ''), shown
    )
  if look.hints:
    table = _table('worth a look', '')
    for hint in look.hints:
      table.add_row(hint)
    yield table
  yield _examples(look)


def _table(title: str, *columns: str) -> rich.table.Table:
  table = rich.table.Table(title=title, title_justify='left', title_style='bold')
  for number, column in enumerate(columns):
    table.add_column(column, justify='right' if number else 'left', overflow='fold')
  return table


def _pairs(title: str, rows: list[tuple[str, str]]) -> rich.table.Table:
  table = _table(title, '', '')
  for row in rows:
    table.add_row(*row)
  return table


def _splits(look: _look.Look) -> rich.table.Table:
  kind = look.input.kind + (' (pairs)' if look.input.pair else '')
  table = _table(f'{look.name}: inputs are {kind}', '', *look.examples)
  table.add_row('examples', *(f'{n:,}' for n in look.examples.values()))
  if look.lengths:
    for place, quantile in enumerate(_look.QUANTILES):
      name = 'tokens, the most' if quantile == 1 else f'tokens, {quantile:.0%} have at most'
      table.add_row(name, *(f'{found[place]:,}' for found in look.lengths.values()))
    bound = f'cut at max_length {look.max_length}' if look.max_length else 'cut (no max_length)'
    if look.stride:
      bound = f'in windows of {look.max_length}, sharing {look.stride}'
      table.add_row(bound, *(f'{n:,}' for n in look.windowed.values()))
    else:
      table.add_row(bound, *(f'{n:,}' for n in look.cut.values()))
    table.add_row('unknown tokens', *(f'{share:.2%}' for share in look.unknown.values()))
    table.caption = (
      f'{look.vocabulary:,} token ids; batches are padded to {", ".join(map(str, look.buckets))}'
    )
  return table


def _task(name: str, task: _look.TaskLook, splits: list[str]) -> rich.table.Table:
  table = _table(f'task {name}: {task.kind}, {", ".join(task.metrics)}', '', *splits)
  table.add_row('with a label', *(f'{task.labelled[s]:,}' for s in splits))
  table.add_row('without one', *(f'{task.total[s] - task.labelled[s]:,}' for s in splits))
  for place, what in enumerate(('least', 'mean', 'standard deviation', 'greatest')):
    if task.numbers:
      found = (task.numbers.get(s) for s in splits)
      table.add_row(what, *('' if row is None else f'{row[place]:.4g}' for row in found))
  if task.words:
    table.add_row('words with a label', *(f'{task.words[s]:,}' for s in splits))
  of = task.words or task.labelled
  for label, counts in list(task.classes.items())[:_CLASSES]:
    share = (
      f'{counts[s]:,} ({counts[s] / total:.1%})' if (total := of[s]) else '0' for s in splits
    )
    table.add_row(f'  {label}', *share)
  if len(task.classes) > _CLASSES:
    rest = list(task.classes.values())[_CLASSES:]
    table.add_row(
      f'  and {len(rest):,} classes more', *(f'{sum(c[s] for c in rest):,}' for s in splits)
    )
  if task.unlearned:
    names = ', '.join(map(repr, task.unlearned[:5]))
    table.caption = f'not learned, too few or none in training: {names}' + (
      f' and {len(task.unlearned) - 5:,} more' if len(task.unlearned) > 5 else ''
    )
  return table


def _examples(look: _look.Look) -> rich.table.Table:
  title = 'some training examples, as the model sees them'
  tasks = list(look.tasks)
  if len(tasks) > _WIDE:
    table = _table(title, 'input', 'labels')
    for row in look.shown:
      table.add_row(
        row['input'], ', '.join(f'{t}: {row[t]}' for t in tasks if row.get(t, '–') != '–')
      )
    return table
  table = _table(title, 'input', *tasks)
  for row in look.shown:
    table.add_row(row['input'], *(row.get(task, '') for task in tasks))
  return table
