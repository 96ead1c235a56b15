"""The Jacobian of a model with two halves, in each of the two regimes."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.gradients import halves, linear
from mtl_jax.gradients.functions import Extra
from mtl_jax.gradients.linear import Jacobian, Representation
from mtl_jax.protocols import Example, TwoHalves


class HeadGradient(NamedTuple):
  """A task's own half of one batch.

  Attributes:
    loss: `[]`.
    labels: how many it is the mean of, `[]`, or the sum of their weights.
    cotangents: of the features' floating leaves, `[B, ...]` each; times the scale of the losses.
    own: the gradient of φ, likewise.
    state: what the state of this half becomes.
  """

  loss: jax.Array
  labels: jax.Array
  cotangents: list[jax.Array]
  own: Any
  state: Any


class GroupMap(NamedTuple):
  """The linear maps of tasks that are encoded at once.

  Attributes:
    group: the A tasks.
    cotangents: of their features' floating leaves, `[A, B, ...]` each.
    pull: cotangents -> gradients of θ and of what of φ takes part in encoding: where rows are asked
      for the pair of them, leaves `[A, ...]`; else a tuple of one pair, θ's summed over the tasks.
    pulled: `pull(cotangents)` where rows are asked for, else None.
    push: tangents of both -> those of the features' floating leaves; None unless asked for.
  """

  group: halves.Group
  cotangents: list[jax.Array]
  pull: Callable[[Any], Any]
  pulled: Any
  push: Callable[[Any], Any] | None


def shared_inputs(
  model: TwoHalves,
  params: Any,
  batch: Mapping[str, Any],
  key: jax.Array | None,
  stacked: bool,
  push: bool,
  scale: jax.Array | float | None = None,
) -> Jacobian:
  """All tasks read the same inputs: one forward, a backward for each row that is asked for."""
  del stacked
  names = model.task_names
  by_task = halves.examples(batch, names)
  features, pull, push_features, state = forward(
    lambda shared: halves.encode(model, shared, batch['inputs'], halves.encode_key(key, 0)),
    params['shared'],
    push,
  )
  heads = _head_gradients(model, params, by_task, dict.fromkeys(by_task, features), key, scale)
  cotangents = halves.stack_trees([heads[name].cotangents for name in by_task])
  places = [names.index(name) for name in by_task]

  def rows(at_once: int | None) -> Any:
    if at_once is None and jax.default_backend() == 'cpu':
      at_once = 2
    pulled = linear.map_rows(lambda cotangent: pull(cotangent)[0], cotangents, at_once)
    return _in_order(names, [(list(by_task), pulled)])

  def weighted(weights: jax.Array) -> Any:
    return pull(linear.weighted(linear.take(weights, places), cotangents))[0]

  def pushed(direction: Any) -> jax.Array:
    assert push_features is not None
    tangents = [jnp.broadcast_to(t, (len(places), *t.shape)) for t in push_features(direction)]
    return linear.put(linear.inner_products(len(places), cotangents, tangents), places, len(names))

  losses, present, tasks = _assemble(params, names, heads)
  return Jacobian(
    losses,
    present,
    tasks,
    rows,
    weighted,
    pushed if push else None,
    Representation(cotangents, True, places, lambda leaves: pull(leaves)[0]),
    lambda: _labels(names, heads),
    _extra(model, state, heads),
  )


def own_features(
  model: TwoHalves,
  params: Any,
  batch: Mapping[str, Any],
  key: jax.Array | None,
  stacked: bool,
  push: bool,
  scale: jax.Array | float | None = None,
) -> Jacobian:
  """Own inputs, or an encoder that works differently for each task: one backward for all."""
  names = model.task_names
  by_task = halves.examples(batch, names)
  shared = params['shared']

  def encode_both(group: halves.Group, both: tuple[Any, Any]) -> tuple[Any, Any]:
    return halves.encode_group(model, both[0], both[1], group)

  heads: dict[str, HeadGradient] = {}
  maps: list[GroupMap] = []
  states = []
  for group in halves.groups(model, params, batch, key):
    if stacked:
      features, pull, state = mapped_vjp(model, shared, group)
      push_features = None
    else:
      encode = functools.partial(encode_both, group)
      features, pull, push_features, state = forward(encode, (shared, group.own), push)
    states.append(state)
    by_name = dict(zip(group.names, halves.rows_of(features), strict=True))
    examples = {name: by_task[name] for name in group.names}
    heads |= _head_gradients(model, params, examples, by_name, key, scale)
    cotangents = halves.stack_trees([heads[name].cotangents for name in group.names])
    pulled: Any = pull(cotangents) if stacked else None
    if jax.tree.leaves(group.own):
      own = pulled[1] if stacked else pull(cotangents)[0][1]
      for row, name in enumerate(group.names):
        grad = heads[name].own
        added = jax.tree.map(jnp.add, grad['encoder'], halves.take_row(own, row))
        heads[name] = heads[name]._replace(own={**grad, 'encoder': added})
    maps.append(GroupMap(group, cotangents, pull, pulled, push_features))

  def rows(at_once: int | None) -> Any:
    del at_once
    return _in_order(names, [(part.group.names, part.pulled[0]) for part in maps])

  def weighted(weights: jax.Array) -> Any:
    total = None
    for part in maps:
      weights_here = linear.take(weights, part.group.places)
      if stacked:
        slope = linear.weighted(weights_here, part.pulled[0])
      else:
        slope = part.pull(linear.scaled(weights_here, part.cotangents))[0][0]
      total = slope if total is None else jax.tree.map(jnp.add, total, slope)
    return total

  def pushed(direction: Any) -> jax.Array:
    total = jnp.zeros(len(names), jnp.float32)
    for part in maps:
      assert part.push is not None
      places = part.group.places
      tangents = part.push((direction, jax.tree.map(jnp.zeros_like, part.group.own)))
      total = total + linear.put(
        linear.inner_products(len(places), part.cotangents, tangents), places, len(names)
      )
    return total

  norms: dict[int, jax.Array] = {}
  for part in maps:
    places = part.group.places
    squares = linear.inner_products(len(places), part.cotangents, part.cotangents)
    norms |= dict(zip(places, squares, strict=True))
  losses, present, tasks = _assemble(params, names, heads)
  return Jacobian(
    losses,
    present,
    tasks,
    rows,
    weighted,
    pushed if push else None,
    Representation(jnp.stack(list(norms.values())), False, list(norms), None),
    lambda: _labels(names, heads),
    _extra(model, halves.mean_state(states), heads),
  )


def _head_gradients(
  model: TwoHalves,
  params: Any,
  by_task: Mapping[str, Example],
  features: Mapping[str, Any],
  key: jax.Array | None,
  scale: jax.Array | float | None,
) -> dict[str, HeadGradient]:
  """By task, for the tasks of `by_task`."""
  results = {}
  for name, example in by_task.items():
    head_key = halves.head_key(key, model.task_names.index(name))
    leaves, rebuild = floating_leaves(features[name])

    def loss(
      task_params: Any,
      leaves: list[jax.Array],
      name: str = name,
      example: Example = example,
      rebuild: Callable[..., Any] = rebuild,
      head_key: jax.Array | None = head_key,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
      value, labels, state = halves.task_loss(
        model, name, task_params, rebuild(leaves), example, head_key
      )
      return value if scale is None else value.astype(jnp.float32) * scale, (value, labels, state)

    (_, (value, labels, state)), (task_grad, feature_grad) = jax.value_and_grad(
      loss, argnums=(0, 1), has_aux=True
    )(params['tasks'][name], leaves)
    results[name] = HeadGradient(value, labels, feature_grad, task_grad, state)
  return results


def _assemble(
  params: Any, names: Sequence[str], heads: Mapping[str, HeadGradient]
) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
  """Losses, present and head gradients in the tasks' order, with zeros where a task is absent."""
  zero = jnp.zeros((), jnp.float32)
  losses = jnp.stack(
    [heads[name].loss.astype(jnp.float32) if name in heads else zero for name in names]
  )
  present = jnp.stack(
    [heads[name].labels > 0 if name in heads else jnp.zeros((), bool) for name in names]
  )
  tasks = {
    name: heads[name].own if name in heads else jax.tree.map(jnp.zeros_like, params['tasks'][name])
    for name in names
  }
  return losses, present, tasks


def _extra(model: TwoHalves, shared: Any, heads: Mapping[str, HeadGradient]) -> Extra:
  states = {name: head.state for name, head in heads.items()}
  return Extra(model_state=halves.joined_state(model, shared, states))


def _labels(names: Sequence[str], heads: Mapping[str, HeadGradient]) -> jax.Array:
  zero = jnp.zeros((), jnp.float32)
  return jnp.stack(
    [heads[name].labels.astype(jnp.float32) if name in heads else zero for name in names]
  )


def _in_order(names: Sequence[str], blocks: Sequence[tuple[list[str], Any]]) -> Any:
  """Rows `[A, ...]` of one or more groups of tasks -> rows `[T, ...]` in the order of `names`."""
  if len(blocks) == 1 and list(names) == blocks[0][0]:
    return blocks[0][1]
  places = [jnp.array([names.index(name) for name in group]) for group, _ in blocks]

  def scatter(*leaves: jax.Array) -> jax.Array:
    rows = jnp.zeros((len(names), *leaves[0].shape[1:]), leaves[0].dtype)
    for place, leaf in zip(places, leaves, strict=True):
      rows = rows.at[place].set(leaf)
    return rows

  return jax.tree.map(scatter, *(rows for _, rows in blocks))


def floating_leaves(tree: Any) -> tuple[list[jax.Array], Callable[[Sequence[jax.Array]], Any]]:
  """The leaves that carry gradients, and the function that puts them back among the others."""
  leaves, structure = jax.tree.flatten(tree)
  floating = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

  def rebuild(values: Sequence[jax.Array]) -> Any:
    rest = iter(values)
    mixed = [next(rest) if f else leaf for f, leaf in zip(floating, leaves, strict=True)]
    return jax.tree.unflatten(structure, mixed)

  return [leaf for f, leaf in zip(floating, leaves, strict=True) if f], rebuild


def forward(
  encode: Callable[[Any], tuple[Any, Any]], shared: Any, push: bool
) -> tuple[Any, Callable[[Any], Any], Callable[[Any], Any] | None, Any]:
  """Features, their pull-back (cotangents of the floating leaves -> θ) and their push-forward; and
  what comes beside the features.
  """

  def floating(shared: Any) -> tuple[list[jax.Array], Any]:
    features, state = encode(shared)
    return floating_leaves(features)[0], (features, state)

  if not push:
    _, pull, (features, state) = jax.vjp(floating, shared, has_aux=True)
    return features, pull, None, state
  _, linear, (features, state) = jax.linearize(floating, shared, has_aux=True)
  return features, jax.linear_transpose(linear, shared), linear, state


def mapped_vjp(
  model: Any, shared: Any, group: halves.Group
) -> tuple[Any, Callable[[Any], Any], Any]:
  """`forward` for the rows of a group at once: features `[A, ...]`, their pull-back to gradients
  `[A, ...]` of θ and of what of the tasks' own parameters takes part, and states `[A, ...]`.

  The residuals of one task's forward hold the weights beside the activations. The weights are the
  same for every task, so they are kept out of the mapped outputs: no A copies of θ. (In bfloat16
  computation the cast weights are not recognized, and are copied.)
  """
  weights = {id(leaf): leaf for leaf in jax.tree.leaves(shared)}
  layout: dict[str, Any] = {}

  def row(
    inputs: Any, key: jax.Array | None, index: jax.Array, own: Any
  ) -> tuple[Any, list[Any], Any]:
    features, pull, _, state = forward(
      lambda both: halves.encode_row(model, both[0], both[1], inputs, key, index),
      (shared, own),
      False,
    )
    residuals, layout['structure'] = jax.tree.flatten(pull)
    layout['fixed'] = [weights.get(id(leaf)) for leaf in residuals]
    mapped = [r for r, w in zip(residuals, layout['fixed'], strict=True) if w is None]
    return features, mapped, state

  features, mapped, states = group.map(row, group.own)

  def backward(args: tuple[Any, Any]) -> Any:
    residuals, cotangents = args
    residuals = iter(residuals)
    leaves = [next(residuals) if w is None else w for w in layout['fixed']]
    return jax.tree.unflatten(layout['structure'], leaves)(cotangents)[0]

  return features, lambda cotangents: jax.vmap(backward)((mapped, cotangents)), states
