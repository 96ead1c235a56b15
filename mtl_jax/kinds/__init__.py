"""Kinds of task, by name: what the labels are, and all that follows from it.

A new kind is a file here, with a class derived from `Kind`, and a line in `KINDS`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mtl_jax import dotted, errors
from mtl_jax.kinds.classification import Classification, softmax_cross_entropy
from mtl_jax.kinds.kind import MISSING, UNKNOWN, Kind, Metric, Names
from mtl_jax.kinds.multilabel import MultiLabel, sigmoid_cross_entropy
from mtl_jax.kinds.regression import Regression, squared_error
from mtl_jax.kinds.tagging import Tagging

KINDS: dict[str, type[Kind]] = {
  'classification': Classification,
  'multilabel': MultiLabel,
  'regression': Regression,
  'tagging': Tagging,
}
"""The class of each kind."""


def get(kind: str | Kind, **options: Any) -> Kind:
  """The kind called `kind`, with the options of its class; a kind itself is returned, changed.

  Raises:
    ValueError: there is no such kind, it has no such option, or no such value.
  """
  if not isinstance(kind, Kind) and kind not in KINDS:
    raise ValueError(f'unknown kind {kind!r}{errors.nearest(kind, KINDS)}')
  made = kind if isinstance(kind, Kind) else KINDS[kind]()
  fields = options_of(made)
  for option in options:
    if option not in fields:
      raise ValueError(f'{made.name} has no option {option!r}{errors.nearest(option, fields)}')
  return dataclasses.replace(made, **options) if options else made


def options_of(kind: Kind | type[Kind]) -> dict[str, Any]:
  """The options of a kind and their defaults; what is fitted to labels is none."""
  return {f.name: f.default for f in dataclasses.fields(kind) if not f.metadata.get('fitted')}


def head_options_of(kind: Kind | type[Kind]) -> dict[str, Any]:
  """The options of a kind's default head and their defaults."""
  ours = ('num_classes', 'dtype', 'parent', 'name')  # not a user's to choose
  return {f.name: f.default for f in dataclasses.fields(kind.head) if f.name not in ours}


def metrics_of(kind: Kind, names: Sequence[str] = ()) -> tuple[str, ...]:
  """The names themselves, or that of the kind's main metric where there are none.

  Raises:
    ValueError: there is no such metric, or not for this kind.
  """
  for name in names:
    if name in kind.metrics:
      continue
    near = errors.nearest(name, kind.metrics)
    if any(name in KINDS[other]().metrics for other in KINDS):
      raise ValueError(f'metric {name!r} is not defined for {kind.name}{near}')
    raise ValueError(f'unknown metric {name!r}{near}')
  return tuple(names) or (next(iter(kind.metrics)),)


def with_metrics(kind: Kind, names: Sequence[str]) -> tuple[Kind, tuple[str, ...]]:
  """The kind with the metrics of a user's own among `names`, and all names as results have them.

  Args:
    kind: the kind.
    names: of its metrics, or 'package.module:Name' or 'FILE.py:Name' of a function `(targets,
      predictions, names of the classes) -> value` or of a `Metric`, which is called Name.

  Raises:
    ValueError: there is no such metric, not for this kind, or the name names no function.
  """
  own: dict[str, Metric] = {}
  short = []
  for name in names:
    if ':' not in name:
      short.append(name)
      continue
    found = dotted.load(name, 'metric')
    if not isinstance(found, Metric):
      if not callable(found):
        raise ValueError(f'metric {name!r} is no function, and no mtl_jax.kinds.Metric')
      found = Metric(found)
    short.append(name.rpartition(':')[2].rpartition('.')[2])
    own[short[-1]] = found
  metrics_of(kind, [name for name in short if name not in own])
  if not own:
    return kind, tuple(short)
  base = type(kind)
  merged = property(lambda self: {**super(made, self).metrics, **own}, doc=base.metrics.__doc__)
  made: type[Any] = dataclasses.dataclass(frozen=True)(
    type(base.__name__, (base,), {'metrics': merged, '__doc__': base.__doc__})
  )
  options = {f.name: getattr(kind, f.name) for f in dataclasses.fields(kind)}
  return made(**options), tuple(short)


def find_metric(name: str) -> Metric | None:
  """The metric of that name of any kind, for its direction; None if there is none."""
  return next((m[name] for kind in KINDS.values() if name in (m := kind().metrics)), None)


__all__ = [
  'KINDS',
  'MISSING',
  'UNKNOWN',
  'Classification',
  'Kind',
  'Metric',
  'MultiLabel',
  'Names',
  'Regression',
  'Tagging',
  'find_metric',
  'get',
  'head_options_of',
  'metrics_of',
  'options_of',
  'sigmoid_cross_entropy',
  'softmax_cross_entropy',
  'squared_error',
  'with_metrics',
]
