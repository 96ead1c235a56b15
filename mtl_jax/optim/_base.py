"""What a balancing method is: a weighting, and the optax transformation made from it.

The methods live in this folder's other files, one family a file.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from mtl_jax import gradients

State = Any
NEEDS = ('losses', 'gramian', 'jacobian')
"""What a method reads, from the cheapest to the dearest."""


class WeightingUpdate(Protocol):
  """`(state, *, present, losses, gramian, key, **extra_args) -> weights [T], state`."""

  def __call__(
    self,
    state: State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, State]:
    """Task weights for one step.

    Args:
      state: from `init` or the last update.
      present: `[T]` bool, the tasks of this step. An absent task's row and column of `gramian` are
        zero.
      losses: `[T]`, for methods that need them.
      gramian: `[T, T]` inner products of the task gradients; None for methods on losses only.
      key: PRNG key of this step, from the train step; None: methods draw from their state's key.
      **extra_args: ignored, as in optax.
    """


class Weighting(NamedTuple):
  """A balancing method as weights on task gradients.

  Attributes:
    init: num_tasks -> state.
    update: see `WeightingUpdate`.
    needs: 'losses', 'gramian' or 'jacobian'.
  """

  init: Callable[[int | None], State]
  update: WeightingUpdate
  needs: str


class Balancer(optax.GradientTransformationExtraArgs):
  """An optax transformation from stacked task gradients (leaves `[T, ...]`) to one direction.

  Attributes:
    weighting: the method as weights, for the train step's cheapest path; None for a method that
      is not a weighting.
    needs: what it reads.
  """

  weighting: Weighting | None
  needs: str

  def __new__(cls, init, update, weighting: Weighting | None = None, needs: str = 'jacobian'):
    self = super().__new__(cls, init, update)
    self.weighting = weighting
    self.needs = needs
    return self


class Normalizer(optax.GradientTransformationExtraArgs):
  """An optax transformation that scales each task's gradient: stacked -> stacked.

  Attributes:
    weighting: the scales `[T]`, as a weighting.
    needs: what it reads.
  """

  weighting: Weighting
  needs: str

  def __new__(cls, init, update, weighting: Weighting):
    self = super().__new__(cls, init, update)
    self.weighting = weighting
    self.needs = weighting.needs
    return self


def balancer(weighting: Weighting, num_tasks: int | None = None) -> Balancer:
  """The direction wᵀJ of a weighting, as an optax transformation."""

  def update(updates, state, params=None, **extra_args):
    del params
    weights, state = _weigh(weighting, updates, state, extra_args)
    return gradients.combine(weights, updates), state

  return Balancer(lambda params: weighting.init(num_tasks), update, weighting, weighting.needs)


def normalizer(weighting: Weighting, num_tasks: int | None = None) -> Normalizer:
  """The rows scaled by a weighting, as an optax transformation."""

  def update(updates, state, params=None, **extra_args):
    del params
    scales, state = _weigh(weighting, updates, state, extra_args)
    return scale_rows(scales, updates), state

  return Normalizer(lambda params: weighting.init(num_tasks), update, weighting)


def compose(*links: Normalizer | Balancer) -> Balancer:
  """Normalizers, then a balancer, as one balancer that computes one Gramian.

  With rows scaled by s, the Gramian is diag(s) G diag(s): so no link but the last touches J, and
  `compose(gradnorm(num_tasks=3), pcgrad())` gives what `optax.chain` of the two gives, at the cost
  of `pcgrad` alone. As in a chain, every link gets the same `losses`.

  Args:
    *links: zero or more normalizers and, last, one balancer.

  Returns:
    a balancer; its state is the tuple of the links' states.

  Raises:
    ValueError: the links are not of this form.
  """
  if not links or not isinstance(links[-1], Balancer):
    raise ValueError('compose takes normalizers and, last, a balancer such as pcgrad().')
  *scalings, last = links
  if not all(isinstance(link, Normalizer) for link in scalings):
    raise ValueError('compose: every link but the last must be a normalizer such as gradnorm().')
  if not scalings:
    return last
  needs = max((link.needs for link in links), key=NEEDS.index)
  if last.weighting is None:
    chain = optax.chain(*links)
    return Balancer(chain.init, chain.update, needs='jacobian')
  weightings = [link.weighting for link in links if link.weighting is not None]

  def init(num_tasks):
    return tuple(weighting.init(num_tasks) for weighting in weightings)

  def update(state, *, present, losses=None, gramian=None, **extra_args):
    total, states = None, []
    for weighting, link_state in zip(weightings, state, strict=True):
      weights, link_state = weighting.update(
        link_state, losses=losses, gramian=gramian, present=present, **extra_args
      )
      states.append(link_state)
      total = weights if total is None else total * weights
      if gramian is not None:
        gramian = weights[:, None] * gramian * weights[None, :]
    return total, tuple(states)

  def init_chain(params):
    return tuple(link.init(params) for link in links)

  weighting = Weighting(init, update, needs)
  return Balancer(init_chain, balancer(weighting).update, weighting, needs)


def scale_rows(scales: jax.Array, stacked: Any) -> Any:
  """Multiplies row i of every leaf `[T, ...]` by scales[i]."""

  def scale(leaf):
    column = scales.reshape(scales.shape + (1,) * (leaf.ndim - 1))
    return (leaf.astype(jnp.float32) * column).astype(leaf.dtype)

  return jax.tree.map(scale, stacked)


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
        'Where only part of the tree is stacked, use mtl_jax.optim.on_shared.'
      )
  assert tasks is not None
  return tasks


def require_losses(losses: jax.Array | None, method: str) -> jax.Array:
  """The losses `[T]` in float32; ValueError where a chain was not given them."""
  if losses is None:
    raise ValueError(f'{method} needs the losses [T]: call tx.update(..., losses=losses).')
  return losses.astype(jnp.float32)


def _weigh(weighting, updates, state, extra_args):
  tasks = num_rows(updates, extra_args.get('losses'))
  given = dict(extra_args)
  if given.get('present') is None:
    given['present'] = jnp.ones(tasks, bool)
  if weighting.needs != 'losses':
    given['gramian'] = gradients.gramian(updates)
  return weighting.update(state, **given)
