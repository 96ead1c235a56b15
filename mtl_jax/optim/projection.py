"""UPGrad and DualProj: gradients projected to where no task's loss goes up."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _solvers


def upgrad(
  reg_eps: float | jax.Array = 1e-4, preference: Sequence[float] | None = None
) -> _base.Balancer:
  """Unconflicting projection of gradients: d = Σᵢ pᵢ π(gᵢ), π the projection onto {x: Jx ≥ 0}.

  π(gᵢ) is the nearest direction to gᵢ that moves no task up, so d moves none up either, and each
  gradient keeps as large a part as it can: where nothing conflicts, d = Σ pᵢ gᵢ. Each π(pᵢ gᵢ) is
  Jᵀvᵢ with vᵢ = argmin vᵀGv over v ≥ pᵢ eᵢ; the method's weights are Σ vᵢ. The T problems are
  solved exactly, by active sets. With the default preference, d is a mean over tasks.

  As in the authors' library, G/tr G + ε I stands for G. It makes v unique and changes d by a part
  of order ε, or more where gradients nearly cancel, and gᵢ·d ≥ 0 then holds but for as much;
  `reg_eps=0` is the projection itself.

  Absent tasks have no part, and a zero gradient none in d. At `reg_eps=0` with linearly dependent
  gradients d is unique and the weights are not. Where gradients nearly cancel, float32 rounding
  leaves an error in d of some 10⁻⁶ of their length, not of the length of d; vᵀGv is minimal still,
  to 10⁻⁶ of itself, or where it should be 0, to some 10⁻⁹ of pᵢ²‖gᵢ‖².

  Args:
    reg_eps: ε, ≥ 0, relative to the sum of the squared norms.
    preference: p `[T]`, positive, normalized to sum 1 over the tasks present; None: the mean.

  Returns:
    a balancer that needs the Gramian; its state is empty.

  Raises:
    ValueError: reg_eps < 0, or a preference that is not positive; at update, one of another length
      than T.

  References:
    Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, arXiv:2406.16232 2024.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.upgrad(reg_eps=0.0)
    >>> grads = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
    [0.25, 0.75]
  """
  return _projection(_project_each, reg_eps, preference, 'upgrad')


def dualproj(
  reg_eps: float | jax.Array = 1e-4, preference: Sequence[float] | None = None
) -> _base.Balancer:
  """The projection of Σ pᵢ gᵢ onto {x: Jx ≥ 0}: the nearest direction that moves no task up.

  GEM's projection, for tasks in place of memories: d = Jᵀv with v = argmin vᵀGv over v ≥ p, solved
  exactly by an active set. With the default preference, d is the mean where that conflicts with no
  gradient. G/tr G + ε I stands for G as in `upgrad`, and absent tasks, zero gradients and linearly
  dependent ones are treated as there; gradients that nearly cancel have the same error.

  Args:
    reg_eps: ε, ≥ 0, relative to the sum of the squared norms; 0: the projection itself.
    preference: p `[T]`, positive, normalized to sum 1 over the tasks present; None: the mean.

  Returns:
    a balancer that needs the Gramian; its state is empty.

  Raises:
    ValueError: reg_eps < 0, or a preference that is not positive; at update, one of another length
      than T.

  References:
    Lopez-Paz & Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017.
    Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, arXiv:2406.16232 2024: the
    name, and the form with preferences.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.dualproj(reg_eps=0.0)
    >>> grads = jnp.array([[1.0, 0.0], [-3.0, 1.0]])
    >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
    [0.0, 0.5]
  """
  return _projection(_project_mean, reg_eps, preference, 'dualproj')


def _projection(
  solve: Callable[..., jax.Array],
  reg_eps: float | jax.Array,
  preference: Sequence[float] | None,
  name: str,
) -> _base.Balancer:
  if isinstance(reg_eps, (int, float)) and not reg_eps >= 0:
    raise ValueError(f'{name}: reg_eps must be 0 or more, not {reg_eps!r}.')
  _arguments.check_per_task(preference, f'{name}: preference', least='positive')

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del losses, extra_args
    wanted = _arguments.preferences(preference, present, name)
    return solve(gramian, wanted, jnp.asarray(reg_eps, jnp.float32)), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))


@_base.exactly
@jax.jit
def _project_each(gramian: jax.Array, wanted: jax.Array, reg_eps: jax.Array) -> jax.Array:
  """Row i: from pᵢ eᵢ, the only part of p that its problem has."""
  solve = _from_lower_bounds(gramian, reg_eps)
  return wanted + jnp.sum(jax.vmap(solve)(jnp.diag(wanted)), axis=0)


@_base.exactly
@jax.jit
def _project_mean(gramian: jax.Array, wanted: jax.Array, reg_eps: jax.Array) -> jax.Array:
  return wanted + _from_lower_bounds(gramian, reg_eps)(wanted)


def _from_lower_bounds(gramian: jax.Array, reg_eps: jax.Array) -> Callable[[jax.Array], jax.Array]:
  """The function from bounds l `[T]` to the u ≥ 0 for which v = l + u minimizes vᵀG̃v."""
  norms, matrix = _solvers.correlations(gramian)
  total = jnp.sum(norms**2)
  share = norms / jnp.sqrt(jnp.where(total > 0, total, 1.0))
  size = jnp.sqrt(share**2 + reg_eps)
  size = jnp.where(size > 0, size, 1.0)
  part = share / size  # the problem in units of `size`, where the diagonal is 1
  matrix = part[:, None] * matrix * part[None, :] + jnp.diag(1 - part**2)

  def solve(bounds: jax.Array) -> jax.Array:
    return _solvers.nonnegative_qp(matrix, _solvers.dot(matrix, size * bounds)) / size

  return solve
