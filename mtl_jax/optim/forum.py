"""FORUM: descent on all validation losses among the parameters that training would keep."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base, _bilevel, _rows, _solvers

_PENALTY = 100.0
_ROUNDS = 10


class ForumState(NamedTuple):
  """State of `forum`: logits α `[T]`, their optimizer's state, smoothed λ `[T]`, steps `[]`."""

  logits: jax.Array
  opt_state: optax.OptState
  multipliers: jax.Array
  step: jax.Array

  @property
  def weights(self) -> jax.Array:
    """`[T]`, if all tasks are present."""
    return jax.nn.softmax(self.logits)


def forum(
  num_tasks: int | None = None,
  *,
  rho: float | jax.Array = 0.1,
  inner_learning_rate: float | jax.Array = 0.1,
  inner_steps: int = 5,
  beta: float | jax.Array = 1.0,
  normalize: bool = True,
  learning_rate: float | jax.Array = 1e-3,
  optimizer: optax.GradientTransformation | None = None,
) -> _base.Balancer:
  """A descent direction of all validation losses that also lowers the weighted training loss.

  With the training losses L, f(α, θ) = Σᵢ softmax(α)ᵢ Lᵢ(θ), and the validation losses V, the
  bilevel problem min V(θ) subject to θ ∈ argmin f(α, ·) becomes min V(θ) subject to q ≤ 0, where
  q(α, θ) = f(α, θ) − f(α, θ̃) and θ̃ is θ after some steps of gradient descent on f(α, ·), held
  fixed. No second derivative comes up. At step k, over z = (α, θ), where Vᵢ has no part in α:

  * v̂ᵢ = ∇_z Vᵢ/‖∇Vᵢ‖ and πᵢ = ρ − v̂ᵢ·∇q/‖∇q‖²;
  * λ̃ minimizes ½‖Σᵢλᵢv̂ᵢ + ν∇q‖² − νρ‖∇q‖² over the simplex, with ν(λ) = max(Σᵢ λᵢπᵢ, 0) ≥ 0;
  * λ ← λ + βₖ(λ̃ − λ), βₖ = βk^−¾;
  * d = Σᵢ λᵢv̂ᵢ + ν(λ)∇q: its θ part is the direction, its α part moves α by its own optimizer.

  With λ = λ̃, −d is the steepest common descent of the Vᵢ among the directions along which q falls
  by ρ‖∇q‖² or more, and λ̃, ν its multipliers: ν(λ) is the best ν ≥ 0 for given λ, and the problem
  over both is convex and solved exactly. (The published code leaves out the ½ but not in ν(λ),
  which makes it another problem, and its βₖ counts epochs.)

  An absent task has no part in f, and keeps its logit and its part of the optimizer; its validation
  loss still counts. A validation loss whose gradient is zero or not finite has no part in d and
  keeps its share of λ. Where the v̂ᵢ are dependent λ̃ is not unique: any that the solver gives. A
  mean over tasks: Σ λ = 1. One task alone gets v̂ + ν∇q, not its plain gradient.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    rho: ρ > 0, the pull towards q = 0.
    inner_learning_rate: of the steps from θ to θ̃.
    inner_steps: their number, ≥ 1.
    beta: β in (0, 1].
    normalize: whether the Vᵢ's gradients are brought to length 1, as the paper's code does.
    learning_rate: of the logits' Adam.
    optimizer: of the logits, in place of Adam.

  Returns:
    a balancer that needs functions: `tx.update(updates, state, params, loss_fn=, validation_fn=)`,
    both from params to losses `[T]`; `updates` may be None. The direction is a pytree like params.

  Raises:
    ValueError: inner_steps below 1; in a chain without num_tasks; at update, without params or the
      functions.

  References:
    Ye et al., A First-Order Multi-Gradient Algorithm for Multi-Objective Bi-Level Optimization,
    ECAI 2024.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.forum(num_tasks=2)
    >>> losses = lambda theta: jnp.sum(theta**2) * jnp.array([1.0, 2.0])
    >>> theta = jnp.array([3.0, 4.0])
    >>> direction, _ = tx.update(
    ...   None, tx.init(theta), theta, loss_fn=losses, validation_fn=losses)
    >>> [f'{value:.1f}' for value in direction.tolist()]
    ['1.0', '1.4']
  """
  if not isinstance(inner_steps, int) or inner_steps < 1:
    raise ValueError(f'forum: inner_steps must be an integer of 1 or more, not {inner_steps!r}.')
  tx = optax.adam(learning_rate) if optimizer is None else optimizer

  def init(tasks: int | None) -> ForumState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'forum')
    logits = jnp.zeros(tasks, jnp.float32)
    shares = jnp.full(tasks, 1 / tasks, jnp.float32)
    return ForumState(logits, tx.init(logits), shares, jnp.zeros((), jnp.int32))

  def update(
    state: ForumState,
    params: Any,
    loss_fn: _bilevel.Losses,
    validation_fn: _bilevel.Losses,
    present: jax.Array,
  ) -> tuple[Any, ForumState, jax.Array]:
    tasks = present.shape[0]
    step = state.step + 1
    weights = _bilevel.softmax(state.logits, present)
    losses, weighted = _bilevel.pull_back(loss_fn, params, 'forum', tasks)
    slope = weighted(weights)
    later = loss_fn(descend(loss_fn, params, slope, weights)).astype(jnp.float32)
    gain = jnp.where(present & jnp.isfinite(losses - later), losses - later, 0.0)
    logit_slope = weights * (gain - jnp.sum(weights * gain))

    _, validation = _bilevel.pull_back(validation_fn, params, 'forum', tasks)
    rows = jax.vmap(validation)(jnp.eye(tasks))
    norms = gradients.norms(rows)
    counts = jnp.isfinite(norms) & (norms > 0)
    scale = 1.0 / jnp.where(counts, norms, 1.0) if normalize else jnp.ones_like(norms)

    def unit(leaf: jax.Array) -> jax.Array:
      scaled = leaf.astype(jnp.float32) * _rows.column(scale, leaf)
      return jnp.where(_rows.column(counts, leaf), scaled, 0.0)

    rows = jax.tree.map(unit, rows)
    cross = _rows.add(jax.tree.leaves(jax.tree.map(_inner, rows, slope)))
    square = jnp.sum(gradients.norms(jax.tree.map(lambda leaf: leaf[None], slope)) ** 2)
    square = square + jnp.sum(logit_slope**2)
    usable = jnp.isfinite(square) & (square > 0)
    square, cross = jnp.where(usable, square, 0.0), jnp.where(usable, cross, 0.0)
    new = _multipliers(gradients.gramian(rows), cross, square, counts, rho)
    old, mass = _rows.shares(state.multipliers, counts)
    rate = beta * step.astype(jnp.float32) ** -0.75
    shares = old + rate * (new - old)
    kept = jnp.where(counts, mass * shares, state.multipliers)

    pull = jnp.where(usable, rho - cross / jnp.where(usable, square, 1.0), 0.0)
    force = jnp.maximum(jnp.sum(shares * pull), 0.0)
    direction = jax.tree.map(
      lambda d, leaf: (d + force * leaf.astype(jnp.float32)).astype(leaf.dtype),
      gradients.combine(shares, rows),
      slope,
    )
    logits, opt_state = _bilevel.learn(
      tx, force * logit_slope, state.opt_state, state.logits, present & usable
    )
    weights = _bilevel.softmax(logits, present)
    return direction, ForumState(logits, opt_state, kept, step), weights

  def descend(loss_fn: _bilevel.Losses, params: Any, slope: Any, weights: jax.Array) -> Any:
    def total(params: Any) -> jax.Array:
      return jnp.sum(weights * loss_fn(params).astype(jnp.float32))

    def step(_: jax.Array, params: Any) -> Any:
      return _bilevel.step_along(params, jax.grad(total)(params), inner_learning_rate)

    first = _bilevel.step_along(params, slope, inner_learning_rate)
    return jax.lax.fori_loop(1, inner_steps, step, first)

  return _bilevel.balancer(init, update, 'forum')


def _inner(leaf: jax.Array, vector: jax.Array) -> jax.Array:
  """The inner products `[T]` of the rows with a vector."""
  rows, flat = leaf.reshape(leaf.shape[0], -1), vector.astype(jnp.float32).reshape(-1)
  return jnp.dot(rows, flat, precision=jax.lax.Precision.HIGHEST)


@_base.exactly
def _multipliers(gramian: Any, cross: Any, square: Any, counts: Any, rho: Any) -> jax.Array:
  """λ̃ `[T]`: argmin over λ in the simplex and ν ≥ 0 of ½‖Σ λᵢvᵢ + ν∇q‖² − νρ‖∇q‖².

  A nonnegative QP in the rows' own units, with Σ λ = 1 by the method of multipliers: vectors of
  length 1 or more in the hull make each round a hundred times more exact than the last.
  """
  tasks = cross.shape[0]
  whole = jnp.block([[gramian, cross[:, None]], [cross[None, :], square[None, None]]])
  norms, matrix = _solvers.correlations(whole)
  shortest = jnp.min(jnp.where(counts, norms[:tasks], jnp.inf))
  shortest = jnp.where(jnp.isfinite(shortest), shortest, 1.0)
  inverse = jnp.where(counts, shortest / jnp.where(counts, norms[:tasks], 1.0), 0.0)
  summed = jnp.append(inverse, 0.0)
  pull = jnp.append(jnp.zeros(tasks), rho * norms[tasks] / shortest)
  matrix = matrix + _PENALTY * summed[:, None] * summed[None, :]

  def step(_: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    point, price = carry
    point = _solvers.nonnegative_qp(matrix, -(price + _PENALTY) * summed - pull, point)
    return point, price + _PENALTY * (1.0 - _solvers.dot(summed, point))

  start = jnp.zeros(tasks + 1), jnp.zeros(())
  point, _ = jax.lax.fori_loop(0, _ROUNDS, step, start)
  shares = inverse * point[:tasks]
  total = jnp.sum(shares)
  return shares / jnp.where(total > 0, total, 1.0)
