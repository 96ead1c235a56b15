"""MGDA: the shortest vector in the convex hull of the task gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _solvers

_NORMALIZATIONS = ('none', 'l2', 'loss', 'loss+')


def mgda(*, normalization: str = 'none', apply_to: str = 'original') -> _base.Balancer:
  """The multiple-gradient descent algorithm: d = Σ wᵢ gᵢ with w = argmin over Δ of ‖Σ wᵢ gᵢ/sᵢ‖².

  With s = 1, gᵢ·d ≥ ‖d‖² for all i: d moves no task up, and is 0 only where no direction moves all
  of them down (Désidéri's theorem). Solved exactly by an active set, not by Frank–Wolfe. The
  weights sum to 1, so d is of the size of a mean, and small where tasks conflict or one gradient is
  short.

  The sizes s are those of the paper's code: 1; ‖gᵢ‖ ('l2'); Lᵢ ('loss'); Lᵢ‖gᵢ‖ ('loss+'). A size
  that is not positive counts as 1.

  Absent tasks have no part. A task that is present with a zero gradient gets all the weight, as
  the hull then contains 0: d = 0. Where gradients are linearly dependent, d is unique and w is not.
  Where the gradients nearly cancel, rounding of float32 gradients leaves an error in d of some 10⁻⁶
  of their length, not of the length of d; ‖Σ wᵢ gᵢ/sᵢ‖² is the minimum still, to 10⁻⁶ of itself or,
  where that is 0, 10⁻¹² of (Σ wᵢ‖gᵢ/sᵢ‖)².

  Args:
    normalization: 'none', 'l2', 'loss' or 'loss+'.
    apply_to: which gradients the weights multiply: 'original' gᵢ, as the paper's code does, or
      'normalized' gᵢ/sᵢ (the method's weights are then wᵢ/sᵢ), which makes d the shortest vector.

  Returns:
    a balancer that needs the Gramian, and `losses=` for 'loss' and 'loss+'; its state is empty.

  Raises:
    ValueError: unknown option; at update, losses missing where they are needed.

  References:
    Sener & Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018.
    Désidéri, Multiple-gradient descent algorithm (MGDA), Comptes Rendus Mathématique 2012.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.mgda()
    >>> grads = jnp.array([[1.0, 0.0], [-1.0, 2.0]])
    >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
    [0.5, 0.5]
  """
  if normalization not in _NORMALIZATIONS:
    raise ValueError(f'mgda: normalization must be one of {_NORMALIZATIONS}, not {normalization!r}')
  if apply_to not in ('original', 'normalized'):
    raise ValueError(f"mgda: apply_to must be 'original' or 'normalized', not {apply_to!r}.")

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del extra_args
    sizes = jnp.ones(present.shape, jnp.float32)
    if normalization in ('l2', 'loss+'):
      assert gramian is not None
      sizes = sizes * jnp.sqrt(jnp.diagonal(gramian))
    if normalization in ('loss', 'loss+'):
      sizes = sizes * _arguments.require_losses(losses, f'mgda(normalization={normalization!r})')
    sizes = jnp.where(sizes > 0, sizes, 1.0)
    weights = _weights(gramian, sizes, present)
    return (weights if apply_to == 'original' else weights / sizes), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))


@_base.exactly
@jax.jit
def _weights(gramian: jax.Array, sizes: jax.Array, present: jax.Array) -> jax.Array:
  return _solvers.simplex_qp(gramian / sizes[:, None] / sizes[None, :], present)
