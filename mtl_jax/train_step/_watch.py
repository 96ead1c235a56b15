"""What a step reports of its tasks: norms, cosines, conflicts, and which of them are finite."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtl_jax import gradients, protocols
from mtl_jax.train_step import _path


def of_gramian(gram: jax.Array) -> dict[str, jax.Array]:
  """Norms `[T]` and cosines `[T, T]`."""
  return {'gradient_norm': jnp.sqrt(jnp.diagonal(gram)), 'cosine': gradients.cosines(gram)}


def of_model(
  model: Any,
  params: Any,
  batch: Any,
  key: jax.Array | None,
  grads: Any,
  options: _path.Options,
  logged: set[str],
) -> dict[str, jax.Array]:
  """What is monitored, for a method that has no use for each task's gradient."""
  shared = _path.shared_of(params)
  path = _path.choose(options, shared, _path.tasks_in(model, params, batch), True, logged)
  free = path == 'matrix_free' and bool(jax.tree.leaves(shared))
  at_once = _path.at_once(options, path)
  jacobian = _path.linearize(
    options, model, params, batch, key, stacked=not free, push=free, at_once=at_once
  )
  direction = _path.shared_of(grads)
  if jacobian.push is not None:
    gram = _path.free_gramian(jacobian, jacobian)
    return of_gramian(gram) | monitored(gram, jacobian.push(direction), jacobian.present)
  rows = jacobian.rows(at_once)
  return of_rows(rows, direction, jacobian, options)


def of_rows(
  rows: Any, direction: Any, jacobian: gradients.Jacobian, options: _path.Options
) -> dict[str, jax.Array]:
  """Norms of the rows; on request, all that is monitored."""
  if not jax.tree.leaves(rows):  # a shared half without parameters
    tasks = jacobian.losses.shape[0]
    rows, direction = {'none': jnp.zeros((tasks, 1))}, {'none': jnp.zeros(1)}
  if not options.monitor:
    return {'gradient_norm': gradients.norms(rows)}
  gram = gradients.gramian(rows, sharded=options.sharded)
  one = jax.tree.map(lambda leaf: leaf[None], direction)
  along = gradients.gramian(rows, one, sharded=options.sharded)[:, 0]
  return of_gramian(gram) | monitored(gram, along, jacobian.present)


def monitored(gram: jax.Array, along: jax.Array, present: jax.Array) -> dict[str, jax.Array]:
  """Share of pairs in conflict, and share of tasks that the direction improves to first order."""
  here = present.astype(jnp.float32)
  pairs = jnp.outer(here, here) * (1.0 - jnp.eye(here.shape[0]))
  improved = jnp.sum(jnp.where(along > 0, here, 0.0)) / jnp.maximum(jnp.sum(here), 1.0)
  conflict = jnp.sum(jnp.where(gram < 0, pairs, 0.0)) / jnp.maximum(jnp.sum(pairs), 1.0)
  return {'conflict': conflict, 'improved': improved}


def finite(model: Any, losses: jax.Array, norms: jax.Array, tasks: Any) -> jax.Array:
  """`[T]` bool: loss, shared gradient and own gradient of each task."""
  known = jnp.isfinite(losses) & jnp.isfinite(norms)
  return known if tasks is None else known & _finite_heads(model, tasks, losses.shape[0])


def finite_sum(model: Any, losses: jax.Array, grads: Any) -> jax.Array:
  """`finite` where the shared gradient is a sum: where it alone is not, no task can be named."""
  known = jnp.isfinite(losses)
  if gradients.is_split(grads):
    known = known & _finite_heads(model, grads['tasks'], losses.shape[0])
  shared = _path.shared_of(grads)
  return known & (jnp.isfinite(optax.tree.norm(shared)) | ~jnp.all(known))


def _finite_heads(model: Any, tasks: Any, count: int) -> jax.Array:
  if protocols.stacks_tasks(model):
    rows = [jnp.isfinite(leaf).reshape(count, -1).all(axis=1) for leaf in jax.tree.leaves(tasks)]
    return jnp.all(jnp.stack(rows), axis=0) if rows else jnp.ones(count, bool)
  names = _names(model, tasks, count)
  if names is None:  # of which task they are is not known
    return jnp.full(count, jnp.isfinite(optax.tree.norm(tasks)))
  return jnp.stack([jnp.isfinite(optax.tree.norm(tasks[name])) for name in names])


def _names(model: Any, tasks: Any, count: int) -> Sequence[str] | None:
  """The tasks' names in order, where they are the keys of `tasks`; else None."""
  names = protocols.task_names_of(model)
  return names if len(names) == count and set(names) == set(tasks) else None
