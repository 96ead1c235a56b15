"""GradDrop: each coordinate follows the tasks of one sign, picked at random."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.optim import _base, _rows


class GradDropState(NamedTuple):
  """State of `graddrop`: the PRNG key of the next step's draws."""

  key: jax.Array


def graddrop(seed: int = 0, *, leak: Sequence[float] | None = None) -> _base.Balancer:
  """Gradient sign dropout: keeps, in every coordinate, the gradients of one sign only.

  With the positive sign purity P = ½(1 + Σᵢgᵢ / Σᵢ|gᵢ|) of a coordinate and U uniform on [0, 1),
  one draw a coordinate for all tasks: P > U keeps the positive gᵢ, else the negative ones, and the
  direction is the sum Σᵢ (ℓᵢ + (1 − ℓᵢ)Mᵢ) gᵢ with the mask M (algorithm 1, f the identity). A
  coordinate where all signs agree loses nothing, and the expectation of d is the plain sum.

  The paper puts this on a layer's activations, with the gradients' signs times the inputs'; here it
  acts on the gradients of the shared parameters. Coordinates are independent: one that is NaN or
  infinite in a task is so in the direction, and no other is touched. A coordinate of zeros stays
  zero, and an absent task adds nothing.

  Args:
    seed: of the draws, in a chain; the train step draws from its own key.
    leak: ℓ `[T]`, from 0 (drop) to 1 (let all of a task's gradient through); None: 0 for all.

  Returns:
    a balancer that needs the gradients themselves.

  Raises:
    ValueError: a leak outside [0, 1]; at update, a leak of another length than T.

  References:
    Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout,
    NeurIPS 2020.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.graddrop()
    >>> grads = jnp.array([[1.0, 0.0], [2.0, -1.0]])
    >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
    [3.0, -1.0]
  """
  leaks = None if leak is None else [float(value) for value in leak]
  if leaks is not None and not all(0 <= value <= 1 for value in leaks):
    raise ValueError(f'graddrop: leak must be between 0 and 1 for every task, not {leaks}.')

  def update(
    updates: Any,
    state: GradDropState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[Any, GradDropState]:
    del losses, extra_args
    if leaks is not None and len(leaks) != present.shape[0]:
      raise ValueError(f'graddrop: leak is for {len(leaks)} tasks; there are {present.shape[0]}.')
    if key is None:
      key, next_key = jax.random.split(state.key)
      state = GradDropState(next_key)

    def drop(leaf: jax.Array, leaf_key: jax.Array) -> jax.Array:
      rows = _rows.rows(leaf, jnp.zeros((), jnp.float32), present)
      up, down = (_rows.add(clip(row, 0.0) for row in rows) for clip in (jnp.maximum, jnp.minimum))
      draw = jax.random.uniform(leaf_key, leaf.shape[1:], jnp.float32)
      positive = (draw * (up - down) < up) | (up == jnp.inf)
      if leaks is None:
        return jnp.where(positive, up, down).astype(leaf.dtype)
      kept = (jnp.where(positive, jnp.maximum(row, 0.0), jnp.minimum(row, 0.0)) for row in rows)
      parts = zip(leaks, rows, kept, strict=True)
      return _rows.add(share * row + (1 - share) * part for share, row, part in parts).astype(
        leaf.dtype
      )

    leaves, structure = jax.tree.flatten(updates)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, map(drop, leaves, keys)), state

  return _base.jacobian_balancer(lambda params, tasks: GradDropState(jax.random.key(seed)), update)
