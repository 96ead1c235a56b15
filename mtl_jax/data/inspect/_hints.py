"""What in a data set may be a mistake, or surprise: in words, with what to set. Decides nothing."""

import collections
import math
from collections.abc import Iterator, Mapping, Sequence

from mtl_jax.data import described, sources

_FEW = 3  # different names beside numbers that may stand for no label
_SHOWN = 4  # groups in a hint


def of_source(source: sources.Source) -> list[str]:
  """Hints at how files are read."""
  if not isinstance(source, described.Described):
    return []
  return [
    f'{name}: read without quotes, a " is a character like others (dataset.files.{name}.quote)'
    for name, given in source.files.items()
    if not given['quote']
  ]


def of_classes(
  task: str, counts: Mapping[str, Mapping[str, int]], source: sources.Source
) -> Iterator[str]:
  """Yields hints at classes that may be one, or none at all.

  Args:
    task: its name.
    counts: class -> split -> how often it is a label.
    source: where they come from.
  """
  by_case = collections.defaultdict(list)
  for name in counts:
    by_case[name.casefold()].append(name)
  alike = [sorted(names) for names in by_case.values() if len(names) > 1]
  if alike:
    groups = '; '.join(', '.join(map(repr, names)) for names in alike[:_SHOWN])
    more = f', and {len(alike) - _SHOWN} groups more' if len(alike) > _SHOWN else ''
    yield (
      f'task {task}: {sum(map(len, alike))} classes differ only in case: {groups}{more}; they are '
      'learned as different ones: write them alike in the file where they are one'
    )
  odd = [name for name in counts if not _is_number(name)]
  if 0 < len(odd) <= _FEW and len(counts) - len(odd) >= 2:
    rows = ', '.join(f'{name!r} ({sum(counts[name].values()):,} rows)' for name in odd)
    yield f'task {task}: it looks numeric but for {rows}{_missing(task, odd, source)}'


def _missing(task: str, odd: Sequence[str], source: sources.Source) -> str:
  """How to say that some values stand for no label."""
  if not isinstance(source, described.Described):
    return ''
  values = '[' + ', '.join('"{}"'.format(name.replace('"', '\\"')) for name in odd) + ']'
  names = source.columns[task]['files']
  keys = ' and '.join(f'dataset.files.{name}.missing = {values}' for name in names)
  return f'; if that stands for no label, set {keys}'


def _is_number(name: str) -> bool:
  try:
    return math.isfinite(float(name))
  except ValueError:
    return False
