"""Aligned-MTL: the gradient matrix with all its singular values made equal."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _solvers, _spectrum

_SCALE_MODES = ('min', 'median', 'rmse')


def aligned_mtl(
  preference: Sequence[float] | jax.Array | None = None, *, scale_mode: str = 'min'
) -> _base.Balancer:
  """Aligns the principal components of the task gradients, so that the system is well conditioned.

  With G = JJᵀ = VΛVᵀ over the eigenvalues kept, w = √s V Λ^{−½} Vᵀ p and d = wᵀJ: the p-weighted
  mean of the rows of the matrix nearest to J whose singular values are all √s. By `scale_mode`, s
  is the smallest eigenvalue kept ('min', the paper), their median (of an even number, the lower
  one, as in the released code), or their mean ('rmse': √s is the root mean square of the singular
  values). With p = 1/T this is a mean over tasks; LibMTL sums, which is T times as long.

  Eigenvalues up to T·ε·λmax, with ε of float32, count as 0, as in the released code. So the method
  depends on the rows' scales, and 'min' and 'median' jump where an eigenvalue crosses the
  tolerance. In a float32 Gramian of **nearly parallel rows** (angles about 1e-3) eigenvalues lie
  there, and which are kept, hence the length of d, hangs on rounding; 'rmse' is hardly affected.
  In general s is known to ε·λmax, and the part of d along the component of eigenvalue λ to
  ε·λmax/λ, which 'median' and 'rmse' stretch where rows nearly cancel; gᵢ·d = √s (G^½ p)ᵢ holds to
  1e-6 of λmax √(s/λmin)‖p‖, with λmin the smallest kept.

  Absent tasks and zero gradients take no part: p is renormalized over the tasks present.

  Args:
    preference: p `[T]`, positive; None: equal.
    scale_mode: 'min', 'median' or 'rmse'.

  Returns:
    a balancer that needs the Gramian.

  Raises:
    ValueError: unknown scale_mode; a preference that is not positive; at update, one of another
      length than T.

  References:
    Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.aligned_mtl()
    >>> grads = jnp.array([[4.0, 0.0], [0.0, 1.0]])
    >>> [f'{x:.2f}' for x in tx.update(grads, tx.init(jnp.zeros(2)))[0]]
    ['0.50', '0.50']
  """
  if scale_mode not in _SCALE_MODES:
    raise ValueError(
      f"aligned_mtl: scale_mode must be 'min', 'median' or 'rmse', not {scale_mode!r}."
    )

  _arguments.check_per_task(preference, 'aligned_mtl: preference', least='positive')

  @_base.exactly
  def weights(gramian: jax.Array, p: jax.Array) -> jax.Array:
    values, vectors, kept = _spectrum.eigh(gramian)
    rank, tasks = jnp.sum(kept), len(values)
    if scale_mode == 'rmse':
      scale = jnp.sum(jnp.where(kept, values, 0.0)) / jnp.maximum(rank, 1).astype(values.dtype)
    else:
      place = tasks - rank + ((rank - 1) // 2 if scale_mode == 'median' else 0)
      scale = values[jnp.minimum(place, tasks - 1)]
    ratio = jnp.where(kept, scale / jnp.where(kept, values, 1.0), 0.0)
    return _solvers.dot(vectors, jnp.sqrt(ratio) * _solvers.dot(vectors.T, p))

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del losses, key, extra_args
    p = _arguments.preferences(preference, present, 'aligned_mtl')
    return weights(gramian, p), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))
