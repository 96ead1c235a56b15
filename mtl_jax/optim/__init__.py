"""Balancing methods: optax transformations on stacked task gradients, by name."""

from collections.abc import Callable
from typing import Any

from mtl_jax import errors
from mtl_jax.optim._base import Balancer, Normalizer, Weighting, compose
from mtl_jax.optim.gradnorm import GradNormState, gradnorm
from mtl_jax.optim.linear import mean_tasks, sum_tasks
from mtl_jax.optim.normalize import normalize_task_gradients
from mtl_jax.optim.pcgrad import PCGradState, pcgrad
from mtl_jax.optim.wrappers import on_shared

METHODS: dict[str, Callable[..., Balancer | Normalizer]] = {
  'sum_tasks': sum_tasks,
  'mean_tasks': mean_tasks,
  'normalize_task_gradients': normalize_task_gradients,
  'gradnorm': gradnorm,
  'pcgrad': pcgrad,
}
"""Every method by name."""


def get(name: str, **kwargs: Any) -> Balancer | Normalizer:
  """The method called `name`, made with `kwargs`.

  Raises:
    ConfigError: no such method; the nearest names are listed.

  Example:
    >>> import mtl_jax
    >>> mtl_jax.optim.get('pcgrad', seed=1).needs
    'gramian'
  """
  if name not in METHODS:
    raise errors.ConfigError(f'Unknown balancing method {name!r}{errors.nearest(name, METHODS)}')
  return METHODS[name](**kwargs)


__all__ = [
  'METHODS',
  'Balancer',
  'GradNormState',
  'Normalizer',
  'PCGradState',
  'Weighting',
  'compose',
  'get',
  'gradnorm',
  'mean_tasks',
  'normalize_task_gradients',
  'on_shared',
  'pcgrad',
  'sum_tasks',
]
