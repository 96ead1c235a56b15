"""A model as two halves, a batch as one example a task: what gradients, steps and models share.

Knows nothing of Flax: any object that is `protocols.TwoHalves` can be trained.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.gradients.functions import Extra
from mtl_jax.protocols import (
  Example,
  Features,
  Params,
  TwoHalves,
  encodes_by_task,
  reads_state,
)


def has_shared_inputs(batch: Mapping[str, Any]) -> bool:
  """True for `{'inputs', 'targets', ...}`, False for `{task: {'inputs', 'targets', ...}}`."""
  return 'inputs' in batch and 'targets' in batch


def examples(batch: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Splits a batch of either regime into one example a task.

  Args:
    batch: `{'inputs': x, 'targets': {task: y}[, 'mask': {task: bool [B]}][, 'weight': {task:
      float [B]}]}` or `{task: {'inputs': x, 'targets': y[, 'mask': bool [B]][, 'weight': float
      [B]]}}`; a task that 'mask' or 'weight' leaves out has all labels, all of weight 1.
    names: the model's tasks. Tasks that the batch leaves out are absent from the result.

  Returns:
    the second form, in the order of `names`.

  Raises:
    ValueError: the batch names a task that the model lacks, or holds none of the model's tasks.
  """
  shared = has_shared_inputs(batch)
  labelled = batch['targets'] if shared else batch
  more = {key: batch[key] for key in ('mask', 'weight') if key in batch} if shared else {}
  unknown = sorted(set(labelled).union(*more.values()) - set(names))
  if unknown:
    raise ValueError(
      f'The batch has targets, masks or weights for {unknown}, but the tasks are {list(names)}.'
    )
  present = [name for name in names if name in labelled]
  if not present:
    raise ValueError(f'The batch holds none of the tasks {list(names)}; its keys: {list(batch)}.')
  if not shared:
    return {name: dict(batch[name]) for name in present}
  return {
    name: {'inputs': batch['inputs'], 'targets': labelled[name]}
    | {key: by_task[name] for key, by_task in more.items() if name in by_task}
    for name in present
  }


def encode_key(key: jax.Array | None, index: int | jax.Array) -> jax.Array | None:
  """The key of the shared half for task `index`'s inputs (0 where all tasks share their inputs)."""
  return None if key is None else jax.random.fold_in(key, 2 * index)


def head_key(key: jax.Array | None, index: int) -> jax.Array | None:
  """The key of task `index`'s own half."""
  return None if key is None else jax.random.fold_in(key, 2 * index + 1)


def equal_shapes(by_task: Mapping[str, Example]) -> list[list[str]]:
  """Groups the tasks whose inputs have one tree structure, shape and dtype; order is kept."""
  groups: dict[Any, list[str]] = {}
  for name, example in by_task.items():
    leaves, structure = jax.tree.flatten(example['inputs'])
    signature = (structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
    groups.setdefault(signature, []).append(name)
  return list(groups.values())


def stack_trees(trees: Sequence[Any]) -> Any:
  """Stacks equal pytrees along a new first axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def take_row(tree: Any, row: int | jax.Array) -> Any:
  """Row `row` of every leaf's first axis."""
  return jax.tree.map(lambda leaf: leaf[row], tree)


def rows_of(tree: Any) -> list[Any]:
  """All rows of every leaf's first axis, whose gradients are stacked, not added up in its shape."""
  leaves, structure = jax.tree.flatten(tree)
  return [jax.tree.unflatten(structure, row) for row in zip(*map(jnp.unstack, leaves), strict=True)]


class Group(NamedTuple):
  """A present tasks that are encoded at once, one row each.

  Attributes:
    names: `[A]`.
    places: their places among all tasks, `[A]`.
    own: what of their own parameters takes part in encoding, leaves `[A, ...]`; often empty.
    inputs: `[A, B, ...]`, or `[B, ...]` where all have the same.
    keys: `[A]`; None outside training.
    axis: of A in `inputs`, 0 or None.
  """

  names: list[str]
  places: list[int]
  own: Any
  inputs: Any
  keys: jax.Array | None
  axis: int | None

  def map(self, function: Callable[..., Any], *args: Any) -> Any:
    """`vmap` of `function(inputs, key, index, *args)` over the rows; `args` have A in front."""
    axes = (self.axis, 0, 0, *(0,) * len(args))
    return jax.vmap(function, axes)(self.inputs, self.keys, jnp.array(self.places), *args)


def groups(
  model: TwoHalves, params: Params, batch: Mapping[str, Any], key: jax.Array | None = None
) -> list[Group]:
  """The tasks of a batch of either regime, in groups whose inputs have equal shapes."""
  names = model.task_names
  by_task = examples(batch, names)
  made = []
  for group in equal_shapes(by_task):
    places = [names.index(name) for name in group]
    if has_shared_inputs(batch):
      inputs, axis = batch['inputs'], None
    else:
      inputs, axis = stack_trees([by_task[name]['inputs'] for name in group]), 0
    keys = None
    if key is not None:
      keys = jax.vmap(lambda place: encode_key(key, place))(jnp.array(places))
    own = {}
    if encodes_by_task(model):
      own = stack_trees([params['tasks'][name]['encoder'] for name in group])
    made.append(Group(group, places, own, inputs, keys, axis))
  return made


def encode(
  model: TwoHalves, shared: Params, inputs: Any, key: jax.Array | None
) -> tuple[Features, Any]:
  """The features that all tasks read, and what the shared half's state becomes, None without."""
  if reads_state(model):
    return model.encode_updating(shared, inputs, key)
  return model.encode(shared, inputs, key), None


def encode_row(
  model: Any, shared: Params, own: Params, inputs: Any, key: jax.Array | None, index: jax.Array
) -> tuple[Features, Any]:
  """`encode` for one task."""
  if encodes_by_task(model):
    return model.encode_task(shared, own, index, inputs, key), None
  return encode(model, shared, inputs, key)


def encode_group(model: Any, shared: Params, own: Params, group: Group) -> tuple[Features, Any]:
  """Features `[A, B, ...]` of a group and states `[A, ...]`, by one forward."""
  return group.map(
    lambda inputs, key, index, own: encode_row(model, shared, own, inputs, key, index), own
  )


def mean_state(states: Sequence[Any]) -> Any:
  """What one state becomes that tasks changed apart, from states `[A, ...]` of their groups.

  Running means move by the mean over the tasks of what each batch would have moved them.
  """
  if not jax.tree.leaves(states):
    return states[0]

  def mean(*leaves: jax.Array) -> jax.Array:
    rows = jnp.concatenate(leaves)
    floating = jnp.issubdtype(rows.dtype, jnp.inexact)
    return rows.mean(axis=0).astype(rows.dtype) if floating else rows[0]

  return jax.tree.map(mean, *states)


def joined_state(model: TwoHalves, shared: Any, tasks: Mapping[str, Any]) -> Any:
  """The state of a model after a batch, from those of its halves; None where it is bound to none.

  `tasks` may leave out tasks that the batch left out.
  """
  if not reads_state(model):
    return None
  before = model.model_state['tasks']
  return {'shared': shared, 'tasks': {name: tasks.get(name, s) for name, s in before.items()}}


def encode_examples(
  model: TwoHalves, params: Params, batch: Mapping[str, Any], key: jax.Array | None = None
) -> tuple[dict[str, Features], Any]:
  """Encodes a batch of either regime: one forward, vmapped over tasks with inputs of equal shape.

  Returns:
    `{task: features}` for the tasks of the batch, and what the shared half's state becomes.
  """
  if has_shared_inputs(batch) and not encodes_by_task(model):
    features, state = encode(model, params['shared'], batch['inputs'], encode_key(key, 0))
    return dict.fromkeys(examples(batch, model.task_names), features), state
  encoded: dict[str, Features] = {}
  states = []
  for group in groups(model, params, batch, key):
    stacked, state = encode_group(model, params['shared'], group.own, group)
    encoded |= dict(zip(group.names, rows_of(stacked), strict=True))
    states.append(state)
  return encoded, mean_state(states)


def task_loss(
  model: TwoHalves,
  name: str,
  task_params: Params,
  features: Features,
  example: Example,
  key: jax.Array | None,
) -> tuple[jax.Array, jax.Array, Any]:
  """A task's loss, labels, and what its own half's state becomes, None without."""
  if reads_state(model):
    return model.task_loss_updating(name, task_params, features, example, key)
  loss, labels = model.task_loss(name, task_params, features, example, key)
  return loss, labels, None


def counted_losses(
  model: TwoHalves, params: Params, batch: Mapping[str, Any], key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, Extra]:
  """Every task's loss on one batch, by one forward pass.

  Args:
    model: the two halves.
    params: `{'shared': θ, 'tasks': {name: φ}}`.
    batch: either regime (see `examples`).
    key: PRNG key of dropout; None outside training.

  Returns:
    losses `[T]` float32 (0 where absent), the labels `[T]` float32 that each is the mean of, or the
    sum of their weights (0: absent), and the model's state, where it is bound to one.
  """
  names = model.task_names
  by_task = examples(batch, names)
  features, shared_state = encode_examples(model, params, batch, key)
  losses, labels, states = [], [], {}
  for index, name in enumerate(names):
    loss = count = jnp.zeros((), jnp.float32)
    if name in by_task:
      loss, count, states[name] = task_loss(
        model, name, params['tasks'][name], features[name], by_task[name], head_key(key, index)
      )
    losses.append(loss.astype(jnp.float32))
    labels.append(count.astype(jnp.float32))
  extra = Extra(model_state=joined_state(model, shared_state, states))
  return jnp.stack(losses), jnp.stack(labels), extra
