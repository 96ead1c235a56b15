"""Nash-MTL and FairGrad: weights at which every task gains its fair part of the step."""

from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _base, _solvers, over_time

_NORMALIZATIONS = ('none', 'frobenius')


def nash_mtl(
  num_tasks: int | None = None,
  max_norm: float | jax.Array = 1.0,
  update_every: int = 1,
  *,
  normalization: str = 'none',
) -> _base.Balancer:
  """The Nash bargaining solution: d = Σ wᵢ gᵢ, the weights w > 0 with wᵢ (Gw)ᵢ = 1.

  This d maximizes Σ log(gᵢ·d) over a ball (claim 3.1), so that gᵢ·d = 1/wᵢ > 0, and scaling a
  task's loss changes nothing. w is the minimum of the convex ½wᵀGw − Σ log wᵢ, found by Newton's
  method to float64 accuracy; the published code stops a sequence of linearized problems earlier.

  Always ‖d‖² = Σ wᵢ (Gw)ᵢ = T, before the clip to `max_norm`: with the default, d has norm 1
  whatever the gradients, for one task too (d = g/‖g‖). So ‖d‖ **does not shrink near an optimum**:
  only the learning rate does that. The authors' released code puts G/‖G‖_F (Frobenius) in the place
  of G and does not scale the weights back: wᵢ (Gw)ᵢ = ‖G‖_F, the same direction, but with
  ‖d‖ = min(max_norm, √(T‖G‖_F)), which is of the gradients' own size below the clip and shrinks
  with them. That is `normalization='frobenius'`.

  The clip holds for d itself, at every step, also where w is held: ‖d‖ ≤ max_norm to float32. In
  the train step it bounds the gradient of the shared parameters; the tasks' own are not clipped.

  Absent tasks have no part; a zero gradient cannot gain and is left out (w = 0). For dependent
  gradients d is unique still. Where no direction moves all tasks down, there is no solution: w is
  large and finite, and d is 0 but for rounding, some hundredths at most. Where gradients nearly
  cancel, the length of d before the clip is sensitive to their float32 rounding: by 10⁻⁷/r², with r
  the length of the shortest vector in the hull of the unit gradients.

  Args:
    num_tasks: T. Needed in an optax chain where update_every > 1; the train step fills it in.
    max_norm: d is scaled down to this norm where it is longer; 0: never.
    update_every: w is found anew at every k-th step and held in between, as by `every_k`; the clip
      is not: held weights on gradients that have grown give no longer d.
    normalization: 'none', the equation as the paper has it, or 'frobenius', the released code's.

  Returns:
    a balancer that needs the Gramian; its state is empty, or an `EveryKState` where
    update_every > 1. Under `optax.inject_hyperparams`, update_every is one of `static_args`.

  Raises:
    ValueError: max_norm < 0; update_every < 1; unknown normalization; in a chain without num_tasks
      where it is needed.

  References:
    Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.nash_mtl(max_norm=0.0)
    >>> tx.update(jnp.array([[4.0, 0.0], [0.0, 0.5]]), tx.init(jnp.zeros(2)))[0].tolist()
    [1.0, 1.0]
  """
  if isinstance(max_norm, (int, float)) and not max_norm >= 0:
    raise ValueError(f'nash_mtl: max_norm must be 0 or more, not {max_norm!r}.')
  if update_every < 1:
    raise ValueError(f'nash_mtl: update_every must be 1 or more, not {update_every!r}.')

  if normalization not in _NORMALIZATIONS:
    raise ValueError(
      f'nash_mtl: normalization must be one of {_NORMALIZATIONS}, not {normalization!r}.'
    )

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del present, losses, extra_args
    return (_bargain if normalization == 'none' else _bargain_of_size)(gramian), state

  def longest(state: _base.State) -> jax.Array:
    del state
    bound = jnp.asarray(max_norm, jnp.float32)
    return jnp.where(bound > 0, bound, jnp.inf)

  weighting = _base.Weighting(lambda num_tasks: (), update, 'gramian', max_norm=longest)
  made = _base.balancer(weighting)
  return over_time.every_k(made, update_every, num_tasks)


def fairgrad(alpha: float | jax.Array = 1.0) -> _base.Balancer:
  """α-fair gains: d = Σ wᵢ gᵢ, the weights w > 0 with (Gw)ᵢ = wᵢ^(−1/α).

  This d maximizes Σ (gᵢ·d)^(1−α)/(1−α) over a ball, up to its length: α = 1 is Nash-MTL without the
  clip, α = 2 minimal potential delay, and the larger α, the more counts the task that gains least.
  The equation is the stationarity of a convex function of w, minimized by Newton's method to
  float64 accuracy; the published code calls a nonlinear least-squares routine. d is a sum over
  tasks; scaling all gradients by s scales d by s^((1 − α)/(1 + α)), and one task gives
  d = g ‖g‖^(−2α/(1 + α)).

  Absent tasks, zero gradients, dependent ones, and gradients that no direction can all move down:
  as in `nash_mtl`.

  Args:
    alpha: α > 0.

  Returns:
    a balancer that needs the Gramian; its state is empty.

  Raises:
    ValueError: alpha ≤ 0.

  References:
    Ban & Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.fairgrad(alpha=0.5)
    >>> grads = jnp.array([[8.0, 0.0], [0.0, 1.0]])
    >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
    [2.0, 1.0]
  """
  if isinstance(alpha, (int, float)) and not alpha > 0:
    raise ValueError(f'fairgrad: alpha must be positive, not {alpha!r}.')

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del present, losses, extra_args
    return _fair(gramian, jnp.asarray(alpha, jnp.float32)), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))


@_base.exactly
@jax.jit
def _bargain(gramian: jax.Array) -> jax.Array:
  return _solvers.power_fixed_point(gramian, jnp.ones((), gramian.dtype))


@_base.exactly
@jax.jit
def _bargain_of_size(gramian: jax.Array) -> jax.Array:
  """The solution for G/‖G‖_F."""
  weights = _solvers.power_fixed_point(gramian, jnp.ones((), gramian.dtype))
  return weights * jnp.sqrt(jnp.linalg.norm(gramian))


@_base.exactly
@jax.jit
def _fair(gramian: jax.Array, alpha: jax.Array) -> jax.Array:
  return _solvers.power_fixed_point(gramian, 1 / alpha)
