"""Per-task gradients, at the cost that the regime allows, and the two things computed from them.

Nothing here knows a balancing method or an optimizer.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import _jacobian

# A CPU multiplies J in blocks of columns that stay in its caches, 2 to 4 times as fast as at once;
# XLA spreads the blocks of one iteration over the cores when there are enough of them.
_BLOCK = 4096
_BLOCKS_AT_ONCE = 16


def task_gradients(
  loss_fns: _jacobian.LossFunctions,
  params: Any,
  batch: Any,
  key: jax.Array | None = None,
  *,
  tasks_at_once: int | None = None,
) -> tuple[jax.Array, Any]:
  """Losses and one gradient a task.

  Where `params` is `{'shared': θ, 'tasks': {name: φ}}`, θ's leaves get a leading task axis, φ's
  none: task i's φ only ever gets loss i's gradient. Any other pytree is all shared.

  * A model with two halves and **shared inputs**: one forward, T backwards through the shared half.
  * A model with two halves and **own inputs**: one forward and one backward over all examples,
    whatever T is, for each set of tasks with inputs of equal shape.
  * One function to losses `[T]`: one forward, T backwards through everything.
  * Separate functions (a mapping or a sequence): one forward and one backward each; inside `jit`
    XLA computes what they have in common once.

  Args:
    loss_fns: a model (`mtl_jax.MultiTaskModel` or any `halves.TwoHalves`), a function
      `(params, batch[, key]) -> losses [T]`, or a mapping or sequence of functions to one
      loss `[]`.
    params: parameters.
    batch: what the functions take; for a model, either regime.
    key: PRNG key of dropout, passed on where given.
    tasks_at_once: with shared inputs, how many tasks are pulled back in one batched pass; passes
      follow each other, and fewer hold less memory. None: all; on a CPU two, whose arrays stay in
      its caches.

  Returns:
    losses `[T]` float32 and gradients: a pytree like `params`, shared leaves `[T, ...]`.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> losses, grads = mtl_jax.task_gradients(
    ...   [lambda w, x: jnp.sum(w * x), lambda w, x: jnp.sum(w**2 * x)],
    ...   jnp.ones(2), jnp.arange(2.0))
    >>> losses.tolist(), grads.tolist()
    ([1.0, 1.0], [[0.0, 1.0], [0.0, 2.0]])
  """
  losses, _, grads = losses_and_gradients(loss_fns, params, batch, key, tasks_at_once=tasks_at_once)
  return losses, grads


def losses_and_gradients(
  loss_fns: _jacobian.LossFunctions,
  params: Any,
  batch: Any,
  key: jax.Array | None = None,
  *,
  tasks_at_once: int | None = None,
) -> tuple[jax.Array, jax.Array, Any]:
  """`task_gradients`, and between its two results `[T]` bool: the tasks present in the batch."""
  jacobian = _jacobian.jacobian(loss_fns, params, batch, key, stacked=True)
  rows = jacobian.rows(tasks_at_once)
  split = _jacobian.is_split(params)
  grads = {'shared': rows, 'tasks': jacobian.tasks} if split else rows
  return jacobian.losses, jacobian.present, grads


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


def combine(weights: jax.Array, stacked: Any) -> Any:
  """The direction wᵀJ.

  Args:
    weights: `[T]`.
    stacked: pytree of task gradients, every leaf `[T, ...]`.

  Returns:
    pytree without the task axis, in the gradients' dtypes.
  """

  def weigh(leaf: jax.Array) -> jax.Array:
    total = jax.lax.dot_general(
      weights.astype(jnp.float32),
      leaf.astype(jnp.float32),
      (((0,), (0,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
    )
    return total.astype(leaf.dtype)

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
