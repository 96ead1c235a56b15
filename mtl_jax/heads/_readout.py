"""The layers of a head, from what it reads to its outputs."""

import jax
import jax.numpy as jnp
from flax import linen as nn


def readout(
  x: jax.Array, outputs: int, hidden: int, dropout: float, dtype: jnp.dtype, train: bool
) -> jax.Array:
  """`[..., D]` -> `[..., outputs]`: a layer with ReLU where `hidden`, dropout, a linear layer."""
  name = None
  if hidden:
    x = nn.relu(nn.Dense(hidden, dtype=dtype, name='hidden')(x))
    name = 'outputs'  # not that of a head without a hidden layer, whose values mean another thing
  x = nn.Dropout(dropout, deterministic=not train)(x)
  return nn.Dense(outputs, dtype=dtype, name=name)(x)
