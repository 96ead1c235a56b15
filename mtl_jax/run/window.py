"""Step metrics on the host: means between two log lines, and the check that all are finite."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import errors

_BY_TASK = ('loss', 'weight', 'gradient_norm')
_SCALARS = ('conflict', 'improved', 'penalty')


class Window:
  """Sums of step metrics, in float64 and step order, so that a resumed run has the same means."""

  def __init__(self, task_names: Sequence[str]):
    self._names = tuple(task_names)
    self.clear()

  def clear(self) -> None:
    """Forgets all steps."""
    self._sums: dict[str, np.ndarray] = {}
    self._counts: dict[str, np.ndarray] = {}

  def add(self, metrics: Mapping[str, Any]) -> None:
    """Adds one step's metrics, fetched from the device: `[T]`, 'cosine' `[T, T]`, scalars `[]`.

    Absent tasks do not count, nor do values that are NaN: those of a step that had no use for them.
    """
    present = np.asarray(metrics['present'])
    masks = dict.fromkeys(_BY_TASK, present) | dict.fromkeys(_SCALARS, np.True_)
    masks['cosine'] = np.outer(present, present)
    for name, mask in masks.items():
      if name in metrics:
        values = np.asarray(metrics[name], np.float64)
        known = mask & ~np.isnan(values)
        self._sums[name] = self._sums.get(name, 0.0) + np.where(known, values, 0.0)
        self._counts[name] = self._counts.get(name, 0.0) + known.astype(np.float64)

  def means(self) -> dict[str, Any]:
    """`{'loss': {task: x}, 'cosine': [[x]], 'conflict': x, ...}`; None where no step had it."""
    result: dict[str, Any] = {}
    for name, total in self._sums.items():
      count = self._counts[name]
      mean = np.where(count > 0, total / np.maximum(count, 1), np.nan).tolist()
      if name == 'cosine':
        result[name] = [[_finite_or_none(value) for value in row] for row in mean]
      elif name in _SCALARS:
        result[name] = _finite_or_none(mean)
      else:
        values = map(_finite_or_none, mean)
        result[name] = dict(zip(self._names, values, strict=True))
    return result

  def state(self) -> dict[str, Any]:
    """What `load` needs, as JSON."""
    parts = {'sums': self._sums, 'counts': self._counts}
    return {part: {k: np.asarray(v).tolist() for k, v in d.items()} for part, d in parts.items()}

  def load(self, state: Mapping[str, Any]) -> None:
    """Goes on from a saved state; raises KeyError, ValueError or TypeError for what is none."""
    loaded = [
      {name: np.asarray(value, np.float64) for name, value in dict(state[part]).items()}
      for part in ('sums', 'counts')
    ]
    tasks = (len(self._names),)
    shapes = dict.fromkeys(_BY_TASK, tasks) | dict.fromkeys(_SCALARS, ()) | {'cosine': tasks * 2}
    for part in loaded:
      if part.keys() != loaded[0].keys() or any(v.shape != shapes[k] for k, v in part.items()):
        raise ValueError(f'means of steps stand at {state}')
    self._sums, self._counts = loaded


def check_finite(step: int, metrics: Mapping[str, Any], task_names: Sequence[str]) -> None:
  """Raises NonFiniteError, naming the tasks, unless a step's losses and gradients are finite.

  Those of tasks that were absent from the step do not count.
  """
  finite = np.asarray(metrics['finite']) | ~np.asarray(metrics['present'])
  if not finite.all():
    bad = [name for name, good in zip(task_names, finite, strict=True) if not good]
    losses = np.asarray(metrics['loss'])
    shown = ', '.join(
      f'{name} {loss}' for name, loss in zip(task_names, losses, strict=True) if name in bad
    )
    plural = 'tasks' if len(bad) > 1 else 'task'
    raise errors.NonFiniteError(
      f'step {step}: the loss or the gradient of {plural} {", ".join(bad)} is NaN or infinite '
      f'(loss: {shown})'
    )
  if not np.isfinite(metrics['update_norm']):
    raise errors.NonFiniteError(
      f'step {step}: every loss and gradient is finite, but the update of the parameters is not '
      '(a balancing method or the optimizer overflowed)'
    )


def _finite_or_none(value: float) -> float | None:
  return value if np.isfinite(value) else None
