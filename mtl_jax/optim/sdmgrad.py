"""SDMGrad and MoDo: task weights that descend on ‖wᵀJ‖² with unbiased, doubly sampled Gramians."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _rows, _solvers


class SDMGradState(NamedTuple):
  """State of `sdmgrad`: the weights w `[T]` on the simplex."""

  weights: jax.Array


class MoDoState(NamedTuple):
  """State of `modo`: the weights λ `[T]` on the simplex."""

  weights: jax.Array


def sdmgrad(
  num_tasks: int | None = None,
  lam: float | jax.Array = 0.3,
  steps: int = 20,
  learning_rate: float | jax.Array = 10.0,
  momentum: float | jax.Array = 0.5,
  preference: Sequence[float] | jax.Array | None = None,
) -> _base.Balancer:
  """Direction-oriented stochastic MGDA: a min-norm direction, kept near a preferred one.

  The weights w descend on ½‖wᵀJ‖² + λ (wᵀJ)·(w̃ᵀJ) over the simplex, by `steps` steps of
  gradient descent with momentum, m ← μm + G(w + λw̃) and w ← Proj_Δ(w − ηm), from the last step's w
  and m = 0. The task weights are (w + λw̃)/(1 + λ), which sum to 1: a mean over tasks. λ = 0 is
  MGDA, and λ → ∞ the direction w̃ᵀJ.

  G = J₁J₂ᵀ of two independent batches makes the gradient on w unbiased; the direction is that of a
  third (algorithm 1). The train step draws them; a plain chain has one batch, and G = JJᵀ. As in
  the released code, all `steps` use one G, divided by the square of the mean of √Gᵢᵢ; here a
  Gᵢᵢ < 0 counts as 0, and where all do, w stays. η is 10 in the released code and 5 in LibMTL.

  Absent tasks have weight 0 and keep their part of the state: the tasks present move within their
  part, which is taken in proportion (equal if it is 0), and w̃ is renormalized over them.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    lam: λ ≥ 0.
    steps: on w, at each step.
    learning_rate: η > 0.
    momentum: μ in [0, 1).
    preference: w̃ `[T]`, positive; None: equal.

  Returns:
    a balancer that needs the Gramian, of 3 batches where it can have them.

  Raises:
    ValueError: an option out of range, or a preference that is not positive; in a chain, without
      num_tasks; at update, another T, or a preference of another length.

  References:
    Xiao et al., Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
    Algorithms, NeurIPS 2023.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.sdmgrad(num_tasks=2, lam=0.0, learning_rate=0.5)
    >>> grads = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> [f'{x:.2f}' for x in tx.update(grads, tx.init(jnp.zeros(2)))[0]]
    ['0.40', '0.80']
  """
  _check_not_negative('sdmgrad', lam=lam, steps=steps, learning_rate=learning_rate)
  if isinstance(momentum, int | float) and not 0 <= momentum < 1:
    raise ValueError(f'sdmgrad: momentum must be in [0, 1), not {momentum}.')
  _arguments.check_per_task(preference, 'sdmgrad: preference', least='positive')

  @_base.exactly
  def descend(
    weights: jax.Array,
    gramian: jax.Array,
    present: jax.Array,
    preferred: jax.Array,
    lam: jax.Array,
    learning_rate: jax.Array,
    momentum: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    weights, mass = _rows.shares(weights, present)
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gramian), 0.0))
    scale = jnp.sum(norms) / jnp.maximum(jnp.sum(present), 1).astype(norms.dtype)
    gramian = jnp.where(scale > 0, gramian / jnp.where(scale > 0, scale, 1.0) ** 2, 0.0)

    def step(_: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
      weights, moving = carry
      moving = momentum * moving + _solvers.dot(gramian, weights + lam * preferred)
      return project_to_simplex(weights - learning_rate * moving, present), moving

    start = (weights, jnp.zeros_like(weights))
    weights = jax.lax.fori_loop(0, steps, step, start)[0]
    return mass * weights, (weights + lam * preferred) / (1 + lam)

  def init(tasks: int | None) -> SDMGradState:
    return SDMGradState(_equal(_arguments.known_tasks(tasks, num_tasks, 'sdmgrad')))

  def update(
    state: SDMGradState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, SDMGradState]:
    del losses, key, extra_args
    _check_tasks('sdmgrad', state.weights, gramian)
    preferred = _arguments.preferences(preference, present, 'sdmgrad')
    moved, weights = descend(
      state.weights, gramian, present, preferred, lam, learning_rate, momentum
    )
    return weights, SDMGradState(jnp.where(present, moved, state.weights))

  return _base.balancer(_base.Weighting(init, update, 'gramian', batches=3), num_tasks)


def modo(
  num_tasks: int | None = None,
  gamma: float | jax.Array = 1e-3,
  rho: float | jax.Array = 0.1,
) -> _base.Balancer:
  """Multi-objective descent with double sampling: one projected step a time on MGDA's weights.

  λ ← Proj_Δ(λ − γ(J₁J₂ᵀλ + ρλ)), and the direction is λᵀJ₃ with the new λ (algorithm 1): Σ λ = 1, a
  mean over tasks. J₁, J₂ and J₃ are of independent batches, which the train step draws, so that
  the gradient on λ is unbiased; a plain chain has one batch, J₁ = J₂ = J₃. ρ regularizes λ towards
  equal weights. γ goes with the inverse of squared gradient norms: choose it by their scale; the
  defaults are LibMTL's.

  Absent tasks have weight 0 and keep their part of the state: the tasks present move within their
  part, which is taken in proportion (equal if it is 0).

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    gamma: γ ≥ 0.
    rho: ρ ≥ 0.

  Returns:
    a balancer that needs the Gramian, of 3 batches where it can have them.

  Raises:
    ValueError: an option out of range; in a chain, without num_tasks; at update, another T.

  References:
    Chen et al., Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
    Conflict-Avoidance, NeurIPS 2023.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.modo(num_tasks=2, gamma=0.1)
    >>> grads = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> [f'{x:.3f}' for x in tx.update(grads, tx.init(jnp.zeros(2)))[0]]
    ['0.850', '0.575']
  """
  _check_not_negative('modo', gamma=gamma, rho=rho)

  @_base.exactly
  def descend(
    weights: jax.Array, gramian: jax.Array, present: jax.Array, gamma: jax.Array, rho: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    weights, mass = _rows.shares(weights, present)
    gradient = _solvers.dot(gramian, weights) + rho * weights
    weights = project_to_simplex(weights - gamma * gradient, present)
    return mass * weights, weights

  def init(tasks: int | None) -> MoDoState:
    return MoDoState(_equal(_arguments.known_tasks(tasks, num_tasks, 'modo')))

  def update(
    state: MoDoState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, MoDoState]:
    del losses, key, extra_args
    _check_tasks('modo', state.weights, gramian)
    moved, weights = descend(state.weights, gramian, present, gamma, rho)
    return weights, MoDoState(jnp.where(present, moved, state.weights))

  return _base.balancer(_base.Weighting(init, update, 'gramian', batches=3), num_tasks)


def project_to_simplex(point: jax.Array, present: jax.Array) -> jax.Array:
  """The nearest w `[T]` with w ≥ 0, Σ w = 1 and w = 0 for absent tasks; exact, by sorting.

  Like `optax.projections.projection_simplex`, for some of the coordinates, and at any scale: the
  projection is of the distances from the largest coordinate, of which those beyond 1 have w = 0.
  From coordinates beyond 1/ε themselves the 1 could not be taken.
  """
  largest = jnp.max(jnp.where(present, point, -jnp.inf))
  point = jnp.maximum(point - largest, -1.0)
  falling = jnp.sort(jnp.where(present, point, -jnp.inf), descending=True)
  totals = jnp.cumsum(jnp.where(jnp.isfinite(falling), falling, 0.0))
  counts = jnp.arange(1, len(point) + 1, dtype=point.dtype)
  positive = jnp.maximum(jnp.sum(falling * counts > totals - 1), 1)
  shift = (totals[positive - 1] - 1) / positive.astype(point.dtype)
  return jnp.where(present, jnp.maximum(point - shift, 0.0), 0.0)


def _equal(tasks: int) -> jax.Array:
  return jnp.full(tasks, 1 / tasks, jnp.float32)


def _check_tasks(method: str, weights: jax.Array, gramian: jax.Array | None) -> None:
  assert gramian is not None
  if len(weights) != len(gramian):
    raise ValueError(f'{method} of {len(weights)} tasks was given the gradients of {len(gramian)}.')


def _check_not_negative(method: str, **options: float | jax.Array) -> None:
  for name, value in options.items():
    if isinstance(value, int | float) and value < 0:
      raise ValueError(f'{method}: {name} must be 0 or more, not {value}.')
