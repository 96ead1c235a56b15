"""Learning rate annealing for PINNs: the other losses brought to the gradients of the residual."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base, _rows

_FORMS = ('max_mean', 'norm')


class LRAnnealingState(NamedTuple):
  """State of `lr_annealing`: λ `[T]`."""

  weights: jax.Array


def lr_annealing(
  num_tasks: int | None = None,
  decay: float | jax.Array = 0.9,
  *,
  form: str = 'max_mean',
  residual: int = 0,
) -> _base.Balancer:
  """Loss weights from the gradients' sizes: λ ← decay λ + (1 − decay) λ̂, from λ = 1.

  * 'max_mean' (algorithm 1 of the first paper): λ̂ᵢ = max |∇Lᵣ| / mean |∇Lᵢ|, over the coordinates
    of all shared parameters; r is the task `residual`, whose λ stays 1.
  * 'norm' (the second paper, and jaxpi): λ̂ᵢ = Σⱼ ‖gⱼ‖/‖gᵢ‖, with no residual set apart, so that
    all λ̂ᵢgᵢ are as long as the sum of the gradients' lengths. jaxpi has the mean over j, which is
    T times smaller.

  d = Σ λᵢ gᵢ, with the new λ. The first paper's published code has below the line the gradient of
  the weighted loss, λᵢLᵢ, and the mean of the layers' means, and anneals every 10 steps; jaxpi
  renews λ every 1000 steps, which is `every_k` around 'norm'.

  A task keeps its λ where it is absent, where its gradient is zero or not finite, and, with
  'max_mean', where the residual is absent or not finite. A residual whose gradient is zero has
  λ̂ = 0 for all others, by the formula. Task-specific parameters keep unit weights.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    decay: share of the past, in [0, 1).
    form: 'max_mean' or 'norm'.
    residual: place of the residual's loss among the tasks, from 0; 'max_mean' alone reads it.

  Returns:
    a balancer that needs the gradients themselves ('max_mean') or the Gramian ('norm').

  Raises:
    ValueError: unknown form, a decay out of range; in a chain without num_tasks; at update, another
      T, or no task at that place.

  References:
    Wang, Teng & Perdikaris, Understanding and Mitigating Gradient Flow Pathologies in
    Physics-Informed Neural Networks, SIAM Journal on Scientific Computing 2021.
    Wang et al., An Expert's Guide to Training Physics-Informed Neural Networks, arXiv:2308.08468
    2023: 'norm'.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.lr_annealing(num_tasks=2, decay=0.0)
    >>> grads = jnp.array([[2.0, 6.0], [0.5, 1.5]])
    >>> _, state = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> state.weights.tolist()
    [1.0, 6.0]
  """
  if form not in _FORMS:
    raise ValueError(f'lr_annealing: form must be one of {_FORMS}, not {form!r}.')
  if isinstance(decay, (int, float)) and not 0 <= decay < 1:
    raise ValueError(f'lr_annealing: decay must be in [0, 1), not {decay}.')

  def init(tasks: int | None) -> LRAnnealingState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'lr_annealing')
    if form == 'max_mean' and not 0 <= residual < tasks:
      raise ValueError(
        f'lr_annealing: residual={residual} is the place of none of {tasks} tasks, from 0.'
      )
    return LRAnnealingState(jnp.ones(tasks, jnp.float32))

  def anneal(old: jax.Array, above: jax.Array, below: jax.Array, usable: jax.Array) -> jax.Array:
    usable = usable & (below > 0)
    wanted = above / jnp.where(usable, below, 1.0)
    usable = usable & jnp.isfinite(wanted)
    return jnp.where(usable, decay * old + (1 - decay) * jnp.where(usable, wanted, 0.0), old)

  def check(state: LRAnnealingState, tasks: int) -> None:
    if state.weights.shape[0] != tasks:
      raise ValueError(
        f'lr_annealing of {state.weights.shape[0]} tasks was given gradients of {tasks}.'
      )

  def update(
    updates: Any, state: LRAnnealingState, *, present: jax.Array, **extra_args: Any
  ) -> tuple[Any, LRAnnealingState, jax.Array]:
    del extra_args
    check(state, present.shape[0])
    largest, mean = _statistics(updates)
    usable = present & jnp.isfinite(gradients.norms(updates))
    new = anneal(state.weights, largest[residual], mean, usable & usable[residual])
    new = new.at[residual].set(1.0)
    weights = jnp.where(usable, new, 0.0)
    return gradients.combine(weights, updates), LRAnnealingState(new), weights

  def update_by_norm(
    state: LRAnnealingState,
    *,
    present: jax.Array,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, LRAnnealingState]:
    del extra_args
    assert gramian is not None
    check(state, present.shape[0])
    norms = jnp.sqrt(jnp.diagonal(gramian))
    total = jnp.sum(norms, where=present)
    new = anneal(state.weights, total, norms, present)
    return new, LRAnnealingState(new)

  if form == 'norm':
    return _base.balancer(_base.Weighting(init, update_by_norm, 'gramian'), num_tasks)
  return _base.jacobian_balancer(lambda params, tasks: init(tasks), update, num_tasks, weighs=True)


def _statistics(updates: Any) -> tuple[jax.Array, jax.Array]:
  """max |g| `[T]` and mean |g| `[T]` over all coordinates of each row."""

  def of_leaf(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    sizes, axes = jnp.abs(leaf.astype(jnp.float32)), tuple(range(1, leaf.ndim))
    return jnp.max(sizes, axis=axes, initial=0.0), jnp.sum(sizes, axis=axes)

  leaves = jax.tree.leaves(updates)
  maxima, sums = zip(*map(of_leaf, leaves), strict=True)
  count = sum(leaf[0].size for leaf in leaves)
  return jnp.max(jnp.stack(maxima), axis=0), _rows.add(sums) / max(count, 1)
