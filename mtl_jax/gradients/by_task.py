"""Per-task gradients, at the cost that the regime allows."""

from collections.abc import Mapping
from typing import Any

import jax

from mtl_jax.gradients import binding, functions
from mtl_jax.gradients.jacobian import LossFunctions, is_split, linearize, of_functions
from mtl_jax.gradients.linear import Jacobian


def task_gradients(
  loss_fns: LossFunctions,
  params: Any,
  *args: Any,
  has_aux: bool = False,
  loss_scale: jax.Array | float | None = None,
  tasks_at_once: int | None = None,
  **kwargs: Any,
) -> tuple[Any, Any]:
  """Losses and one gradient a task.

  Where `params` is `{'shared': θ, 'tasks': {name: φ}}`, θ's leaves get a leading task axis, φ's
  none: task i's φ only ever gets loss i's gradient. Any other pytree is all shared.

  * A model with two halves and **shared inputs**: one forward, T backwards through the shared half.
  * A model with two halves and **own inputs**: one forward and one backward over all examples,
    whatever T is, for each set of tasks with inputs of equal shape.
  * One function to all losses: one forward, T backwards through everything.
  * Separate functions (a mapping or a sequence): one forward and one backward each; inside `jit`
    XLA computes what they have in common once.

  Args:
    loss_fns: a model (`mtl_jax.MultiTaskModel` or any `gradients.TwoHalves`); a function
      `(params, *args, **kwargs)` to losses, an array `[T]`, a dict of `[]` or a list of them; or a
      mapping or sequence of functions to one loss `[]` each.
    params: parameters; all leaves are floating arrays.
    *args: what the functions take after the parameters. For a model `batch`, in either regime, and
      a PRNG key of dropout where there is one.
    has_aux: the functions return `(losses, aux)`, aux being any pytree, such as outputs or a new
      state of the model.
    loss_scale: what the losses are multiplied by before they are differentiated, so that gradients
      in float16 do not vanish on the way; what comes out is divided by it.
    tasks_at_once: with shared inputs, how many tasks are pulled back in one batched pass; passes
      follow each other, and fewer hold less memory. None: all; on a CPU two, whose arrays stay in
      its caches.
    **kwargs: keyword arguments of the functions.

  Returns:
    losses `[T]` float32, of a dict in its order, and gradients: a pytree like `params`, shared
    leaves `[T, ...]`. With `has_aux` `(losses, aux), gradients`; separate functions give a dict or
    a list of aux.

  Raises:
    ValueError: a leaf of the parameters is no floating array; a function cannot be called with
      these arguments, or returns something else.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> losses, grads = mtl_jax.task_gradients(
    ...   [lambda w, x: jnp.sum(w * x), lambda w, x: jnp.sum(w**2 * x)],
    ...   jnp.ones(2), jnp.arange(2.0))
    >>> losses.tolist(), grads.tolist()
    ([1.0, 1.0], [[0.0, 1.0], [0.0, 2.0]])
  """
  jacobian = linearize_any(loss_fns, params, args, kwargs, has_aux, loss_scale)
  losses = (jacobian.losses, jacobian.extra.aux) if has_aux else jacobian.losses
  return losses, _joined(jacobian, params, tasks_at_once)


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
  return jacobian.losses, jacobian.present, _joined(jacobian, params, tasks_at_once)


def _joined(jacobian: Jacobian, params: Any, tasks_at_once: int | None) -> Any:
  rows = jacobian.rows(tasks_at_once)
  return {'shared': rows, 'tasks': jacobian.tasks} if is_split(params) else rows


def linearize_any(
  loss_fns: LossFunctions,
  params: Any,
  args: tuple[Any, ...],
  kwargs: Mapping[str, Any],
  has_aux: bool = False,
  scale: jax.Array | float | None = None,
) -> Jacobian:
  """The Jacobian, its rows to be asked for, of losses in any form; see `task_gradients`."""
  functions.check_params(params)
  bound = binding.bind(loss_fns, has_aux=has_aux)
  if isinstance(bound, functions.Losses):
    return of_functions(bound, params, args, None, kwargs, stacked=True, scale=scale)

  def of_model(batch: Any, key: jax.Array | None = None) -> Jacobian:
    return linearize(bound, params, batch, key, stacked=True, scale=scale)

  return of_model(*args, **kwargs)
