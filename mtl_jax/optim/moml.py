"""MOML: task weights learned by multi-objective descent on the validation losses."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax.optim import _arguments, _base, _bilevel, _solvers


class MOMLState(NamedTuple):
  """State of `moml`: logits `[T]` of the task weights and their optimizer's state."""

  logits: jax.Array
  opt_state: optax.OptState

  @property
  def weights(self) -> jax.Array:
    """`[T]`, if all tasks are present."""
    return jax.nn.softmax(self.logits)


def moml(
  num_tasks: int | None = None,
  *,
  virtual_learning_rate: float | jax.Array = 0.1,
  learning_rate: float | jax.Array = 1e-3,
  optimizer: optax.GradientTransformation | None = None,
) -> _base.Balancer:
  """Learns loss weights such that one step of training lowers every validation loss.

  With the training losses L, the validation losses V and weights w = softmax(α):

  * θ'(α) = θ − η ∇Σᵢ wᵢLᵢ(θ), a virtual step of all parameters;
  * hᵢ = ∇_α Vᵢ(θ'(α)), exactly, and ĥᵢ = hᵢ/‖hᵢ‖;
  * α follows its own optimizer along Σᵢ λᵢĥᵢ, the shortest vector in the hull of the ĥᵢ (MGDA);
  * the direction is ∇Σᵢ wᵢLᵢ(θ) with the new w: a mean over tasks, of all parameters.

  This is algorithm 1 of the paper with one inner step, for the problem of its section on
  multi-task learning, with the normalization of its code. As θ' is linear in w, no second
  derivative of L comes up.

  An absent task has no part in w (a softmax over the others), and keeps its logit and its part of
  the optimizer; its validation loss still counts. A validation loss with hᵢ zero or not finite has
  no part in the hull. The hull's shortest vector is unique even where λ is not; it is zero where
  the hᵢ of two or more tasks oppose each other. One task alone gives its plain gradient.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    virtual_learning_rate: η > 0.
    learning_rate: of the logits' Adam.
    optimizer: of the logits, in place of Adam.

  Returns:
    a balancer that needs functions: `tx.update(updates, state, params, loss_fn=, validation_fn=)`,
    both from params to losses `[T]`; `updates` may be None. The direction is a pytree like params.

  Raises:
    ValueError: in a chain without num_tasks; at update, without params or the functions.

  References:
    Ye et al., Multi-Objective Meta Learning, NeurIPS 2021.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.moml(num_tasks=2, learning_rate=0.1)
    >>> losses = lambda theta: jnp.stack([theta**2, -theta])
    >>> validation = lambda theta: jnp.stack([theta**2, theta**2])
    >>> _, state = tx.update(None, tx.init(1.0), 1.0, loss_fn=losses, validation_fn=validation)
    >>> [f'{weight:.2f}' for weight in state.weights.tolist()]
    ['0.55', '0.45']
  """
  tx = optax.adam(learning_rate) if optimizer is None else optimizer

  def init(tasks: int | None) -> MOMLState:
    logits = jnp.zeros(_arguments.known_tasks(tasks, num_tasks, 'moml'), jnp.float32)
    return MOMLState(logits, tx.init(logits))

  def update(
    state: MOMLState,
    params: Any,
    loss_fn: _bilevel.Losses,
    validation_fn: _bilevel.Losses,
    present: jax.Array,
  ) -> tuple[Any, MOMLState, jax.Array]:
    _, weighted = _bilevel.pull_back(loss_fn, params, 'moml', present.shape[0])

    def validation(logits: jax.Array) -> jax.Array:
      weights = _bilevel.softmax(logits, present)
      ahead = _bilevel.step_along(params, weighted(weights), virtual_learning_rate)
      return validation_fn(ahead).astype(jnp.float32)

    slopes = jax.jacrev(validation)(state.logits)
    norms = jnp.sqrt(jnp.sum(slopes * slopes, axis=1))
    counts = jnp.isfinite(norms) & (norms > 0)
    unit = jnp.where(counts[:, None], slopes / jnp.where(counts, norms, 1.0)[:, None], 0.0)
    slope = _shortest(unit, counts)
    usable = present & jnp.any(counts)
    logits, opt_state = _bilevel.learn(tx, slope, state.opt_state, state.logits, usable)
    weights = _bilevel.softmax(logits, present)
    return weighted(weights), MOMLState(logits, opt_state), weights

  return _bilevel.balancer(init, update, 'moml')


@_base.exactly
def _shortest(rows: jax.Array, counts: jax.Array) -> jax.Array:
  """The shortest vector `[T]` in the hull of those rows that count."""
  return _solvers.dot(_solvers.simplex_qp(_solvers.dot(rows, rows.T), counts), rows)
