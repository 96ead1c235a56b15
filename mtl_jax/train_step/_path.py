"""The way to the tasks' gradients: all at once, one after the other, or never held."""

import functools
import logging
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import gradients

_SHARE = 0.25  # of the device's memory that 'auto' gives to the stacked gradients
_LOG = logging.getLogger('mtl_jax')


class Options(NamedTuple):
  """How `make_train_step` was asked to compute the direction; see there."""

  at: str
  jacobian: str
  tasks_at_once: int | None
  unit_task_weights: bool
  monitor: bool
  parameter_devices: int  # that share the parameters
  sharded: bool
  accumulate: int = 1
  loss_scale: jax.Array | float | None = None


def losses_of(
  model: Any, params: Any, batch: Any, key: jax.Array | None, accumulate: int = 1
) -> tuple[jax.Array, jax.Array, gradients.Extra]:
  """Losses `[T]` and present `[T]` of any model, the batch in so many parts; what else comes."""
  find = gradients.accumulated.counted
  if accumulate > 1:
    find = functools.partial(gradients.accumulated.losses, count=accumulate)
  losses, labels, extra = find(model, params, batch, key)
  return losses, labels > 0, extra


def linearize(
  options: Options,
  model: Any,
  params: Any,
  batch: Any,
  key: jax.Array | None,
  *,
  stacked: bool = False,
  push: bool = False,
  at_once: int | None = None,
) -> gradients.Jacobian:
  """`gradients.linearize`, the batch in as many parts as the options say.

  Whoever asks for the rows says here how many tasks are pulled back at once, and to `rows` again.
  """
  ways: dict[str, Any] = {'stacked': stacked, 'push': push, 'scale': options.loss_scale}
  if options.accumulate == 1:
    return gradients.linearize(model, params, batch, key, **ways)
  return gradients.accumulated.linearize(
    model, params, batch, key, options.accumulate, at_once=at_once, **ways
  )


def at_once(options: Options, path: str) -> int | None:
  """How many tasks are pulled back in one pass, on the way that `choose` found."""
  return 1 if path == 'sequential' else options.tasks_at_once


def tasks_in(model: Any, params: Any = None, batch: Any = None) -> int | None:
  """T; None for a single function to all losses without a batch to try it on."""
  if gradients.has_two_halves(model):
    return len(model.task_names)
  losses = gradients.as_losses(model)
  if losses.separate:
    return len(losses.by_name)
  return None if batch is None else losses.count(params, batch, key=jax.random.key(0))


def shared_of(tree: Any) -> Any:
  """θ, of parameters or what is shaped like them."""
  return tree['shared'] if gradients.is_split(tree) else tree


def choose(
  options: Options, shared: Any, tasks: int | None, can_be_free: bool, logged: set[str]
) -> str:
  """The way to the rows, and once a note of it with the memory it will take."""
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shared))
  size //= options.parameter_devices
  limit = int(_SHARE * _device_memory())
  path = options.jacobian
  if path == 'auto':
    path = 'stacked' if tasks * size <= limit else ('matrix_free' if can_be_free else 'sequential')
  predicted = (2 if path == 'matrix_free' else tasks) * size
  note = (
    f'jacobian={path!r}: {predicted / 2**20:.0f} MiB for {tasks} gradients of tasks'
    + (f' (auto: stacked up to {limit / 2**20:.0f} MiB)' if options.jacobian == 'auto' else '')
  )  # fmt: skip
  if note not in logged:
    logged.add(note)
    _LOG.info(note)
  return path


def _device_memory() -> int:
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'bytes_limit' in stats:
    return stats['bytes_limit']
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def free_gramian(left: gradients.Jacobian, right: gradients.Jacobian) -> jax.Array:
  """J₁·J₂ᵀ from T products J₁(J₂ᵀeᵢ), one after the other: one gradient is held at a time."""
  tasks = left.losses.shape[0]

  def column(unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    assert left.push is not None
    row = right.pull(unit)
    return left.push(row), gradients.norms(jax.tree.map(lambda leaf: leaf[None], row))[0]

  columns, norms = jax.lax.map(column, jnp.eye(tasks, dtype=jnp.float32))
  if left is not right:
    return columns.T
  # J(Jᵀe) rounds below zero on the diagonal where a gradient vanishes by cancellation.
  return jnp.where(jnp.eye(tasks, dtype=bool), jnp.diag(norms**2), (columns + columns.T) / 2.0)
