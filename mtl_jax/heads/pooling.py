"""From one state a token to one vector an example."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import errors

POOLINGS = ('mean', 'max', 'first', 'attention')
"""The ways to pool."""


def check(option: str, how: str) -> None:
  """Raises ValueError unless there is such a way to pool."""
  if how not in POOLINGS:
    raise ValueError(f'{option}: no {how!r}{errors.nearest(how, POOLINGS)}')


class Pool(nn.Module):
  """Pools states over the tokens; a vector an example passes unchanged.

  Attributes:
    how: 'mean', 'max', 'first' (token 0), or 'attention' (softmax of a learned score per token).

  Raises:
    ValueError: an unknown way to pool, or states without a mask that tells which are padding.
  """

  how: str = 'mean'

  @nn.compact
  def __call__(self, features: jax.Array, inputs: Any) -> jax.Array:
    """Features `[B, D]`, or `[B, S, D]` with `inputs['mask']` `[B, S]` -> `[B, D]`."""
    check('how', self.how)
    if features.ndim == 2:
      return features
    if features.ndim != 3 or not (isinstance(inputs, Mapping) and 'mask' in inputs):
      raise ValueError(
        f'A head for whole examples cannot read features {features.shape}: they need to be [B, D], '
        "or [B, S, D] of inputs with a 'mask' [B, S]."
      )
    mask = inputs['mask'][..., None]  # [B, S, 1]
    if self.how == 'first':
      return features[:, 0]
    if self.how == 'max':
      lowest = jnp.finfo(features.dtype).min
      highest = jnp.where(mask, features, lowest).max(axis=1)
      return jnp.where(mask.any(axis=1), highest, 0)  # an example of padding alone has no maximum
    if self.how == 'mean':
      count = jnp.maximum(mask.sum(axis=1), 1).astype(features.dtype)  # [B, 1]
      return jnp.where(mask, features, 0).sum(axis=1) / count
    scores = nn.Dense(1, dtype=features.dtype)(features)  # [B, S, 1]
    weights = nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min), axis=1)
    return (weights * features).sum(axis=1)
