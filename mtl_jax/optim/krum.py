"""Krum: the task gradient that lies nearest to its neighbours."""

from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.optim import _base


def krum(num_byzantine: int = 1, *, num_selected: int = 1) -> _base.Balancer:
  """Selects the gradients closest to the others, to withstand f faulty ones.

  The score of gradient i is the sum of its T − f − 2 smallest squared distances ‖gᵢ − gⱼ‖² to
  other gradients (section 4; some libraries sum distances, not squares). The direction is the mean
  of the k gradients of lowest score: Krum for k = 1, Multi-Krum above. Ties go to the lower index.
  The paper's guarantee needs T > 2f + 2. One task's direction is its gradient.

  Absent tasks are no one's neighbours: T is the number of tasks present, of whom at most all are
  selected, and scores are of one neighbour at least. A zero gradient is a gradient like others. Of
  scores closer than float32 rounding of the squared norms, either may win.

  Args:
    num_byzantine: f ≥ 0.
    num_selected: k ≥ 1.

  Returns:
    a balancer that needs the Gramian.

  Raises:
    ValueError: an option out of range; at update, 1 < T < f + 3, or T < k.

  References:
    Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent,
    NeurIPS 2017.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.krum(num_byzantine=1)
    >>> grads = jnp.array([[1.0, 0.0], [1.0, 0.5], [1.0, 0.75], [-9.0, 9.0]])
    >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
    [1.0, 0.5]
  """
  if num_byzantine < 0:
    raise ValueError(f'krum: num_byzantine must be 0 or more, not {num_byzantine}.')
  if num_selected < 1:
    raise ValueError(f'krum: num_selected must be 1 or more, not {num_selected}.')

  @_base.exactly
  def weights(gramian: jax.Array, present: jax.Array) -> jax.Array:
    tasks, count = len(gramian), jnp.sum(present)
    squares = jnp.diagonal(gramian)
    # Symmetric to the bit: mutual neighbours tie where one neighbour is counted.
    distances = (squares[:, None] + squares[None, :]) - (gramian + gramian.T)
    others = present[:, None] & present[None, :] & ~jnp.eye(tasks, dtype=bool)
    nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    neighbours = jnp.minimum(jnp.maximum(count - num_byzantine - 2, 1), count - 1)
    counted = jnp.arange(tasks) < neighbours
    scores = jnp.sum(jnp.where(counted[None, :], nearest, 0.0), axis=1)
    places = jnp.argsort(jnp.argsort(jnp.where(present, scores, jnp.inf)))
    selected = jnp.clip(count, 1, num_selected)
    return jnp.where((places < selected) & present, 1 / selected.astype(gramian.dtype), 0.0)

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
    assert gramian is not None
    tasks = gramian.shape[0]
    if 1 < tasks < num_byzantine + 3:
      raise ValueError(
        f'krum: num_byzantine={num_byzantine} needs {num_byzantine + 3} tasks, not {tasks}.'
      )
    if tasks < num_selected:
      raise ValueError(f'krum: num_selected={num_selected} of {tasks} tasks.')
    return weights(gramian, present), state

  return _base.balancer(_base.Weighting(lambda num_tasks: (), update, 'gramian'))
