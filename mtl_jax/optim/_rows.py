"""Passes over the rows of stacked gradients, for methods that look inside J."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp


def add(terms: Iterable[jax.Array]) -> jax.Array:
  """Σ of arrays, one after the other.

  On a CPU, XLA makes one fast loop of a sum of rows written out, and a reduction over the leading
  axis that is thirty times slower.
  """
  return functools.reduce(jnp.add, terms)


def rows(leaf: jax.Array, absent: jax.Array, present: jax.Array) -> list[jax.Array]:
  """The rows of a leaf `[T, ...]` in float32, with the value `absent` `[]` for absent tasks."""
  return [jnp.where(present[i], leaf[i].astype(jnp.float32), absent) for i in range(leaf.shape[0])]


def column(values: jax.Array, leaf: jax.Array) -> jax.Array:
  """`[T]` with as many axes as a leaf `[T, ...]`, to multiply its rows."""
  return values.reshape(values.shape + (1,) * (leaf.ndim - 1))


def cast(direction: Any, stacked: Any) -> Any:
  """A direction in the gradients' dtypes."""
  return jax.tree.map(lambda d, leaf: d.astype(leaf.dtype), direction, stacked)


def zeros(params: Any, tasks: int) -> Any:
  """Float32 zeros `[T, ...]` for every leaf `[...]` of the parameters."""
  return jax.tree.map(lambda p: jnp.zeros((tasks, *jnp.shape(p)), jnp.float32), params)


def shares(weights: jax.Array, here: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What the tasks here hold of their common weight: fractions `[T]` with sum 1, and that weight.

  A method on fewer tasks works on the fractions; times the weight they go back into its state,
  beside those of the absent tasks. Where the common weight is 0 the fractions are equal.
  """
  mass = jnp.sum(jnp.where(here, weights, 0.0))
  count = jnp.maximum(jnp.sum(here.astype(weights.dtype)), 1.0)
  fractions = jnp.where(mass > 0, weights / jnp.where(mass > 0, mass, 1.0), 1.0 / count)
  return jnp.where(here, fractions, 0.0), mass
