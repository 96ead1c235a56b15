"""Per-task gradients, at the cost that the regime allows."""

from typing import Any

import jax

from mtl_jax.gradients.jacobian import LossFunctions, is_split, linearize


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
    loss_fns: a model (`mtl_jax.MultiTaskModel` or any `gradients.TwoHalves`), a function
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
  jacobian = linearize(loss_fns, params, batch, key, stacked=True)
  rows = jacobian.rows(tasks_at_once)
  split = is_split(params)
  grads = {'shared': rows, 'tasks': jacobian.tasks} if split else rows
  return jacobian.losses, jacobian.present, grads
