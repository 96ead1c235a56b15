"""DB-MTL: gradients of the logarithms of the losses, averaged and brought to one length."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base, _rows

_EPSILON = 1e-8


class DBMTLState(NamedTuple):
  """State of `db_mtl`: averaged gradients, leaves `[T, ...]`, and each task's steps `[T]`."""

  average: Any
  steps: jax.Array


def db_mtl(
  num_tasks: int | None = None,
  *,
  beta: float | jax.Array = 0.9,
  beta_sigma: float | jax.Array = 0.0,
) -> _base.Balancer:
  """Dual balancing: the scales of the losses by a logarithm, of the gradients by their norms.

  With ĝᵢ = ∇log(Lᵢ + ε) = gᵢ/(Lᵢ + ε), ε = 1e-8, and B₀ = 0, at step t

  * βₜ = β t^−σ and B ← βₜ B + (1 − βₜ) ĝ;
  * d = maxⱼ‖Bⱼ‖ Σᵢ Bᵢ/‖Bᵢ‖, a sum over tasks.

  The average is not corrected for its start at zero, as in the paper: the first directions are
  short by the factor 1 − βₜ, which Adam does not see.

  An absent task takes no part and keeps its Bᵢ and its own count of steps t; so does one whose loss
  or gradient is not finite, and one whose loss is ≤ 0: it has no logarithm, and by the formula a
  loss of 0 has ĝ = 10⁸g, the longest, whose length d takes. A Bᵢ of zero stays zero. One task alone
  has d = B, not its plain gradient.

  The losses of task-specific parameters get no logarithm here: those keep loss i's plain gradient.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    beta: β, from 0 (no average) to below 1.
    beta_sigma: σ, the decay of β, ≥ 0.

  Returns:
    a balancer that needs the gradients themselves and `losses=`; its state holds T float32 copies
    of the parameters.

  Raises:
    ValueError: in a chain without num_tasks; at update, without losses.

  References:
    Lin et al., Dual-Balancing for Multi-Task Learning, arXiv 2308.12029, 2023.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.db_mtl(num_tasks=2, beta=0.0)
    >>> grads = jnp.array([[3.0, 0.0], [0.0, 0.1]])
    >>> direction, _ = tx.update(grads, tx.init(jnp.zeros(2)), losses=jnp.array([1.0, 0.1]))
    >>> direction.tolist()
    [3.0, 3.0]
  """

  def init(params: Any, tasks: int | None) -> DBMTLState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'db_mtl')
    return DBMTLState(_rows.zeros(params, tasks), jnp.zeros(tasks, jnp.int32))

  def update(
    updates: Any,
    state: DBMTLState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[Any, DBMTLState]:
    del key, extra_args
    losses = _arguments.require_losses(losses, 'db_mtl')
    usable = present & jnp.isfinite(losses) & jnp.isfinite(gradients.norms(updates))
    usable = usable & (losses > 0)
    scale = 1.0 / (jnp.where(usable, losses, 1.0) + _EPSILON)
    steps = state.steps + usable.astype(jnp.int32)
    rate = beta * jnp.maximum(steps, 1).astype(jnp.float32) ** -beta_sigma

    def move(old: jax.Array, leaf: jax.Array) -> jax.Array:
      new = _rows.column(scale, leaf) * leaf.astype(jnp.float32)
      moved = new + _rows.column(rate, leaf) * (old - new)
      return jnp.where(_rows.column(usable, leaf), moved, old)

    average = jax.tree.map(move, state.average, updates)
    norms = gradients.norms(average)
    norms = jnp.where(usable & jnp.isfinite(norms), norms, 0.0)
    weights = jnp.where(norms > 0, jnp.max(norms) / jnp.where(norms > 0, norms, 1.0), 0.0)
    direction = _rows.cast(gradients.combine(weights, average), updates)
    return direction, DBMTLState(average, steps)

  return _base.jacobian_balancer(init, update, num_tasks)
