"""Uncertainty weighting: one learned noise scale a task."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax.optim import _arguments, _base


class UncertaintyState(NamedTuple):
  """State of `uncertainty`: log-variances s `[T]`, optimizer state."""

  log_variances: jax.Array
  opt_state: optax.OptState


def uncertainty(
  num_tasks: int | None = None,
  learning_rate: float | jax.Array = 1e-3,
  optimizer: optax.GradientTransformation | None = None,
) -> _base.Balancer:
  """Weighs each task by its homoscedastic uncertainty, which is learned.

  With s = log σ², the objective is Σᵢ ½e^{−sᵢ}Lᵢ + ½sᵢ, a sum over tasks: wᵢ = ½e^{−sᵢ}, and the
  gradient for sᵢ is ½ − ½e^{−sᵢ}Lᵢ in closed form, so that s tends to log L. A step uses s from
  before its own update; s starts at 0, so w at ½. Also with one task: w is the paper's ½, not 1.
  The paper learns s with the network's optimizer and rate; here it has its own.

  An absent task keeps its s and its part of the optimizer. So does a task whose loss is ≤ 0: it has
  no log L for s to tend to, and descent on s would let its weight grow to infinity; its weight
  stays as it is. A step with this method scales each task's whole loss: its own parameters get the
  weight too.

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
    Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics, CVPR 2018.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.uncertainty(num_tasks=2, learning_rate=0.1)
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.eye(2), state, losses=jnp.array([4.0, 0.5]))
    >>> [f'{s:.3f}' for s in state.log_variances.tolist()]
    ['0.100', '-0.100']
  """
  tx = optax.adam(learning_rate) if optimizer is None else optimizer

  def init(tasks: int | None) -> UncertaintyState:
    zeros = jnp.zeros(_arguments.known_tasks(tasks, num_tasks, 'uncertainty'), jnp.float32)
    return UncertaintyState(zeros, tx.init(zeros))

  def update(
    state: UncertaintyState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, UncertaintyState]:
    del extra_args
    s = state.log_variances
    losses = _arguments.require_losses(losses, 'uncertainty', s.shape[0])
    weights = 0.5 * jnp.exp(-s)
    learning = present & (losses > 0)
    grads = jnp.where(learning, 0.5 - weights * losses, 0.0)
    steps, opt_state = _arguments.step_present(tx, grads, state.opt_state, s, learning)
    return weights, UncertaintyState(s + steps, opt_state)

  return _base.balancer(_base.Weighting(init, update, 'losses'), num_tasks)
