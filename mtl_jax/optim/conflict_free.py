"""ConFIG: the direction with the preferred cosines to all task gradients."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base, _solvers, _spectrum


def config(preference: Sequence[float] | jax.Array | None = None) -> _base.Balancer:
  """Conflict-free inverse gradients: uᵢ·d is proportional to pᵢ, with uᵢ = gᵢ/‖gᵢ‖.

  With U the matrix of the unit rows uᵢ, the direction is that of U⁺p (eq. 3: equal cosines where
  p is equal), and its length is Σᵢ gᵢ·d/‖d‖, the sum of the gradients' projections on it (eq. 2):
  T equal rows give T times that row, a sum over tasks. The scale of p does not matter.

  U⁺p = UᵀC⁺p with C = UUᵀ = G/(n nᵀ) and n = √diag G, so that the Gramian is enough: with
  q = C⁺p, w = (q/n)·(nᵀCq)/(qᵀCq). C⁺ counts eigenvalues up to T·ε·λmax as 0, with ε of float32;
  where C is singular and p not in its range, the cosines are least squares. The direction is good
  to about ε·λmax/λmin of the eigenvalues that count: 1e-7 as a rule, 4e-5 for 11 random rows of 10
  numbers. **Nearly parallel rows** (angles about 1e-3) have eigenvalues at the tolerance, and what
  tells them apart is lost in a float32 Gramian: with equal p errors of 1e-2, though the cosines
  stay equal to some 1e-6. Of rows that nearly cancel, a direction k times shorter than they are is
  good to kε. Whatever the rows, the equations hold to 1e-6 of Σ|wᵢ|‖gᵢ‖ (the length: and of Σ‖gᵢ‖).

  Absent tasks and zero gradients take no part. Where U⁺p = 0 (opposite gradients, say) no
  direction is better than another, and the weights are 0.

  Args:
    preference: p `[T]`, positive; None: equal.

  Returns:
    a balancer that needs the Gramian.

  Raises:
    ValueError: a preference that is not positive; at update, one of another length than T.

  References:
    Liu et al., ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks,
    ICLR 2025.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.config()
    >>> grads = jnp.array([[4.0, 0.0], [0.0, 1.0]])
    >>> [f'{x:.2f}' for x in tx.update(grads, tx.init(jnp.zeros(2)))[0]]
    ['2.50', '2.50']
  """
  _arguments.check_per_task(preference, 'config: preference', least='positive')

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
    return _weights(gramian, _arguments.preferences(preference, present, 'config')), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))


@_base.exactly
def _weights(gramian: jax.Array, p: jax.Array) -> jax.Array:
  norms = jnp.sqrt(jnp.diagonal(gramian))
  values, vectors, kept = _spectrum.eigh(gradients.cosines(gramian))
  seen = jnp.where(
    kept, _solvers.dot(vectors.T, p), 0.0
  )  # p in the range of C, on the eigenvectors
  inverse = jnp.where(kept, seen / jnp.where(kept, values, 1.0), 0.0)
  square = _solvers.dot(seen, inverse)  # qᵀCq = ‖U⁺p‖²
  usable = jnp.sum(seen**2) > (_spectrum.tolerance(len(p)) ** 2) * _solvers.dot(p, p)
  length = _solvers.dot(norms, _solvers.dot(vectors, seen)) / jnp.where(usable, square, 1.0)
  weights = _solvers.dot(vectors, inverse) / jnp.where(norms > 0, norms, 1.0) * length
  return jnp.where(usable & (norms > 0), weights, 0.0)
