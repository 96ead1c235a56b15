"""Multi-layer perceptron over vectors."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import protocol


class MLP(nn.Module):
  """Dense layers with ReLU.

  Attributes:
    features: width of each layer.
    dropout: rate after each layer.
    dtype: of the computation; parameters are float32.

  Raises:
    ValueError: no layer, or an option has no such value.
  """

  features: options.Counts = (128, 128)
  dropout: options.Share = 0.0
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self) -> None:
    options.check_fields(self)
    super().__post_init__()

  @nn.nowrap
  def layers_from_below(self) -> Sequence[protocol.Layer]:
    """The dense layers."""
    names = [f'Dense_{i}' for i in range(len(self.features))]
    return [protocol.Layer((name,), name, block=True) for name in names]

  @nn.compact
  def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
    """`[B, ...]` -> `[B, features[-1]]`; axes after the first are flattened."""
    x = inputs.reshape(inputs.shape[0], -1).astype(self.dtype)  # [B, F]
    for width in self.features:
      x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))  # [B, width]
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return x
