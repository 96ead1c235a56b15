"""The way to the tasks' gradients: all at once, one after the other, or never held."""

import inspect
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.gradients import halves

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


def losses_of(
  model: Any, params: Any, batch: Any, key: jax.Array | None, accumulate: int = 1
) -> tuple[jax.Array, jax.Array]:
  """Losses `[T]` and present `[T]` of any model, the batch in so many parts."""
  if accumulate > 1:
    return gradients.accumulated.losses(model, params, batch, key, accumulate)
  if gradients.has_two_halves(model):
    return halves.task_losses(model, params, batch, key)
  args = (params, batch) if key is None else (params, batch, key)
  losses = gradients.as_function(model)(*args).astype(jnp.float32)
  return losses, jnp.ones(losses.shape, bool)


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
  if options.accumulate == 1:
    return gradients.linearize(model, params, batch, key, stacked=stacked, push=push)
  return gradients.accumulated.linearize(
    model, params, batch, key, options.accumulate, stacked=stacked, push=push, at_once=at_once
  )


def at_once(options: Options, path: str) -> int | None:
  """How many tasks are pulled back in one pass, on the way that `choose` found."""
  return 1 if path == 'sequential' else options.tasks_at_once


def tasks_in(model: Any, params: Any = None, batch: Any = None) -> int | None:
  """T; None for a single function to losses `[T]` without a batch to try it on."""
  if gradients.has_two_halves(model):
    return len(model.task_names)
  if not callable(model):
    return len(model)
  if batch is None:
    return None
  args = (params, batch) if _takes(model, 2) else (params, batch, jax.random.key(0))
  return jax.eval_shape(model, *args).shape[0]


def _takes(function: Callable[..., Any], count: int) -> bool:
  """Whether it can be called with so many arguments; a guess of yes where it does not tell."""
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):
    return True
  try:
    signature.bind(*range(count))
  except TypeError:
    return False
  return True


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
