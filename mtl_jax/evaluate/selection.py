"""Which number of an evaluation a run is judged by, and which way it improves."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtl_jax import errors
from mtl_jax.protocols import LabelledTask

JOINT = 'joint.exact_match'


def choices(metrics: Mapping[str, Sequence[str]]) -> list[str]:
  """What can be chosen: 'mean' of the main metrics, 'loss', the joint match, or a task's metric.

  Args:
    metrics: task -> names of its metrics.
  """
  return ['mean', 'loss', JOINT, *(f'{task}.{m}' for task, names in metrics.items() for m in names)]


def higher_is_better(choice: str, tasks: Sequence[LabelledTask]) -> bool:
  """The direction of what was chosen: 'loss' and errors fall, all else rises."""
  if choice in ('mean', 'loss', JOINT):
    return choice != 'loss'
  name, metric = choice.split('.')
  return {task.name: task for task in tasks}[name].rules.metrics[metric].higher_is_better


def value(choice: str, results: Mapping[str, Any]) -> float:
  """The number itself, from what `Evaluator.evaluate` returned.

  Raises:
    DataError: the split has no labels for it.
  """
  found: float | None
  if choice == 'loss':
    losses = [loss for loss in results['loss'].values() if loss is not None]
    found = sum(losses) / len(losses) if losses else None
  elif choice == 'mean':
    found = results['mean']
  elif choice == JOINT:
    found = results['joint'].get('exact_match')
  else:
    task, name = choice.split('.')
    found = results['metrics'][task][name]
  if found is None:
    raise errors.DataError(
      f'the validation split has no labels that {choice!r} could be computed from; choose another '
      'train.early_stopping.metric'
    )
  return found
