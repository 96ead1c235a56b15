"""MoCo: MGDA-like weights on task gradients that are tracked over the steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base, _rows, sdmgrad


class MoCoState(NamedTuple):
  """State of `moco`: tracked gradients Y, leaves `[T, ...]`; λ `[T]`; each task's steps `[T]`."""

  tracked: Any
  weights: jax.Array
  steps: jax.Array


def moco(
  num_tasks: int | None = None,
  *,
  beta: float | jax.Array = 0.5,
  beta_sigma: float | jax.Array = 0.5,
  gamma: float | jax.Array = 0.1,
  gamma_sigma: float | jax.Array = 0.5,
  rho: float | jax.Array = 0.0,
  normalize: bool = True,
  projection: str = 'softmax',
) -> _base.Balancer:
  """Corrects the bias of stochastic MGDA by moving averages of the gradients and of the weights.

  At step t, with Y₀ = 0 and λ₀ = 1/T:

  * ĝᵢ = Lᵢ gᵢ/‖gᵢ‖;
  * Y ← Y − β t^−σ (Y − ĝ);
  * λ ← softmax(λ − γ t^−σ' (YYᵀ + ρI) λ);
  * d = Yᵀλ, a mean over tasks: Σ λ = 1.

  Algorithm 1 of the paper has gᵢ itself and projects λ on the simplex: `normalize=False` and
  `projection='simplex'`. The defaults are the authors' code as it is published in LibMTL, behind
  the usual benchmark numbers. Both take the new Y and λ in d, as here.

  An absent task takes no part and keeps its Yᵢ, its share of λ and its own count of steps t; so
  does one whose loss or gradient is not finite, and, where ĝᵢ has the length Lᵢ, one whose loss is
  below 0, which would turn its gradient round. A zero gradient has ĝᵢ = 0. One task alone has
  d = Y, not its plain gradient.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    beta: step size of Y, in (0, 1].
    beta_sigma: σ, its decay, ≥ 0.
    gamma: step size of λ, ≥ 0.
    gamma_sigma: σ', its decay, ≥ 0.
    rho: ρ ≥ 0, regularizes λ.
    normalize: whether ĝᵢ has the length Lᵢ. False: ĝᵢ = gᵢ, and no losses are needed.
    projection: 'softmax' or 'simplex'.

  Returns:
    a balancer that needs the gradients themselves and, to normalize, `losses=`; its state holds T
    float32 copies of the parameters.

  Raises:
    ValueError: unknown projection; in a chain without num_tasks; at update, without losses where
      they are needed.

  References:
    Fernando et al., Mitigating Gradient Bias in Multi-Objective Learning: A Provably Convergent
    Approach, ICLR 2023.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.moco(num_tasks=2)
    >>> grads = jnp.array([[3.0, 0.0], [0.0, 0.1]])
    >>> direction, _ = tx.update(grads, tx.init(jnp.zeros(2)), losses=jnp.array([2.0, 2.0]))
    >>> direction.tolist()
    [0.5, 0.5]
  """
  if projection not in ('softmax', 'simplex'):
    raise ValueError(f"moco: projection must be 'softmax' or 'simplex', not {projection!r}.")

  @_base.exactly
  def descend(
    weights: jax.Array, gramian: jax.Array, usable: jax.Array, step: jax.Array, rho: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    weights, mass = _rows.shares(weights, usable)
    moved = weights - step * (_base.dot(gramian, weights) + rho * weights)
    if projection == 'simplex':
      weights = sdmgrad.project_to_simplex(moved, usable)
    else:
      weights = jnp.where(usable, jax.nn.softmax(moved, where=usable), 0.0)
    return mass * weights, weights

  def init(params: Any, tasks: int | None) -> MoCoState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'moco')
    weights = jnp.full(tasks, 1 / tasks, jnp.float32)
    return MoCoState(_rows.zeros(params, tasks), weights, jnp.zeros(tasks, jnp.int32))

  def update(
    updates: Any,
    state: MoCoState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[Any, MoCoState, jax.Array]:
    del key, extra_args
    norms = gradients.norms(updates)
    usable = present & jnp.isfinite(norms)
    scale = jnp.ones_like(norms)
    if normalize:
      losses = _arguments.require_losses(losses, 'moco')
      usable = usable & jnp.isfinite(losses) & (losses >= 0)
      scale = jnp.where(norms > 0, losses / jnp.where(norms > 0, norms, 1.0), 0.0)
    steps = state.steps + usable.astype(jnp.int32)
    age = jnp.maximum(steps, 1).astype(jnp.float32)
    rate = beta * age**-beta_sigma

    def track(old: jax.Array, leaf: jax.Array) -> jax.Array:
      new = _rows.column(scale, leaf) * leaf.astype(jnp.float32)
      moved = old - _rows.column(rate, leaf) * (old - new)
      return jnp.where(_rows.column(usable, leaf), moved, old)

    tracked = jax.tree.map(track, state.tracked, updates)
    here = usable[:, None] & usable[None, :]
    gram = gradients.gramian(tracked)
    gram = jnp.where(here & jnp.isfinite(gram), gram, 0.0)  # beyond float32: λ stays
    step = gamma * age**-gamma_sigma
    moved, weights = descend(state.weights, gram, usable, step, jnp.asarray(rho, jnp.float32))
    kept = jnp.where(usable, moved, state.weights)
    direction = _rows.cast(gradients.combine(weights, tracked), updates)
    return direction, MoCoState(tracked, kept, steps), weights

  return _base.jacobian_balancer(init, update, num_tasks, weighs=True)
