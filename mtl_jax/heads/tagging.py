"""Heads that label every token."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.heads import pooling
from mtl_jax.heads._readout import readout
from mtl_jax.heads.pooling import Pool


class Tagging(nn.Module):
  """One linear layer from each token's state to logits.

  Attributes:
    num_classes: C.
    sentence: joins a pooled view of the sentence to every token's state ('mean', 'max', 'first' or
      'attention', see `Pool`); '': none.
    hidden: width of a layer with ReLU before the linear one; 0: none.
    dropout: rate on what the linear layer reads.
    dtype: of the computation; parameters are float32.
  """

  num_classes: int
  sentence: str | None = ''
  hidden: options.Natural = 0
  dropout: options.Share = 0.0
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self) -> None:
    options.check_fields(self)
    if self.sentence:
      pooling.check('sentence', self.sentence)
    super().__post_init__()

  @nn.compact
  def __call__(self, features: jax.Array, inputs: Any, train: bool = False) -> jax.Array:
    """States `[B, S, D]` -> logits `[B, S, C]`."""
    x = features
    if self.sentence:
      pooled = Pool(self.sentence)(features, inputs)[:, None]  # [B, 1, D]
      x = jnp.concatenate([x, jnp.broadcast_to(pooled, x.shape)], axis=-1)  # [B, S, 2D]
    return readout(x, self.num_classes, self.hidden, self.dropout, self.dtype, train)
