"""Balancers of balancers over time: when weights are made, and how they are smoothed."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base


class EveryKState(NamedTuple):
  """State of `every_k`.

  Attributes:
    weights: `[T]`, as they were last made, before any bound on the direction; NaN until a task has
      one.
    age: `[]` int32, steps since.
    inner: the method's state.
  """

  weights: jax.Array
  age: jax.Array
  inner: Any


def every_k(tx: _base.Balancer, k: int, num_tasks: int | None = None) -> _base.Balancer:
  """Makes new weights at every k-th step and keeps them in between.

  In between, the train step computes no Gramian: one backward of the weighted losses, with the
  tasks' own gradients plain. A method's bound on the norm of its direction (that of `nash_mtl`)
  holds at every step. A task that was absent when the weights were made keeps its last weight; one
  that never had one takes the mean of the others'. Weights are due again at the next step where no
  task was there to make them from.

  Args:
    tx: a balancer with a weighting.
    k: steps between two sets of weights, ≥ 1.
    num_tasks: T. Needed in an optax chain; the train step fills it in.

  Returns:
    a balancer.

  Raises:
    ValueError: no weighting, k < 1.

  References:
    Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022 (section 5: weights updated
    every few steps).

  Example:
    >>> import mtl_jax
    >>> mtl_jax.optim.every_k(mtl_jax.optim.nash_mtl(), 10).needs
    'gramian'
  """
  inner = _base.weighting_of(tx, 'every_k')
  if k < 1:
    raise ValueError(f'every_k: k must be 1 or more, not {k}.')
  if inner.follow is not None:
    raise ValueError('every_k: this method looks at the losses after every step.')
  if k == 1:
    return tx

  def in_use(weights: jax.Array) -> jax.Array:
    known = ~jnp.isnan(weights)
    count = jnp.maximum(jnp.sum(known, dtype=jnp.float32), 1.0)
    return jnp.where(known, weights, jnp.sum(jnp.where(known, weights, 0.0)) / count)

  def init(tasks: int | None) -> EveryKState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'every_k')
    unknown = jnp.full(tasks, jnp.nan, jnp.float32)
    return EveryKState(unknown, jnp.zeros((), jnp.int32), inner.init(tasks))

  def update(
    state: EveryKState, *, present: jax.Array, **extra_args: Any
  ) -> tuple[jax.Array, EveryKState]:
    def renew(inner_state: Any) -> tuple[jax.Array, Any]:
      weights, inner_state = inner.update(inner_state, present=present, **extra_args)
      return jnp.where(present, weights.astype(jnp.float32), state.weights), inner_state

    due = state.age == 0
    weights, inner_state = jax.lax.cond(
      due, renew, lambda inner_state: (state.weights, inner_state), state.inner
    )
    age = jnp.where(due & ~jnp.any(present), 0, (state.age + 1) % k)
    return in_use(weights), EveryKState(weights, age, inner_state)

  def held(state: EveryKState) -> tuple[jax.Array, jax.Array, EveryKState]:
    return state.age == 0, in_use(state.weights), state._replace(age=(state.age + 1) % k)

  weighting = inner._replace(init=init, update=update, held=held, max_norm=_inner_max_norm(inner))
  return _base.balancer(weighting, num_tasks)


class WarmupState(NamedTuple):
  """State of `with_warmup`: steps taken, up to one after the warm-up, and the method's state."""

  step: jax.Array
  inner: Any


def with_warmup(tx: _base.Balancer, steps: int) -> _base.Balancer:
  """The plain mean over the tasks for the first steps, then the method, from its initial state.

  Args:
    tx: a balancer.
    steps: length of the warm-up, ≥ 0.

  Returns:
    a balancer.

  Raises:
    ValueError: steps < 0, or `tx` needs functions.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.with_warmup(mtl_jax.optim.sum_tasks(), 1)
    >>> grads, state = jnp.array([[1.0], [2.0]]), tx.init(jnp.zeros(1))
    >>> first, state = tx.update(grads, state)
    >>> first.tolist(), tx.update(grads, state)[0].tolist()
    ([1.5], [3.0])
  """
  if not isinstance(tx, _base.Balancer) or tx.needs == 'functions':
    raise ValueError('with_warmup takes a balancer of gradients, such as pcgrad().')
  if steps < 0:
    raise ValueError(f'with_warmup: steps must be 0 or more, not {steps}.')
  if steps == 0:
    return tx

  def counted(state: WarmupState, begun: jax.Array, inner_state: Any) -> WarmupState:
    inner_state = jax.tree.map(
      lambda new, old: jax.lax.select_n(begun, old, new), inner_state, state.inner
    )
    return WarmupState(jnp.minimum(state.step + 1, steps + 1), inner_state)

  def mean(present: jax.Array) -> jax.Array:
    here = present.astype(jnp.float32)
    return here / jnp.maximum(jnp.sum(here), 1.0)

  inner = tx.weighting
  if inner is not None:

    def update(
      state: WarmupState, *, present: jax.Array, **extra_args: Any
    ) -> tuple[jax.Array, WarmupState]:
      begun = state.step >= steps
      weights, inner_state = inner.update(state.inner, present=present, **extra_args)
      return jnp.where(begun, weights, mean(present)), counted(state, begun, inner_state)

    def follow(state: WarmupState, **seen: Any) -> WarmupState:
      assert inner.follow is not None
      followed = inner.follow(state.inner, **seen)
      begun = state.step > steps  # the step that is being followed was counted already
      kept = jax.tree.map(lambda new, old: jax.lax.select_n(begun, old, new), followed, state.inner)
      return state._replace(inner=kept)

    def held(state: WarmupState) -> tuple[jax.Array, jax.Array, WarmupState]:
      assert inner.held is not None
      due, weights, inner_state = inner.held(state.inner)
      begun = state.step >= steps
      return due | ~begun, weights, counted(state, begun, inner_state)

    def max_norm(state: WarmupState) -> jax.Array:
      assert inner.max_norm is not None
      return jnp.where(state.step >= steps, inner.max_norm(state.inner), jnp.inf)

    weighting = inner._replace(
      init=lambda tasks: WarmupState(jnp.zeros((), jnp.int32), inner.init(tasks)),
      update=update,
      follow=follow if inner.follow else None,
      held=held if inner.held else None,
      max_norm=max_norm if inner.max_norm else None,
    )
    made = _base.balancer(weighting)
    return _base.Balancer(
      lambda params: WarmupState(jnp.zeros((), jnp.int32), tx.init(params)),
      made.update,
      weighting,
      made.needs,
    )

  def update_stacked(
    updates: Any, state: WarmupState, params: Any = None, **extra_args: Any
  ) -> tuple[Any, WarmupState]:
    begun = state.step >= steps
    present = extra_args.get('present')
    present = jnp.ones(_arguments.num_rows(updates), bool) if present is None else present
    direction, inner_state = tx.update(updates, state.inner, params, **extra_args)
    plain = gradients.combine(mean(present), updates)
    direction = jax.tree.map(lambda p, d: jnp.where(begun, d, p), plain, direction)
    return direction, counted(state, begun, inner_state)

  return _base.Balancer(
    lambda params: WarmupState(jnp.zeros((), jnp.int32), tx.init(params)),
    update_stacked,
    init_tasks=lambda params, tasks: WarmupState(
      jnp.zeros((), jnp.int32), tx.init_tasks(params, tasks)
    ),
  )


class EmaState(NamedTuple):
  """State of `ema_weights` `[T]` and `ema_gramian` `[T, T]`: the average, NaN until it has one."""

  average: jax.Array
  inner: Any


def ema_weights(
  tx: _base.Balancer, alpha: float | jax.Array = 0.9, num_tasks: int | None = None
) -> _base.Balancer:
  """Smooths the weights over steps: w_t = α w_{t−1} + (1 − α) ŵ_t (CR-MOGM, eq. 9).

  The first weights of a task are taken as they are; an absent task keeps its average.

  Args:
    tx: a balancer with a weighting.
    alpha: α in [0, 1).
    num_tasks: T. Needed in an optax chain; the train step fills it in.

  Returns:
    a balancer.

  Raises:
    ValueError: `tx` has no weighting.

  References:
    Zhou et al., On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond,
    NeurIPS 2022.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.ema_weights(mtl_jax.optim.mgda(), num_tasks=2)
    >>> tx.update(jnp.eye(2), tx.init(jnp.zeros(2)))[0].tolist()
    [0.5, 0.5]
  """
  inner = _base.weighting_of(tx, 'ema_weights')

  def update(
    state: EmaState, *, present: jax.Array, **extra_args: Any
  ) -> tuple[jax.Array, EmaState]:
    weights, inner_state = inner.update(state.inner, present=present, **extra_args)
    average = _average(state.average, weights, present, alpha)
    return jnp.where(present, average, 0.0), EmaState(average, inner_state)

  def init(tasks: int | None) -> EmaState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'ema_weights')
    return EmaState(jnp.full(tasks, jnp.nan, jnp.float32), inner.init(tasks))

  return _base.balancer(_passing(inner, init, update), num_tasks)


def ema_gramian(
  tx: _base.Balancer, decay: float | jax.Array = 0.9, num_tasks: int | None = None
) -> _base.Balancer:
  """Gives the method a Gramian smoothed over steps: Ḡ_t = decay · Ḡ_{t−1} + (1 − decay) G_t.

  The first G of a pair of tasks is taken as it is; a pair with an absent task keeps its average.

  Args:
    tx: a balancer with a weighting on the Gramian.
    decay: in [0, 1).
    num_tasks: T. Needed in an optax chain; the train step fills it in.

  Returns:
    a balancer.

  Raises:
    ValueError: `tx` does not read the Gramian.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.ema_gramian(mtl_jax.optim.mgda(), num_tasks=2)
    >>> tx.update(jnp.eye(2), tx.init(jnp.zeros(2)))[0].tolist()
    [0.5, 0.5]
  """
  inner = _base.weighting_of(tx, 'ema_gramian')
  if inner.needs != 'gramian':
    raise ValueError(f'ema_gramian: this method reads {inner.needs}, not the Gramian.')

  def update(
    state: EmaState, *, present: jax.Array, gramian: jax.Array, **extra_args: Any
  ) -> tuple[jax.Array, EmaState]:
    both = present[:, None] & present[None, :]
    average = _average(state.average, gramian, both, decay)
    weights, inner_state = inner.update(
      state.inner, present=present, gramian=jnp.where(both, average, 0.0), **extra_args
    )
    return weights, EmaState(average, inner_state)

  def init(tasks: int | None) -> EmaState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'ema_gramian')
    return EmaState(jnp.full((tasks, tasks), jnp.nan, jnp.float32), inner.init(tasks))

  return _base.balancer(_passing(inner, init, update), num_tasks)


def cr_mogm(
  method: str = 'mgda',
  alpha: float | jax.Array = 0.9,
  num_tasks: int | None = None,
  options: Mapping[str, Any] | None = None,
) -> _base.Balancer:
  """CR-MOGM: the weights of another method, smoothed over steps (`ema_weights`).

  Args:
    method: the name of the method, one with a weighting.
    alpha: α of w_t = α w_{t−1} + (1 − α) ŵ_t, in [0, 1).
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    options: of that method; from a config, name the method itself with `ema_weights` for these.

  Returns:
    a balancer that needs what that method needs.

  Raises:
    ValueError: no such method.
    ValueError: the method is no weighting.
    TypeError: the method has no such option.

  References:
    Zhou et al., On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond,
    NeurIPS 2022.

  Example:
    >>> import mtl_jax
    >>> mtl_jax.optim.cr_mogm('pcgrad', alpha=0.5).needs
    'gramian'
  """
  from mtl_jax import optim  # the registry holds this function too

  if method == 'cr_mogm':
    raise ValueError("cr_mogm: method must be another method, not 'cr_mogm'.")
  return ema_weights(optim.get(method, **(options or {})), alpha, num_tasks)


def _average(
  average: jax.Array, new: jax.Array, present: jax.Array, decay: float | jax.Array
) -> jax.Array:
  """The running average where present; its first value is the first that came."""
  known = jnp.where(jnp.isnan(average), new, average)
  return jnp.where(present, decay * known + (1.0 - decay) * new, average)


def _passing(inner: _base.Weighting, init: Callable, update: Callable) -> _base.Weighting:
  """`inner` with another init and update, around a state that holds its own as `inner`."""
  follow = inner.follow
  made = inner._replace(init=init, update=update, held=None, max_norm=_inner_max_norm(inner))
  if follow is not None:

    def following(state: _base.State, **seen: Any) -> _base.State:
      return state._replace(inner=follow(state.inner, **seen))

    return made._replace(follow=following)
  return made


def _inner_max_norm(inner: _base.Weighting) -> Callable | None:
  """The bound on the direction, around a state that holds the method's own as `inner`."""
  longest = inner.max_norm
  return None if longest is None else lambda state: longest(state.inner)
