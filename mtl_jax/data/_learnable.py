"""Whether there is anything to learn in the labels of a training split, before any of it is."""

import collections
import logging
from collections.abc import Collection, Mapping, Sequence

from mtl_jax import errors
from mtl_jax.data import _batches, _examples, _labels, _meetings, specs

_LOG = logging.getLogger(__name__)
_SHOWN = 10  # names in a message


def check(
  examples: _examples.Examples,
  train: Sequence[_batches.Split],
  classes: Mapping[str, Sequence[str]],
  earlier: Collection[str],
  min_count: int,
) -> None:
  """Logs a warning for labels that the classes of an earlier run lack.

  Args:
    examples: those of the data set.
    train: its training split, encoded, a part for each group of tasks.
    classes: task -> the names of its classes.
    earlier: the tasks whose classes are those of an earlier run.
    min_count: a class seen fewer times is not missed; 0: the bound of the task.

  Raises:
    DataError: no training example has a label of a task, or none of a class that it has.
  """
  for group, part in zip(examples.groups, train, strict=True):
    for task in group:
      where = f'{examples.where["train"]}, task {task!r}'
      spec, items = examples.tasks[task], examples.by_task['train'][task]
      if task in earlier and classes[task]:
        least = min_count or spec.min_count
        _check_names(where, _names(items, spec), classes[task], least)
      if not _meetings.learned(part.targets[task], part.weights.get(task)).any():
        if _meetings.labelled(part.targets[task]).any():
          raise errors.DataError(
            f'{where}: every example with a label has weight 0 in field {spec.weight_field!r}, so '
            'that nothing could be learned'
          )
        raise errors.DataError(
          f'{where}: no example has a label, so that nothing could be learned; give it labels, or '
          'leave the task out'
        )


def _check_names(
  where: str, names: collections.Counter[str], classes: Sequence[str], min_count: int
) -> None:
  known = set(classes)
  unknown = {name: count for name, count in names.most_common() if name not in known}
  missed = {name: count for name, count in unknown.items() if count >= min_count}
  if unknown and len(unknown) == len(names):
    raise errors.DataError(
      f'{where}: no label is a class of the earlier run '
      f'({", ".join(map(repr, classes[:_SHOWN]))}), so that nothing could be learned; there are '
      f'{_listed(unknown)}. Name the labels as there, or leave the task out'
    )
  if missed:
    _LOG.warning(
      '%s: %d of %d labels are no classes of the earlier run and not learned: %s',
      where,
      sum(missed.values()),
      names.total(),
      _listed(missed),
    )


def _listed(counts: Mapping[str, int]) -> str:
  shown = ', '.join(f'{name!r} ({count})' for name, count in list(counts.items())[:_SHOWN])
  return f'{shown}, ...' if len(counts) > _SHOWN else shown


def _names(items: _labels.Examples, spec: specs.TaskSpec) -> collections.Counter[str]:
  """How often each name of a class stands in the labels."""
  counts: collections.Counter[str] = collections.Counter()
  for item in items:
    classes = spec.rules.classes_in(item[spec.field])
    counts.update(name for name in classes if isinstance(name, str) and name)
  return counts
