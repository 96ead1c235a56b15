"""The task Jacobian J = ∂L/∂θ of one batch: its rows, Jᵀw and Jv, each at the regime's cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax.gradients import halves, linear, two_halves
from mtl_jax.gradients.linear import Jacobian
from mtl_jax.protocols import TwoHalves, encodes_by_task, has_two_halves

LossFunctions = TwoHalves | Callable[..., jax.Array] | Mapping[str, Callable] | Sequence[Callable]


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
) -> Jacobian:
  """Runs the forward pass and returns what can be asked of its Jacobian.

  Args:
    loss_fns: see `gradients.task_gradients`.
    params: parameters.
    batch: what the functions take; for a model, either regime.
    key: PRNG key of dropout.
    stacked: the rows will be asked for; with own inputs, `pull` costs T copies of θ then.
    push: Jv will be asked for.
  """
  if has_two_halves(loss_fns):
    once = halves.has_shared_inputs(batch) and not encodes_by_task(loss_fns)
    regime = two_halves.shared_inputs if once else two_halves.own_features
    return regime(loss_fns, params, batch, key, stacked, push)
  args = (batch,) if key is None else (batch, key)
  if stacked and not callable(loss_fns):
    return _many_functions(loss_fns, params, args)
  return _one_function(as_function(loss_fns), params, args, push)


def as_function(loss_fns: Any) -> Callable[..., jax.Array]:
  """Loss functions in any form but two halves, as one function to losses `[T]`."""
  if callable(loss_fns):
    return loss_fns
  functions = list(loss_fns.values() if isinstance(loss_fns, Mapping) else loss_fns)
  return lambda *args: jnp.stack([function(*args).astype(jnp.float32) for function in functions])


def _one_function(
  function: Callable[..., jax.Array], params: Any, args: tuple[Any, ...], push: bool
) -> Jacobian:
  if is_split(params):
    shared = params['shared']
    losses, pull = jax.vjp(
      lambda shared, tasks: function({'shared': shared, 'tasks': tasks}, *args),
      shared,
      params['tasks'],
    )
  else:
    shared = params
    losses, pull = jax.vjp(lambda everything: function(everything, *args), params)
  if losses.ndim != 1:
    raise ValueError(f'The loss function must return losses [T], not shape {losses.shape}.')

  def of_shared(shared: Any) -> jax.Array:
    return function({**params, 'shared': shared} if is_split(params) else shared, *args)

  def rows(at_once: int | None) -> Any:
    return linear.map_rows(
      lambda w: pull(w)[0], jnp.eye(losses.shape[0], dtype=losses.dtype), at_once
    )

  push_losses = jax.linearize(of_shared, shared)[1] if push else None
  return Jacobian(
    losses.astype(jnp.float32),
    jnp.ones(losses.shape, bool),
    pull(jnp.ones_like(losses))[1] if is_split(params) else None,
    rows,
    lambda weights: pull(weights.astype(losses.dtype))[0],
    (lambda direction: push_losses(direction).astype(jnp.float32)) if push_losses else None,
    None,
    lambda: jnp.ones(losses.shape, jnp.float32),
  )


def _many_functions(functions: Any, params: Any, args: tuple[Any, ...]) -> Jacobian:
  names = list(functions) if isinstance(functions, Mapping) else list(range(len(functions)))
  losses, grads = [], []
  for name in names:
    loss, grad = jax.value_and_grad(functions[name])(params, *args)
    losses.append(loss.astype(jnp.float32))
    grads.append(grad)
  tasks = None
  if is_split(params):
    if isinstance(functions, Mapping) and set(names) == set(params['tasks']):
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
  )
