"""DWA: tasks whose loss falls slowly from one epoch to the next weigh more."""

from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _periods

_LARGEST_RATIO = 1e6


DWAState = _periods.PeriodMeans
"""State of `dwa`, where a period is an epoch."""


def dwa(
  num_tasks: int | None = None,
  temperature: float | jax.Array = 2.0,
  period: int | jax.Array = 1,
) -> _base.Balancer:
  """Dynamic weight average: weights from the relative change of the losses.

  With rᵢ = L̄ᵢ(t−1)/L̄ᵢ(t−2), the ratio of the mean losses of the last two epochs,
  w = T softmax(r/temperature): Σ w = T, a sum over tasks. In the first two epochs all w are 1.

  The paper's epoch is a pass over the data; set `period` to the number of steps in it. With
  period=1 the ratios are those of single batches.

  A task that was absent for a whole epoch keeps its last two means; one without two means, or with
  a mean ≤ 0 to divide by, has r = 1, a loss that does not change. Rates of losses below 0 mean
  nothing (one that falls has r > 1, one that crosses 0 any r < 0), so a mean below 0 counts as 0. T
  counts the tasks present. Ratios are cut off at 1e6. A step with this method scales each task's
  whole loss: its own parameters get the weight too.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    temperature: > 0; the larger, the more equal the weights.
    period: steps in an epoch, ≥ 1.

  Returns:
    a balancer that needs the losses only; under `optax.inject_hyperparams` name
    `static_args='num_tasks'`.

  Raises:
    ValueError: temperature or period out of range; in a chain without num_tasks; at update, without
      losses or with another T.

  References:
    Liu et al., End-to-End Multi-Task Learning with Attention, CVPR 2019.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.dwa(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> for losses in ([4.0, 1.0], [2.0, 1.0], [2.0, 1.0]):
    ...   weighted, state = tx.update(jnp.eye(2), state, losses=jnp.array(losses))
    >>> [f'{weight:.3f}' for weight in weighted.tolist()]
    ['0.876', '1.124']
  """
  if isinstance(temperature, (int, float)) and not temperature > 0:
    raise ValueError(f'dwa: temperature must be > 0, not {temperature}.')
  if isinstance(period, (int, float)) and not period >= 1:
    raise ValueError(f'dwa: period must be at least 1 step, not {period}.')

  def init(tasks: int | None) -> DWAState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'dwa')
    return _periods.start(tasks)

  def update(
    state: DWAState, *, present: jax.Array, losses: jax.Array | None = None, **extra_args: Any
  ) -> tuple[jax.Array, DWAState]:
    del extra_args
    last, before_last = state.last, state.before_last
    losses = _arguments.require_losses(losses, 'dwa', last.shape[0])
    known = jnp.isfinite(before_last) & (before_last > 0)
    ratios = jnp.where(known, last / jnp.where(known, before_last, 1.0), 1.0)
    ratios = jnp.clip(ratios, 0.0, _LARGEST_RATIO)
    count = jnp.sum(present, dtype=jnp.float32)
    weights = count * jax.nn.softmax(ratios / temperature, where=present)
    return weights, _periods.add(state, losses, present, period)

  return _base.balancer(_base.Weighting(init, update, 'losses'), num_tasks)
