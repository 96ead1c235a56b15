"""Task: a name, a head, a kind, its metrics, its weight; the losses of the kinds by their names."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import kinds
from mtl_jax.kinds import (
  MISSING,
  UNKNOWN,
  sigmoid_cross_entropy,
  softmax_cross_entropy,
  squared_error,
)

ElementwiseLoss = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Task:
  """One task.

  Attributes:
    name: a Python identifier other than 'inputs', 'targets' and 'mask', which batches use.
    head: the task's own half: a Flax module `(features, inputs, train=False) -> outputs`.
    kind: 'classification' (logits `[B, C]`, labels `[B]`), 'multilabel' (logits `[B, C]`, 0/1
      labels `[B, C]`), 'regression' (values `[B]`), 'tagging' (logits `[B, S, C]`, labels
      `[B, S]`), another name in `mtl_jax.kinds.KINDS`, or a `mtl_jax.kinds.Kind`, which it becomes.
      It says how predictions are read off the outputs, and what they are scored by.
    loss: elementwise: `(outputs, targets) -> (values [B, ...], valid [B, ...])`; None takes that of
      the kind. The task's loss is the mean of the valid values.
    metrics: names of metrics of the kind, which evaluation computes; the first is the main one. ()
      takes the kind's main one.
    weight: multiplies the task's loss, for every balancing method alike. 0 switches the task off:
      it counts as absent from every training step, where its zero gradient would look like that of
      a solved task, and is still evaluated.

  Raises:
    ValueError: a bad name, an unknown kind, a metric that the kind does not have, a negative or
      infinite weight.
  """

  name: str
  head: Any
  kind: str | kinds.Kind = 'classification'
  loss: ElementwiseLoss | None = None
  metrics: tuple[str, ...] = ()
  weight: float = 1.0

  def __post_init__(self) -> None:
    if not self.name.isidentifier() or self.name in ('inputs', 'targets', 'mask'):
      raise ValueError(
        f'A task cannot be called {self.name!r}: give it a Python identifier other than inputs, '
        'targets and mask.'
      )
    try:
      kind = kinds.get(self.kind)
      metrics = kinds.metrics_of(kind, self.metrics)
    except ValueError as e:
      raise ValueError(f'Task {self.name!r}: {e}') from None
    object.__setattr__(self, 'kind', kind)
    object.__setattr__(self, 'metrics', tuple(metrics))
    if not 0.0 <= self.weight < float('inf'):
      raise ValueError(f'Task {self.name!r}: weight {self.weight} is negative or not finite.')

  @property
  def rules(self) -> kinds.Kind:
    """The kind, as an object."""
    assert isinstance(self.kind, kinds.Kind)
    return self.kind

  def elements(
    self, outputs: Any, targets: jax.Array, mask: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Unweighted loss values and validity of every label.

    Args:
      outputs: the head's outputs.
      targets: labels of the kind's shape; below zero, or NaN for numbers: missing.
      mask: `[B]` bool; False where the example has no label for this task.

    Returns:
      values `[B, ...]` float32, zero where invalid, and valid `[B, ...]` bool.

    Raises:
      ValueError: the shapes of outputs, targets and mask do not fit the kind; the task is named.
    """
    self._check_shapes(outputs, targets, mask)
    integers = jnp.issubdtype(jnp.result_type(targets), jnp.integer)
    # What is missing leaves the targets before the loss: 0 times NaN is NaN in its gradient.
    known = jnp.ones((), bool) if integers else ~jnp.isnan(targets)
    if mask is not None:
      known = known & _as_wide(mask, jnp.ndim(targets))
    blank = jnp.asarray(kinds.MISSING if integers else 0, jnp.result_type(targets))
    targets = jnp.where(known, targets, blank)
    values, valid = (self.loss or self.rules.loss)(outputs, targets)
    valid = valid & _as_wide(known, valid.ndim)
    return jnp.where(valid, values, 0.0), valid

  def mean_loss(
    self, outputs: Any, targets: jax.Array, mask: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """weight · mean of the valid values `[]` (0 without labels), and their count `[]` float32.

    With weight 0 there are none: loss and count are 0 whatever the values, NaN too.
    """
    values, valid = self.elements(outputs, targets, mask)
    if self.weight == 0:
      return jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    count = jnp.sum(valid, dtype=jnp.float32)
    return self.weight * jnp.sum(values) / jnp.maximum(count, 1.0), count

  def _check_shapes(self, outputs: Any, targets: jax.Array, mask: jax.Array | None) -> None:
    if self.loss is None:
      wanted = self.rules.targets_shape(outputs)
      if jnp.shape(targets) != wanted:
        raise ValueError(
          f'Task {self.name!r} ({self.rules.name}): targets of shape {jnp.shape(targets)} do not '
          f'fit outputs of shape {outputs.shape}; they must be {wanted}.'
        )
    if mask is not None and mask.shape != jnp.shape(targets)[:1]:
      raise ValueError(
        f'Task {self.name!r}: a mask is [B], but its shape is {mask.shape} and that of the targets '
        f'{jnp.shape(targets)}; a label missing inside an example is told by a label below zero.'
      )

  def predictions(self, outputs: Any) -> jax.Array:
    """Class indices (int32), multi-label decisions (bool: probability > ½), or the values."""
    return self.rules.predict(outputs)


def _as_wide(known: jax.Array, axes: int) -> jax.Array:
  """`known` with so many axes: ones at the end, or true where all further entries are."""
  if known.ndim > axes:
    return jnp.all(known, axis=tuple(range(axes, known.ndim)))
  return known.reshape(known.shape + (1,) * (axes - known.ndim)) if known.ndim else known


__all__ = [
  'MISSING',
  'UNKNOWN',
  'ElementwiseLoss',
  'Task',
  'sigmoid_cross_entropy',
  'softmax_cross_entropy',
  'squared_error',
]
