"""IMTL-L: one learned scale a task that brings all losses to the same size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax.optim import _arguments, _base


class IMTLLState(NamedTuple):
  """State of `imtl_l`: log-scales s `[T]`, optimizer state."""

  log_scales: jax.Array
  opt_state: optax.OptState


def imtl_l(
  num_tasks: int | None = None,
  learning_rate: float | jax.Array = 1e-3,
  optimizer: optax.GradientTransformation | None = None,
) -> _base.Balancer:
  """Impartial multi-task learning by loss balance.

  The objective is Σᵢ e^{sᵢ}Lᵢ − sᵢ, a sum over tasks: wᵢ = e^{sᵢ}, and the gradient for sᵢ is
  e^{sᵢ}Lᵢ − 1 in closed form, so that every scaled loss tends to 1. A step uses s from before its
  own update; s starts at 0, so w at 1. The paper learns s with the network's optimizer and rate;
  here it has its own.

  An absent task keeps its s and its part of the optimizer. So does a task whose loss is ≤ 0: no
  scale brings it to 1, and descent on s would let its weight grow to infinity; its weight stays as
  it is. A step with this method scales each task's whole loss: its own parameters get the weight
  too.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    learning_rate: of the Adam on s; the default is ours.
    optimizer: of s, in place of Adam.

  Returns:
    a balancer that needs the losses only; under `optax.inject_hyperparams` name
    `static_args=('num_tasks', 'optimizer')`.

  Raises:
    ValueError: in a chain without num_tasks; at update, without losses or with another T.

  References:
    Liu et al., Towards Impartial Multi-Task Learning, ICLR 2021.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.imtl_l(num_tasks=2, learning_rate=0.1)
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.eye(2), state, losses=jnp.array([4.0, 0.5]))
    >>> [f'{s:.3f}' for s in state.log_scales.tolist()]
    ['-0.100', '0.100']
  """
  tx = optax.adam(learning_rate) if optimizer is None else optimizer

  def init(tasks: int | None) -> IMTLLState:
    zeros = jnp.zeros(_arguments.known_tasks(tasks, num_tasks, 'imtl_l'), jnp.float32)
    return IMTLLState(zeros, tx.init(zeros))

  def update(
    state: IMTLLState, *, present: jax.Array, losses: jax.Array | None = None, **extra_args: Any
  ) -> tuple[jax.Array, IMTLLState]:
    del extra_args
    s = state.log_scales
    losses = _arguments.require_losses(losses, 'imtl_l', s.shape[0])
    weights = jnp.exp(s)
    learning = present & (losses > 0)
    grads = jnp.where(learning, weights * losses - 1.0, 0.0)
    steps, opt_state = _arguments.step_present(tx, grads, state.opt_state, s, learning)
    return weights, IMTLLState(s + steps, opt_state)

  return _base.balancer(_base.Weighting(init, update, 'losses'), num_tasks)
