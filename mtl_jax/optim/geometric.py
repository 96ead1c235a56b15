"""The geometric mean of the losses as the objective."""

from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base


def geometric_mean() -> _base.Balancer:
  """The geometric loss strategy (GLS): descends on (Πᵢ Lᵢ)^{1/T}.

  The weights are its gradient, wᵢ = (Πⱼ Lⱼ)^{1/T} / (T Lᵢ), computed through logarithms: neither a
  product of many losses nor one very small loss overflows. A mean over tasks: with equal losses
  wᵢ = 1/T. The scale of one loss changes the length of the direction, not where it points.

  Absent tasks take no part in the mean. It is defined for positive losses only; a task whose loss
  is ≤ 0 is left out of the step like an absent one (at a loss of exactly 0 the formula has no
  finite gradient). A step with this method scales each task's whole loss: its own parameters get
  the weight too.

  Returns:
    a balancer that needs the losses only; its state is empty.

  Raises:
    ValueError: at update, without losses.

  References:
    Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for
    Multi-Task Learning, CVPR Workshops 2019.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.geometric_mean()
    >>> weighted, _ = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([4.0, 1.0]))
    >>> [f'{weight:.3f}' for weight in weighted.tolist()]
    ['0.250', '1.000']
  """

  def update(
    state: _base.State, *, present: jax.Array, losses: jax.Array | None = None, **extra_args: Any
  ) -> tuple[jax.Array, _base.State]:
    del extra_args
    losses = _arguments.require_losses(losses, 'geometric_mean')
    return _base.exactly(_gradient)(losses, present & (losses > 0)), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'losses'))


def _gradient(losses: jax.Array, positive: jax.Array) -> jax.Array:
  logs = jnp.log(jnp.where(positive, losses, 1.0))
  count = jnp.maximum(jnp.sum(positive, dtype=jnp.float64), 1.0)
  weights = jnp.exp(jnp.sum(logs) / count - logs) / count
  finite = jnp.minimum(weights, float(jnp.finfo(jnp.float32).max))
  return jnp.where(positive, finite, 0.0)
