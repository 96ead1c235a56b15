"""DTP: tasks that are still difficult weigh more, by the focal loss of a performance indicator."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base

_SMALLEST_KPI = 1e-6


class DTPState(NamedTuple):
  """State of `dtp`: the running KPIs `[T]`, NaN until seen."""

  kpis: jax.Array


def dtp(
  num_tasks: int | None = None,
  gamma: float | jax.Array = 1.0,
  decay: float | jax.Array = 0.9,
) -> _base.Balancer:
  """Dynamic task prioritization: wᵢ = −(1 − κᵢ)^γ log κᵢ, a sum over tasks.

  κᵢ in (0, 1] is a running key performance indicator such as accuracy: κ ← decay · κ +
  (1 − decay) · new, this step's value included (the paper's α is 1 − decay), starting at the first
  value. A task at κ = 1 weighs nothing. The weights have no fixed sum; so with one task w is not 1.

  Give the indicators of this step as the extra argument `kpis=` `[T]` of `update`; a NaN among them
  means no news. Where they are not given, exp(−L) stands in: for a cross-entropy, the probability
  of the right class (its geometric mean over the batch); then with decay=0 the weight is
  (1 − e^{−L})^γ L. The paper's other half, the focal loss on examples, belongs in the loss.

  κ is kept in [1e-6, 1]; where exp(−L) stands in, a loss ≤ 0 has κ = 1, and with decay=0 no weight:
  losses that may be negative need `kpis`. An absent task keeps its κ. A step with this method
  scales each task's whole loss: its own parameters get the weight too.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    gamma: γ ≥ 0, how much easy tasks are held back; this default and the next are ours.
    decay: of the running indicators, in [0, 1).

  Returns:
    a balancer that needs the losses only; under `optax.inject_hyperparams` name
    `static_args='num_tasks'`.

  Raises:
    ValueError: gamma or decay out of range; in a chain without num_tasks; at update, without losses
      or with another T.

  References:
    Guo et al., Dynamic Task Prioritization for Multitask Learning, ECCV 2018.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.dtp(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> accuracies = jnp.array([0.5, 0.9])
    >>> weighted, _ = tx.update(jnp.eye(2), state, losses=jnp.ones(2), kpis=accuracies)
    >>> [f'{weight:.3f}' for weight in weighted.tolist()]
    ['0.347', '0.011']
  """
  if isinstance(gamma, (int, float)) and not gamma >= 0:
    raise ValueError(f'dtp: gamma must be ≥ 0, not {gamma}.')
  if isinstance(decay, (int, float)) and not 0 <= decay < 1:
    raise ValueError(f'dtp: decay must be in [0, 1), not {decay}.')

  def init(tasks: int | None) -> DTPState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'dtp')
    return DTPState(jnp.full(tasks, jnp.nan, jnp.float32))

  def update(
    state: DTPState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    kpis: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, DTPState]:
    del extra_args
    running = state.kpis
    losses = _arguments.require_losses(losses, 'dtp', running.shape[0])
    new = jnp.exp(-losses)
    if kpis is not None:
      given = _arguments.per_task(kpis, present, 1.0, 'dtp: kpis')
      new = jnp.where(jnp.isnan(given), jnp.where(jnp.isnan(running), new, running), given)
    new = jnp.clip(new, _SMALLEST_KPI, 1.0)
    mean = jnp.where(jnp.isnan(running), new, decay * running + (1 - decay) * new)
    kpi = jnp.where(present, mean, 1.0)
    weights = -((1.0 - kpi) ** gamma) * jnp.log(kpi)
    return weights, DTPState(jnp.where(present, mean, running))

  return _base.balancer(_base.Weighting(init, update, 'losses'), num_tasks)
