"""Per-task gradients, at the cost that the regime allows, and the two things computed from them.

Nothing here knows a balancing method or an optimizer.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import halves

LossFunctions = (
  halves.TwoHalves | Callable[..., jax.Array] | Mapping[str, Callable] | Sequence[Callable]
)


def task_gradients(
  loss_fns: LossFunctions,
  params: Any,
  batch: Any,
  key: jax.Array | None = None,
  *,
  tasks_at_once: int | None = None,
) -> tuple[jax.Array, Any]:
  """Losses and one gradient a task.

  Where `params` is `{'shared': θ, 'tasks': {name: φ}}`, θ's leaves get a leading task axis, φ's
  none: task i's φ only ever gets loss i's gradient. Any other pytree is all shared.

  * A model with two halves and **shared inputs**: one forward, T backwards through the shared half.
  * A model with two halves and **own inputs**: one forward and one backward over all examples,
    whatever T is, for each set of tasks with inputs of equal shape.
  * One function to losses `[T]`: one forward, T backwards through everything.
  * Separate functions (a mapping or a sequence): one forward and one backward each; inside `jit`
    XLA computes what they have in common once.

  Args:
    loss_fns: a model (`mtl_jax.MultiTaskModel` or any `halves.TwoHalves`), a function
      `(params, batch[, key]) -> losses [T]`, or a mapping or sequence of functions to one
      loss `[]`.
    params: parameters.
    batch: what the functions take; for a model, either regime.
    key: PRNG key of dropout, passed on where given.
    tasks_at_once: with shared inputs, how many tasks are pulled back in one batched pass; passes
      follow each other, and fewer hold less memory. None: all; on a CPU two, whose arrays stay in
      its caches.

  Returns:
    losses `[T]` float32 and gradients: a pytree like `params`, shared leaves `[T, ...]`.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> losses, grads = mtl_jax.task_gradients(
    ...   [lambda w, x: jnp.sum(w * x), lambda w, x: jnp.sum(w**2 * x)],
    ...   jnp.ones(2), jnp.arange(2.0))
    >>> losses.tolist(), grads.tolist()
    ([1.0, 1.0], [[0.0, 1.0], [0.0, 2.0]])
  """
  losses, _, grads = losses_and_gradients(loss_fns, params, batch, key, tasks_at_once=tasks_at_once)
  return losses, grads


def losses_and_gradients(
  loss_fns: LossFunctions,
  params: Any,
  batch: Any,
  key: jax.Array | None = None,
  *,
  tasks_at_once: int | None = None,
) -> tuple[jax.Array, jax.Array, Any]:
  """`task_gradients`, and between its two results `[T]` bool: the tasks present in the batch."""
  if has_two_halves(loss_fns):
    model: Any = loss_fns
    if halves.has_shared_inputs(batch):
      return _shared_inputs(model, params, batch, key, tasks_at_once)
    return _own_inputs(model, params, batch, key)
  args = (batch,) if key is None else (batch, key)
  if callable(loss_fns):
    losses, grads = _one_function(loss_fns, params, args)
  else:
    losses, grads = _many_functions(loss_fns, params, args)
  return losses, jnp.ones(losses.shape, bool), grads


def has_two_halves(model: Any) -> bool:
  """Whether `model` offers `encode` and `task_loss` (see `halves.TwoHalves`)."""
  return hasattr(model, 'encode') and hasattr(model, 'task_loss')


def is_split(params: Any) -> bool:
  """Whether parameters are `{'shared': θ, 'tasks': {name: φ}}` rather than all shared."""
  return isinstance(params, Mapping) and set(params) == {'shared', 'tasks'}


def gramian(stacked: Any, *, sharded: bool = False) -> jax.Array:
  """G = J·Jᵀ, leaf by leaf, accumulated in float32 whatever the gradients' dtype.

  Args:
    stacked: pytree of task gradients, every leaf `[T, ...]`, at least one.
    sharded: the leaves are split over devices: contract them axis by axis, so that T² numbers are
      communicated and nothing is gathered. On one device merged axes are the faster way.

  Returns:
    `[T, T]` float32.
  """

  def leaf_gramian(leaf: jax.Array) -> jax.Array:
    rows = leaf if sharded and leaf.ndim > 1 else leaf.reshape(leaf.shape[0], -1)
    axes = tuple(range(1, rows.ndim))
    return jax.lax.dot_general(
      rows,
      rows,
      ((axes, axes), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32,
    )

  return functools.reduce(jnp.add, map(leaf_gramian, jax.tree.leaves(stacked)))


def combine(weights: jax.Array, stacked: Any) -> Any:
  """The direction wᵀJ.

  Args:
    weights: `[T]`.
    stacked: pytree of task gradients, every leaf `[T, ...]`.

  Returns:
    pytree without the task axis, in the gradients' dtypes.
  """

  def weigh(leaf: jax.Array) -> jax.Array:
    total = jax.lax.dot_general(
      weights.astype(jnp.float32),
      leaf.astype(jnp.float32),
      (((0,), (0,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
    )
    return total.astype(leaf.dtype)

  return jax.tree.map(weigh, stacked)


def cosines(gram: jax.Array) -> jax.Array:
  """Pairwise cosines `[T, T]` of task gradients from their Gramian; 0 beside a zero gradient."""
  norms = jnp.sqrt(jnp.diagonal(gram))
  product = norms[:, None] * norms[None, :]
  return jnp.where(product > 0, gram / jnp.where(product > 0, product, 1.0), 0.0)


def _shared_inputs(model, params, batch, key, tasks_at_once):
  names = model.task_names
  by_task = halves.examples(batch, names)
  features, pull = _floating_vjp(
    lambda shared: model.encode(shared, batch['inputs'], halves.encode_key(key, 0)),
    params['shared'],
  )
  heads = _head_gradients(model, params, by_task, dict.fromkeys(by_task, features), key, names)
  cotangents = halves.stack_trees([heads[name][2] for name in by_task])
  if tasks_at_once is None and jax.default_backend() == 'cpu':
    tasks_at_once = 2
  rows = _map(lambda cotangent: pull(cotangent)[0], cotangents, tasks_at_once)
  return _assemble(params, names, heads, [(list(by_task), rows)])


def _own_inputs(model, params, batch, key):
  names = model.task_names
  by_task = halves.examples(batch, names)
  heads: dict[str, Any] = {}
  blocks: list[tuple[list[str], Any]] = []
  for group in halves.equal_shapes(by_task):
    inputs, keys = halves.group_inputs(by_task, group, names, key)
    features, pull = _mapped_vjp(
      lambda shared, x, k: model.encode(shared, x, k), params['shared'], inputs, keys
    )
    by_name = {name: halves.take_row(features, row) for row, name in enumerate(group)}
    part = {name: by_task[name] for name in group}
    heads |= _head_gradients(model, params, part, by_name, key, names)
    cotangents = halves.stack_trees([heads[name][2] for name in group])
    blocks.append((group, pull(cotangents)))
  return _assemble(params, names, heads, blocks)


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


def _assemble(params, names, heads, blocks):
  """Puts rows and head gradients in the tasks' order, with zeros where a task is absent."""
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
  return losses, present, {'shared': _in_order(names, blocks), 'tasks': tasks}


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


def _one_function(function, params, args):
  if is_split(params):
    losses, pull = jax.vjp(
      lambda shared, tasks: function({'shared': shared, 'tasks': tasks}, *args),
      params['shared'],
      params['tasks'],
    )
  else:
    losses, pull = jax.vjp(lambda everything: function(everything, *args), params)
  if losses.ndim != 1:
    raise ValueError(f'The loss function must return losses [T], not shape {losses.shape}.')
  rows = jax.vmap(lambda cotangent: pull(cotangent)[0])(
    jnp.eye(losses.shape[0], dtype=losses.dtype)
  )
  if not is_split(params):
    return losses.astype(jnp.float32), rows
  tasks = pull(jnp.ones_like(losses))[1]
  return losses.astype(jnp.float32), {'shared': rows, 'tasks': tasks}


def _many_functions(functions, params, args):
  names = list(functions) if isinstance(functions, Mapping) else list(range(len(functions)))
  losses, grads = [], []
  for name in names:
    loss, grad = jax.value_and_grad(functions[name])(params, *args)
    losses.append(loss.astype(jnp.float32))
    grads.append(grad)
  if not is_split(params):
    return jnp.stack(losses), halves.stack_trees(grads)
  if isinstance(functions, Mapping) and set(names) == set(params['tasks']):
    tasks = {name: grad['tasks'][name] for name, grad in zip(names, grads, strict=True)}
  else:
    tasks = jax.tree.map(lambda *leaves: sum(leaves), *(grad['tasks'] for grad in grads))
  return jnp.stack(losses), {
    'shared': halves.stack_trees([grad['shared'] for grad in grads]),
    'tasks': tasks,
  }


def _floating_leaves(tree: Any) -> tuple[list[jax.Array], Callable[[Sequence[jax.Array]], Any]]:
  """The leaves that carry gradients, and the function that puts them back among the others."""
  leaves, structure = jax.tree.flatten(tree)
  floating = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

  def rebuild(values: Sequence[jax.Array]) -> Any:
    rest = iter(values)
    mixed = [next(rest) if f else leaf for f, leaf in zip(floating, leaves, strict=True)]
    return jax.tree.unflatten(structure, mixed)

  return [leaf for f, leaf in zip(floating, leaves, strict=True) if f], rebuild


def _floating_vjp(encode, shared):
  """Features, and the pull-back of the cotangents of their floating leaves to `shared`."""

  def floating(shared):
    features = encode(shared)
    return _floating_leaves(features)[0], features

  _, pull, features = jax.vjp(floating, shared, has_aux=True)
  return features, pull


def _mapped_vjp(encode, shared, inputs, keys):
  """`_floating_vjp` for A stacked inputs at once: features `[A, ...]`, rows `[A, ...]`.

  The residuals of one task's forward hold the weights beside the activations. The weights are the
  same for every task, so they are kept out of the mapped outputs: no A copies of θ. (In bfloat16
  computation the cast weights are not recognized, and are copied.)
  """
  weights = {id(leaf): leaf for leaf in jax.tree.leaves(shared)}
  layout: dict[str, Any] = {}

  def forward(args):
    features, pull = _floating_vjp(lambda p: encode(p, *args), shared)
    residuals, layout['structure'] = jax.tree.flatten(pull)
    layout['fixed'] = [weights.get(id(leaf)) for leaf in residuals]
    mapped = [r for r, w in zip(residuals, layout['fixed'], strict=True) if w is None]
    return features, mapped

  features, mapped = jax.vmap(forward)((inputs, keys))

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
