"""Transformations of transformations: where a balancing method applies."""

import optax

from mtl_jax import gradients


def on_shared(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """Applies a stacked transformation to the shared half of `{'shared': θ, 'tasks': {name: φ}}`.

  The gradients of `tasks` pass unchanged: each task's own parameters get its loss's plain gradient.

  Args:
    tx: on stacked gradients (leaves `[T, ...]`): a balancer, a normalizer, or a chain of them.

  Returns:
    a transformation of the whole tree; its state is that of `tx`.

  Raises:
    ValueError: the gradients or parameters are not `{'shared', 'tasks'}`.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.on_shared(mtl_jax.optim.sum_tasks())
    >>> state = tx.init({'shared': jnp.zeros(1), 'tasks': {'a': jnp.zeros(1), 'b': jnp.zeros(1)}})
    >>> grads = {'shared': jnp.ones((2, 1)), 'tasks': {'a': jnp.ones(1), 'b': jnp.ones(1)}}
    >>> tx.update(grads, state)[0]['shared'].tolist()
    [2.0]
  """
  tx = optax.with_extra_args_support(tx)

  def init(params):
    return tx.init(_shared(params))

  def update(updates, state, params=None, **extra_args):
    inner = None if params is None else _shared(params)
    shared, state = tx.update(_shared(updates), state, inner, **extra_args)
    return {'shared': shared, 'tasks': updates['tasks']}, state

  return optax.GradientTransformationExtraArgs(init, update)


def _shared(tree):
  if not gradients.is_split(tree):
    raise ValueError("on_shared needs a tree {'shared': ..., 'tasks': {...}}.")
  return tree['shared']
