"""Per-task gradient normalization without state: each gradient divided by its norm or loss."""

import jax.numpy as jnp

from mtl_jax.optim import _base

KINDS = ('l2', 'loss', 'loss+')


def normalize_task_gradients(kind: str = 'l2') -> _base.Normalizer:
  """Scales each task's gradient to comparable size.

  * 'l2': gᵢ / ‖gᵢ‖, over the whole shared tree at once;
  * 'loss': gᵢ / Lᵢ;
  * 'loss+': gᵢ / (Lᵢ ‖gᵢ‖).

  A zero gradient stays zero, and a task whose loss is zero keeps its gradient's scale (s = 1).

  Args:
    kind: one of the three.

  Returns:
    a normalizer (stacked -> stacked); its state is empty. Only 'l2' works without `losses=`.

  Raises:
    ValueError: an unknown kind; at update, losses missing where they are needed.

  References:
    Sener & Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018: the
    normalizations 'l2', 'loss' and 'loss+' of its published code.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.normalize_task_gradients('l2')
    >>> tx.update(jnp.array([[3.0, 0.0], [0.0, 2.0]]), tx.init(jnp.zeros(2)))[0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
  """
  if kind not in KINDS:
    raise ValueError(f'normalize_task_gradients: unknown kind {kind!r}. Valid: {", ".join(KINDS)}')

  def update(state, *, present, losses=None, gramian=None, **extra_args):
    del present, extra_args
    size = jnp.ones((), jnp.float32)
    if kind in ('loss', 'loss+'):
      size = size * _base.require_losses(losses, f'normalize_task_gradients({kind!r})')
    if kind in ('l2', 'loss+'):
      size = size * jnp.sqrt(jnp.diagonal(gramian))
    return jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 1.0), state

  needs = 'losses' if kind == 'loss' else 'gramian'
  return _base.normalizer(_base.Weighting(lambda num_tasks: (), update, needs))
