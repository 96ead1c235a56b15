"""RLW: task weights drawn anew at each step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.optim import _base

_DISTRIBUTIONS = ('normal', 'uniform', 'dirichlet', 'bernoulli', 'one_hot')


class RLWState(NamedTuple):
  """State of `rlw`: the PRNG key of the next step's weights."""

  key: jax.Array


def rlw(seed: int = 0, *, distribution: str = 'normal') -> _base.Balancer:
  """Random loss weighting: the baseline that a balancing method has to beat.

  The weights are drawn independently at each step, and Σ w = 1: a mean over tasks, as in the paper.
  Each has expectation 1/T.

  * 'normal': softmax of N(0, I);
  * 'uniform': softmax of U(0, 1);
  * 'dirichlet': uniform on the simplex, Dirichlet(1, ..., 1);
  * 'bernoulli': each task in or out with probability ½, drawn again where all are out; those in
    share the weight equally;
  * 'one_hot': one task, each as likely as the others (the paper's constrained Bernoulli).

  Absent tasks take no part in the draw. A step with this method scales each task's whole loss: its
  own parameters get the weight too.

  Args:
    seed: of the weights, in a chain; the train step draws them from its own key.
    distribution: one of the above.

  Returns:
    a balancer that needs the losses only, and does not look at their values.

  Raises:
    ValueError: unknown distribution.

  References:
    Lin et al., Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning,
    TMLR 2022.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.rlw()
    >>> weighted, _ = tx.update(jnp.eye(3), tx.init(jnp.zeros(3)))
    >>> f'{weighted.sum():.4f}'
    '1.0000'
  """
  if distribution not in _DISTRIBUTIONS:
    raise ValueError(f'rlw: distribution must be one of {_DISTRIBUTIONS}, not {distribution!r}.')

  def update(
    state: RLWState, *, present: jax.Array, key: jax.Array | None = None, **extra_args: Any
  ) -> tuple[jax.Array, RLWState]:
    del extra_args
    if key is None:
      key, next_key = jax.random.split(state.key)
      state = RLWState(next_key)
    return _draw(distribution, key, present), state

  return _base.balancer(
    _base.Weighting(lambda num_tasks: RLWState(jax.random.key(seed)), update, 'losses')
  )


def _draw(distribution: str, key: jax.Array, present: jax.Array) -> jax.Array:
  shape = present.shape
  if distribution == 'normal':
    return jax.nn.softmax(jax.random.normal(key, shape, jnp.float32), where=present)
  if distribution == 'uniform':
    return jax.nn.softmax(jax.random.uniform(key, shape, jnp.float32), where=present)
  if distribution == 'dirichlet':  # normalized exponentials, over whichever tasks are there
    drawn = jnp.where(present, jax.random.exponential(key, shape, jnp.float32), 0.0)
  elif distribution == 'bernoulli':
    drawn = _bernoulli(key, present).astype(jnp.float32)
  else:
    noise = jnp.where(present, jax.random.gumbel(key, shape, jnp.float32), -jnp.inf)
    drawn = jax.nn.one_hot(jnp.argmax(noise), shape[0], dtype=jnp.float32)
  total = jnp.sum(drawn)
  return drawn / jnp.where(total > 0, total, 1.0)


def _bernoulli(key: jax.Array, present: jax.Array) -> jax.Array:
  def draw(key: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, 0.5, present.shape) & present

  def again(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    key, _ = jax.random.split(carry[0])
    return key, draw(key)

  return jax.lax.while_loop(
    lambda carry: jnp.any(present) & ~jnp.any(carry[1]), again, (key, draw(key))
  )[1]
