"""Convolutional encoder over token embeddings."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import protocol


class CNN(nn.Module):
  """Convolutions of several widths side by side, ReLU, and the maximum over the sentence.

  Every window is around a token of the sentence, and beyond the sentence are zeros, so sentences
  shorter than a window are read too, and padding changes nothing.

  Attributes:
    embedding: token ids -> `[B, S, E]`.
    features: filters of each width.
    widths: tokens that a filter sees, one width for each of the convolutions.
    pool: the maximum over the tokens (for heads that label whole examples); False: a state a token.
    dropout: rate on the result.
    dtype: of the computation; parameters are float32.

  Raises:
    ValueError: no width, or an option has no such value.

  References:
    Kim, Convolutional Neural Networks for Sentence Classification, EMNLP 2014.
  """

  embedding: nn.Module
  features: options.Count = 100
  widths: options.Counts = (3, 4, 5)
  pool: bool = True
  dropout: options.Share = 0.5
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self) -> None:
    options.check_fields(self)
    super().__post_init__()

  @nn.nowrap
  def layers_from_below(self) -> Sequence[protocol.Layer]:
    """The embedding, and each convolution, though they are side by side."""
    names = [f'Conv_{i}' for i in range(len(self.widths))]
    return protocol.Layer(('embedding',)), *(protocol.Layer((name,), name) for name in names)

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
    """Inputs (see `Embedding`) -> `[B, widths * features]`, or with a token axis after the first.

    A row without tokens is all zeros.
    """
    mask = inputs['mask'][..., None]  # [B, S, 1]
    x = jnp.where(mask, self.embedding(inputs, train=train), 0)  # [B, S, E]
    convolved = [nn.Conv(self.features, (width,), dtype=self.dtype)(x) for width in self.widths]
    x = nn.relu(jnp.concatenate(convolved, axis=-1))  # [B, S, widths * features]
    if self.pool:
      x = jnp.where(mask, x, 0).max(axis=1)  # [B, widths * features]; what ReLU leaves is >= 0
    return nn.Dropout(self.dropout, deterministic=not train)(x)
