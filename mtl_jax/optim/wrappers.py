"""Balancers of balancers: on what a method works, and what bounds its direction."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtl_jax import gradients, sharding
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

  def init(params: Any) -> optax.OptState:
    return tx.init(_shared(params))

  def update(
    updates: Any, state: optax.OptState, params: Any = None, **extra_args: Any
  ) -> tuple[Any, optax.OptState]:
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

  def group_of(path: tuple[Any, ...]) -> str:
    name = sharding.path_of(path)
    if patterns is None:
      return name if groups == 'matrix' else name.rpartition('/')[0]
    return next((p.pattern for p in patterns if p.match(name)), '')

  def split(tree: Any) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      parts.setdefault(group_of(path), {})[sharding.path_of(path)] = leaf
    return parts

  def init_each(params: Any, init_one: Callable[[Any], Any]) -> dict[str, Any]:
    parts = split(params)
    for pattern in patterns or ():
      if pattern.pattern not in parts:
        raise ValueError(f'by_group: no parameter matches {pattern.pattern!r}.')

    def own_key(leaf: Any, index: int) -> Any:  # the groups draw apart
      if not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        return leaf
      return jax.random.fold_in(leaf, index)

    return {
      name: jax.tree.map(lambda leaf, i=index: own_key(leaf, i), init_one(part))
      for index, (name, part) in enumerate(parts.items())
    }

  def init(params: Any) -> dict[str, Any]:
    return init_each(params, tx.init)

  def init_tasks(params: Any, num_tasks: int | None) -> dict[str, Any]:
    return init_each(params, lambda part: tx.init_tasks(part, num_tasks))

  def update(
    updates: Any,
    state: dict[str, Any],
    params: Any = None,
    *,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[Any, dict[str, Any]]:
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


def clip_conflict(
  tx: _base.Balancer, max_conflict: float | jax.Array = 0.0, reg_eps: float | jax.Array = 1e-6
) -> _base.Balancer:
  """Bounds how much the direction d of a method may conflict with any task's gradient.

  d is moved as little as possible, to argmin ‖d' − d‖ subject to
  ⟨d', gᵢ⟩ ≥ −max_conflict · ‖d‖‖gᵢ‖ for every task. With 0, no task's loss rises to first order
  whatever the method, as DualProj does for the mean. Its dual is a problem of T numbers: w' = w + u
  with u ≥ 0 the minimum of ½uᵀGu + uᵀ(Gw + max_conflict ‖d‖n), n the gradients' norms.

  It needs the Gramian at every step: inside `every_k` the bound holds where weights are made, not
  where they are held.

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
  inner = _base.weighting_of(tx, 'clip_conflict')
  if inner.batches > 1:
    raise ValueError('clip_conflict: a method on independent batches has no common Gramian.')

  @_base.exactly
  def clip(
    gramian: jax.Array, weights: jax.Array, max_conflict: jax.Array, reg_eps: jax.Array
  ) -> jax.Array:
    norms, matrix = _solvers.correlations(gramian)
    safe = jnp.where(norms > 0, norms, 1.0)
    along = _solvers.dot(gramian, weights)
    length = jnp.sqrt(jnp.maximum(_solvers.dot(weights, along), 0.0))
    slack = along / safe + jnp.where(norms > 0, max_conflict * length, 0.0)
    move = _solvers.nonnegative_qp(matrix + reg_eps * jnp.eye(len(norms)), slack)
    return weights + move / safe

  def update(
    state: _base.State, *, present: jax.Array, gramian: jax.Array | None = None, **extra_args: Any
  ) -> tuple[jax.Array, _base.State]:
    weights, state = inner.update(state, present=present, gramian=gramian, **extra_args)
    weights = jnp.where(present, weights, 0.0)
    bound = (jnp.asarray(max_conflict, jnp.float32), jnp.asarray(reg_eps, jnp.float32))
    return clip(gramian, weights, *bound), state

  weighting = inner._replace(update=update, needs='gramian', held=None)
  made = _base.balancer(weighting)
  return _base.Balancer(tx.init, made.update, weighting, made.needs)


def _shared(tree: Any) -> Any:
  if not gradients.is_split(tree):
    raise ValueError("on_shared needs a tree {'shared': ..., 'tasks': {...}}.")
  return tree['shared']
