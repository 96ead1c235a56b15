"""Text encoders: token ids to one state a token. Pooling and reading belong to the heads.

Inputs are `{'tokens': int [B, S], 'mask': bool [B, S]}` and, where words are also given by their
sub-word pieces or characters, `'pieces': int [B, S, P]` (0: padding).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn


class Embedding(nn.Module):
  """Token embeddings and, where the inputs have pieces, a small CNN over each word's pieces.

  Attributes:
    vocab_size: number of token ids.
    features: width of a token's embedding.
    pieces_vocab_size: number of piece ids; 0: the inputs have no pieces.
    pieces_embedding: width of a piece's embedding.
    pieces_features: filters of the CNN (width 3, maximum over the word), joined to the embedding.
    dropout: rate on the result.
    dtype: of the computation; parameters are float32.
  """

  vocab_size: int
  features: int = 128
  pieces_vocab_size: int = 0
  pieces_embedding: int = 32
  pieces_features: int = 64
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
    """Inputs (see the module) -> `[B, S, features (+ pieces_features)]`."""
    x = _embed(self.vocab_size, self.features, self.dtype)(inputs['tokens'])  # [B, S, features]
    if self.pieces_vocab_size:
      pieces = inputs['pieces']  # [B, S, P]
      chars = _embed(self.pieces_vocab_size, self.pieces_embedding, self.dtype)(pieces)
      chars = nn.Dropout(self.dropout, deterministic=not train)(chars)  # [B, S, P, E]
      chars = nn.relu(nn.Conv(self.pieces_features, (3,), dtype=self.dtype)(chars))
      chars = jnp.where((pieces > 0)[..., None], chars, 0).max(axis=2)  # [B, S, F]
      x = jnp.concatenate([x, chars], axis=-1)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


class BiLSTM(nn.Module):
  """Bidirectional LSTM layers over token embeddings.

  Attributes:
    embedding: token ids -> `[B, S, E]`.
    features: units of each direction.
    layers: number of layers.
    dropout: rate after each layer.
    dtype: of the computation; parameters are float32.
  """

  embedding: nn.Module
  features: int = 128
  layers: int = 1
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
    """Inputs (see the module) -> states `[B, S, 2 * features]`."""
    x = self.embedding(inputs, train=train)  # [B, S, E]
    lengths = jnp.sum(inputs['mask'], axis=-1, dtype=jnp.int32)  # [B]
    for _ in range(self.layers):
      forward, backward = (
        nn.RNN(nn.OptimizedLSTMCell(self.features, dtype=self.dtype)) for _ in range(2)
      )
      x = nn.Bidirectional(forward, backward)(x, seq_lengths=lengths)  # [B, S, 2 * features]
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return x


class Transformer(nn.Module):
  """Pre-norm Transformer encoder with learned positions.

  Attributes:
    embedding: token ids -> `[B, S, E]`; projected to `features` where E differs.
    features: width.
    layers: number of blocks.
    heads: attention heads; must divide `features`.
    mlp_features: width of each block's feed-forward layer.
    max_length: longest S.
    dropout: rate on attention and on what each block adds.
    dtype: of the computation; parameters are float32.

  References:
    Vaswani et al., Attention Is All You Need, NeurIPS 2017; pre-norm: Xiong et al., ICML 2020.
  """

  embedding: nn.Module
  features: int = 128
  layers: int = 2
  heads: int = 4
  mlp_features: int = 256
  max_length: int = 512
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
    """Inputs (see the module) -> states `[B, S, features]`.

    Raises:
      ValueError: S is longer than `max_length`.
    """
    x = self.embedding(inputs, train=train)  # [B, S, E]
    length = x.shape[1]
    if length > self.max_length:
      raise ValueError(
        f'A sequence of {length} tokens is longer than max_length={self.max_length}.'
      )
    if x.shape[-1] != self.features:
      x = nn.Dense(self.features, dtype=self.dtype)(x)
    positions = self.param(
      'positions', nn.initializers.normal(0.02), (self.max_length, self.features)
    )
    x = x + positions[None, :length].astype(self.dtype)  # [B, S, D]
    attend = inputs['mask'][:, None, None, :]  # [B, 1, 1, S]
    for _ in range(self.layers):
      x = _Block(self.heads, self.mlp_features, self.dropout, self.dtype)(x, attend, train)
    return nn.LayerNorm(dtype=self.dtype)(x)


class _Block(nn.Module):
  """Self-attention and a feed-forward layer, each added to its normalized input."""

  heads: int
  mlp_features: int
  dropout: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, attend: jax.Array, train: bool) -> jax.Array:
    y = nn.LayerNorm(dtype=self.dtype)(x)
    y = nn.MultiHeadDotProductAttention(
      self.heads, dtype=self.dtype, dropout_rate=self.dropout, deterministic=not train
    )(y, mask=attend)
    x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
    y = nn.LayerNorm(dtype=self.dtype)(x)
    y = nn.gelu(nn.Dense(self.mlp_features, dtype=self.dtype)(y))  # [B, S, mlp_features]
    y = nn.Dense(x.shape[-1], dtype=self.dtype)(y)
    return x + nn.Dropout(self.dropout, deterministic=not train)(y)


def _embed(size: int, features: int, dtype: jnp.dtype) -> nn.Embed:
  return nn.Embed(
    size, features, embedding_init=nn.initializers.normal(features**-0.5), dtype=dtype
  )
