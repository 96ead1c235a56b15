"""PCD: the gradient of one task, turned as little as the progress of the others asks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax.optim import _arguments, _base, _solvers

# Of unit gradients in float32: what tells a constraint that is not met, the square of a vanishing
# sum of weights 1, and multipliers that grow without bound.
_SLACK = 1e-6
_CANCELS = 10 * float(jnp.finfo(jnp.float32).eps)
_UNBOUNDED = 1e4


class PCDState(NamedTuple):
  """State of `pcd`: mean squared norms `[T]`, without bias, and each task's steps `[T]`."""

  squares: jax.Array
  steps: jax.Array


def pcd(
  num_tasks: int | None = None,
  tau: float | Sequence[float] | jax.Array = 0.02,
  beta: float | jax.Array = 0.999,
  *,
  eps: float | jax.Array = 1e-8,
  primary: int = 0,
) -> _base.Balancer:
  """Priority-constrained descent: one primary task, and progress that is promised to the others.

  Rows are scaled, g̃ᵢ = gᵢ/√(v̂ᵢ + ε) with v̂ᵢ the running mean of ‖gᵢ‖² (decay β, without bias).
  With g₁ the primary gradient,

  * d̃ = argmin ‖d − g̃₁‖² over all d with g̃ⱼ·d ≥ τ‖g̃ⱼ‖² for j ≠ 1: to first order, task j falls by
    at least τ of what a step along g̃ⱼ gives it;
  * d = d̃ ‖g₁‖/‖d̃‖.

  The quadratic problem is solved exactly, by active sets. τ = 0 is the projection of the primary
  gradient to where no other loss rises. This is for tasks that serve another, as in auxiliary
  learning; it is not symmetric in the tasks.

  Where no d meets all constraints, as for two secondary gradients straight against each other,
  all are dropped and d = g₁. Where d̃ = 0 but for rounding, or g₁ = 0, d = 0; so it is, by the
  formula, in a step without the primary task: tasks that never meet in a batch are not for this
  method. Other absent tasks have no part, and keep their v̂ and their count of steps; a secondary
  gradient of zero asks for nothing. Near ε, which has the unit of a squared gradient, tasks of
  unlike scale are not scaled alike.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    tau: τ in [0, 1], for all, or `[T]`, whose entry of the primary task is not read.
    beta: β in [0, 1).
    eps: ε ≥ 0.
    primary: place of the primary task among the tasks, from 0.

  Returns:
    a balancer that needs the Gramian; under `optax.inject_hyperparams` name
    `static_args=('num_tasks', 'primary')`.

  Raises:
    ValueError: an option out of range; in a chain without num_tasks; no task at that place; at
      update, another T.

  References:
    Varam & AlHajri, Not All Objectives Are Born Equal: Priority-Constrained Descent for
    Hierarchical Multi-Objective Optimization, TMLR 2026.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.pcd(num_tasks=2, tau=0.0)
    >>> grads = jnp.array([[5.0, 0.0], [-3.0, 4.0]])
    >>> direction, _ = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> [f'{x:.3f}' for x in direction.tolist()]
    ['4.000', '3.000']
  """
  if not any(isinstance(x, jax.core.Tracer) for x in (tau, beta, eps)):
    if not (np.asarray(tau) >= 0).all() or not (np.asarray(tau) <= 1).all():
      raise ValueError(f'pcd: tau must be between 0 and 1, not {np.asarray(tau).tolist()}.')
    if not 0 <= float(beta) < 1:
      raise ValueError(f'pcd: beta must be in [0, 1), not {beta}.')
    if not float(eps) >= 0:
      raise ValueError(f'pcd: eps must be 0 or more, not {eps}.')

  def init(tasks: int | None) -> PCDState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'pcd')
    if not 0 <= primary < tasks:
      raise ValueError(f'pcd: primary={primary} is the place of none of {tasks} tasks, from 0.')
    return PCDState(jnp.zeros(tasks, jnp.float32), jnp.zeros(tasks, jnp.int32))

  def update(
    state: PCDState,
    *,
    present: jax.Array,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, PCDState]:
    del extra_args
    assert gramian is not None
    tasks = state.squares.shape[0]
    if present.shape[0] != tasks:
      raise ValueError(f'pcd of {tasks} tasks was given gradients of {present.shape[0]}.')
    fraction = jnp.asarray(tau, jnp.float32)
    if fraction.ndim:
      fraction = _arguments.per_task(fraction, present, 0.0, 'pcd: tau')
    numbers = jnp.broadcast_to(fraction, (tasks,)), jnp.float32(beta), jnp.float32(eps)
    steps = state.steps + present.astype(jnp.int32)
    squares, weights = solve(gramian, state.squares, steps, present, *numbers)
    return weights, PCDState(squares, steps)

  @_base.exactly
  @jax.jit
  def solve(
    gramian: jax.Array,
    old: jax.Array,
    steps: jax.Array,
    present: jax.Array,
    tau: jax.Array,
    beta: jax.Array,
    eps: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    """v̂ and the weights."""
    rate = (1 - beta) / (1 - beta ** jnp.maximum(steps, 1).astype(beta.dtype))
    new = old + rate * (jnp.diagonal(gramian) - old)
    squares = jnp.where(present, new, old)
    scales = jax.lax.rsqrt(jnp.where(squares + eps > 0, squares + eps, 1.0))
    return squares, _weights(gramian, scales, tau, primary)

  return _base.balancer(_base.Weighting(init, update, 'gramian'), num_tasks)


def _weights(gramian: jax.Array, scales: jax.Array, tau: jax.Array, primary: int) -> jax.Array:
  """Weights on the rows as they are.

  In units of the rows' lengths, v = w̃‖g̃‖, and of ‖g̃₁‖: v = e₁ + μ, where the multipliers μ ≥ 0 of
  the others solve min ½μᵀCμ − bᵀμ with bⱼ = τⱼ‖g̃ⱼ‖/‖g̃₁‖ − Cⱼ₁, C the correlations.
  """
  norms, matrix = _solvers.correlations(gramian)
  usable = norms > 0
  lengths = scales * norms
  first = jnp.arange(len(tau)) == primary
  unit = jnp.where(usable[primary], lengths[primary], 1.0)
  asked = tau * lengths / unit - matrix[:, primary]
  bound = ~first & usable
  apart = first[:, None] | first[None, :]
  others = jnp.where(apart, jnp.eye(len(tau)), matrix)
  multipliers = _solvers.nonnegative_qp(others, jnp.where(bound, -asked, 1.0))
  slack = _base.dot(others, multipliers) - asked
  met = jnp.all(~bound | (slack >= -_SLACK * (1 + jnp.max(jnp.where(bound, jnp.abs(asked), 0.0)))))

  def length(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """‖d̃‖, and whether that is what is left of rows that cancel: rounding."""
    square = _base.dot(weights, _base.dot(matrix, weights))
    return jnp.sqrt(jnp.maximum(square, 0.0)), square <= _CANCELS * jnp.sum(weights) ** 2

  mixed = jnp.where(first, 1.0, multipliers)
  # Without a solution the multipliers have no bound but the rounding of what cancels.
  solved = met & ~(length(mixed)[1] & (jnp.sum(multipliers) > _UNBOUNDED))
  mixed = jnp.where(solved, mixed, first.astype(mixed.dtype))
  left, cancels = length(mixed)
  on_rows = mixed * norms[primary] / jnp.where(usable, norms, 1.0) / jnp.where(cancels, 1.0, left)
  return jnp.where(cancels | ~usable | ~usable[primary], 0.0, on_rows)
