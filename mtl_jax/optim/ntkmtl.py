"""NTKMTL: the more weight for a task, the slower its kernel lets it learn."""

from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _base


def ntkmtl(exponent: float | jax.Array = 0.5) -> _base.Balancer:
  """Weights from the tasks' neural tangent kernels: wᵢ = (Σⱼ λⱼ/λᵢ)^exponent.

  λᵢ is the largest eigenvalue of the kernel of loss i over n parts of a batch. Here n = 1, as in
  the paper's comparison with other methods on gradients and its code's default: the kernel is the
  number λᵢ = ‖gᵢ‖². With exponent ½ all wᵢgᵢ have the length √tr G; the authors report that ¾ at
  times does better, which leans to tasks with short gradients.

  d = Σ wᵢ gᵢ, a sum over tasks. The published code has T times that and clips its norm to 1: the
  clip is `optax.clip_by_global_norm(1.0)` after this. Its variant on the representation
  (NTKMTL-SR), but for its n = 4, is this at `at='representation'`.

  Absent tasks and zero gradients have no part (w = 0); one task alone has its plain gradient.

  Args:
    exponent: ≥ 0; 0: equal weights, the plain sum.

  Returns:
    a balancer that needs the Gramian; its state is empty.

  Raises:
    ValueError: exponent < 0.

  References:
    Qin et al., NTKMTL: Mitigating Task Imbalance in Multi-Task Learning from Neural Tangent Kernel
    Perspective, NeurIPS 2025.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.ntkmtl()
    >>> tx.update(jnp.array([[3.0, 0.0], [0.0, 4.0]]), tx.init(jnp.zeros(2)))[0].tolist()
    [5.0, 5.0]
  """
  if isinstance(exponent, (int, float)) and not exponent >= 0:
    raise ValueError(f'ntkmtl: exponent must be 0 or more, not {exponent!r}.')

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del extra_args
    assert gramian is not None
    squares = jnp.where(present, jnp.diagonal(gramian), 0.0)
    usable = squares > 0
    # By logarithms: the sum of squares may be no float32.
    logs = jnp.log(jnp.where(usable, squares, 1.0))
    total = jax.nn.logsumexp(logs, where=usable)
    return jnp.where(usable, jnp.exp(exponent * (total - logs)), 0.0), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))
