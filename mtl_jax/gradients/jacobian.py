"""The task Jacobian J = ∂L/∂θ of one batch: its rows, Jᵀw and Jv, each at the regime's cost."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.gradients import functions, halves, linear, stacked_tasks, two_halves
from mtl_jax.gradients.functions import Losses
from mtl_jax.gradients.linear import Jacobian
from mtl_jax.protocols import TwoHalves, encodes_by_task, has_two_halves, stacks_tasks

LossFunctions = (
  TwoHalves | Losses | Callable[..., Any] | Mapping[str, Callable] | Sequence[Callable]
)


def is_split(params: Any) -> bool:
  """Whether parameters are `{'shared': θ, 'tasks': {name: φ}}` rather than all shared."""
  return isinstance(params, Mapping) and set(params) == {'shared', 'tasks'}


def linearize(
  loss_fns: LossFunctions,
  params: Any,
  batch: Any,
  key: jax.Array | None = None,
  *,
  stacked: bool = False,
  push: bool = False,
  scale: jax.Array | float | None = None,
) -> Jacobian:
  """Runs the forward pass and returns what can be asked of its Jacobian.

  Args:
    loss_fns: see `gradients.task_gradients`.
    params: parameters.
    batch: what the functions take; for a model, either regime.
    key: PRNG key of dropout; functions without a parameter for it are called without.
    stacked: the rows will be asked for; with own inputs, `pull` costs T copies of θ then.
    push: Jv will be asked for.
    scale: what the losses are multiplied by before they are differentiated; what comes out is
      divided by it, so that it shows in rounding only.
  """
  if has_two_halves(loss_fns):
    if stacks_tasks(loss_fns):
      jacobian = stacked_tasks.linearize(loss_fns, params, batch, key, stacked, push, scale)
      return jacobian if scale is None else jacobian.unscaled(scale)
    once = halves.has_shared_inputs(batch) and not encodes_by_task(loss_fns)
    regime = two_halves.shared_inputs if once else two_halves.own_features
    jacobian = regime(loss_fns, params, batch, key, stacked, push, scale)
    return jacobian if scale is None else jacobian.unscaled(scale)
  losses = functions.as_losses(loss_fns)
  return of_functions(losses, params, (batch,), key, {}, stacked=stacked, push=push, scale=scale)


def of_functions(
  losses: Losses,
  params: Any,
  args: tuple[Any, ...],
  key: jax.Array | None,
  kwargs: Mapping[str, Any],
  *,
  stacked: bool = False,
  push: bool = False,
  scale: jax.Array | float | None = None,
) -> Jacobian:
  """`linearize` of functions with any arguments, after them the key where they can take it."""
  losses = dataclasses.replace(losses, scale=scale)
  if stacked and losses.separate:
    jacobian = _many_functions(losses, params, args, key, kwargs)
  else:
    jacobian = _one_function(losses, params, args, key, kwargs, push)
  if scale is None:
    return jacobian
  return jacobian._replace(losses=jacobian.losses / scale).unscaled(scale)


def _one_function(
  losses_of: Losses,
  params: Any,
  args: tuple[Any, ...],
  key: jax.Array | None,
  kwargs: Mapping[str, Any],
  push: bool,
) -> Jacobian:
  split = is_split(params)

  def function(*parts: Any) -> tuple[jax.Array, functions.Extra]:
    whole = {'shared': parts[0], 'tasks': parts[1]} if split else parts[0]
    return losses_of(whole, *args, key=key, kwargs=kwargs)

  parts = (params['shared'], params['tasks']) if split else (params,)
  losses, pull, extra = jax.vjp(function, *parts, has_aux=True)

  def rows(at_once: int | None) -> Any:
    return linear.map_rows(
      lambda w: pull(w)[0], jnp.eye(losses.shape[0], dtype=losses.dtype), at_once
    )

  push_losses = None
  if push:
    push_losses = jax.linearize(lambda shared: function(shared, *parts[1:])[0], parts[0])[1]
  return Jacobian(
    losses,
    jnp.ones(losses.shape, bool),
    pull(jnp.ones_like(losses))[1] if split else None,
    rows,
    lambda weights: pull(weights.astype(losses.dtype))[0],
    push_losses,
    None,
    lambda: jnp.ones(losses.shape, jnp.float32),
    extra,
  )


def _many_functions(
  functions: Losses,
  params: Any,
  args: tuple[Any, ...],
  key: jax.Array | None,
  kwargs: Mapping[str, Any],
) -> Jacobian:
  names = list(functions.by_name)
  losses, grads, aux = [], [], []
  for name in names:

    def function(params: Any, name: Any = name) -> tuple[jax.Array, Any]:
      return functions.of(name, params, *args, key=key, kwargs=kwargs)

    (loss, more), grad = jax.value_and_grad(function, has_aux=True)(params)
    losses.append(loss)
    grads.append(grad)
    aux.append(more)
  tasks = None
  if is_split(params):
    if functions.task_names and set(names) == set(params['tasks']):
      tasks = {name: grad['tasks'][name] for name, grad in zip(names, grads, strict=True)}
    else:
      tasks = jax.tree.map(lambda *leaves: sum(leaves), *(grad['tasks'] for grad in grads))
    grads = [grad['shared'] for grad in grads]
  stacked = halves.stack_trees(grads)
  return Jacobian(
    jnp.stack(losses),
    jnp.ones(len(losses), bool),
    tasks,
    lambda at_once: stacked,
    lambda weights: linear.weighted(weights, stacked),
    None,
    None,
    lambda: jnp.ones(len(losses), jnp.float32),
    functions.join(aux),
  )
