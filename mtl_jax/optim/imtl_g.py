"""IMTL-G: the direction with equal projections on all task gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _base, _solvers, _spectrum


def imtl_g() -> _base.Balancer:
  """Impartial learning: d = wᵀJ with gᵢ·d/‖gᵢ‖ equal for all tasks, and Σ w = 1.

  With G = JJᵀ and n = √diag G, w = v/Σv and v = G⁺n. This is the paper's closed form where G is
  invertible, and Quinton & Rey's extension of it where not: then the projections are equal in the
  sense of least squares. Σ w = 1 makes it a mean over tasks: T equal rows give that row. Weights
  may be negative, and so may Σv: then the normalized direction *ascends* on every task by
  equal amounts, as the formula has it.

  Where Σv ≈ 0 (|Σv| ≤ T·ε·max(Σ|v|, 1/max n), with ε of float32) there is no such direction, and
  the weights are 0. Absent tasks and zero gradients take no part and have weight 0.

  The rank is that of the correlation matrix C = G/(n nᵀ), whatever the rows' scales: eigenvalues
  up to T·ε·λmax count as 0. The direction is good to about ε·λmax/λmin of the eigenvalues that
  count: 1e-7 as a rule, 4e-5 for 11 random rows of 10 numbers. **Nearly parallel rows** (angles
  about 1e-3) have eigenvalues at the tolerance, and what tells them apart is lost in a float32
  Gramian: errors of 1e-2, and more for more rows than numbers, though the projections stay equal
  to some 1e-6. Of rows that nearly cancel, a direction k times shorter than they are is good to kε,
  and so is one with Σ|w| = k, where Σv nearly cancels. Whatever the rows, the projections are equal
  (with dependent rows: the equations of least squares hold) to 1e-6 of Σ|wᵢ|‖gᵢ‖.

  Returns:
    a balancer that needs the Gramian.

  References:
    Liu et al., Towards Impartial Multi-task Learning, ICLR 2021.
    Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, arXiv 2024.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.imtl_g()
    >>> grads = jnp.array([[4.0, 0.0], [0.0, 1.0]])
    >>> [f'{x:.2f}' for x in tx.update(grads, tx.init(jnp.zeros(2)))[0]]
    ['0.80', '0.80']
  """

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del present, losses, key, extra_args
    return _weights(gramian), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))


@_base.exactly
def _weights(gramian: jax.Array) -> jax.Array:
  norms = jnp.sqrt(jnp.diagonal(gramian))
  safe = jnp.where(norms > 0, norms, 1.0)
  values, vectors, kept = _spectrum.eigh(gradients.cosines(gramian))
  # Through C rather than an inverse of G, whose condition grows with the square of the scales.
  # D⁻¹ takes the null space of C, the first columns, to that of G; off it, v = D⁻¹C⁺D⁻¹n.
  null = jnp.linalg.qr(jnp.where(kept[None, :], 0.0, vectors / safe[:, None]))[0]
  null = jnp.where(kept[None, :], 0.0, null)
  target = (norms - _solvers.dot(null, _solvers.dot(null.T, norms))) / safe
  v = (
    _solvers.dot(
      vectors, jnp.where(kept, _solvers.dot(vectors.T, target) / jnp.where(kept, values, 1.0), 0.0)
    )
    / safe
  )
  v = jnp.where(norms > 0, v - _solvers.dot(null, _solvers.dot(null.T, v)), 0.0)
  total, largest = jnp.sum(v), jnp.max(norms)
  scale = jnp.maximum(jnp.sum(jnp.abs(v)), 1 / jnp.where(largest > 0, largest, 1.0))
  usable = jnp.abs(total) > _spectrum.tolerance(len(v)) * scale
  return jnp.where(usable, v / jnp.where(usable, total, 1.0), 0.0)
