"""The linear maps of a task Jacobian, and the products that they are made of."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.gradients.functions import Extra


class Representation(NamedTuple):
  """The task losses as functions of the features, which every loss reads.

  Attributes:
    rows: cotangents of the features' floating leaves, `[A, B, ...]` for A present tasks; where each
      task has features of its own, their squared norms `[A]`.
    shared: whether the tasks read the same features; else row i is of task i's own features.
    places: the tasks of the rows, int `[A]`.
    pull: cotangents `[B, ...]` of shared features -> gradient of θ.
  """

  rows: Any
  shared: bool
  places: list[int]
  pull: Callable[[Any], Any] | None

  def unscaled(self, scale: jax.Array | float) -> 'Representation':
    """See `Jacobian.unscaled`; the rows become float32, so that small ones are not lost."""
    if not self.shared or self.pull is None:  # inner products
      return self._replace(rows=self.rows / scale**2)
    pull, dtypes = self.pull, jax.tree.map(lambda row: row.dtype, self.rows)

    def scaled_pull(cotangents: Any) -> Any:
      scaled = jax.tree.map(lambda c, dtype: (c * scale).astype(dtype), cotangents, dtypes)
      return divided(pull(scaled), scale)

    rows = jax.tree.map(lambda row: row.astype(jnp.float32) / scale, self.rows)
    return self._replace(rows=rows, pull=scaled_pull)


class Jacobian(NamedTuple):
  """Losses of one batch and the linear maps of their Jacobian.

  Attributes:
    losses: `[T]` float32.
    present: `[T]` bool, the tasks of the batch.
    tasks: plain gradients of the tasks' own parameters; None where all parameters are shared.
    rows: tasks_at_once -> J, a pytree like θ with leaves `[T, ...]`.
    pull: weights `[T]` -> Jᵀw, a pytree like θ.
    push: pytree v like θ -> Jv `[T]`; None unless asked for.
    representation: None for a model without two halves.
    labels: () -> `[T]` float32, how many labels each loss is the mean of, or the sum of their
      weights; all 1 for a model without two halves.
    extra: what the forward pass returned beside the losses.
  """

  losses: jax.Array
  present: jax.Array
  tasks: Any
  rows: Callable[[int | None], Any]
  pull: Callable[[jax.Array], Any]
  push: Callable[[Any], jax.Array] | None
  representation: Representation | None
  labels: Callable[[], jax.Array]
  extra: Extra = Extra()

  def unscaled(self, scale: jax.Array | float) -> 'Jacobian':
    """The same of losses that were multiplied by `scale` before they were differentiated.

    The losses themselves are taken to be right.
    """
    pull, push, rows = self.pull, self.push, self.rows
    return self._replace(
      tasks=divided(self.tasks, scale),
      rows=lambda at_once: divided(rows(at_once), scale),
      pull=lambda weights: divided(pull(weights), scale),
      push=None if push is None else lambda direction: push(direction) / scale,
      representation=self.representation and self.representation.unscaled(scale),
    )


def divided(tree: Any, scale: jax.Array | float) -> Any:
  """A pytree divided by a number, in float32."""
  return jax.tree.map(lambda x: (x.astype(jnp.float32) / scale).astype(x.dtype), tree)


def take(weights: jax.Array, places: list[int]) -> jax.Array:
  """Entries `[A]` of `[T]`."""
  return weights[jnp.array(places)]


def put(values: jax.Array, places: list[int], tasks: int) -> jax.Array:
  """`[A]` -> `[T]`, zero elsewhere."""
  return jnp.zeros(tasks, jnp.float32).at[jnp.array(places)].set(values)


def scaled(weights: jax.Array, stacked: Any) -> Any:
  """Row i of every leaf times weights[i]."""
  return jax.tree.map(
    lambda c: c * weights.astype(c.dtype).reshape(-1, *(1,) * (c.ndim - 1)), stacked
  )


def weighted(weights: jax.Array, stacked: Any) -> Any:
  """Σ weights[i] · row i. A product: on a CPU, sums over a leading axis are many times slower."""

  def weigh(c: jax.Array) -> jax.Array:
    return jax.lax.dot_general(
      weights.astype(c.dtype), c, (((0,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST
    )

  return jax.tree.map(weigh, stacked)


def inner_products(rows: int, left: Any, right: Any) -> jax.Array:
  """Inner products `[A]` of the A rows of two stacked pytrees, in float32."""

  def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32), axis=1)

  products = map(inner, jax.tree.leaves(left), jax.tree.leaves(right))
  return functools.reduce(jnp.add, products, jnp.zeros(rows, jnp.float32))


def map_rows(function: Callable, stacked: Any, at_once: int | None) -> Any:
  """`vmap` over the first axis, in passes of `at_once` rows; None: in one pass."""
  rows = jax.tree.leaves(stacked)[0].shape[0]
  if at_once is None or at_once >= rows:
    return jax.vmap(function)(stacked)
  if at_once < 1:
    raise ValueError(f'tasks_at_once must be 1 or more, not {at_once}.')
  return jax.lax.map(function, stacked, batch_size=at_once)
