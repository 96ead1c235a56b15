"""Trimmed mean: the coordinate-wise mean of the task gradients without the most extreme ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _base, _rows


def trimmed_mean(trim: int = 1) -> _base.Balancer:
  """Drops, in every coordinate, the k largest and the k smallest values; the mean of the others.

  For n tasks present the direction is the mean of n − 2k values a coordinate (definition 2, with
  k = βn). Where absent tasks leave n ≤ 2k, as much is trimmed as leaves one or two values: the
  median. One task alone has nothing to trim: its plain gradient.

  Values are clipped to the (k+1)-th largest and smallest and the surplus is subtracted, so that an
  outlier never meets the others in a sum: neither its size nor ∞ costs them any digit. Coordinates
  are independent; one that is NaN in a task is NaN in the direction.

  Args:
    trim: k, an integer ≥ 0 with 2k < T; 0 is the mean, (T − 1)/2 the median.

  Returns:
    a balancer that needs the gradients themselves; its state is empty.

  Raises:
    ValueError: trim is not such an integer; at update, 2k ≥ T > 1.

  References:
    Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.trimmed_mean(trim=1)
    >>> tx.update(jnp.array([[1.0], [2.0], [4.0], [-1e9]]), tx.init(jnp.zeros(1)))[0].tolist()
    [1.5]
  """
  if not isinstance(trim, int) or isinstance(trim, bool) or trim < 0:
    raise ValueError(f'trimmed_mean: trim must be an integer of 0 or more, not {trim!r}.')

  def update(
    updates: Any,
    state: _base.State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[Any, _base.State]:
    del losses, key, extra_args
    tasks = present.shape[0]
    if 1 < tasks <= 2 * trim:
      raise ValueError(f'trimmed_mean: trim must be below T/2, not {trim} with T = {tasks} tasks.')
    most = trim if tasks > 1 else 0
    count = jnp.sum(present, dtype=jnp.int32)
    dropped = jnp.clip((count - 1) // 2, 0, most)
    left = jnp.maximum(count - 2 * dropped, 1).astype(jnp.float32)
    surplus = dropped.astype(jnp.float32)

    def trimmed(leaf: jax.Array) -> jax.Array:
      infinity = jnp.asarray(jnp.inf, jnp.float32)
      high = _nth(_rows.rows(leaf, -infinity, present), most, dropped, jnp.maximum, jnp.minimum)
      low = _nth(_rows.rows(leaf, infinity, present), most, dropped, jnp.minimum, jnp.maximum)
      rows = _rows.rows(leaf, jnp.zeros((), jnp.float32), present)
      clipped = (
        jnp.where(p, jnp.clip(r, low, high), 0.0) for p, r in zip(present, rows, strict=True)
      )
      extra = jnp.where(dropped > 0, surplus * high + surplus * low, 0.0)
      return ((_rows.add(clipped) - extra) / left).astype(leaf.dtype)

    return jax.tree.map(trimmed, updates), state

  return _base.jacobian_balancer(lambda params, tasks: (), update)


def _nth(
  rows: list[jax.Array],
  most: int,
  n: jax.Array,
  first: Callable[[jax.Array, jax.Array], jax.Array],
  second: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """The n-th (from 0, n ≤ most) of the rows in the order in which `first` picks of two."""
  best = rows[:1]
  for row in rows[1:]:
    for place, held in enumerate(best):
      best[place], row = first(held, row), second(held, row)
    if len(best) <= most:
      best.append(row)
  result = best[0]
  for place, held in enumerate(best[1:], start=1):
    result = jnp.where(n == place, held, result)
  return result
