"""ReLoBRaLo: weights by how far each loss fell since the last step, or at times the first."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _rows

_LARGEST_RATIO = 1e6


class ReLoBRaLoState(NamedTuple):
  """State of `relobralo`.

  Attributes:
    weights: λ `[T]`.
    first: `[T]`, each task's first loss above 0; NaN until seen.
    last: `[T]`, its last loss; NaN until seen.
    key: of the next draw.
  """

  weights: jax.Array
  first: jax.Array
  last: jax.Array
  key: jax.Array


def relobralo(
  num_tasks: int | None = None,
  alpha: float | jax.Array = 0.999,
  rho: float | jax.Array = 0.999,
  temperature: float | jax.Array = 0.1,
  *,
  seed: int = 0,
) -> _base.Balancer:
  """Relative loss balancing with random lookback: a task that falls less than others weighs more.

  With λ̂(t; t′) = T softmax(L(t)/(𝒯 L(t′))) and λ(0) = 1, at step t

  * ρ ~ Bernoulli(`rho`), one draw for all tasks;
  * λ(t) = α (ρ λ(t−1) + (1 − ρ) λ̂(t; 0)) + (1 − α) λ̂(t; t−1).

  So α is the share of the past, which now and then, where ρ = 0, is not the weights so far but the
  progress since the start. The weights are λ(t), of this step's own losses: Σ λ = T, a sum over
  tasks. Scaling a task's loss changes nothing.

  The authors' published code keeps λ = 1 for the first step, takes λ = λ̂(t; t−1) at the second and
  that step's losses for L(0), and only then the formula; here the formula holds from the first step
  on, whose ratios are 1.

  Absent tasks keep their λ in proportion and their losses, and take no part in a softmax; T counts
  the tasks present. A ratio to a loss ≤ 0 is 1, and a loss below 0 counts as 0; ratios are cut off
  at 1e6. A step with this method scales each task's whole loss: its own parameters get the weight
  too.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    alpha: α in [0, 1]; 0.999 as in the published code, which has rho=1 and temperature=1 beside it.
    rho: the expectation of ρ, in [0, 1]; 1: never back to the start.
    temperature: 𝒯 > 0; the larger, the more equal the weights.
    seed: of ρ, in a chain; the train step draws it from its own key.

  Returns:
    a balancer that needs the losses only; under `optax.inject_hyperparams` name
    `static_args=('num_tasks', 'seed')`.

  Raises:
    ValueError: an option out of range; in a chain without num_tasks; at update, without losses or
      with another T.

  References:
    Bischof & Kraus, Multi-Objective Loss Balancing for Physics-Informed Deep Learning,
    arXiv:2110.09813 2021.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.relobralo(num_tasks=2, alpha=0.0, temperature=1.0)
    >>> _, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([4.0, 10.0]))
    >>> weighted, _ = tx.update(jnp.eye(2), state, losses=jnp.array([2.0, 10.0]))
    >>> [f'{weight:.3f}' for weight in weighted.tolist()]
    ['0.755', '1.245']
  """
  for name, value in (('alpha', alpha), ('rho', rho)):
    if isinstance(value, (int, float)) and not 0 <= value <= 1:
      raise ValueError(f'relobralo: {name} must be between 0 and 1, not {value}.')
  if isinstance(temperature, (int, float)) and not temperature > 0:
    raise ValueError(f'relobralo: temperature must be > 0, not {temperature}.')

  def init(tasks: int | None) -> ReLoBRaLoState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'relobralo')
    first, last = (jnp.full(tasks, jnp.nan, jnp.float32) for _ in range(2))  # both are donated
    return ReLoBRaLoState(jnp.ones(tasks, jnp.float32), first, last, jax.random.key(seed))

  def balanced(losses: jax.Array, earlier: jax.Array, present: jax.Array) -> jax.Array:
    known = earlier > 0  # False for NaN
    ratios = jnp.where(known, losses / jnp.where(known, earlier, 1.0), 1.0)
    ratios = jnp.clip(ratios, 0.0, _LARGEST_RATIO)
    return jax.nn.softmax(ratios / temperature, where=present)

  def update(
    state: ReLoBRaLoState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, ReLoBRaLoState]:
    del extra_args
    losses = _arguments.require_losses(losses, 'relobralo', state.weights.shape[0])
    next_key = state.key
    if key is None:
      key, next_key = jax.random.split(state.key)
    first = jnp.where(jnp.isnan(state.first) & present & (losses > 0), losses, state.first)
    last = jnp.where(jnp.isnan(state.last), losses, state.last)
    fractions, mass = _rows.shares(state.weights, present)
    stay = jax.random.bernoulli(key, rho)
    past = jnp.where(stay, fractions, balanced(losses, first, present))
    mixed = alpha * past + (1 - alpha) * balanced(losses, last, present)
    weights = jnp.sum(present, dtype=jnp.float32) * mixed
    kept = jnp.where(present, mass * mixed, state.weights)
    seen = jnp.where(present, losses, state.last)
    return weights, ReLoBRaLoState(kept, first, seen, next_key)

  return _base.balancer(_base.Weighting(init, update, 'losses'), num_tasks)
