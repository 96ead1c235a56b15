"""ExcessMTL: more weight for tasks that are still far from their own optimum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base, _rows

_EPSILON = 1e-7


class ExcessMTLState(NamedTuple):
  """State of `excess_mtl`: Σ g², leaves `[T, ...]`; weights and first excess `[T]`, NaN before."""

  squares: Any
  weights: jax.Array
  first_excess: jax.Array


def excess_mtl(
  num_tasks: int | None = None, *, robust_step_size: float | jax.Array = 0.01
) -> _base.Balancer:
  """Weights by the excess risk: what a task's loss is above the best that it could reach.

  A loss with noisy labels stays high and needs no more weight for that. The excess is estimated
  from the gradient and the diagonal of its accumulated outer products, as in Adagrad:

  * Sᵢ ← Sᵢ + gᵢ², coordinate by coordinate;
  * eᵢ = Σ gᵢ²/√(Sᵢ + ε), ε = 1e-7, over its value at the task's first step;
  * w ← w exp(η e), renormalized to Σ w = T.

  The direction is Σ wᵢgᵢ with the new weights, a sum over tasks; the paper's weights have sum 1,
  those of its code, and here, T. One task alone gives its plain gradient.

  An absent task takes no part and keeps its Sᵢ and its weight in proportion; so does one whose
  gradient is not finite. A task whose gradient was zero so far counts as e = 1, like a task at its
  first step. One whose first gradient was far shorter than its later ones has an e far above 1, and
  takes all the weight for good: this is the definition.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    robust_step_size: η ≥ 0.

  Returns:
    a balancer that needs the gradients themselves; its state holds T float32 copies of the
    parameters.

  Raises:
    ValueError: in a chain without num_tasks.

  References:
    He et al., Robust Multi-Task Learning with Excess Risks, ICML 2024.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.excess_mtl(num_tasks=2, robust_step_size=1.0)
    >>> _, state = tx.update(jnp.array([[1.0], [1.0]]), tx.init(jnp.zeros(1)))
    >>> _, state = tx.update(jnp.array([[1.0], [0.1]]), state)
    >>> [f'{weight:.2f}' for weight in state.weights.tolist()]
    ['1.34', '0.66']
  """

  def init(params: Any, tasks: int | None) -> ExcessMTLState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'excess_mtl')
    return ExcessMTLState(
      _rows.zeros(params, tasks),
      jnp.ones(tasks, jnp.float32),
      jnp.full(tasks, jnp.nan, jnp.float32),
    )

  def update(
    updates: Any,
    state: ExcessMTLState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[Any, ExcessMTLState, jax.Array]:
    del losses, key, extra_args

    usable = present & jnp.isfinite(gradients.norms(updates))

    def accumulate(old: jax.Array, leaf: jax.Array) -> jax.Array:
      return jnp.where(_rows.column(usable, leaf), old + leaf.astype(jnp.float32) ** 2, old)

    def leaf_excess(leaf: jax.Array, total: jax.Array) -> jax.Array:
      parts = leaf.astype(jnp.float32) ** 2 * jax.lax.rsqrt(total + _EPSILON)
      return jnp.sum(parts, axis=tuple(range(1, leaf.ndim)))

    squares = jax.tree.map(accumulate, state.squares, updates)
    excess = _rows.add(jax.tree.leaves(jax.tree.map(leaf_excess, updates, squares)))
    unseen = usable & jnp.isnan(state.first_excess) & (excess > 0)
    first = jnp.where(unseen, excess, state.first_excess)
    relative = jnp.where(usable & (first > 0), excess / jnp.where(first > 0, first, 1.0), 1.0)
    weights, mass = _rows.shares(state.weights, usable)
    largest = jnp.max(jnp.where(usable, relative, 0.0))
    grown = weights * jnp.exp(robust_step_size * (relative - largest))
    weights, _ = _rows.shares(grown, usable)
    kept = jnp.where(usable, mass * weights, state.weights)
    weights = jnp.sum(usable, dtype=jnp.float32) * weights
    direction = gradients.combine(weights, updates)
    return direction, ExcessMTLState(squares, kept, first), weights

  return _base.jacobian_balancer(init, update, num_tasks, weighs=True)
