"""Sum, mean and weighted sum of the task gradients: the baselines of every table."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base


def sum_tasks() -> _base.Balancer:
  """The plain sum of the task losses: d = Σᵢ gᵢ, w = 1.

  Also called equal weighting (EW) or linear scalarization. `mean_tasks` is this divided by T.
  A step with this method scales each task's whole loss: its own parameters get the weight too.

  Returns:
    a balancer that needs the losses only; its state is empty.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.sum_tasks()
    >>> tx.update(jnp.array([[1.0, 0.0], [0.0, 2.0]]), tx.init(jnp.zeros(2)))[0].tolist()
    [1.0, 2.0]
  """

  def update(
    state: _base.State, *, present: jax.Array, **extra_args: Any
  ) -> tuple[jax.Array, _base.State]:
    del extra_args
    return jnp.ones(present.shape, jnp.float32), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'losses'))


def mean_tasks() -> _base.Balancer:
  """The mean over the tasks that are present: d = Σᵢ gᵢ / T.

  A step with this method scales each task's whole loss: its own parameters get the weight too.

  Returns:
    a balancer that needs the losses only; its state is empty.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.mean_tasks()
    >>> tx.update(jnp.array([[1.0, 0.0], [0.0, 2.0]]), tx.init(jnp.zeros(2)))[0].tolist()
    [0.5, 1.0]
  """

  def update(
    state: _base.State, *, present: jax.Array, **extra_args: Any
  ) -> tuple[jax.Array, _base.State]:
    del extra_args
    here = present.astype(jnp.float32)
    return here / jnp.maximum(jnp.sum(here), 1.0), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'losses'))


def static(weights: Sequence[float] | None = None) -> _base.Balancer:
  """The sum of the task losses with weights that are given: d = Σᵢ wᵢ gᵢ.

  The weights are used as they are, not renormalized: neither to a sum nor where tasks are absent.
  A step with this method scales each task's whole loss: its own parameters get the weight too.

  Args:
    weights: `[T]`, of any sign; None: ones, which is `sum_tasks`.

  Returns:
    a balancer that needs the losses only; its state is empty.

  Raises:
    ValueError: weights that are not finite; at update, with another number of weights than T.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.static([1.0, 0.5])
    >>> tx.update(jnp.array([[1.0, 0.0], [0.0, 2.0]]), tx.init(jnp.zeros(2)))[0].tolist()
    [1.0, 1.0]
  """
  _arguments.check_per_task(weights, 'static: weights')

  def update(
    state: _base.State, *, present: jax.Array, **extra_args: Any
  ) -> tuple[jax.Array, _base.State]:
    del extra_args
    return _arguments.per_task(weights, present, 1.0, 'static: weights'), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'losses'))
