"""Losses and Jacobian of a batch that is too large for one pass, one micro-batch after the other.

The result is that of the whole batch: what a task's loss is the mean of is added up over the
micro-batches, each with its labels, or with the sum of their weights. A model's state goes from one
micro-batch to the next, and what functions return beside their losses is stacked, `[count, ...]`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.gradients import binding, functions, halves, linear, stacked_tasks
from mtl_jax.gradients.functions import Extra
from mtl_jax.gradients.jacobian import LossFunctions
from mtl_jax.gradients.jacobian import linearize as linearize_whole
from mtl_jax.gradients.linear import Jacobian
from mtl_jax.protocols import has_two_halves, stacks_tasks

_MICRO_BATCH = 2**32 - 2  # apart from what `halves` and the train step fold into a step's key


def losses(
  loss_fns: LossFunctions, params: Any, batch: Any, key: jax.Array | None, count: int
) -> tuple[jax.Array, jax.Array, Extra]:
  """Losses `[T]` and labels `[T]` of a batch in `count` micro-batches, and what else comes.

  Its gradient runs each micro-batch forward once more and holds the activations of one.

  Args:
    loss_fns: see `gradients.task_gradients`; of functions, losses are taken to be means over the
      examples.
    params: parameters.
    batch: arrays `[count·B, ...]`.
    key: PRNG key of dropout, of which each micro-batch has its own; None outside training.
    count: of micro-batches.

  Raises:
    ValueError: an array cannot be split into so many parts.
  """

  def one(model: LossFunctions, part: Any, key: jax.Array | None) -> tuple[Any, Extra]:
    def losses(part: Any, key: jax.Array | None) -> tuple[Any, Extra]:
      found, labels, extra = counted(model, params, part, key)
      return (labels * found, labels), extra

    # No common subexpression could undo this: the backward pass is a loop of its own.
    return jax.checkpoint(losses, prevent_cse=False)(part, key)

  (total, labels), extra = _sum(one, loss_fns, batch, key, count)
  return total * _inverse(labels), labels, extra


def linearize(
  loss_fns: LossFunctions,
  params: Any,
  batch: Any,
  key: jax.Array | None,
  count: int,
  *,
  stacked: bool = False,
  push: bool = False,
  at_once: int | None = None,
  scale: jax.Array | float | None = None,
) -> Jacobian:
  """`gradients.linearize` of a batch in `count` micro-batches.

  With `stacked` the rows are added up while the losses are, for the memory of one micro-batch and
  of J. `pull` and `push` run the micro-batches once more.

  Args:
    loss_fns: as in `losses`.
    params: parameters.
    batch: as in `losses`.
    key: as in `losses`.
    count: of micro-batches.
    stacked: the rows will be asked for.
    push: Jv will be asked for.
    at_once: tasks pulled back in one pass; what `rows` is given later plays no part.
    scale: see `gradients.linearize`.

  Raises:
    ValueError: an array cannot be split into so many parts.
  """

  def one(model: LossFunctions, part: Any, key: jax.Array | None) -> tuple[Any, Extra]:
    jacobian = linearize_whole(model, params, part, key, stacked=stacked, scale=scale)
    labels = jacobian.labels()
    return {
      'losses': labels * jacobian.losses,
      'labels': labels,
      'tasks': _of_tasks(loss_fns, labels, jacobian.tasks),
      'rows': linear.scaled(labels, jacobian.rows(at_once)) if stacked else None,
    }, jacobian.extra

  found, extra = _sum(one, loss_fns, batch, key, count)
  labels = found['labels']
  share = _inverse(labels)
  rows = linear.scaled(share, found['rows']) if stacked else None

  def pull(weights: jax.Array) -> Any:
    def of_part(model: LossFunctions, part: Any, key: jax.Array | None) -> tuple[Any, Extra]:
      jacobian = linearize_whole(model, params, part, key, scale=scale)
      return jacobian.pull(weights * share * jacobian.labels()), jacobian.extra

    return _sum(of_part, loss_fns, batch, key, count)[0]

  def pushed(direction: Any) -> jax.Array:
    def of_part(model: LossFunctions, part: Any, key: jax.Array | None) -> tuple[Any, Extra]:
      jacobian = linearize_whole(model, params, part, key, push=True, scale=scale)
      assert jacobian.push is not None
      return jacobian.labels() * jacobian.push(direction), jacobian.extra

    return share * _sum(of_part, loss_fns, batch, key, count)[0]

  return Jacobian(
    found['losses'] * share,
    labels > 0,
    # A function's own parameters may be of several tasks, which all have as many labels.
    _of_tasks(loss_fns, share, found['tasks'], otherwise=1.0 / count),
    lambda at_once: rows,
    pull,
    pushed if push else None,
    None,
    lambda: labels,
    extra,
  )


def micro_batches(batch: Any, count: int) -> Any:
  """Arrays `[count·B, ...]` as `[count, B, ...]`; part j has every count-th example from j on.

  So each part of a batch that is split over devices is split over them as well.

  Raises:
    ValueError: an array has another number of rows.
  """

  def split(leaf: Any) -> jax.Array:
    if jnp.ndim(leaf) < 1 or leaf.shape[0] % count:
      raise ValueError(
        f'accumulate={count}: a batch is split into {count} micro-batches, but an array of it has '
        f'the shape {jnp.shape(leaf)}.'
      )
    return jnp.moveaxis(jnp.reshape(leaf, (-1, count, *leaf.shape[1:])), 1, 0)

  return jax.tree.map(split, batch)


def counted(
  loss_fns: LossFunctions, params: Any, batch: Any, key: jax.Array | None
) -> tuple[jax.Array, jax.Array, Extra]:
  """Losses `[T]` of a whole batch, the labels `[T]` that each is the mean of, and more."""
  if stacks_tasks(loss_fns):
    return stacked_tasks.counted_losses(loss_fns, params, batch, key)
  if has_two_halves(loss_fns):
    return halves.counted_losses(loss_fns, params, batch, key)
  found, extra = functions.as_losses(loss_fns)(params, batch, key=key)
  return found, jnp.ones(found.shape, jnp.float32), extra


def _of_tasks(
  loss_fns: LossFunctions, factors: jax.Array, tasks: Any, otherwise: float = 1.0
) -> Any:
  """The gradient of each task's own parameters times its factor."""
  if stacks_tasks(loss_fns):
    return linear.scaled(factors, tasks)
  if has_two_halves(loss_fns):
    of = dict(zip(loss_fns.task_names, factors, strict=True))
    return {
      name: jax.tree.map(lambda leaf, by=of[name]: leaf * by.astype(leaf.dtype), own)
      for name, own in tasks.items()
    }
  return jax.tree.map(lambda leaf: leaf * otherwise, tasks)


def _sum(
  one: Callable[..., tuple[Any, Extra]],
  loss_fns: LossFunctions,
  batch: Any,
  key: jax.Array | None,
  count: int,
) -> tuple[Any, Extra]:
  """Σ over the micro-batches, in float32 or better, of the first thing that `one` returns.

  Args:
    one: `(loss_fns bound to a state, micro-batch, key) -> any pytree, what else came`.
    loss_fns: what is bound.
    batch: arrays `[count·B, ...]`.
    key: as in `losses`.
    count: of micro-batches.
  """
  if stacks_tasks(loss_fns):
    parts = halves.stack_trees([loss_fns.part(batch, index, count) for index in range(count)])
  else:
    parts = micro_batches(batch, count)
  first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), parts)
  like, extra = jax.eval_shape(lambda part: one(loss_fns, part, key), first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), like)

  def add(carried: tuple[Any, Any], item: tuple[Any, jax.Array]) -> tuple[Any, Any]:
    (total, state), (part, index) = carried, item
    own = None if key is None else jax.random.fold_in(jax.random.fold_in(key, _MICRO_BATCH), index)
    found, extra = one(binding.rebind(loss_fns, state), part, own)
    total = jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, found)
    return (total, extra.model_state), extra.aux

  start = (zeros, binding.state_of(loss_fns))
  (total, state), aux = jax.lax.scan(add, start, (parts, jnp.arange(count)))
  summed = jax.tree.map(lambda t, x: t.astype(x.dtype), total, like)
  return summed, dataclasses.replace(extra, aux=aux, model_state=state)


def _inverse(labels: jax.Array) -> jax.Array:
  """1 / labels, and 1 where there are none."""
  return 1.0 / jnp.where(labels > 0, labels, 1.0)
