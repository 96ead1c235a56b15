"""What is computed from stacked task gradients: the Gramian, a direction, norms and cosines."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

# A CPU multiplies J in blocks of columns that stay in its caches, 2 to 4 times as fast as at once;
# XLA spreads the blocks of one iteration over the cores when there are enough of them.
_BLOCK = 4096
_BLOCKS_AT_ONCE = 16


def gramian(stacked: Any, other: Any = None, *, sharded: bool | None = None) -> jax.Array:
  """G = J·Jᵀ, leaf by leaf, accumulated in float32 whatever the gradients' dtype.

  Args:
    stacked: pytree of task gradients, every leaf `[T, ...]`, at least one.
    other: gradients of the same form from another batch, for J₁·J₂ᵀ.
    sharded: the leaves are split over devices: contract them axis by axis, so that T² numbers are
      communicated and nothing is gathered. On one device merged axes are the faster way. None: if
      there are several devices.

  Returns:
    `[T, T]` float32.
  """

  sharded = jax.device_count() > 1 if sharded is None else sharded

  def add_leaf(total: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    if sharded and left.ndim > 1:
      return total + _inner_products(left, right)
    same = left is right  # then one slice serves both sides, where two would be copied
    left = left.reshape(left.shape[0], -1)
    right = left if same else right.reshape(right.shape[0], -1)
    width = _BLOCK * _BLOCKS_AT_ONCE
    iterations = left.shape[1] // width
    if jax.default_backend() != 'cpu' or iterations < 2:  # each loop takes a while to compile
      return total + _inner_products(left, right)

    def block(index: jax.Array) -> jax.Array:
      part = jax.lax.dynamic_slice_in_dim(left, index * _BLOCK, _BLOCK, 1)
      if same:
        return _inner_products(part, part)
      return _inner_products(part, jax.lax.dynamic_slice_in_dim(right, index * _BLOCK, _BLOCK, 1))

    def add_blocks(total: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
      return total + sum(block(first + i) for i in range(_BLOCKS_AT_ONCE)), None

    total += _inner_products(left[:, iterations * width :], right[:, iterations * width :])
    return jax.lax.scan(add_blocks, total, jnp.arange(iterations) * _BLOCKS_AT_ONCE)[0]

  # One leaf after the other, each on all cores, whose caches then hold the blocks of one leaf.
  leaves = jax.tree.leaves(stacked)
  others = leaves if other is None else jax.tree.leaves(other)
  tasks = leaves[0].shape[0]
  total = jnp.zeros((tasks, tasks), jnp.float32)
  for left, right in zip(leaves, others, strict=True):
    total = add_leaf(total, left, right)
  return total


def _inner_products(left: jax.Array, right: jax.Array) -> jax.Array:
  """`[T, ...]` and `[T, ...]` -> `[T, T]` float32."""
  axes = tuple(range(1, left.ndim))
  return jax.lax.dot_general(
    left,
    right,
    ((axes, axes), ((), ())),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )


def combine(weights: jax.Array, stacked: Any, dtype: Any = None) -> Any:
  """The direction wᵀJ.

  Args:
    weights: `[T]`.
    stacked: pytree of task gradients, every leaf `[T, ...]`.
    dtype: of the result; None: the gradients' own.

  Returns:
    pytree without the task axis.
  """

  def weigh(leaf: jax.Array) -> jax.Array:
    total = jax.lax.dot_general(
      weights.astype(jnp.float32),
      leaf.astype(jnp.float32),
      (((0,), (0,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
    )
    return total.astype(dtype or leaf.dtype)

  return jax.tree.map(weigh, stacked)


def norms(stacked: Any) -> jax.Array:
  """Norms `[T]` of stacked gradients, in float32, by one pass over them."""

  def squares(leaf: jax.Array) -> jax.Array:
    axes = tuple(range(1, leaf.ndim))
    return jax.lax.dot_general(
      leaf,
      leaf,
      ((axes, axes), ((0,), (0,))),
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32,
    )

  return jnp.sqrt(functools.reduce(jnp.add, map(squares, jax.tree.leaves(stacked))))


def cosines(gram: jax.Array) -> jax.Array:
  """Pairwise cosines `[T, T]` of task gradients from their Gramian; 0 beside a zero gradient."""
  norms = jnp.sqrt(jnp.diagonal(gram))
  product = norms[:, None] * norms[None, :]
  return jnp.where(product > 0, gram / jnp.where(product > 0, product, 1.0), 0.0)
