"""Recurrent encoders over token embeddings: LSTM and BiLSTM.

Padding follows the tokens: what is read forwards meets it last, what is read backwards is turned
around within its length. So no token's state depends on it; the states of padding mean nothing.
The cell state is float32 whatever the type of the computation.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import protocol


class LSTM(nn.Module):
  """LSTM layers over token embeddings, read from left to right.

  Attributes:
    embedding: token ids -> `[B, S, E]`.
    features: units.
    layers: number of layers.
    dropout: rate after each layer.
    dtype: of the computation; parameters are float32.

  Raises:
    ValueError: an option has no such value.

  References:
    Hochreiter & Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997; forget gate:
    Gers et al., Neural Computation 12(10), 2000.
  """

  embedding: nn.Module
  features: options.Count = 128
  layers: options.Count = 1
  dropout: options.Share = 0.1
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self) -> None:
    options.check_fields(self)
    super().__post_init__()

  @nn.nowrap
  def layers_from_below(self) -> Sequence[protocol.Layer]:
    """The embedding and the cells."""
    return protocol.Layer(('embedding',)), *(
      protocol.Layer((f'OptimizedLSTMCell_{i}',), f'RNN_{i}', block=True)
      for i in range(self.layers)
    )

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
    """Inputs (see `Embedding`) -> states `[B, S, features]`."""
    x = self.embedding(inputs, train=train)  # [B, S, E]
    for _ in range(self.layers):
      x = nn.RNN(nn.OptimizedLSTMCell(self.features, dtype=self.dtype))(x)  # [B, S, features]
      x = nn.Dropout(self.dropout, deterministic=not train)(jnp.asarray(x, self.dtype))
    return x


class BiLSTM(nn.Module):
  """Bidirectional LSTM layers over token embeddings.

  Attributes:
    embedding: token ids -> `[B, S, E]`.
    features: units of each direction.
    layers: number of layers.
    dropout: rate after each layer.
    dtype: of the computation; parameters are float32.

  Raises:
    ValueError: an option has no such value.

  References:
    Graves & Schmidhuber, Framewise Phoneme Classification with Bidirectional LSTM, Neural Networks
    18(5-6), 2005.
  """

  embedding: nn.Module
  features: options.Count = 128
  layers: options.Count = 1
  dropout: options.Share = 0.1
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self) -> None:
    options.check_fields(self)
    super().__post_init__()

  @nn.nowrap
  def layers_from_below(self) -> Sequence[protocol.Layer]:
    """The embedding and the cells: both directions count, the backward one above the other."""
    found = [protocol.Layer(('embedding',))]
    for i in range(self.layers):
      found.append(protocol.Layer((f'OptimizedLSTMCell_{2 * i}',)))
      backward = (f'OptimizedLSTMCell_{2 * i + 1}',)
      found.append(protocol.Layer(backward, f'Bidirectional_{i}', block=True))
    return found

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
    """Inputs (see `Embedding`) -> states `[B, S, 2 * features]`."""
    x = self.embedding(inputs, train=train)  # [B, S, E]
    lengths = jnp.sum(inputs['mask'], axis=-1, dtype=jnp.int32)  # [B]
    for _ in range(self.layers):
      forward, backward = (
        nn.RNN(nn.OptimizedLSTMCell(self.features, dtype=self.dtype)) for _ in range(2)
      )
      x = nn.Bidirectional(forward, backward)(x, seq_lengths=lengths)  # [B, S, 2 * features]
      x = nn.Dropout(self.dropout, deterministic=not train)(jnp.asarray(x, self.dtype))
    return x
