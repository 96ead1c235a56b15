"""GO4Align: tasks in groups, with a weight for each group."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _rows

_LARGEST_RATIO = 1e6


class GO4AlignState(NamedTuple):
  """State of `go4align`: the risk indicators p `[T]`, Σ p = 1."""

  indicators: jax.Array


def go4align(
  num_tasks: int | None = None,
  num_groups: int = 2,
  *,
  robust_step_size: float | jax.Array = 1e-4,
) -> _base.Balancer:
  """Group optimization for alignment: tasks of like progress share a weight.

  * p ← p exp(−η L), renormalized to Σ p = 1: the risks of all steps so far;
  * uᵢ = pᵢ Σⱼ Lⱼ/Lᵢ, which brings the losses to one scale;
  * the tasks are clustered by u into `num_groups`, and wᵢ is the mean of u in the group of i.

  A sum over tasks: while the losses are equal, w = 1. The formulas and η are those of the published
  code. Its groups come from k-means by iteration from a random start, which may end at a poorer
  clustering; here they are the optimum, which on a line is found by dynamic programming. Its
  command line has num_groups=1, one weight for all.

  Absent tasks have no part and keep their share of p; nor has, for a step, a task whose loss is
  ≤ 0, over which there is no ratio. Ratios are cut off at 1e6. A step with this method scales each
  task's whole loss: its own parameters get the weight too.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    num_groups: K ≥ 1; with T or more of them, each task is by itself.
    robust_step_size: η ≥ 0.

  Returns:
    a balancer that needs the losses only; under `optax.inject_hyperparams` name
    `static_args=('num_tasks', 'num_groups')`.

  Raises:
    ValueError: num_groups < 1; in a chain without num_tasks; at update, without losses or with
      another T.

  References:
    Shen et al., GO4Align: Group Optimization for Multi-Task Alignment, NeurIPS 2024.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.go4align(num_tasks=3, robust_step_size=0.0)
    >>> losses = jnp.array([4.0, 4.0, 1.0])
    >>> weighted, _ = tx.update(jnp.eye(3), tx.init(jnp.zeros(3)), losses=losses)
    >>> weighted.tolist()
    [0.75, 0.75, 3.0]
  """
  if num_groups < 1:
    raise ValueError(f'go4align: num_groups must be 1 or more, not {num_groups}.')

  def init(tasks: int | None) -> GO4AlignState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'go4align')
    return GO4AlignState(jnp.full(tasks, 1 / tasks, jnp.float32))

  @_base.exactly
  def weigh(
    old: jax.Array, losses: jax.Array, here: jax.Array, step_size: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    fractions, mass = _rows.shares(old, here)
    least = jnp.min(jnp.where(here, losses, jnp.inf))
    fallen = jnp.where(here, fractions * jnp.exp(-step_size * (losses - least)), 0.0)
    fractions, _ = _rows.shares(fallen, here)
    ratios = jnp.sum(losses, where=here) / jnp.where(here, losses, 1.0)
    scaled = fractions * jnp.minimum(ratios, _LARGEST_RATIO)
    weights = _means_of_groups(jnp.where(here, scaled, 0.0), here, num_groups)
    return weights, jnp.where(here, mass * fractions, old)

  def update(
    state: GO4AlignState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, GO4AlignState]:
    del extra_args
    losses = _arguments.require_losses(losses, 'go4align', state.indicators.shape[0])
    here = present & (losses > 0)
    weights, indicators = weigh(
      state.indicators, losses, here, jnp.asarray(robust_step_size, jnp.float32)
    )
    return jnp.where(here, weights, 0.0), GO4AlignState(indicators)

  return _base.balancer(_base.Weighting(init, update, 'losses'), num_tasks)


def _means_of_groups(values: jax.Array, here: jax.Array, groups: int) -> jax.Array:
  """Each value's mean in the clustering with the least squares within groups; `[T]`.

  On a line a group is a run of the sorted values. Of the best ways to cut the first b of them into
  k runs, one ends in a run from some a, behind the best cut of the first a into k − 1.
  """
  size = len(values)
  order = jnp.argsort(jnp.where(here, values, jnp.inf))
  mass = here[order].astype(values.dtype)
  center = jnp.sum(values) / jnp.maximum(jnp.sum(mass), 1.0)
  ordered = jnp.where(here[order], values[order] - center, 0.0)

  def before(x: jax.Array) -> jax.Array:  # sums of the first b, for b from 0 on
    return jnp.concatenate([jnp.zeros_like(x[:1]), jnp.cumsum(x)])

  def of_run(sums: jax.Array) -> jax.Array:  # [a, b]
    return sums[None, :] - sums[:, None]

  counts, totals = of_run(before(mass)), of_run(before(ordered))
  spread = of_run(before(ordered**2)) - totals**2 / jnp.maximum(counts, 1.0)
  forward = jnp.arange(size + 1)[:, None] <= jnp.arange(size + 1)[None, :]
  spread = jnp.where(forward, jnp.maximum(spread, 0.0), jnp.inf)
  least, starts = spread[0], []
  for _ in range(1, min(groups, size)):
    candidates = least[:, None] + spread
    least = jnp.min(candidates, axis=0)
    places = jnp.where(candidates == least[None, :], jnp.arange(size + 1)[:, None], size)
    starts.append(jnp.min(places, axis=0))
  end = jnp.full((), size)
  group = jnp.zeros(size, end.dtype)  # how many cuts stand at or before each place
  for start in reversed(starts):
    end = start[end]
    group = group + (jnp.arange(size) >= end).astype(group.dtype)
  same = (group[:, None] == group[None, :]).astype(values.dtype) * mass[None, :]
  means = _base.dot(same, ordered) / jnp.maximum(jnp.sum(same, axis=1), 1.0) + center
  return jnp.zeros_like(values).at[order].set(means)
