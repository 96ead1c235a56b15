"""Per-task gradient normalization without state: gradients brought to comparable size."""

from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base

_COMMON_NORMS = {
  'mean': lambda norms, here: jnp.sum(norms, where=here) / jnp.sum(here, dtype=jnp.float32),
  'max': lambda norms, here: jnp.max(norms, where=here, initial=0.0),
  'min': lambda norms, here: jnp.min(norms, where=here, initial=jnp.inf),
}
KINDS = ('l2', 'loss', 'loss+', *_COMMON_NORMS)


def normalize_task_gradients(kind: str = 'l2') -> _base.Normalizer:
  """Scales each task's gradient to comparable size.

  * 'l2': gᵢ / ‖gᵢ‖, over the whole shared tree at once;
  * 'loss': gᵢ / Lᵢ;
  * 'loss+': gᵢ / (Lᵢ ‖gᵢ‖);
  * 'mean', 'max', 'min': every gradient gets the mean, largest or smallest of the norms ‖gⱼ‖.

  A zero gradient stays zero, and has no part in the mean or the smallest norm; nor has an absent
  task. A task whose loss is ≤ 0 keeps its gradient as it is (s = 1) with 'loss' and 'loss+', where
  other gradients get the length 1/Lᵢ.

  Args:
    kind: one of these.

  Returns:
    a normalizer (stacked -> stacked); its state is empty. Only 'loss' and 'loss+' need `losses=`.

  Raises:
    ValueError: an unknown kind; at update, losses missing where they are needed.

  References:
    Sener & Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018: the
    normalizations 'l2', 'loss' and 'loss+' of its published code. 'max': Lin et al., Dual-Balancing
    for Multi-Task Learning, 2023.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.normalize_task_gradients('l2')
    >>> tx.update(jnp.array([[3.0, 0.0], [0.0, 2.0]]), tx.init(jnp.zeros(2)))[0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
  """
  if kind not in KINDS:
    raise ValueError(f'normalize_task_gradients: unknown kind {kind!r}. Valid: {", ".join(KINDS)}')

  def update(
    state: _base.State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, _base.State]:
    del extra_args
    size = jnp.ones((), jnp.float32)
    if kind in ('loss', 'loss+'):
      size = size * _arguments.require_losses(losses, f'normalize_task_gradients({kind!r})')
    if kind != 'loss':
      assert gramian is not None
      size = size * jnp.sqrt(jnp.diagonal(gramian))
    scale = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 1.0)
    if kind in _COMMON_NORMS:
      here = present & (size > 0)
      scale = scale * jnp.where(jnp.any(here), _COMMON_NORMS[kind](size, here), 1.0)
    return scale, state

  needs = 'losses' if kind == 'loss' else 'gramian'
  return _base.normalizer(_base.Weighting(lambda num_tasks: (), update, needs))
