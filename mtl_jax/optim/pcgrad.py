"""PCGrad: each task's gradient is projected off those it conflicts with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.optim import _base


class PCGradState(NamedTuple):
  """State of `pcgrad`: the PRNG key of the next step's order."""

  key: jax.Array


def pcgrad(seed: int = 0, *, order: str = 'random', reduction: str = 'sum') -> _base.Balancer:
  """Gradient surgery: removes from each task's gradient what points against another task's.

  For each task i, starting from gᵢ, and for every other task j in random order, redrawn at each
  step for each i (algorithm 1): where gᵢ·gⱼ < 0, gᵢ ← gᵢ − (gᵢ·gⱼ/‖gⱼ‖²) gⱼ, with the original
  gⱼ. The direction is the sum of the results. Defined on the whole shared gradient, not leaf by
  leaf.

  The projections act on the coefficients c of the T gradients: gᵢ·gⱼ is (Gc)ⱼ, so the T×T Gramian
  replaces the T² passes over the gradients. Where gradients nearly cancel, float32 rounding leaves
  an error in d of some 10⁻⁷ of their length, not of the length of d.

  Args:
    seed: of the orders, in a chain; the train step draws them from its own key.
    order: 'random', or 'index': tasks in index order.
    reduction: 'sum' (the paper), or 'mean': the sum divided by the number of tasks present.

  Returns:
    a balancer that needs the Gramian.

  Raises:
    ValueError: unknown order or reduction.

  References:
    Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.pcgrad()
    >>> grads = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
    [0.5, 1.5]
  """
  check_options('pcgrad', order, reduction)

  def update(
    state: PCGradState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, PCGradState]:
    del losses, extra_args
    assert gramian is not None
    tasks = gramian.shape[0]
    if key is None:
      key, next_key = jax.random.split(state.key)
      state = PCGradState(next_key)
    orders = visiting_orders(key, tasks, order)
    return over_tasks(_project(gramian, orders), present, reduction), state

  return _base.balancer(
    _base.Weighting(lambda num_tasks: PCGradState(jax.random.key(seed)), update, 'gramian')
  )


@jax.jit  # traced once for all groups of parameters
def _project(gramian: jax.Array, orders: jax.Array) -> jax.Array:
  """Coefficients `[T, T]`, those of task i's projected gradient in row i."""
  squares = jnp.diagonal(gramian)

  def project(task: jax.Array, others: jax.Array) -> jax.Array:
    def step(coefficients: jax.Array, other: jax.Array) -> tuple[jax.Array, None]:
      inner = jnp.dot(gramian[other], coefficients, precision=jax.lax.Precision.HIGHEST)
      conflict = (inner < 0) & (other != task) & (squares[other] > 0)
      part = inner / jnp.where(squares[other] > 0, squares[other], 1.0)
      return coefficients.at[other].add(jnp.where(conflict, -part, 0.0)), None

    start = jax.nn.one_hot(task, len(gramian), dtype=gramian.dtype)
    return jax.lax.scan(step, start, others)[0]

  return jax.vmap(project)(jnp.arange(len(gramian)), orders)


def check_options(method: str, order: str, reduction: str) -> None:
  """ValueError for an order or a reduction that there is not."""
  if order not in ('random', 'index'):
    raise ValueError(f"{method}: order must be 'random' or 'index', not {order!r}.")
  if reduction not in ('sum', 'mean'):
    raise ValueError(f"{method}: reduction must be 'sum' or 'mean', not {reduction!r}.")


def visiting_orders(key: jax.Array, tasks: int, order: str) -> jax.Array:
  """`[T, T]`: row i is the order in which task i visits all tasks."""
  orders = jnp.broadcast_to(jnp.arange(tasks), (tasks, tasks))
  if order == 'random':
    orders = jax.random.permutation(key, orders, axis=1, independent=True)
  return orders


def over_tasks(coefficients: jax.Array, present: jax.Array, reduction: str) -> jax.Array:
  """Weights `[T]`: the coefficients `[T, T]` of the tasks' new gradients, summed or averaged."""
  weights = jnp.sum(coefficients, axis=0)
  if reduction == 'mean':
    weights = weights / jnp.maximum(jnp.sum(present, dtype=jnp.float32), 1.0)
  return weights
