"""Labels to integers, naming the example where one does not fit. Reads no files."""

import collections
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import errors
from mtl_jax.data import _ragged, specs
from mtl_jax.kinds import MISSING, UNKNOWN
from mtl_jax.plain import is_number

Targets = np.ndarray | _ragged.Ragged
ByTask = Mapping[str, Targets]
Weights = Mapping[str, np.ndarray]
Examples = Sequence[Mapping[str, Any]]


def classes(
  task_specs: Mapping[str, specs.TaskSpec],
  train: Mapping[str, Examples],
  min_count: int,
  known: Mapping[str, tuple[str, ...]],
) -> dict[str, tuple[str, ...]]:
  """Returns the classes of every task: those known, and of the others `names`.

  Raises:
    DataError: a task without a class.
  """
  result = {
    task: known[task] if task in known else names(spec, train[task], min_count)
    for task, spec in task_specs.items()
  }
  for task, found in result.items():
    if not found and task_specs[task].rules.discrete:
      raise errors.DataError(
        f'task {task!r} has no labels in the training split (label_min_count: '
        f'{min_count or task_specs[task].min_count})'
      )
  return result


def names(spec: specs.TaskSpec, train: Examples, min_count: int) -> tuple[str, ...]:
  """Returns the classes of a task: its own, or those of the training split: numbers in
  their order, other names the most frequent first.

  Args:
    spec: the task.
    train: the examples of the training split, their labels checked by `check`.
    min_count: a class seen fewer times is left out; 0: the task's own bound.
  """
  if spec.labels is not None:
    return spec.labels
  counts: collections.Counter[str] = collections.Counter()
  for example in train:
    counts.update(spec.rules.classes_in(example[spec.field]))
  least = min_count or spec.min_count
  kept = [name for name, count in counts.items() if name and count >= least]
  if all(map(_is_number, kept)):
    return tuple(sorted(kept, key=lambda name: (float(name), name)))
  return tuple(sorted(kept, key=lambda name: (-counts[name], name)))


def _is_number(name: str) -> bool:
  try:
    return math.isfinite(float(name))
  except ValueError:
    return False


def check(where: str, task: str, spec: specs.TaskSpec, examples: Examples) -> None:
  """Raises DataError for the first example without the field, or with a label of the wrong type."""
  for index, example in enumerate(examples):
    if spec.field not in example:
      raise errors.DataError(
        f'{where}, example {index}: no field {spec.field!r}, which task {task!r} reads'
        f'{errors.nearest(spec.field, example)}'
      )
    label = example[spec.field]
    if not spec.rules.accepts(label, fixed=spec.labels is not None):
      raise errors.DataError(
        f'{where}, example {index}, task {task!r}: label {label!r} should be {spec.rules.label}'
        + ('' if spec.labels is None else ', or an index into its fixed names')
      )


def encode(
  where: str, task: str, spec: specs.TaskSpec, examples: Examples, classes: Sequence[str]
) -> Targets:
  """Returns the targets of checked labels.

  Missing labels are -1, and NaN where they are numbers. Labels that are not among `classes` are -2,
  or an error where the data set fixes its classes; in a multilabel row they are left out.

  Args:
    where: data set and split, for messages.
    task: the task's name, for messages.
    spec: the task.
    examples: those of one split.
    classes: the C names of the classes.

  Returns:
    an array with a first axis of N, as the kind says, or a ragged array of one int32 a word.

  Raises:
    DataError: a label is not among the fixed names, or out of their range.
  """
  ids = {name: index for index, name in enumerate(classes)}

  def number(index: int, label: Any) -> int:
    if label is None or label == '':
      return MISSING
    if isinstance(label, str):
      found = ids.get(label, UNKNOWN)
      if found == UNKNOWN and spec.labels is not None:
        raise errors.DataError(
          f'{where}, example {index}, task {task!r}: no label {label!r}'
          f'{errors.nearest(label, classes)}'
        )
      return found
    if not 0 <= label < len(classes):
      raise errors.DataError(
        f'{where}, example {index}, task {task!r}: label {label} is out of range, '
        f'there are {len(classes)} classes'
      )
    return int(label)

  rules = spec.rules
  encoded = [
    rules.encode(example[spec.field], functools.partial(number, index), len(classes))
    for index, example in enumerate(examples)
  ]
  return _ragged.from_rows(encoded) if rules.per_token else np.array(encoded, rules.dtype)


def weights(where: str, spec: specs.TaskSpec, examples: Examples) -> np.ndarray:
  """Returns what each example weighs in the task's loss, float32 `[N]`; 1 where it does not say.

  Args:
    where: data set, split and task, for messages.
    spec: the task, with a `weight_field`.
    examples: those of one split.

  Raises:
    DataError: a weight is no number, below 0, NaN or infinite; the example is named.
  """
  found = np.ones(len(examples), np.float32)
  for index, example in enumerate(examples):
    value = example.get(spec.weight_field)
    if value is None:
      continue
    number = float(value) if is_number(value) or isinstance(value, np.number) else math.nan
    with np.errstate(over='ignore'):  # what is infinite as a float32 is refused too
      found[index] = number
    if not 0 <= found[index] < math.inf:
      raise errors.DataError(
        f'{where}, example {index}: weight {value!r} in field {spec.weight_field!r} should be a '
        'finite number, 0 or more'
      )
  return found
