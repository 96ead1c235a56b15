"""What a run's results.json holds, checked where it is read: files are edited, cut and mixed up."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mtl_jax import kinds
from mtl_jax.plain import is_int, is_number, is_text

_NUMBERS = ('best_step', 'steps', 'seconds', 'parameters', 'steps_per_second')


class Direction(NamedTuple):
  """How a metric reads: which way it improves, and whether it is a percentage."""

  higher_is_better: bool
  fraction: bool


def direction(results: Mapping[str, Any], metric: str) -> Direction | None:
  """The direction of a metric; None if neither the results nor any kind of task knows it."""
  told = (results.get('directions') or {}).get(metric)
  if told is not None:
    return Direction(told['higher_is_better'], told['fraction'])
  known = kinds.find_metric(metric)
  return known and Direction(known.higher_is_better, known.fraction)


def check(results: Any, needed: Sequence[str] = ()) -> dict[str, Any]:
  """Returns the content of a results.json as it is.

  Args:
    results: what was read.
    needed: keys that must be there beside those that every reader needs.

  Raises:
    ValueError: a key is missing, or a value is of another type; the message names it.
  """
  if not isinstance(results, dict):
    raise ValueError('not a JSON object')
  for key in ('name', 'variant', 'seed', 'tasks', 'main_metrics', *needed):
    if key not in results:
      raise ValueError(f'{key!r} is missing')
  for key in ('name', 'variant'):
    _expect(key, results[key], is_text(results[key]))
  _expect('seed', results['seed'], is_int(results['seed']))
  tasks = results['tasks']
  _expect('tasks', tasks, _is_texts(tasks))
  if not tasks:
    raise ValueError('no tasks')
  _check_directions(results.get('directions'))
  main = results['main_metrics']
  _expect('main_metrics', main, isinstance(main, dict))
  for task in tasks:
    if task not in main:
      raise ValueError(f"'main_metrics.{task}' is missing")
    if not isinstance(main[task], str) or direction(results, main[task]) is None:
      raise ValueError(f'unknown metric {main[task]!r}')
  for key in _NUMBERS:
    value = results.get(key)
    _expect(key, value, is_number(value) or (value is None and key not in needed))
  for split in ('validation', 'test'):
    if results.get(split) is not None or split in needed:
      _check_split(split, results[split], results)
  _expect('order', results.get('order'), _is_texts(results.get('order', [])))
  _check_paper(results.get('paper'))
  return results


def _check_split(split: str, values: Any, results: Mapping[str, Any]) -> None:
  _expect(split, values, isinstance(values, dict))
  _expect(f'{split}.metrics', values.get('metrics'), isinstance(values.get('metrics'), dict))
  joint = values.get('joint')
  _expect(f'{split}.joint', joint, joint is None or _is_numbers(joint))
  _expect(f'{split}.mean', values.get('mean'), _is_known(values.get('mean')))
  for task, found in values['metrics'].items():
    _expect(f'{split}.metrics.{task}', found, isinstance(found, dict))
    known = {name: value for name, value in found.items() if direction(results, name)}
    _expect(f'{split}.metrics.{task}', found, _is_numbers(known))


def _check_directions(value: Any) -> None:
  if value is None:
    return
  _expect('directions', value, isinstance(value, dict))
  for name, told in value.items():
    fields = [isinstance(told, dict) and told.get(field) for field in Direction._fields]
    _expect(f'directions.{name}', told, all(isinstance(field, bool) for field in fields))


def _check_paper(paper: Any) -> None:
  if paper is None:
    return
  _expect('paper', paper, isinstance(paper, dict))
  rows = paper.get('rows') or {}
  _expect('paper.rows', rows, isinstance(rows, dict))
  for model, row in rows.items():
    _expect(f'paper.rows.{model}', row, _is_numbers(row))


def _expect(key: str, value: Any, valid: bool) -> None:
  if not valid:
    text = repr(value)
    raise ValueError(f'{key} is {text[:80]}{"..." if len(text) > 80 else ""}')


def _is_texts(value: Any) -> bool:
  return isinstance(value, list) and all(is_text(item) for item in value)


def _is_known(value: Any) -> bool:
  return value is None or is_number(value)


def _is_numbers(value: Any) -> bool:
  return isinstance(value, dict) and all(map(_is_known, value.values()))
