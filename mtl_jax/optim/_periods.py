"""Means of the losses over periods of steps, of which the last two are kept."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class PeriodMeans(NamedTuple):
  """This period's sums and counts, and the means of the last two periods.

  Attributes:
    sums: `[T]`, of this period's losses.
    counts: `[T]` int32, how many steps of this period each task was present in.
    steps: `[]` int32, steps of this period.
    last: `[T]`, mean loss of the last period; NaN until there is one.
    before_last: `[T]`, of the period before.
  """

  sums: jax.Array
  counts: jax.Array
  steps: jax.Array
  last: jax.Array
  before_last: jax.Array


def start(tasks: int) -> PeriodMeans:
  """Before the first step."""
  return PeriodMeans(
    jnp.zeros(tasks, jnp.float32),
    jnp.zeros(tasks, jnp.int32),
    jnp.zeros((), jnp.int32),
    jnp.full(tasks, jnp.nan, jnp.float32),
    jnp.full(tasks, jnp.nan, jnp.float32),
  )


def add(
  means: PeriodMeans, losses: jax.Array, present: jax.Array, period: int | jax.Array
) -> PeriodMeans:
  """After one more step; a task that was absent for a whole period keeps its means.

  Args:
    means: before the step.
    losses: `[T]`; those of absent tasks are not looked at.
    present: `[T]` bool.
    period: steps in one, ≥ 1.
  """
  sums = means.sums + jnp.where(present, losses, 0.0)
  counts = means.counts + present.astype(jnp.int32)
  ended = means.steps + 1 >= period
  seen = ended & (counts > 0)
  new = sums / jnp.maximum(counts.astype(jnp.float32), 1.0)
  return PeriodMeans(
    jnp.where(ended, 0.0, sums),
    jnp.where(ended, 0, counts),
    jnp.where(ended, 0, means.steps + 1),
    jnp.where(seen, new, means.last),
    jnp.where(seen, means.last, means.before_last),
  )
