"""The examples of a data set by split and task, chosen and checked. Encodes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mtl_jax import errors
from mtl_jax.data import _labels, specs


class Examples(NamedTuple):
  """Examples and what they are read for.

  Attributes:
    where: split -> what messages call it.
    input: the field that is read.
    tasks: task -> what its labels are.
    groups: the tasks, those of the same examples together.
    by_task: split -> task -> its examples.
  """

  where: dict[str, str]
  input: specs.InputSpec
  tasks: Mapping[str, specs.TaskSpec]
  groups: list[list[str]]
  by_task: dict[str, dict[str, _labels.Examples]]

  def targets(self, labels: Mapping[str, Sequence[str]]) -> dict[str, list[_labels.ByTask]]:
    """Returns split -> of each group, task -> targets, by the names of the tasks' classes."""
    return {
      split: [
        {
          task: _labels.encode(self.where[split], task, self.tasks[task], items[task], labels[task])
          for task in group
        }
        for group in self.groups
      ]
      for split, items in self.by_task.items()
    }

  def weights(self) -> dict[str, list[_labels.Weights]]:
    """Returns split -> of each group, task -> float32 `[N]`, for the tasks that have weights.

    Raises:
      DataError: no training example has the field, or one has a weight that cannot be.
    """
    weighed = {task: spec for task, spec in self.tasks.items() if spec.weight_field}
    for task, spec in weighed.items():
      items = self.by_task['train'][task]
      if not any(spec.weight_field in item for item in items):
        raise errors.DataError(
          f'{self.where["train"]}, task {task!r}: no example has the field {spec.weight_field!r} '
          f'of its weights{errors.nearest(spec.weight_field, items[0])}'
        )
    return {
      split: [
        {
          task: _labels.weights(f'{self.where[split]}, task {task!r}', weighed[task], items[task])
          for task in group
          if task in weighed
        }
        for group in self.groups
      ]
      for split, items in self.by_task.items()
    }


def choose(
  name: str,
  examples: Mapping[str, _labels.Examples],
  input_spec: specs.InputSpec,
  task_specs: Mapping[str, specs.TaskSpec],
  options: Mapping[str, Any],
  owner: str,
) -> Examples:
  """Returns the examples that the options ask for, the unlabelled ones in training or left out.

  Raises:
    ConfigError: the data set has no unlabelled examples, or its tasks cannot be mixed.
    DataError: a split is empty, or a label is of the wrong type or has a lone surrogate.
  """
  apart = bool(owner) or options['own_batches']
  by_task = _choose(name, examples, task_specs, options, owner, apart)
  where = {split: f'data set {name!r}, split {split!r}' for split in by_task}
  for split, tasks in by_task.items():
    for task, items in tasks.items():
      if not len(items):
        of = f', task {task!r}' if apart else ''
        raise errors.DataError(f'{where[split]}{of}: it is empty')
      _labels.check(where[split], task, task_specs[task], items)
      _check_texts(where[split], task_specs[task].field, items)
  groups = [[task] for task in task_specs] if apart else [list(task_specs)]
  return Examples(where, input_spec, task_specs, groups, by_task)


def _check_texts(where: str, field: str, items: _labels.Examples) -> None:
  """Raises DataError for the first label, or name in one, that UTF-8 cannot write."""
  for index, item in enumerate(items):
    if complaint := errors.no_text(item[field]):
      raise errors.DataError(f'{where}, example {index}: field {field!r} {complaint}')


def _choose(
  name: str,
  examples: Mapping[str, _labels.Examples],
  task_specs: Mapping[str, specs.TaskSpec],
  options: Mapping[str, Any],
  owner: str,
  apart: bool,
) -> dict[str, dict[str, _labels.Examples]]:
  examples = dict(examples)
  unlabelled = examples.pop('unlabelled', ())
  if options['unlabelled'] and not len(unlabelled):
    raise errors.ConfigError(f'unlabelled: data set {name!r} has no such examples')
  if not apart and options['mixing'] != 'all':
    raise errors.ConfigError(
      f'mixing={options["mixing"]!r}: the tasks of data set {name!r} share their examples, so that '
      'every step is of all tasks'
    )

  def split_up(items: _labels.Examples) -> dict[str, _labels.Examples]:
    if not apart:
      return dict.fromkeys(task_specs, items)
    if not owner:
      return {t: [item for item in items if _has(item, spec)] for t, spec in task_specs.items()}
    parts: dict[str, list[Mapping[str, Any]]] = {task: [] for task in task_specs}
    for item in items:
      if item[owner] in parts:
        parts[item[owner]].append(item)
    return dict(parts)

  result = {split: split_up(items) for split, items in examples.items()}
  if options['train_limit']:
    result['train'] = {t: items[: options['train_limit']] for t, items in result['train'].items()}
  if any(spec.train_labels for spec in task_specs.values()):
    result['train'] = _limited(result['train'], task_specs, apart)
  if options['unlabelled']:
    more = split_up(unlabelled)
    result['train'] = {t: [*items, *more[t]] for t, items in result['train'].items()}
  return result


def _has(item: Mapping[str, Any], spec: specs.TaskSpec) -> bool:
  """Whether an example has a label of a task; one without the field is refused later."""
  return spec.field not in item or spec.rules.has_label(item[spec.field])


def _limited(
  train: Mapping[str, _labels.Examples], task_specs: Mapping[str, specs.TaskSpec], apart: bool
) -> dict[str, _labels.Examples]:
  """Leaves each task the labels of its first `train_labels` examples that have one."""
  kept: dict[str, set[int]] = {}  # numbers of the examples whose labels stay
  for task, spec in task_specs.items():
    labelled = [i for i, item in enumerate(train[task]) if _has(item, spec)]
    kept[task] = set(labelled[: spec.train_labels] if spec.train_labels else labelled)
  if apart:
    return {task: [items[i] for i in sorted(kept[task])] for task, items in train.items()}
  items = next(iter(train.values()))
  left = []
  for i, item in enumerate(items):
    if not any(i in numbers for numbers in kept.values()):
      continue
    gone = {
      spec.field: spec.rules.blank(item[spec.field])
      for task, spec in task_specs.items()
      if i not in kept[task]
    }
    left.append({**item, **gone} if gone else item)
  return dict.fromkeys(task_specs, left)
