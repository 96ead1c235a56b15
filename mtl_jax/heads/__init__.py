"""Task heads by kind of task: Flax modules `(features, inputs, train=False) -> outputs`."""

from typing import Any

from flax import linen as nn

from mtl_jax import errors
from mtl_jax.heads.classification import Classification, Regression
from mtl_jax.heads.pooling import POOLINGS, Pool
from mtl_jax.heads.tagging import Tagging

HEADS: dict[str, type[nn.Module]] = {
  'classification': Classification,
  'multilabel': Classification,
  'regression': Regression,
  'tagging': Tagging,
}
"""The head of each kind of task."""


def get(kind: str, **kwargs: Any) -> nn.Module:
  """The head for a kind of task, made with `kwargs` (`num_classes` but for regression).

  Raises:
    ValueError: an unknown kind; the nearest are listed.
  """
  if kind not in HEADS:
    raise ValueError(f'Unknown kind of task {kind!r}{errors.nearest(kind, HEADS)}')
  return HEADS[kind](**kwargs)


__all__ = ['HEADS', 'POOLINGS', 'Classification', 'Pool', 'Regression', 'Tagging', 'get']
