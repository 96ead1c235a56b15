"""The arguments of methods and their updates: checked, and brought to one form."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def num_rows(stacked: Any, losses: jax.Array | None = None) -> int:
  """T, the length of the leading axis that all leaves share.

  Raises:
    ValueError: there are no leaves, or a leaf (named) has another leading axis than the losses or,
      without losses, than the first leaf.
  """
  leaves = jax.tree_util.tree_leaves_with_path(stacked)
  if not leaves:
    raise ValueError('There are no task gradients: the pytree has no leaves.')
  tasks = losses.shape[0] if losses is not None else (jnp.shape(leaves[0][1]) or (None,))[0]
  for path, leaf in leaves:
    if not jnp.shape(leaf) or jnp.shape(leaf)[0] != tasks:
      raise ValueError(
        f'Task gradients need a leading axis of T = {tasks} tasks on every leaf, but '
        f'{jax.tree_util.keystr(path) or "the leaf"} has shape {jnp.shape(leaf)}. '
        'Where only part of the tree is stacked, use mtl_jax.optim.on_shared; what accumulates or '
        'checks updates, such as optax.MultiSteps, goes after the balancer, around the optimizer.'
      )
  assert tasks is not None
  return tasks


def refuse_masked(params: Any) -> None:
  """Raises ValueError for a tree of which `optax.masked` or `optax.partition` hides a part.

  What they hide from a balancer they would pass on with its task axis, as an update of another
  shape than the parameter's.
  """
  if any(map(_masked, jax.tree.leaves(params, is_leaf=_masked))):
    raise ValueError(
      'A balancer inside optax.masked or optax.partition does not see all parameters, and the rest '
      'would keep the task axis: balance first, then mask, as in optax.chain(pcgrad(), '
      'optax.masked(adam, mask)).'
    )


def _masked(node: Any) -> bool:
  return isinstance(node, optax.MaskedNode)


def require_losses(losses: jax.Array | None, method: str, tasks: int | None = None) -> jax.Array:
  """The losses `[T]` in float32; ValueError where a chain was not given them, or not `tasks`."""
  if losses is None:
    raise ValueError(f'{method} needs the losses [T]: call tx.update(..., losses=losses).')
  if tasks is not None and losses.shape != (tasks,):
    raise ValueError(f'{method} of {tasks} tasks was given losses {losses.shape}.')
  return losses.astype(jnp.float32)


def known_tasks(tasks: int | None, num_tasks: int | None, method: str) -> int:
  """T, for a state of that size: what the caller knows, else the method's own `num_tasks`.

  Raises:
    ValueError: nobody knows, or the two differ.
  """
  if tasks is None and num_tasks is None:
    raise ValueError(f'{method} needs num_tasks in an optax chain: {method}(num_tasks=T).')
  if None not in (tasks, num_tasks) and tasks != num_tasks:
    raise ValueError(f'{method}(num_tasks={num_tasks}) was given {tasks} tasks.')
  return tasks if tasks is not None else num_tasks  # type: ignore[return-value]


def per_task(
  values: Sequence[float] | jax.Array | None, present: jax.Array, default: float, option: str
) -> jax.Array:
  """An option with one number a task as `[T]` float32; None: the default for each.

  Raises:
    ValueError: another length than T; `option`, such as 'stch: reference', is named.
  """
  if values is None:
    return jnp.full(present.shape, default, jnp.float32)
  given = jnp.asarray(values, jnp.float32)
  if given.shape != present.shape:
    raise ValueError(f'{option} has shape {given.shape}, and there are {present.shape[0]} tasks.')
  return given


def step_present(
  tx: optax.GradientTransformation,
  grads: jax.Array,
  opt_state: optax.OptState,
  params: jax.Array,
  present: jax.Array,
) -> tuple[jax.Array, optax.OptState]:
  """One step of a method's own optimizer: momentum moves no absent task.

  Args:
    tx: the optimizer.
    grads: `[T]`, finite; a task with one whose square is not, beyond 1e19, counts as absent.
    opt_state: of `params`.
    params: `[T]`, one number a task.
    present: `[T]` bool.

  Returns:
    what to add to `params`, 0 for absent tasks, and the state, in which their entries are kept.
  """
  present = present & jnp.isfinite(grads * grads)  # Adam would keep an infinity for good
  with jax.numpy_dtype_promotion('standard'):  # optax counts on it; callers may be strict
    steps, new_state = tx.update(grads, opt_state, params)

  def keep(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(present, new, old) if jnp.shape(new) == present.shape else new

  return jnp.where(present, steps, 0.0), jax.tree.map(keep, new_state, opt_state)


def check_per_task(
  values: Sequence[float] | jax.Array | None, option: str, *, least: str = 'any'
) -> None:
  """Refuses an option with one number a task whose numbers are out of range.

  Args:
    values: `[T]`; None, and what is traced and has no value yet, pass.
    option: its name, such as 'stch: preference'.
    least: 'positive', 'zero' (none negative, and not all zero), or 'any'.

  Raises:
    ValueError: not one row of finite numbers, or one is below the least.
  """
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(values)) or values is None:
    return
  given = np.asarray(values, np.float64)
  if given.ndim != 1 or not np.isfinite(given).all():
    raise ValueError(f'{option} must be one finite number a task, not {given.tolist()}.')
  if least == 'positive' and not (given > 0).all():
    raise ValueError(f'{option} must be positive for every task, not {given.tolist()}.')
  if least == 'zero' and not ((given >= 0).all() and (given > 0).any()):
    raise ValueError(
      f'{option} must be 0 or more for every task, and not 0 for all, not {given.tolist()}.'
    )


def preferences(
  preference: Sequence[float] | jax.Array | None, present: jax.Array, method: str
) -> jax.Array:
  """The preference vector p `[T]` over the tasks present: Σ p = 1, and 0 for absent tasks.

  Args:
    preference: `[T]`, positive; None: 1/T each.
    present: `[T]` bool.
    method: for the error.

  Raises:
    ValueError: another length than T.
  """
  given = per_task(preference, present, 1.0, f'{method}: preference')
  here = jnp.where(present, given, 0.0)
  total = jnp.sum(here)
  return here / jnp.where(total > 0, total, 1.0)
