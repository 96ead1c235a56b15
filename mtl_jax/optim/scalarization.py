"""Scalarizations: one function of all the losses, whose gradient gives the weights."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base


def chebyshev(
  preference: Sequence[float] | None = None, reference: Sequence[float] | None = None
) -> _base.Balancer:
  """The weighted Chebyshev scalarization: descends on maxᵢ pᵢ(Lᵢ − z*ᵢ).

  The weights are its gradient: pᵢ for the task that attains the maximum, 0 for the others; so the
  direction is a single task's gradient times pᵢ, where Σ p = 1. Where several attain it exactly,
  any convex combination is a subgradient: they share equally, wᵢ = pᵢ/(their number).

  Absent tasks take no part: p is renormalized over those present. A step with this method scales
  each task's whole loss: its own parameters get the weight too.

  Args:
    preference: p `[T]`, positive, normalized to Σ p = 1; None: 1/T each.
    reference: z* `[T]`, the ideal point: the best value of each loss alone, or a little less;
      None: 0.

  Returns:
    a balancer that needs the losses only; its state is empty.

  Raises:
    ValueError: a preference that is not positive; at update, without losses, or with an option of
      another length than T.

  References:
    Zhang and Li, MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition, IEEE
    Transactions on Evolutionary Computation 2007.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.chebyshev()
    >>> tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([3.0, 1.0]))[0].tolist()
    [0.5, 0.0]
  """
  return _scalarization('chebyshev', _chebyshev, preference, reference)


def stch(
  mu: float | jax.Array = 1.0,
  preference: Sequence[float] | None = None,
  reference: Sequence[float] | None = None,
) -> _base.Balancer:
  """The smooth Chebyshev scalarization: descends on μ log Σᵢ exp(pᵢ(Lᵢ − z*ᵢ)/μ).

  The weights are its gradient, w = p ⊙ softmax(p(L − z*)/μ), between `chebyshev` as μ → 0 and
  w = p/T as μ → ∞. With uniform p, Σ w = 1/T: a mean over tasks, divided by T.

  This is the paper's definition, with Σ p = 1 and the losses as they are given. Its multi-task code
  takes log(L/nadir) for the losses, with the nadir from a few warm-up epochs, and p = 1 with μ = 1,
  which here is μ = 1/T; then it multiplies by T.

  Absent tasks take no part: p is renormalized over those present. A step with this method scales
  each task's whole loss: its own parameters get the weight too.

  Args:
    mu: μ > 0, the smoothing, in the unit of p(L − z*).
    preference: p `[T]`, positive, normalized to Σ p = 1; None: 1/T each.
    reference: z* `[T]`, the ideal point; None: 0.

  Returns:
    a balancer that needs the losses only; its state is empty; under `optax.inject_hyperparams` name
    `static_args=('preference', 'reference')`.

  Raises:
    ValueError: mu ≤ 0, or a preference that is not positive; at update, without losses, or with an
      option of another length than T.

  References:
    Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.stch()
    >>> weighted, _ = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([3.0, 1.0]))
    >>> [f'{weight:.3f}' for weight in weighted.tolist()]
    ['0.366', '0.134']
  """
  if isinstance(mu, (int, float)) and not mu > 0:
    raise ValueError(f'stch: mu must be > 0, not {mu}.')
  return _scalarization('stch', _stch, preference, reference, mu)


def cosmos(
  coefficient: float | jax.Array = 2.0, preference: Sequence[float] | None = None
) -> _base.Balancer:
  """The COSMOS objective: descends on p·L − coefficient · cos(p, L).

  The weights are its gradient, w = p − coefficient · (p/(‖p‖‖L‖) − cos(p, L) L/‖L‖²): a mean over
  tasks, plus a pull of the vector of losses towards the ray of p. The pull is orthogonal to L: a
  loss that is too small for its preference gets a negative weight where the coefficient is large
  beside ‖L‖. This is the definition.

  The paper draws p anew at each step and feeds it to the network, to learn the whole Pareto front;
  here p is one fixed preference. Where all losses are 0, cos has no gradient, and w = p. Absent
  tasks take no part: p is renormalized over those present. A step with this method scales each
  task's whole loss: its own parameters get the weight too.

  Args:
    coefficient: λ ≥ 0. The paper: 2 on MultiMNIST, 8 on Fashion+MNIST, 3 on CelebA, 0.01 on tables.
    preference: p `[T]`, positive, normalized to Σ p = 1; None: 1/T each.

  Returns:
    a balancer that needs the losses only; its state is empty; under `optax.inject_hyperparams` name
    `static_args='preference'`.

  Raises:
    ValueError: coefficient < 0, or a preference that is not positive; at update, without losses, or
      with a preference of another length than T.

  References:
    Ruchte and Grabocka, Scalable Pareto Front Approximation for Deep Multi-Objective Learning, ICDM
    2021.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.cosmos()
    >>> weighted, _ = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([3.0, 1.0]))
    >>> [f'{weight:.3f}' for weight in weighted.tolist()]
    ['0.589', '0.232']
  """
  if isinstance(coefficient, (int, float)) and not coefficient >= 0:
    raise ValueError(f'cosmos: coefficient must be ≥ 0, not {coefficient}.')
  return _scalarization('cosmos', _cosmos, preference, None, coefficient)


def pbi(
  theta: float | jax.Array = 5.0,
  preference: Sequence[float] | None = None,
  reference: Sequence[float] | None = None,
) -> _base.Balancer:
  """Penalty-based boundary intersection: descends on d₁ + θ d₂.

  With r the unit vector of the preference and f = L − z*, d₁ = f·r is the length along the ray and
  d₂ = ‖f − d₁r‖ the distance from it. The weights are the gradient, w = r + θ(f − d₁r)/d₂, with
  ‖r‖ = 1 (so √T times the mean with uniform p and θ = 0); tasks on the near side of the ray get
  negative weights once θ is large: this is the definition.

  On the ray d₂ has a kink: for d₂ ≤ 1e-6‖f‖, which is the rounding of float32 losses, the
  subgradient 0 is taken. Close to the ray the weights turn quickly: a relative error ε of the
  losses turns them by about ε‖f‖/d₂. The paper has |f·r| for d₁, which is the same above the ideal
  point. Absent tasks take no part: the ray is that of those present. A step with this method scales
  each task's whole loss: its own parameters get the weight too.

  Args:
    theta: θ ≥ 0, the penalty. The paper: 5.
    preference: `[T]`, positive, the direction of the ray; None: equal losses.
    reference: z* `[T]`, the ideal point, where the ray starts; None: 0.

  Returns:
    a balancer that needs the losses only; its state is empty; under `optax.inject_hyperparams` name
    `static_args=('preference', 'reference')`.

  Raises:
    ValueError: theta < 0, or a preference that is not positive; at update, without losses, or with
      an option of another length than T.

  References:
    Zhang and Li, MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition, IEEE
    Transactions on Evolutionary Computation 2007.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.pbi(theta=1.0)
    >>> weighted, _ = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([3.0, 1.0]))
    >>> [f'{abs(weight):.3f}' for weight in weighted.tolist()]
    ['1.414', '0.000']
  """
  if isinstance(theta, (int, float)) and not theta >= 0:
    raise ValueError(f'pbi: theta must be ≥ 0, not {theta}.')
  return _scalarization('pbi', _pbi, preference, reference, theta)


def _scalarization(
  method: str,
  gradient: Callable,
  preference: Sequence[float] | None,
  reference: Sequence[float] | None,
  *options: float | jax.Array,
) -> _base.Balancer:
  """The method whose weights are `gradient(L − z*, p, present, *options)`, in float64."""
  _arguments.check_per_task(preference, f'{method}: preference', least='positive')
  _arguments.check_per_task(reference, f'{method}: reference')

  def shifted(
    losses: jax.Array, ideal: jax.Array, p: jax.Array, present: jax.Array, *options: jax.Array
  ) -> jax.Array:
    return gradient(jnp.where(present, losses - ideal, 0.0), p, present, *options)

  def update(
    state: _base.State, *, present: jax.Array, losses: jax.Array | None = None, **extra_args: Any
  ) -> tuple[jax.Array, _base.State]:
    del extra_args
    losses = _arguments.require_losses(losses, method)
    p = _arguments.preferences(preference, present, method)
    ideal = _arguments.per_task(reference, present, 0.0, f'{method}: reference')
    return _base.exactly(shifted)(losses, ideal, p, present, *options), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'losses'))


def _chebyshev(f: jax.Array, p: jax.Array, present: jax.Array) -> jax.Array:
  scaled = jnp.where(present, p * f, -jnp.inf)
  largest = present & (scaled == jnp.max(scaled))
  return jnp.where(largest, p / jnp.maximum(jnp.sum(largest, dtype=p.dtype), 1.0), 0.0)


def _stch(f: jax.Array, p: jax.Array, present: jax.Array, mu: jax.Array) -> jax.Array:
  return p * jax.nn.softmax(p * f / mu, where=present)


def _cosmos(f: jax.Array, p: jax.Array, present: jax.Array, coefficient: jax.Array) -> jax.Array:
  del present
  norm, length = jnp.linalg.norm(f), jnp.linalg.norm(p)
  norm, length = jnp.where(norm > 0, norm, 1.0), jnp.where(length > 0, length, 1.0)
  along, ray = f / norm, p / length
  pull = jnp.where(jnp.any(f != 0), (ray - jnp.sum(along * ray) * along) / norm, 0.0)
  return p - coefficient * pull


def _pbi(f: jax.Array, p: jax.Array, present: jax.Array, theta: jax.Array) -> jax.Array:
  del present
  length = jnp.linalg.norm(p)
  ray = p / jnp.where(length > 0, length, 1.0)
  off = f - jnp.sum(f * ray) * ray
  distance = jnp.linalg.norm(off)
  kink = distance <= 1e-6 * jnp.linalg.norm(f)
  return ray + theta * jnp.where(kink, 0.0, off / jnp.where(kink, 1.0, distance))
