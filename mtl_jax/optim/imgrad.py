"""IMGrad: CAGrad that minds the imbalance of the gradients."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _solvers
from mtl_jax.optim.cagrad import RESCALES, rescaled

_SMALLEST_COSINE = 1e-6


def imgrad(
  c: float | jax.Array = 0.8,
  *,
  rescale: str = '1+c2',
  preference: Sequence[float] | None = None,
) -> _base.Balancer:
  """Imbalance-sensitive gradient descent: CAGrad's direction, from weights that mind the imbalance.

  With g₀ the mean gradient, g_m the shortest vector in the hull of the gradients (MGDA's) and
  κ = cos(g₀, g_m),

  * w = argmin over Δ of (3/2 − κ) g_w·g₀ + κ c‖g₀‖‖g_w‖, g_w = Jᵀw;
  * d = g₀ + c‖g₀‖ g_w/‖g_w‖, over 1 + c² with the default `rescale`.

  Where gradients are alike, κ is near 1, and g_w nearer to g_m than CAGrad's. Where one is much
  longer than the others, κ is small, and w goes to the task with the least gᵢ·g₀. At κ = 3/4 the
  method is CAGrad.

  The formula, c = 0.8 and the rescaling are those of the published code for three tasks; that for
  two tasks has the factor 3/2 − κ on a part of g_w·g₀ only. Solved exactly, as `cagrad` is; what is
  said there of absent tasks, zero gradients and a single task holds here, and where g_w = 0 solves
  the problem, d = 0. Where no direction moves all tasks down, κ = 0, and d leans from g₀ to the
  task that it harms most.

  Args:
    c: radius of the ball in units of ‖g₀‖, > 0.
    rescale: '1+c2', '1+c' or 'none', as in `cagrad`.
    preference: `[T]`, positive, normalized to sum 1 over the tasks present: g₀ = Jᵀp. None: the
      mean.

  Returns:
    a balancer that needs the Gramian; its state is empty.

  Raises:
    ValueError: c ≤ 0, an unknown rescale, or a preference that is not positive; at update, one of
      another length than T.

  References:
    Zhou et al., Injecting Imbalance Sensitivity for Multi-Task Learning, IJCAI 2025.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.imgrad(c=0.5, rescale='none')
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
    [0.75, 0.75]
  """
  if isinstance(c, (int, float)) and not c > 0:
    raise ValueError(f'imgrad: c must be positive, not {c!r}.')
  if rescale not in RESCALES:
    raise ValueError(f'imgrad: rescale must be one of {RESCALES}, not {rescale!r}.')
  _arguments.check_per_task(preference, 'imgrad: preference', least='positive')

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del extra_args
    wanted = _arguments.preferences(preference, present, 'imgrad')
    radius = jnp.asarray(c, jnp.float32)
    weights = _weights(gramian, wanted, present, radius)
    return rescaled(weights, rescale, radius, wanted, present), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))


@_base.exactly
@jax.jit
def _weights(
  gramian: jax.Array, wanted: jax.Array, present: jax.Array, radius: jax.Array
) -> jax.Array:
  shortest = _solvers.simplex_qp(gramian, present)

  def product(left: jax.Array, right: jax.Array) -> jax.Array:
    return _base.dot(left, _base.dot(gramian, right))

  lengths = jnp.sqrt(jnp.maximum(product(wanted, wanted) * product(shortest, shortest), 0.0))
  cosine = product(wanted, shortest) / jnp.where(lengths > 0, lengths, 1.0)
  # g_m·g₀ ≥ ‖g_m‖²: never below 0 but for rounding.
  cosine = jnp.clip(jnp.where(lengths > 0, cosine, 0.0), _SMALLEST_COSINE, 1.0)
  share = cosine / (1.5 - cosine)
  towards, vanishes = _solvers.conflict_averse(gramian, wanted, share * radius)
  return jnp.where(vanishes, 0.0, wanted + towards / share)
