"""Rows that are in memory already: a list of dicts, or a pandas DataFrame."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mtl_jax import errors
from mtl_jax.data.formats import _base

_MISSING = ('NAType', 'NaTType')  # pandas, which need not be installed


def from_rows(rows: Any) -> Iterator[_base.Record | _base.Fault]:
  """Yields the records of rows; NaN and what pandas takes as missing become None.

  Args:
    rows: an iterable of mappings from column to value, or a DataFrame, whose index is left out.

  Raises:
    DataError: two columns of a DataFrame have one name, or one that is no text; or `rows` are none.
  """
  if hasattr(rows, 'columns') and hasattr(rows, 'itertuples'):
    columns = list(rows.columns)
    wrong = next((f'the column {name!r}' for name in columns if not isinstance(name, str)), '')
    wrong = f'{wrong} has a name that is no text' if wrong else _base.check_names(columns)
    if wrong:
      raise errors.DataError(f'the rows given: {wrong}')
    values = rows.itertuples(index=False, name=None)
    return _records(dict(zip(columns, row, strict=True)) for row in values)
  strange = isinstance(rows, str | bytes | Mapping) or hasattr(rows, 'columns')
  if strange or not isinstance(rows, Iterable):
    raise errors.DataError(
      f'the rows given: {type(rows).__name__} is no list of dicts, and no pandas DataFrame'
    )
  return _records(rows)


def _records(rows: Iterable[Any]) -> Iterator[_base.Record | _base.Fault]:
  for number, row in enumerate(rows, start=1):
    place = f'row {number}'
    if not isinstance(row, Mapping):
      reason = f'{type(row).__name__}, and no dict of column to value'
    else:
      fields = {name: _value(value) for name, value in row.items()}
      reason = next((_wrong(*item) for item in fields.items() if _wrong(*item)), '')
    if reason:
      yield _base.Fault('rows', place, reason, _base.excerpt(repr(row)))
    else:
      yield _base.Record(place, fields)


def _wrong(name: Any, value: Any) -> str:
  if not isinstance(name, str):
    return f'the column {name!r} has a name that is no text'
  halves = errors.no_text(value)
  return f'{name!r} {halves}' if halves else ''


def _value(value: Any) -> Any:
  if type(value).__name__ in _MISSING:
    return None
  if hasattr(value, 'item') and not getattr(value, 'ndim', 1):
    value = value.item()
  return None if isinstance(value, float) and value != value else value
