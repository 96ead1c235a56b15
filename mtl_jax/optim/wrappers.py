"""Balancers of balancers: where a method applies, how often, and what is done to its weights."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax import _jacobian, gradients, sharding
from mtl_jax.optim import _base, _solvers

GROUPS = ('whole', 'layer', 'matrix')


def on_shared(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """Applies a stacked transformation to the shared half of `{'shared': θ, 'tasks': {name: φ}}`.

  The gradients of `tasks` pass unchanged: each task's own parameters get its loss's plain gradient.

  Args:
    tx: on stacked gradients (leaves `[T, ...]`): a balancer, a normalizer, or a chain of them.

  Returns:
    a transformation of the whole tree; its state is that of `tx`.

  Raises:
    ValueError: the gradients or parameters are not `{'shared', 'tasks'}`.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.on_shared(mtl_jax.optim.sum_tasks())
    >>> state = tx.init({'shared': jnp.zeros(1), 'tasks': {'a': jnp.zeros(1), 'b': jnp.zeros(1)}})
    >>> grads = {'shared': jnp.ones((2, 1)), 'tasks': {'a': jnp.ones(1), 'b': jnp.ones(1)}}
    >>> tx.update(grads, state)[0]['shared'].tolist()
    [2.0]
  """
  tx = optax.with_extra_args_support(tx)

  def init(params):
    return tx.init(_shared(params))

  def update(updates, state, params=None, **extra_args):
    inner = None if params is None else _shared(params)
    shared, state = tx.update(_shared(updates), state, inner, **extra_args)
    return {'shared': shared, 'tasks': updates['tasks']}, state

  return optax.GradientTransformationExtraArgs(init, update)


def by_group(tx: _base.Balancer, groups: str | Sequence[str] = 'matrix') -> _base.Balancer:
  """Balances each group of parameters by itself, with a Gramian and a state of its own.

  Args:
    tx: a balancer (or `compose` of some).
    groups: 'whole': one group; 'layer': the leaves below one module (the path without its last
      name); 'matrix': every leaf; or regular expressions over paths such as 'encoder/.*/kernel':
      each leaf goes to the first that matches from its start, and the rest make one more group.

  Returns:
    a balancer; its state is a dict of the groups' states.

  Raises:
    ValueError: unknown groups; at `init`, a regular expression that matches no parameter.

  References:
    Wang et al., Gradient Vaccine, ICLR 2021 (section 3.3: whole model, layer, matrix).

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.by_group(mtl_jax.optim.pcgrad(), 'matrix')
    >>> grads = {'a': jnp.array([[1.0], [-1.0]]), 'b': jnp.array([[1.0], [2.0]])}
    >>> direction, _ = tx.update(grads, tx.init({'a': jnp.zeros(1), 'b': jnp.zeros(1)}))
    >>> direction['a'].tolist(), direction['b'].tolist()
    ([0.0], [3.0])
  """
  if not isinstance(tx, _base.Balancer) or tx.needs == 'functions':
    raise ValueError('by_group takes a balancer of gradients, such as pcgrad().')
  if isinstance(groups, str) and groups not in GROUPS:
    raise ValueError(f'by_group: groups must be regular expressions or {GROUPS}, not {groups!r}.')
  if groups == 'whole':
    return tx
  try:
    patterns = None if isinstance(groups, str) else [re.compile(pattern) for pattern in groups]
  except re.error as e:
    raise ValueError(f'by_group: {e.pattern!r} is no regular expression: {e}') from None

  def group_of(path) -> str:
    name = sharding.path_of(path)
    if patterns is None:
      return name if groups == 'matrix' else name.rpartition('/')[0]
    return next((p.pattern for p in patterns if p.match(name)), '')

  def split(tree):
    parts: dict[str, dict[str, Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      parts.setdefault(group_of(path), {})[sharding.path_of(path)] = leaf
    return parts

  def init_each(params, init_one):
    parts = split(params)
    for pattern in patterns or ():
      if pattern.pattern not in parts:
        raise ValueError(f'by_group: no parameter matches {pattern.pattern!r}.')

    def own_key(leaf, index):  # the groups draw apart
      if not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        return leaf
      return jax.random.fold_in(leaf, index)

    return {
      name: jax.tree.map(lambda leaf, i=index: own_key(leaf, i), init_one(part))
      for index, (name, part) in enumerate(parts.items())
    }

  def init(params):
    return init_each(params, tx.init)

  def init_tasks(params, num_tasks):
    return init_each(params, lambda part: tx.init_tasks(part, num_tasks))

  def update(updates, state, params=None, *, key=None, **extra_args):
    owners = {} if params is None else split(params)
    new_state: dict[str, Any] = {}
    directions: dict[str, Any] = {}
    for index, (name, part) in enumerate(split(updates).items()):
      group_key = None if key is None else jax.random.fold_in(key, index)
      direction, new_state[name] = tx.update(
        part, state[name], owners.get(name), key=group_key, **extra_args
      )
      directions |= direction
    paths, structure = jax.tree_util.tree_flatten_with_path(updates)
    leaves = [directions[sharding.path_of(path)] for path, _ in paths]
    return jax.tree.unflatten(structure, leaves), new_state

  return _base.Balancer(init, update, init_tasks=init_tasks)


class EveryKState(NamedTuple):
  """State of `every_k`: weights in use `[T]`, steps since they were made, the method's state."""

  weights: jax.Array
  age: jax.Array
  inner: Any


def every_k(tx: _base.Balancer, k: int, num_tasks: int | None = None) -> _base.Balancer:
  """Makes new weights at every k-th step and keeps them in between.

  In between, the train step computes no Gramian: one backward of the weighted losses, with the
  tasks' own gradients plain. A task that was absent when the weights were made keeps its last
  weight, at first 1.

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
  inner = _weighting_of(tx, 'every_k')
  if k < 1:
    raise ValueError(f'every_k: k must be 1 or more, not {k}.')
  if inner.follow is not None:
    raise ValueError('every_k: this method looks at the losses after every step.')
  if k == 1:
    return tx

  def init(tasks):
    tasks = _base.known_tasks(tasks, num_tasks, 'every_k')
    return EveryKState(jnp.ones(tasks, jnp.float32), jnp.zeros((), jnp.int32), inner.init(tasks))

  def update(state, *, present, **extra_args):
    def renew(inner_state):
      weights, inner_state = inner.update(inner_state, present=present, **extra_args)
      return jnp.where(present, weights.astype(jnp.float32), state.weights), inner_state

    weights, inner_state = jax.lax.cond(
      state.age == 0, renew, lambda inner_state: (state.weights, inner_state), state.inner
    )
    return weights, EveryKState(weights, (state.age + 1) % k, inner_state)

  def held(state):
    return state.age == 0, state.weights, state._replace(age=(state.age + 1) % k)

  weighting = inner._replace(init=init, update=update, held=held)
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

  def counted(state, begun, inner_state):
    inner_state = jax.tree.map(
      lambda new, old: jax.lax.select_n(begun, old, new), inner_state, state.inner
    )
    return WarmupState(jnp.minimum(state.step + 1, steps + 1), inner_state)

  def mean(present):
    here = present.astype(jnp.float32)
    return here / jnp.maximum(jnp.sum(here), 1.0)

  inner = tx.weighting
  if inner is not None:

    def update(state, *, present, **extra_args):
      begun = state.step >= steps
      weights, inner_state = inner.update(state.inner, present=present, **extra_args)
      return jnp.where(begun, weights, mean(present)), counted(state, begun, inner_state)

    def follow(state, **seen):
      assert inner.follow is not None
      followed = inner.follow(state.inner, **seen)
      begun = state.step > steps  # the step that is being followed was counted already
      kept = jax.tree.map(lambda new, old: jax.lax.select_n(begun, old, new), followed, state.inner)
      return state._replace(inner=kept)

    def held(state):
      assert inner.held is not None
      due, weights, inner_state = inner.held(state.inner)
      begun = state.step >= steps
      return due | ~begun, weights, counted(state, begun, inner_state)

    weighting = inner._replace(
      init=lambda tasks: WarmupState(jnp.zeros((), jnp.int32), inner.init(tasks)),
      update=update,
      follow=follow if inner.follow else None,
      held=held if inner.held else None,
    )
    made = _base.balancer(weighting)
    return _base.Balancer(
      lambda params: WarmupState(jnp.zeros((), jnp.int32), tx.init(params)),
      made.update,
      weighting,
      made.needs,
    )

  def update_stacked(updates, state, params=None, **extra_args):
    begun = state.step >= steps
    present = extra_args.get('present')
    present = jnp.ones(_base.num_rows(updates), bool) if present is None else present
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
  inner = _weighting_of(tx, 'ema_weights')

  def update(state, *, present, **extra_args):
    weights, inner_state = inner.update(state.inner, present=present, **extra_args)
    average = _average(state.average, weights, present, alpha)
    return jnp.where(present, average, 0.0), EmaState(average, inner_state)

  def init(tasks):
    tasks = _base.known_tasks(tasks, num_tasks, 'ema_weights')
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
  inner = _weighting_of(tx, 'ema_gramian')
  if inner.needs != 'gramian':
    raise ValueError(f'ema_gramian: this method reads {inner.needs}, not the Gramian.')

  def update(state, *, present, gramian, **extra_args):
    both = present[:, None] & present[None, :]
    average = _average(state.average, gramian, both, decay)
    weights, inner_state = inner.update(
      state.inner, present=present, gramian=jnp.where(both, average, 0.0), **extra_args
    )
    return weights, EmaState(average, inner_state)

  def init(tasks):
    tasks = _base.known_tasks(tasks, num_tasks, 'ema_gramian')
    return EmaState(jnp.full((tasks, tasks), jnp.nan, jnp.float32), inner.init(tasks))

  return _base.balancer(_passing(inner, init, update), num_tasks)


def clip_conflict(
  tx: _base.Balancer, max_conflict: float | jax.Array = 0.0, reg_eps: float | jax.Array = 1e-6
) -> _base.Balancer:
  """Bounds how much the direction d of a method may conflict with any task's gradient.

  d is moved as little as possible, to argmin ‖d' − d‖ subject to
  ⟨d', gᵢ⟩ ≥ −max_conflict · ‖d‖‖gᵢ‖ for every task. With 0, no task's loss rises to first order
  whatever the method, as DualProj does for the mean. Its dual is a problem of T numbers: w' = w + u
  with u ≥ 0 the minimum of ½uᵀGu + uᵀ(Gw + max_conflict ‖d‖n), n the gradients' norms.

  Args:
    tx: a balancer with a weighting.
    max_conflict: the bound on −cos(d, gᵢ), in [0, 1].
    reg_eps: share of G's diagonal added to it, so that opposite gradients have an answer.

  Returns:
    a balancer that needs the Gramian.

  Raises:
    ValueError: `tx` has no weighting, or reads several batches.

  References:
    Lopez-Paz & Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017 (the dual
    projection).

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.clip_conflict(mtl_jax.optim.sum_tasks())
    >>> direction, _ = tx.update(jnp.array([[4.0, 0.0], [-1.0, 1.0]]), tx.init(jnp.zeros(2)))
    >>> [f'{x:.2f}' for x in direction.tolist()]
    ['2.00', '2.00']
  """
  inner = _weighting_of(tx, 'clip_conflict')
  if inner.batches > 1:
    raise ValueError('clip_conflict: a method on independent batches has no common Gramian.')

  @_base.exactly
  def clip(gramian, weights, max_conflict, reg_eps):
    norms, matrix = _solvers.correlations(gramian)
    safe = jnp.where(norms > 0, norms, 1.0)
    along = _solvers.dot(gramian, weights)
    length = jnp.sqrt(jnp.maximum(_solvers.dot(weights, along), 0.0))
    slack = along / safe + jnp.where(norms > 0, max_conflict * length, 0.0)
    move = _solvers.nonnegative_qp(matrix + reg_eps * jnp.eye(len(norms)), slack)
    return weights + move / safe

  def update(state, *, present, gramian=None, **extra_args):
    weights, state = inner.update(state, present=present, gramian=gramian, **extra_args)
    weights = jnp.where(present, weights, 0.0)
    bound = (jnp.asarray(max_conflict, jnp.float32), jnp.asarray(reg_eps, jnp.float32))
    return clip(gramian, weights, *bound), state

  weighting = inner._replace(update=update, needs='gramian', held=None)
  made = _base.balancer(weighting)
  return _base.Balancer(tx.init, made.update, weighting, made.needs)


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
    ConfigError: no such method.
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


def _average(average, new, present, decay):
  """The running average where present; its first value is the first that came."""
  known = jnp.where(jnp.isnan(average), new, average)
  return jnp.where(present, decay * known + (1.0 - decay) * new, average)


def _passing(inner: _base.Weighting, init: Callable, update: Callable) -> _base.Weighting:
  """`inner` with another init and update, around a state that holds its own as `inner`."""
  follow = inner.follow
  if follow is not None:

    def following(state, **seen):
      return state._replace(inner=follow(state.inner, **seen))

    return inner._replace(init=init, update=update, follow=following, held=None)
  return inner._replace(init=init, update=update, held=None)


def _weighting_of(tx: Any, wrapper: str) -> _base.Weighting:
  if not isinstance(tx, _base.Balancer) or tx.weighting is None:
    raise ValueError(f'{wrapper} takes a balancer with weights, such as pcgrad() or mgda().')
  return tx.weighting


def _shared(tree):
  if not _jacobian.is_split(tree):
    raise ValueError("on_shared needs a tree {'shared': ..., 'tasks': {...}}.")
  return tree['shared']
