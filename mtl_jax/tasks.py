"""Task: a name, a head, a loss, its metrics, its weight; and the elementwise losses of each kind.

How labels are missing is settled here, once: integer labels below zero carry no loss.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

MISSING = -1
"""The label of an example that has none, and of padding."""
UNKNOWN = -2
"""The label of a class that the training split lacks: no loss, and always wrong in metrics."""

ElementwiseLoss = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy per label, in nats.

  Args:
    logits: `[B, ..., C]`.
    labels: int `[B, ...]`; below zero: missing.

  Returns:
    values `[B, ...]` float32 and valid `[B, ...]` bool.
  """
  valid = labels >= 0
  values = optax.softmax_cross_entropy_with_integer_labels(
    logits.astype(jnp.float32), jnp.where(valid, labels, 0)
  )
  return values, valid


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Binary cross-entropy per class, in nats.

  Args:
    logits: `[B, C]`.
    labels: int `[B, C]`: 0, 1, or below zero: missing.

  Returns:
    values `[B, C]` float32 and valid `[B, C]` bool.
  """
  valid = labels >= 0
  targets = jnp.where(valid, labels, 0).astype(jnp.float32)
  return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets), valid


def squared_error(predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(prediction − target)² in the targets' unit squared; missing targets are told by the mask.

  Args:
    predictions: `[B, ...]`.
    targets: float, the same shape.

  Returns:
    values float32 and valid bool (all true), of that shape.
  """
  values = jnp.square(predictions.astype(jnp.float32) - targets.astype(jnp.float32))
  return values, jnp.ones(values.shape, bool)


LOSSES: dict[str, ElementwiseLoss] = {
  'classification': softmax_cross_entropy,
  'multilabel': sigmoid_cross_entropy,
  'regression': squared_error,
  'tagging': softmax_cross_entropy,
}
"""The loss of each kind of task."""

KINDS = tuple(LOSSES)
"""The kinds of task."""


@dataclasses.dataclass(frozen=True)
class Task:
  """One task.

  Attributes:
    name: a Python identifier other than 'inputs', 'targets' and 'mask', which batches use.
    head: the task's own half: a Flax module `(features, inputs, train=False) -> outputs`.
    kind: 'classification' (logits `[B, C]`, labels `[B]`), 'multilabel' (logits `[B, C]`, 0/1
      labels `[B, C]`), 'regression' (values `[B]`), or 'tagging' (logits `[B, S, C]`, labels
      `[B, S]`). It says how predictions are read off the outputs.
    loss: elementwise: `(outputs, targets) -> (values [B, ...], valid [B, ...])`; None takes that of
      the kind. The task's loss is the mean of the valid values.
    metrics: names from `mtl_jax.metrics`; the first is the main one.
    weight: multiplies the task's loss, for every balancing method alike. 0 switches the task off:
      it counts as absent from every training step, where its zero gradient would look like that of
      a solved task, and is still evaluated.

  Raises:
    ValueError: a bad name, an unknown kind, a negative or infinite weight.
  """

  name: str
  head: Any
  kind: str = 'classification'
  loss: ElementwiseLoss | None = None
  metrics: tuple[str, ...] = ()
  weight: float = 1.0

  def __post_init__(self):
    if not self.name.isidentifier() or self.name in ('inputs', 'targets', 'mask'):
      raise ValueError(
        f'A task cannot be called {self.name!r}: give it a Python identifier other than inputs, '
        'targets and mask.'
      )
    if self.kind not in KINDS:
      raise ValueError(f'Task {self.name!r}: unknown kind {self.kind!r}. Valid: {", ".join(KINDS)}')
    if not 0.0 <= self.weight < float('inf'):
      raise ValueError(f'Task {self.name!r}: weight {self.weight} is negative or not finite.')

  def elements(
    self, outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Unweighted loss values and validity of every label.

    Args:
      outputs: the head's outputs.
      targets: labels of the kind's shape.
      mask: `[B]` bool; False where the example has no label for this task.

    Returns:
      values `[B, ...]` float32, zero where invalid, and valid `[B, ...]` bool.

    Raises:
      ValueError: the shapes of outputs, targets and mask do not fit the kind; the task is named.
    """
    self._check_shapes(outputs, targets, mask)
    if mask is not None:  # before the loss: what is masked may be NaN, and 0 times NaN is NaN
      here = mask.reshape(mask.shape + (1,) * (jnp.ndim(targets) - 1))
      blank = MISSING if jnp.issubdtype(jnp.result_type(targets), jnp.integer) else 0
      targets = jnp.where(here, targets, jnp.asarray(blank, jnp.result_type(targets)))
    values, valid = (self.loss or LOSSES[self.kind])(outputs, targets)
    if mask is not None:
      valid = valid & mask.reshape(mask.shape + (1,) * (valid.ndim - 1))
    return jnp.where(valid, values, 0.0), valid

  def mean_loss(
    self, outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """weight · mean of the valid values `[]` (0 without labels), and their count `[]` float32.

    With weight 0 there are none: loss and count are 0 whatever the values, NaN too.
    """
    values, valid = self.elements(outputs, targets, mask)
    if self.weight == 0:
      return jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    count = jnp.sum(valid, dtype=jnp.float32)
    return self.weight * jnp.sum(values) / jnp.maximum(count, 1.0), count

  def _check_shapes(self, outputs, targets, mask):
    if self.loss is None:
      wanted = outputs.shape[:-1] if self.kind in ('classification', 'tagging') else outputs.shape
      if jnp.shape(targets) != wanted:
        raise ValueError(
          f'Task {self.name!r} ({self.kind}): targets of shape {jnp.shape(targets)} do not fit '
          f'outputs of shape {outputs.shape}; they must be {wanted}.'
        )
    if mask is not None and mask.shape != jnp.shape(targets)[:1]:
      raise ValueError(
        f'Task {self.name!r}: a mask is [B], but its shape is {mask.shape} and that of the targets '
        f'{jnp.shape(targets)}; a label missing inside an example is told by a label below zero.'
      )

  def predictions(self, outputs: jax.Array) -> jax.Array:
    """Class indices (int32), multi-label decisions (bool: probability > ½), or the values."""
    if self.kind in ('classification', 'tagging'):
      return jnp.argmax(outputs, axis=-1).astype(jnp.int32)
    if self.kind == 'multilabel':
      return outputs > 0
    return outputs.astype(jnp.float32)
