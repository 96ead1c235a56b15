"""Losses bound to the state that a model keeps beside its parameters, whatever their form."""

import dataclasses
from typing import Any

from mtl_jax.gradients.functions import Losses, as_losses
from mtl_jax.gradients.jacobian import LossFunctions
from mtl_jax.protocols import can_keep_state, has_two_halves, reads_state


def bind(
  loss_fns: LossFunctions, model_state: Any = None, has_aux: bool = False, training: bool = True
) -> LossFunctions:
  """The model, or `Losses`, that read a state, and return more than losses with `has_aux`.

  In evaluation, not `training`, functions may return the state as it came.

  Raises:
    ValueError: this model returns no more than losses, or keeps no state.
  """
  if not has_two_halves(loss_fns):
    return dataclasses.replace(
      as_losses(loss_fns), model_state=model_state, has_aux=has_aux, training=training
    )
  if has_aux:
    raise ValueError('has_aux is for loss functions: a model of two halves returns losses only.')
  if model_state is None:
    return loss_fns
  if not can_keep_state(loss_fns):
    raise ValueError(
      f'There is a model state, but {type(loss_fns).__name__} cannot read one: it has no '
      'with_state (see protocols.Stateful).'
    )
  return loss_fns.with_state(model_state)


def rebind(loss_fns: LossFunctions, model_state: Any) -> LossFunctions:
  """What is bound to one state, bound to another; None leaves it as it is."""
  if model_state is None:
    return loss_fns
  if isinstance(loss_fns, Losses):
    return dataclasses.replace(loss_fns, model_state=model_state)
  return bind(loss_fns, model_state)


def state_of(loss_fns: LossFunctions) -> Any:
  """The state that losses are bound to, or None."""
  if isinstance(loss_fns, Losses) or reads_state(loss_fns):
    return loss_fns.model_state
  return None
