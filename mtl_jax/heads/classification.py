"""Heads that label a whole example: one class, several classes, or a number."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.heads import pooling as pooling_lib
from mtl_jax.heads._readout import readout
from mtl_jax.heads.pooling import Pool


class Classification(nn.Module):
  """Pools, then one linear layer to logits; for one class an example, or several (multi-label).

  Attributes:
    num_classes: C.
    pooling: see `Pool`.
    hidden: width of a layer with ReLU before the linear one; 0: none.
    dropout: rate on what the linear layer reads.
    dtype: of the computation; parameters are float32.
  """

  num_classes: int
  pooling: str = 'mean'
  hidden: options.Natural = 0
  dropout: options.Share = 0.0
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self) -> None:
    options.check_fields(self)
    pooling_lib.check('pooling', self.pooling)
    super().__post_init__()

  @nn.compact
  def __call__(self, features: jax.Array, inputs: Any, train: bool = False) -> jax.Array:
    """Features `[B, D]` or `[B, S, D]` -> logits `[B, C]`."""
    x = Pool(self.pooling)(features, inputs)  # [B, D]
    return readout(x, self.num_classes, self.hidden, self.dropout, self.dtype, train)


class Regression(nn.Module):
  """Pools, then one linear layer to a number, in the unit of the targets.

  Attributes:
    pooling: see `Pool`.
    hidden: width of a layer with ReLU before the linear one; 0: none.
    dropout: rate on what the linear layer reads.
    dtype: of the computation; parameters are float32.
  """

  pooling: str = 'mean'
  hidden: options.Natural = 0
  dropout: options.Share = 0.0
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self) -> None:
    options.check_fields(self)
    pooling_lib.check('pooling', self.pooling)
    super().__post_init__()

  @nn.compact
  def __call__(self, features: jax.Array, inputs: Any, train: bool = False) -> jax.Array:
    """Features `[B, D]` or `[B, S, D]` -> values `[B]`."""
    x = Pool(self.pooling)(features, inputs)  # [B, D]
    return readout(x, 1, self.hidden, self.dropout, self.dtype, train)[:, 0]
