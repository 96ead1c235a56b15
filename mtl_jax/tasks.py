"""Task: a name, a head, a kind, its metrics, its weight; the losses of the kinds by their names."""

import dataclasses
import math
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


def is_name(text: str) -> bool:
  """Whether a task may be called so: an identifier, and none of the keys of a batch."""
  return text.isidentifier() and text not in ('inputs', 'targets', 'mask')


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
    class_weights: `[C]`, what multiplies the loss of a label by its class (of several labels an
      example: that of a label that holds; one that does not has weight 1). The loss is divided by
      the sum of the weights, as are weights of examples: Σ w·l / Σ w, which PyTorch's
      `CrossEntropyLoss(weight=)` is too. (Its `BCEWithLogitsLoss(pos_weight=)` divides by the
      number of labels.) None: all are 1.

  Raises:
    ValueError: a bad name, an unknown kind, a metric that the kind does not have, a negative or
      infinite weight, weights of classes for a kind without classes.
  """

  name: str
  head: Any
  kind: str | kinds.Kind = 'classification'
  loss: ElementwiseLoss | None = None
  metrics: tuple[str, ...] = ()
  weight: float = 1.0
  class_weights: tuple[float, ...] | None = None

  def __post_init__(self) -> None:
    if not is_name(self.name):
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
    if self.class_weights is not None:
      weights = tuple(map(float, self.class_weights))
      object.__setattr__(self, 'class_weights', weights)
      if not kind.discrete:
        raise ValueError(f'Task {self.name!r}: {kind.name} has no classes that could be weighted.')
      if not all(0.0 <= w < math.inf for w in weights) or not any(weights):
        raise ValueError(
          f'Task {self.name!r}: class_weights need finite numbers from 0 on, not all of them 0: '
          f'{weights}.'
        )

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

  def loss_sum(
    self,
    outputs: Any,
    targets: jax.Array,
    mask: jax.Array | None = None,
    weight: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Σ w·l `[]` over the valid values l and Σ w `[]`, both float32; their quotient is the mean.

    Args:
      outputs: the head's outputs.
      targets: see `elements`.
      mask: see `elements`.
      weight: `[B]`, of each example, from 0 on; 0 is as if it had no label, whatever its values.
        None: all are 1.

    Returns:
      both sums; without weights of examples or classes the second is the number of valid values.

    Raises:
      ValueError: as `elements`; a weight or `class_weights` of another shape.
    """
    values, valid, weights = self._weighted(outputs, targets, mask, weight)
    if weights is None:
      return jnp.sum(values), jnp.sum(valid, dtype=jnp.float32)
    return jnp.sum(weights * values), jnp.sum(weights)

  def mean_loss(
    self,
    outputs: Any,
    targets: jax.Array,
    mask: jax.Array | None = None,
    weight: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """The task's weight · Σ w·l / Σ w `[]` (0 without labels), and Σ w `[]`: see `loss_sum`.

    With `Task.weight` 0 there are none: loss and sum are 0 whatever the values, NaN too.
    """
    values, valid, weights = self._weighted(outputs, targets, mask, weight)
    if self.weight == 0:
      return jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    if weights is None:
      count = jnp.sum(valid, dtype=jnp.float32)
      return self.weight * jnp.sum(values) / jnp.maximum(count, 1.0), count
    total = jnp.sum(weights)
    mean = jnp.sum(weights * values) / jnp.where(total > 0, total, 1.0)
    return self.weight * mean, total

  def _weighted(
    self, outputs: Any, targets: jax.Array, mask: jax.Array | None, weight: jax.Array | None
  ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """`elements`, and the weights of the values, 0 where invalid; None where all are 1."""
    if weight is not None:
      if jnp.shape(weight) != jnp.shape(targets)[:1]:
        raise ValueError(
          f'Task {self.name!r}: weights of examples are [B], but their shape is '
          f'{jnp.shape(weight)} and that of the targets {jnp.shape(targets)}.'
        )
      mask = weight != 0 if mask is None else mask & (weight != 0)
    values, valid = self.elements(outputs, targets, mask)
    if weight is None and self.class_weights is None:
      return values, valid, None
    weights = jnp.ones(values.shape, jnp.float32)
    if weight is not None:
      weights = weights * _as_wide(weight.astype(jnp.float32), values.ndim)
    if self.class_weights is not None:
      weights = weights * self._of_classes(outputs, targets, values)
    return values, valid, jnp.where(valid, weights, 0.0)

  def _of_classes(self, outputs: Any, targets: jax.Array, values: jax.Array) -> jax.Array:
    """The weight of each label by its class, in the shape of `values`."""
    assert self.class_weights is not None
    weights = jnp.asarray(self.class_weights, jnp.float32)
    width = self.rules.width([''] * len(self.class_weights))
    if hasattr(outputs, 'shape') and outputs.shape[-1] != width:
      raise ValueError(
        f'Task {self.name!r}: {len(self.class_weights)} class_weights do not fit outputs of shape '
        f'{outputs.shape}.'
      )
    found = self.rules.of_classes(targets, weights)
    if found.shape != values.shape:
      raise ValueError(
        f'Task {self.name!r}: class_weights are for a loss with a value for each label, '
        f'{found.shape}, not {values.shape}.'
      )
    return found

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
