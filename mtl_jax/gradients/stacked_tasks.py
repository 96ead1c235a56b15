"""The Jacobian of a model whose tasks' own parameters are stacked: no loop over tasks anywhere."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.gradients import halves, linear, two_halves
from mtl_jax.gradients.functions import Extra
from mtl_jax.gradients.linear import Jacobian, Representation
from mtl_jax.protocols import StackedTasks


def linearize(
  model: StackedTasks,
  params: Any,
  batch: Mapping[str, Any],
  key: jax.Array | None,
  stacked: bool,
  push: bool,
  scale: jax.Array | float | None = None,
) -> Jacobian:
  """As `two_halves.shared_inputs` and `own_features`, with φ and labels `[T, ...]`."""
  model.check(batch)
  shared, tasks = params['shared'], len(model.task_names)
  group = _group(model, batch, key)
  pulled: Any = None
  push_features = None
  if model.shared_inputs:
    common, pull, push_features, _ = two_halves.forward(
      lambda shared: (model.encode(shared, batch['inputs'], halves.encode_key(key, 0)), None),
      shared,
      push,
    )
    features = model.spread(common)
  elif stacked:
    features, pull, _ = two_halves.mapped_vjp(model, shared, group)
  else:
    features, pull, push_features, _ = two_halves.forward(
      lambda shared: halves.encode_group(model, shared, {}, group), shared, push
    )
  leaves, rebuild = two_halves.floating_leaves(features)

  def total(own: Any, leaves: list[jax.Array]) -> tuple[jax.Array, Any]:
    losses, labels = model.stacked_losses(own, rebuild(leaves), batch, key)
    losses = losses.astype(jnp.float32)
    # Task i's loss reads row i alone, so that the gradient of the sum holds each task's own.
    return jnp.sum(losses if scale is None else losses * scale), (losses, labels)

  (_, (losses, labels)), (own, cotangents) = jax.value_and_grad(
    total, argnums=(0, 1), has_aux=True
  )(params['tasks'], leaves)
  if stacked and not model.shared_inputs:
    pulled = pull(cotangents)[0]

  def rows(at_once: int | None) -> Any:
    if pulled is not None:
      return pulled
    if at_once is None and jax.default_backend() == 'cpu':
      at_once = 2
    return linear.map_rows(lambda cotangent: pull(cotangent)[0], cotangents, at_once)

  def weighted(weights: jax.Array) -> Any:
    if pulled is not None:
      return linear.weighted(weights, pulled)
    if model.shared_inputs:
      return pull(linear.weighted(weights, cotangents))[0]
    return pull(linear.scaled(weights, cotangents))[0]

  def pushed(direction: Any) -> jax.Array:
    assert push_features is not None
    tangents = push_features(direction)
    if model.shared_inputs:
      tangents = [jnp.broadcast_to(t, (tasks, *t.shape)) for t in tangents]
    return linear.inner_products(tasks, cotangents, tangents)

  places = list(range(tasks))
  if model.shared_inputs:
    representation = Representation(cotangents, True, places, lambda leaves: pull(leaves)[0])
  else:
    squares = linear.inner_products(tasks, cotangents, cotangents)
    representation = Representation(squares, False, places, None)
  return Jacobian(
    losses,
    labels > 0,
    own,
    rows,
    weighted,
    pushed if push else None,
    representation,
    lambda: labels.astype(jnp.float32),
  )


def counted_losses(
  model: StackedTasks, params: Any, batch: Mapping[str, Any], key: jax.Array | None
) -> tuple[jax.Array, jax.Array, Extra]:
  """`halves.counted_losses`."""
  model.check(batch)
  if model.shared_inputs:
    features = model.spread(
      model.encode(params['shared'], batch['inputs'], halves.encode_key(key, 0))
    )
  else:
    features, _ = halves.encode_group(model, params['shared'], {}, _group(model, batch, key))
  losses, labels = model.stacked_losses(params['tasks'], features, batch, key)
  return losses.astype(jnp.float32), labels.astype(jnp.float32), Extra()


def _group(model: StackedTasks, batch: Mapping[str, Any], key: jax.Array | None) -> halves.Group:
  """All tasks, encoded at once."""
  places = list(range(len(model.task_names)))
  keys = None
  if key is not None:
    keys = jax.vmap(lambda place: halves.encode_key(key, place))(jnp.array(places))
  return halves.Group(list(model.task_names), places, {}, batch['inputs'], keys, 0)
