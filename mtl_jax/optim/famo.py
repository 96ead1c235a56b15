"""FAMO: task weights that are learned so that all losses fall at the same rate."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax.optim import _arguments, _base

_EPSILON = 1e-8


class FAMOState(NamedTuple):
  """State of `famo`.

  Attributes:
    logits: ξ `[T]`.
    opt_state: of the optimizer on ξ.
    losses: `[T]`, of the step whose effect on the losses is still to be seen; NaN: nothing pending.
  """

  logits: jax.Array
  opt_state: optax.OptState
  losses: jax.Array


def famo(
  num_tasks: int | None = None,
  learning_rate: float | jax.Array = 0.025,
  weight_decay: float | jax.Array = 1e-3,
  min_losses: Sequence[float] | None = None,
  optimizer: optax.GradientTransformation | None = None,
  second_forward: bool = True,
) -> _base.Balancer:
  """Fast adaptive multitask optimization: an equal rate of decrease for all, without T gradients.

  With z = softmax(ξ) and Dᵢ = Lᵢ − bᵢ + 1e-8, the weights are wᵢ = c zᵢ/Dᵢ with
  c = 1/Σⱼ(zⱼ/Dⱼ): Σ w = 1, a mean over tasks. Once the parameters have moved and the losses of the
  same batch are D′, ξ descends on δ = (∂z/∂ξ)ᵀ(log D − log D′) plus weight_decay · ξ, with Adam:
  a task that fell faster than the others loses weight.

  The second look at the batch comes in one of two ways. The train step runs a second forward, a
  third of a step's cost, and hands both losses to `weighting.follow`. In a plain optax chain, and
  with second_forward=False, nobody does; then the next `update` takes its own losses for D′, which
  is exact for full batches and mixes in the difference between the batches otherwise.

  ξ moves only for tasks present both before and after; absent tasks keep their ξ and their part of
  the optimizer, and take no part in either softmax. So does, for a step, a task whose loss is not
  above bᵢ: it has no log Dᵢ, and 1e-8 for Dᵢ would give it all the weight. A task whose losses may
  be negative needs a bound in `min_losses`, without which it would not train. The paper's code also
  clips the direction to norm 1: that is `optax.clip_by_global_norm(1.0)` after this. A step with
  this method scales each task's whole loss: its own parameters get the weight too.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    learning_rate: of the Adam on ξ.
    weight_decay: γ, added to Adam's gradient as γξ, ≥ 0. The paper's code runs with 1e-3, but 1e-2
      on Cityscapes (also its default) and 0 on the toy problem.
    min_losses: b `[T]`, lower bounds of the losses, below all that they reach; None: 0.
    optimizer: of ξ, in place of Adam and the weight decay.
    second_forward: whether the train step looks at the same batch again.

  Returns:
    a balancer that needs the losses only, and whose weighting has a `follow`; under
    `optax.inject_hyperparams` all arguments but the two rates are `static_args`.

  Raises:
    ValueError: min_losses that are not finite; in a chain without num_tasks; at update, without
      losses, with another T, or with another number of min_losses.

  References:
    Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.famo(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.eye(2), state, losses=jnp.array([1.0, 1.0]))
    >>> weighted, state = tx.update(jnp.eye(2), state, losses=jnp.array([0.5, 0.9]))
    >>> [f'{logit:.3f}' for logit in state.logits.tolist()]
    ['-0.025', '0.025']
  """
  _arguments.check_per_task(min_losses, 'famo: min_losses')
  if optimizer is None:
    tx = optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))
  else:
    tx = optimizer

  def init(tasks: int | None) -> FAMOState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'famo')
    logits = jnp.zeros(tasks, jnp.float32)
    return FAMOState(logits, tx.init(logits), jnp.full(tasks, jnp.nan, jnp.float32))

  def bounds(present: jax.Array) -> jax.Array:
    return _arguments.per_task(min_losses, present, 0.0, 'famo: min_losses')

  def above(losses: jax.Array, bound: jax.Array) -> jax.Array:
    return jnp.isfinite(losses) & (losses > bound)

  def learn(
    state: FAMOState, losses: jax.Array, new_losses: jax.Array, present: jax.Array
  ) -> FAMOState:
    """ξ after a step that took the losses to the new ones; nothing is pending then."""
    bound = bounds(present)
    present = present & above(losses, bound) & above(new_losses, bound)
    grads = _base.exactly(_gradient)(state.logits, losses, new_losses, bound, present)
    steps, opt_state = _arguments.step_present(tx, grads, state.opt_state, state.logits, present)
    # With no task to learn from, Adam does not count the step either.
    opt_state = jax.tree.map(
      lambda new, old: jnp.where(jnp.any(present), new, old), opt_state, state.opt_state
    )
    return FAMOState(state.logits + steps, opt_state, jnp.full(present.shape, jnp.nan, jnp.float32))

  def update(
    state: FAMOState, *, present: jax.Array, losses: jax.Array | None = None, **extra_args: Any
  ) -> tuple[jax.Array, FAMOState]:
    del extra_args
    losses = _arguments.require_losses(losses, 'famo', state.logits.shape[0])
    state = learn(state, state.losses, losses, present)
    here = present & above(losses, bounds(present))
    weights = _base.exactly(_weights)(state.logits, losses, bounds(present), here)
    return weights, state._replace(losses=jnp.where(here, losses, jnp.nan))

  def follow(
    state: FAMOState, *, losses: jax.Array, new_losses: jax.Array, present: jax.Array
  ) -> FAMOState:
    losses, new_losses = losses.astype(jnp.float32), new_losses.astype(jnp.float32)
    return learn(state, losses, new_losses, present)

  weighting = _base.Weighting(init, update, 'losses', follow if second_forward else None)
  return _base.balancer(weighting, num_tasks)


def _excess(losses: jax.Array, bound: jax.Array, present: jax.Array) -> jax.Array:
  """D, and 1 where absent."""
  return jnp.where(present, losses - bound + _EPSILON, 1.0)


def _weights(
  logits: jax.Array, losses: jax.Array, bound: jax.Array, present: jax.Array
) -> jax.Array:
  weights = jax.nn.softmax(logits, where=present) / _excess(losses, bound, present)
  total = jnp.sum(weights)
  return weights / jnp.where(total > 0, total, 1.0)


def _gradient(
  logits: jax.Array, losses: jax.Array, new_losses: jax.Array, bound: jax.Array, present: jax.Array
) -> jax.Array:
  z = jax.nn.softmax(logits, where=present)
  fall = jnp.log(_excess(losses, bound, present) / _excess(new_losses, bound, present))
  return z * (fall - jnp.sum(z * fall))
