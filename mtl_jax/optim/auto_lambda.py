"""Auto-λ: task weights that lower the validation losses of the primary tasks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax.optim import _arguments, _base, _bilevel


class AutoLambdaState(NamedTuple):
  """State of `auto_lambda`: weights `[T]` and their optimizer's state."""

  weights: jax.Array
  opt_state: optax.OptState


def auto_lambda(
  num_tasks: int | None = None,
  *,
  primary: Sequence[float] | None = None,
  virtual_learning_rate: float | jax.Array = 0.1,
  learning_rate: float | jax.Array = 1e-4,
  initial_weight: float = 0.1,
  optimizer: optax.GradientTransformation | None = None,
) -> _base.Balancer:
  """Learns loss weights by looking one step ahead, at the losses of a validation batch.

  With the training losses L, the validation losses V and pᵢ = 1 for the tasks that count:

  * θ'(w) = θ − η ∇Σᵢ wᵢLᵢ(θ), a virtual step of all parameters;
  * w follows its own optimizer along ∇_w Σᵢ pᵢVᵢ(θ'(w));
  * the direction is ∇Σᵢ wᵢLᵢ(θ) with the new w: a sum over tasks, of all parameters.

  θ' is linear in w, so ∂/∂wᵢ = −η ∇Lᵢ(θ)·∇Σⱼ pⱼVⱼ(θ') exactly, as one derivative of L along the
  validation gradient: the paper's code takes a finite difference of two more gradients for it. Its
  virtual step also has the optimizer's momentum and weight decay, which this one leaves out.
  Weights may become negative, as there.

  An absent task has no weight in the step, and keeps its weight and its part of the optimizer; its
  validation loss still counts. So does a task whose derivative is not finite. One task alone gets
  w times its gradient.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    primary: p `[T]`, 1 for tasks whose validation loss counts and 0 for auxiliary ones; None: all
      count.
    virtual_learning_rate: η > 0.
    learning_rate: of the weights' Adam.
    initial_weight: of every task.
    optimizer: of the weights, in place of Adam.

  Returns:
    a balancer that needs functions: `tx.update(updates, state, params, loss_fn=, validation_fn=)`,
    both from params to losses `[T]`; `updates` may be None. The direction is a pytree like params.

  Raises:
    ValueError: a primary below 0, or 0 for all tasks; in a chain without num_tasks; primary of
      another length than T; at update, without params or the functions.

  References:
    Liu et al., Auto-Lambda: Disentangling Dynamic Task Relationships, TMLR 2022.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.auto_lambda(num_tasks=2, learning_rate=0.01)
    >>> losses = lambda theta: jnp.stack([theta**2, -theta])
    >>> validation = lambda theta: jnp.stack([theta**2, theta**2])
    >>> _, state = tx.update(None, tx.init(1.0), 1.0, loss_fn=losses, validation_fn=validation)
    >>> [f'{weight:.2f}' for weight in state.weights.tolist()]
    ['0.11', '0.09']
  """
  _arguments.check_per_task(primary, 'auto_lambda: primary', least='zero')
  tx = optax.adam(learning_rate) if optimizer is None else optimizer

  def init(tasks: int | None) -> AutoLambdaState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'auto_lambda')
    if primary is not None and len(primary) != tasks:
      raise ValueError(f'auto_lambda: primary is for {len(primary)} tasks; there are {tasks}.')
    weights = jnp.full(tasks, initial_weight, jnp.float32)
    return AutoLambdaState(weights, tx.init(weights))

  def update(
    state: AutoLambdaState,
    params: Any,
    loss_fn: _bilevel.Losses,
    validation_fn: _bilevel.Losses,
    present: jax.Array,
  ) -> tuple[Any, AutoLambdaState, jax.Array]:
    tasks = present.shape[0]
    _, weighted = _bilevel.pull_back(loss_fn, params, 'auto_lambda', tasks)
    counts = jnp.ones(tasks, jnp.float32) if primary is None else jnp.asarray(primary, jnp.float32)

    def validation(weights: jax.Array) -> jax.Array:
      ahead = _bilevel.step_along(params, weighted(weights), virtual_learning_rate)
      losses = validation_fn(ahead).astype(jnp.float32)
      return jnp.sum(jnp.where(counts != 0, counts * losses, 0.0))

    slope = jax.grad(validation)(jnp.where(present, state.weights, 0.0))
    usable = present & jnp.isfinite(slope)
    weights, opt_state = _bilevel.learn(tx, slope, state.opt_state, state.weights, usable)
    here = jnp.where(present, weights, 0.0)
    return weighted(here), AutoLambdaState(weights, opt_state), here

  return _bilevel.balancer(init, update, 'auto_lambda')
