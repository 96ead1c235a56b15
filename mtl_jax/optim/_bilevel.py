"""What the methods driven by a validation batch share: their two functions and their optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtl_jax.optim import _arguments, _base

Losses = Callable[[Any], jax.Array]
"""params -> losses `[T]`."""


def balancer(init: Callable[[int | None], Any], update: Callable, name: str) -> _base.Balancer:
  """A method on `loss_fn` and `validation_fn`, as an optax transformation.

  Args:
    init: num_tasks or None -> state.
    update: `(state, params, loss_fn, validation_fn, present [T]) -> (direction, state, the losses'
      weights [T])`.
    name: for errors.
  """

  def checked(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    loss_fn: Losses | None = None,
    validation_fn: Losses | None = None,
    losses: jax.Array | None = None,
    present: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[Any, Any, jax.Array]:
    del extra_args
    tasks = state.weights.shape[0]
    if updates is not None:
      rows = _arguments.num_rows(updates, losses)
      if rows != tasks:
        raise ValueError(f'{name} of {tasks} tasks was given gradients of {rows}.')
    if params is None or loss_fn is None or validation_fn is None:
      raise ValueError(
        f'{name} needs loss_fn=, validation_fn= and params: call tx.update(updates, state, params, '
        'loss_fn=..., validation_fn=...), two functions from parameters to losses [T].'
      )
    if present is None:
      present = jnp.ones(tasks, bool)
    return update(state, params, loss_fn, validation_fn, present)

  return _base.Balancer(
    lambda params: init(None),
    lambda *args, **extra_args: checked(*args, **extra_args)[:2],
    needs='functions',
    init_tasks=lambda params, tasks: init(tasks),
    weighed=checked,
  )


def pull_back(
  loss_fn: Losses, params: Any, name: str, tasks: int
) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
  """Losses `[T]` float32, and the function from weights `[T]` to the weighted gradient.

  Raises:
    ValueError: the function does not return T losses.
  """
  losses, pull = jax.vjp(loss_fn, params)
  if losses.shape != (tasks,):
    raise ValueError(f'{name}: a loss function gave losses {losses.shape}, not [{tasks}].')

  def weighted(weights: jax.Array) -> Any:
    return pull(weights.astype(losses.dtype))[0]

  return losses.astype(jnp.float32), weighted


def step_along(params: Any, direction: Any, learning_rate: float | jax.Array) -> Any:
  """One step of gradient descent."""

  def step(param: jax.Array, slope: jax.Array) -> jax.Array:
    return param - (learning_rate * slope).astype(jnp.result_type(param))

  return jax.tree.map(step, params, direction)


def softmax(logits: jax.Array, present: jax.Array) -> jax.Array:
  """Task weights `[T]` with sum 1 over the tasks present, 0 for the others."""
  return jnp.where(present, jax.nn.softmax(logits, where=present), 0.0)


def learn(
  tx: optax.GradientTransformation,
  slope: jax.Array,
  opt_state: optax.OptState,
  weights: jax.Array,
  usable: jax.Array,
) -> tuple[jax.Array, optax.OptState]:
  """One step of the weights' own optimizer `[T]`; only usable tasks move, momentum and all."""
  slope = jnp.where(usable, slope, 0.0)
  steps, opt_state = _arguments.step_present(tx, slope, opt_state, weights, usable)
  return weights + steps, opt_state
