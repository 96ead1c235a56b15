"""The task Jacobian J = ∂L/∂θ of one batch: its rows, Jᵀw and Jv, each at the regime's cost.

Nothing here knows a balancing method. `gradients` has the public functions.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import halves

LossFunctions = (
  halves.TwoHalves | Callable[..., jax.Array] | Mapping[str, Callable] | Sequence[Callable]
)


class Representation(NamedTuple):
  """The task losses as functions of the features, which every loss reads.

  Attributes:
    rows: cotangents of the features' floating leaves, `[A, B, ...]` for A present tasks.
    shared: whether the tasks read the same features; else row i is of task i's own features.
    places: the tasks of the rows, int `[A]`.
    pull: cotangents `[B, ...]` of shared features -> gradient of θ.
  """

  rows: Any
  shared: bool
  places: list[int]
  pull: Callable[[Any], Any] | None


class Jacobian(NamedTuple):
  """Losses of one batch and the linear maps of their Jacobian.

  Attributes:
    losses: `[T]` float32.
    present: `[T]` bool, the tasks of the batch.
    tasks: plain gradients of the tasks' own parameters; None where all parameters are shared.
    rows: tasks_at_once -> J, a pytree like θ with leaves `[T, ...]`.
    pull: weights `[T]` -> Jᵀw, a pytree like θ.
    push: pytree v like θ -> Jv `[T]`; None unless asked for.
    representation: None for a model without two halves.
  """

  losses: jax.Array
  present: jax.Array
  tasks: Any
  rows: Callable[[int | None], Any]
  pull: Callable[[jax.Array], Any]
  push: Callable[[Any], jax.Array] | None
  representation: Representation | None


def has_two_halves(model: Any) -> bool:
  """Whether `model` offers `encode` and `task_loss` (see `halves.TwoHalves`)."""
  return hasattr(model, 'encode') and hasattr(model, 'task_loss')


def is_split(params: Any) -> bool:
  """Whether parameters are `{'shared': θ, 'tasks': {name: φ}}` rather than all shared."""
  return isinstance(params, Mapping) and set(params) == {'shared', 'tasks'}


def jacobian(
  loss_fns: LossFunctions,
  params: Any,
  batch: Any,
  key: jax.Array | None = None,
  *,
  stacked: bool = False,
  push: bool = False,
) -> Jacobian:
  """Runs the forward pass and returns what can be asked of its Jacobian.

  Args:
    loss_fns: see `gradients.task_gradients`.
    params: parameters.
    batch: what the functions take; for a model, either regime.
    key: PRNG key of dropout.
    stacked: the rows will be asked for; with own inputs, `pull` costs T copies of θ then.
    push: Jv will be asked for.
  """
  if has_two_halves(loss_fns):
    once = halves.has_shared_inputs(batch) and not halves.encodes_by_task(loss_fns)
    regime = _shared_inputs if once else _own_features
    return regime(loss_fns, params, batch, key, stacked, push)
  args = (batch,) if key is None else (batch, key)
  if stacked and not callable(loss_fns):
    return _many_functions(loss_fns, params, args)
  return _one_function(as_function(loss_fns), params, args, push)


def as_function(loss_fns: Any) -> Callable[..., jax.Array]:
  """Loss functions in any form but two halves, as one function to losses `[T]`."""
  if callable(loss_fns):
    return loss_fns
  functions = list(loss_fns.values() if isinstance(loss_fns, Mapping) else loss_fns)
  return lambda *args: jnp.stack([function(*args).astype(jnp.float32) for function in functions])


def _shared_inputs(model, params, batch, key, stacked, push):
  del stacked
  names = model.task_names
  by_task = halves.examples(batch, names)
  features, pull, push_features = _forward(
    lambda shared: model.encode(shared, batch['inputs'], halves.encode_key(key, 0)),
    params['shared'],
    push,
  )
  heads = _head_gradients(model, params, by_task, dict.fromkeys(by_task, features), key, names)
  cotangents = halves.stack_trees([heads[name][2] for name in by_task])
  places = [names.index(name) for name in by_task]

  def rows(at_once):
    if at_once is None and jax.default_backend() == 'cpu':
      at_once = 2
    pulled = _map(lambda cotangent: pull(cotangent)[0], cotangents, at_once)
    return _in_order(names, [(list(by_task), pulled)])

  def weighted(weights):
    return pull(_weighted(_take(weights, places), cotangents))[0]

  def pushed(direction):
    tangents = [jnp.broadcast_to(t, (len(places), *t.shape)) for t in push_features(direction)]
    return _put(_inner(len(places), cotangents, tangents), places, len(names))

  losses, present, tasks = _assemble(params, names, heads)
  return Jacobian(
    losses,
    present,
    tasks,
    rows,
    weighted,
    pushed if push else None,
    Representation(cotangents, True, places, lambda leaves: pull(leaves)[0]),
  )


def _own_features(model, params, batch, key, stacked, push):
  """Own inputs, or an encoder that works differently for each task: one backward for all."""
  names = model.task_names
  by_task = halves.examples(batch, names)
  shared = params['shared']
  heads: dict[str, Any] = {}
  maps = []
  for group in halves.groups(model, params, batch, key):
    if stacked:
      features, pull = _mapped_vjp(model, shared, group)
      push_features = None
    else:
      features, pull, push_features = _forward(
        lambda both, group=group: halves.encode_group(model, both[0], both[1], group),
        (shared, group.own),
        push,
      )
    by_name = dict(zip(group.names, halves.rows_of(features), strict=True))
    part = {name: by_task[name] for name in group.names}
    heads |= _head_gradients(model, params, part, by_name, key, names)
    cotangents = halves.stack_trees([heads[name][2] for name in group.names])
    pulled: Any = pull(cotangents) if stacked else None  # leaves [A, ...]
    if jax.tree.leaves(group.own):
      own = pulled[1] if stacked else pull(cotangents)[0][1]
      for row, name in enumerate(group.names):
        value, count, feature_grad, grad = heads[name]
        added = jax.tree.map(jnp.add, grad['encoder'], halves.take_row(own, row))
        heads[name] = (value, count, feature_grad, {**grad, 'encoder': added})
    maps.append((group, cotangents, pull, pulled, push_features))

  def rows(at_once):
    del at_once
    return _in_order(names, [(group.names, pulled[0]) for group, _, _, pulled, _ in maps])

  def weighted(weights):
    total = None
    for group, cotangents, pull, pulled, _ in maps:
      weights_here = _take(weights, group.places)
      if stacked:
        part = _weighted(weights_here, pulled[0])
      else:
        part = pull(_scaled(weights_here, cotangents))[0][0]
      total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total

  def pushed(direction):
    total = jnp.zeros(len(names), jnp.float32)
    for group, cotangents, _, _, push_features in maps:
      assert push_features is not None
      tangents = push_features((direction, jax.tree.map(jnp.zeros_like, group.own)))
      total = total + _put(
        _inner(len(group.places), cotangents, tangents), group.places, len(names)
      )
    return total

  norms: dict[int, jax.Array] = {}
  for group, cotangents, _, _, _ in maps:
    squares = _inner(len(group.places), cotangents, cotangents)
    norms |= dict(zip(group.places, squares, strict=True))
  losses, present, tasks = _assemble(params, names, heads)
  return Jacobian(
    losses,
    present,
    tasks,
    rows,
    weighted,
    pushed if push else None,
    Representation(jnp.stack(list(norms.values())), False, list(norms), None),
  )


def _one_function(function, params, args, push):
  if is_split(params):
    shared = params['shared']
    losses, pull = jax.vjp(
      lambda shared, tasks: function({'shared': shared, 'tasks': tasks}, *args),
      shared,
      params['tasks'],
    )
  else:
    shared = params
    losses, pull = jax.vjp(lambda everything: function(everything, *args), params)
  if losses.ndim != 1:
    raise ValueError(f'The loss function must return losses [T], not shape {losses.shape}.')

  def of_shared(shared):
    return function({**params, 'shared': shared} if is_split(params) else shared, *args)

  def rows(at_once):
    return _map(lambda w: pull(w)[0], jnp.eye(losses.shape[0], dtype=losses.dtype), at_once)

  push_losses = jax.linearize(of_shared, shared)[1] if push else None
  return Jacobian(
    losses.astype(jnp.float32),
    jnp.ones(losses.shape, bool),
    pull(jnp.ones_like(losses))[1] if is_split(params) else None,
    rows,
    lambda weights: pull(weights.astype(losses.dtype))[0],
    (lambda direction: push_losses(direction).astype(jnp.float32)) if push_losses else None,
    None,
  )


def _many_functions(functions, params, args):
  names = list(functions) if isinstance(functions, Mapping) else list(range(len(functions)))
  losses, grads = [], []
  for name in names:
    loss, grad = jax.value_and_grad(functions[name])(params, *args)
    losses.append(loss.astype(jnp.float32))
    grads.append(grad)
  tasks = None
  if is_split(params):
    if isinstance(functions, Mapping) and set(names) == set(params['tasks']):
      tasks = {name: grad['tasks'][name] for name, grad in zip(names, grads, strict=True)}
    else:
      tasks = jax.tree.map(lambda *leaves: sum(leaves), *(grad['tasks'] for grad in grads))
    grads = [grad['shared'] for grad in grads]
  stacked = halves.stack_trees(grads)
  return Jacobian(
    jnp.stack(losses),
    jnp.ones(len(losses), bool),
    tasks,
    lambda at_once: stacked,
    lambda weights: _weighted(weights, stacked),
    None,
    None,
  )


def _head_gradients(model, params, by_task, features, key, names):
  """`{task: (loss [], count [], cotangents of the floating features, φ's gradient)}`."""
  results = {}
  for name, example in by_task.items():
    head_key = halves.head_key(key, names.index(name))
    leaves, rebuild = _floating_leaves(features[name])

    def loss(task_params, leaves, name=name, example=example, rebuild=rebuild, head_key=head_key):
      return model.task_loss(name, task_params, rebuild(leaves), example, head_key)

    (value, count), (task_grad, feature_grad) = jax.value_and_grad(
      loss, argnums=(0, 1), has_aux=True
    )(params['tasks'][name], leaves)
    results[name] = (value, count, feature_grad, task_grad)
  return results


def _assemble(params, names, heads):
  """Losses, present and head gradients in the tasks' order, with zeros where a task is absent."""
  zero = jnp.zeros((), jnp.float32)
  losses = jnp.stack(
    [heads[name][0].astype(jnp.float32) if name in heads else zero for name in names]
  )
  present = jnp.stack(
    [heads[name][1] > 0 if name in heads else jnp.zeros((), bool) for name in names]
  )
  tasks = {
    name: heads[name][3] if name in heads else jax.tree.map(jnp.zeros_like, params['tasks'][name])
    for name in names
  }
  return losses, present, tasks


def _in_order(names, blocks):
  """Rows `[A, ...]` of one or more groups of tasks -> rows `[T, ...]` in the order of `names`."""
  if len(blocks) == 1 and list(names) == blocks[0][0]:
    return blocks[0][1]
  places = [jnp.array([names.index(name) for name in group]) for group, _ in blocks]

  def scatter(*leaves):
    rows = jnp.zeros((len(names), *leaves[0].shape[1:]), leaves[0].dtype)
    for place, leaf in zip(places, leaves, strict=True):
      rows = rows.at[place].set(leaf)
    return rows

  return jax.tree.map(scatter, *(rows for _, rows in blocks))


def _take(weights, places):
  return weights[jnp.array(places)]


def _put(values, places, tasks):
  return jnp.zeros(tasks, jnp.float32).at[jnp.array(places)].set(values)


def _scaled(weights, stacked):
  """Row i of every leaf times weights[i]."""
  return jax.tree.map(
    lambda c: c * weights.astype(c.dtype).reshape(-1, *(1,) * (c.ndim - 1)), stacked
  )


def _weighted(weights, stacked):
  """Σ weights[i] · row i. A product: on a CPU, sums over a leading axis are many times slower."""

  def weigh(c):
    return jax.lax.dot_general(
      weights.astype(c.dtype), c, (((0,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST
    )

  return jax.tree.map(weigh, stacked)


def _inner(rows, left, right):
  """Inner products `[A]` of the A rows of two stacked pytrees, in float32."""

  def inner(a, b):
    a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32), axis=1)

  products = map(inner, jax.tree.leaves(left), jax.tree.leaves(right))
  return functools.reduce(jnp.add, products, jnp.zeros(rows, jnp.float32))


def _floating_leaves(tree: Any) -> tuple[list[jax.Array], Callable[[Sequence[jax.Array]], Any]]:
  """The leaves that carry gradients, and the function that puts them back among the others."""
  leaves, structure = jax.tree.flatten(tree)
  floating = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

  def rebuild(values: Sequence[jax.Array]) -> Any:
    rest = iter(values)
    mixed = [next(rest) if f else leaf for f, leaf in zip(floating, leaves, strict=True)]
    return jax.tree.unflatten(structure, mixed)

  return [leaf for f, leaf in zip(floating, leaves, strict=True) if f], rebuild


def _forward(encode, shared, push):
  """Features, their pull-back (cotangents of the floating leaves -> θ) and their push-forward."""

  def floating(shared):
    features = encode(shared)
    return _floating_leaves(features)[0], features

  if not push:
    _, pull, features = jax.vjp(floating, shared, has_aux=True)
    return features, pull, None
  _, linear, features = jax.linearize(floating, shared, has_aux=True)
  return features, jax.linear_transpose(linear, shared), linear


def _mapped_vjp(model, shared, group):
  """`_forward` for the rows of a group at once: features `[A, ...]`, and their pull-back to
  gradients `[A, ...]` of θ and of what of the tasks' own parameters takes part.

  The residuals of one task's forward hold the weights beside the activations. The weights are the
  same for every task, so they are kept out of the mapped outputs: no A copies of θ. (In bfloat16
  computation the cast weights are not recognized, and are copied.)
  """
  weights = {id(leaf): leaf for leaf in jax.tree.leaves(shared)}
  layout: dict[str, Any] = {}

  def forward(inputs, key, index, own):
    features, pull, _ = _forward(
      lambda both: halves.encode_row(model, both[0], both[1], inputs, key, index),
      (shared, own),
      False,
    )
    residuals, layout['structure'] = jax.tree.flatten(pull)
    layout['fixed'] = [weights.get(id(leaf)) for leaf in residuals]
    mapped = [r for r, w in zip(residuals, layout['fixed'], strict=True) if w is None]
    return features, mapped

  features, mapped = group.map(forward, group.own)

  def backward(args):
    residuals, cotangents = args
    residuals = iter(residuals)
    leaves = [next(residuals) if w is None else w for w in layout['fixed']]
    return jax.tree.unflatten(layout['structure'], leaves)(cotangents)[0]

  return features, lambda cotangents: jax.vmap(backward)((mapped, cotangents))


def _map(function: Callable, stacked: Any, at_once: int | None) -> Any:
  """`vmap` over the first axis, in passes of `at_once` rows; None: in one pass."""
  rows = jax.tree.leaves(stacked)[0].shape[0]
  if at_once is None or at_once >= rows:
    return jax.vmap(function)(stacked)
  if at_once < 1:
    raise ValueError(f'tasks_at_once must be 1 or more, not {at_once}.')
  return jax.lax.map(function, stacked, batch_size=at_once)
