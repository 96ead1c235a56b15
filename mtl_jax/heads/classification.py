"""Heads that label a whole example: one class, several classes, or a number."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax.heads.pooling import Pool


class Classification(nn.Module):
  """Pools, then one linear layer to logits; for one class an example, or several (multi-label).

  Attributes:
    num_classes: C.
    pooling: see `Pool`.
    dropout: rate on the pooled vector.
    dtype: of the computation; parameters are float32.
  """

  num_classes: int
  pooling: str = 'mean'
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, features: jax.Array, inputs: Any, train: bool = False) -> jax.Array:
    """Features `[B, D]` or `[B, S, D]` -> logits `[B, C]`."""
    x = Pool(self.pooling)(features, inputs)  # [B, D]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x)


class Regression(nn.Module):
  """Pools, then one linear layer to a number, in the unit of the targets.

  Attributes:
    pooling: see `Pool`.
    dropout: rate on the pooled vector.
    dtype: of the computation; parameters are float32.
  """

  pooling: str = 'mean'
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, features: jax.Array, inputs: Any, train: bool = False) -> jax.Array:
    """Features `[B, D]` or `[B, S, D]` -> values `[B]`."""
    x = Pool(self.pooling)(features, inputs)  # [B, D]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(1, dtype=self.dtype)(x)[:, 0]
