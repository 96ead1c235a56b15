"""What every way to a direction ends with: the result, and the parts that it is put together of."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax import gradients, protocols, sharding
from mtl_jax.train_step import _watch

_BALANCE = 2**32 - 1  # apart from what `halves` folds in: twice a task's index, and one more


class Result(NamedTuple):
  """Losses `[T]`, present `[T]`, the gradient of all parameters, the balance's state, metrics, and
  what the forward pass returned beside the losses.
  """

  losses: jax.Array
  present: jax.Array
  grads: Any
  balance_state: Any
  metrics: dict[str, jax.Array]
  extra: gradients.Extra


def pulled(
  model: Any,
  params: Any,
  jacobian: gradients.Jacobian,
  shared: Any,
  weights: jax.Array,
  balance_state: Any,
) -> Result:
  grads = join(params, shared, jacobian.tasks)
  metrics = {'weight': weights, 'finite': _watch.finite_sum(model, jacobian.losses, grads)}
  return Result(jacobian.losses, jacobian.present, grads, balance_state, metrics, jacobian.extra)


def update(
  balance: Any, updates: Any, state: Any, params: Any = None, **known: Any
) -> tuple[Any, Any, dict[str, jax.Array]]:
  """A method's direction and state, and its weights as metrics, where it tells them."""
  weighed = protocols.weighed_of(balance)
  if weighed is None:
    transform = optax.with_extra_args_support(balance)
    direction, state = transform.update(updates, state, params, **known)
    return direction, state, {}
  direction, state, weights = weighed(updates, state, params, **known)
  return direction, state, {'weight': weights}


def part_of(model: Any, batch: Any, index: int, count: int) -> Any:
  """Every count-th example from `index` on: one of `count` independent batches."""
  if protocols.stacks_tasks(model):
    return model.part(batch, index, count)

  def part(leaf: Any) -> Any:
    if jnp.ndim(leaf) < 1 or leaf.shape[0] < count:
      raise ValueError(
        f'This method splits a batch into {count} independent ones, but an array of the batch has '
        f'the shape {jnp.shape(leaf)}.'
      )
    return leaf[index::count]

  return jax.tree.map(part, batch)


def balance_key(key: jax.Array) -> jax.Array:
  return jax.random.fold_in(key, _BALANCE)


def join(params: Any, shared: Any, tasks: Any) -> Any:
  return {'shared': shared, 'tasks': tasks} if gradients.is_split(params) else shared


def check_direction(direction: Any, params: Any) -> None:
  """Refuses a balance that leaves the task axis, or is no balance at all."""

  def check(path: tuple[Any, ...], leaf: Any, param: Any) -> None:
    if jnp.shape(leaf) != jnp.shape(param):
      raise ValueError(
        f'balance gave {sharding.path_of(path)!r} the shape {jnp.shape(leaf)} for parameters of '
        f'shape {jnp.shape(param)}: the chain must end with a balancer such as pcgrad().'
      )

  jax.tree_util.tree_map_with_path(check, direction, params)
