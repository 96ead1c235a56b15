"""CAGrad: the direction near the mean gradient that helps the worst-off task most."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _solvers

RESCALES = ('none', '1+c2', '1+c')


def cagrad(
  c: float | jax.Array = 0.5,
  *,
  rescale: str = 'none',
  preference: Sequence[float] | None = None,
) -> _base.Balancer:
  """Conflict-averse gradient descent: d maximizes minᵢ gᵢ·d over ‖d − g₀‖ ≤ c‖g₀‖, g₀ the mean.

  d = g₀ + c‖g₀‖ g_w/‖g_w‖ with g_w = Jᵀw and w = argmin over Δ of g_w·g₀ + c‖g₀‖‖g_w‖ (eq. 3).
  c = 0 is gradient descent on the mean; for c < 1 its stationary points are those of the mean;
  with large c, d turns towards that of MGDA. Solved exactly: see `_solvers.conflict_averse`.

  Where g_w = 0 solves the problem, the formula says nothing, and d = 0: no direction moves all
  tasks down there, and one within the ball moves none up. float32 gradients tell ‖g_w‖ from 0 down
  to 10⁻³ of the gradients' length. Where the mean nearly cancels, their rounding leaves an error in
  d of some 10⁻⁵ of that length, more with a large c; no gᵢ·d falls short of the optimal minimum by
  more than 10⁻⁶ ‖gᵢ‖ Σ |wⱼ|‖gⱼ‖, w the weights of d. For a single task, present alone, the formula
  gives (1 + c) g; as there is nothing to balance, d is the plain gradient g, whatever `rescale` is.

  Absent tasks have no part. A zero gradient has gᵢ·d = 0 whatever d is, so it is left out of the
  minimum; it stays in the mean.

  Args:
    c: radius of the ball in units of ‖g₀‖, ≥ 0.
    rescale: 'none' (the paper), or d divided by 1 + c² ('1+c2') or 1 + c ('1+c'), as the published
      code offers.
    preference: `[T]`, positive, normalized to sum 1 over the tasks present: g₀ = Jᵀp. None: the
      mean.

  Returns:
    a balancer that needs the Gramian; its state is empty.

  Raises:
    ValueError: c < 0, an unknown rescale, or a preference that is not positive; at update, one of
      another length than T.

  References:
    Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.cagrad(c=0.5)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
    [0.75, 0.75]
  """
  if isinstance(c, (int, float)) and not c >= 0:
    raise ValueError(f'cagrad: c must be 0 or more, not {c!r}.')
  if rescale not in RESCALES:
    raise ValueError(f'cagrad: rescale must be one of {RESCALES}, not {rescale!r}.')
  _arguments.check_per_task(preference, 'cagrad: preference', least='positive')

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del losses, extra_args
    wanted = _arguments.preferences(preference, present, 'cagrad')
    radius = jnp.asarray(c, jnp.float32)
    weights = _weights(gramian, wanted, radius)
    return rescaled(weights, rescale, radius, wanted, present), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))


def rescaled(
  weights: jax.Array, rescale: str, radius: jax.Array, wanted: jax.Array, present: jax.Array
) -> jax.Array:
  """The weights `[T]` divided as `rescale` says; those of a single task are what is wanted."""
  if rescale != 'none':
    weights = weights / (1 + (radius**2 if rescale == '1+c2' else radius))
  return jnp.where(jnp.sum(present) == 1, wanted, weights)


@_base.exactly
@jax.jit
def _weights(gramian: jax.Array, wanted: jax.Array, radius: jax.Array) -> jax.Array:
  towards, vanishes = _solvers.conflict_averse(gramian, wanted, radius)
  return jnp.where(vanishes, 0.0, wanted + towards)
