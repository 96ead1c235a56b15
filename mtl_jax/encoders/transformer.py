"""Transformer encoder over token embeddings."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtl_jax import errors, options
from mtl_jax.encoders import _attention, protocol

POSITIONS = ('learned', 'rotary', 'sinusoidal')
"""How a Transformer tells positions apart."""


class Transformer(nn.Module):
  """Transformer encoder; by default pre-norm, with learned positions.

  Attributes:
    embedding: token ids -> `[B, S, E]`; projected to `features` where E differs.
    features: width.
    layers: number of blocks.
    heads: attention heads; must divide `features`.
    mlp_features: width of each block's feed-forward layer (GELU).
    max_length: longest S; only learned positions have one.
    dropout: rate on attention and on what each block adds.
    dtype: of the computation; parameters are float32.
    norm: 'pre' (x + f(LN(x)), and a last LayerNorm) or 'post' (LN(x + f(x)), as first published).
    position: 'learned' (a vector a position, added), 'sinusoidal' (sines and cosines, added to
      √features times the embedding) or 'rotary' (queries and keys are turned; needs an even
      number of features a head).
    remat: keep only the input of each block for the backward pass, and compute the rest again:
      less memory, for one more forward pass.

  Raises:
    ValueError: an option does not exist, or does not fit the width.

  References:
    Vaswani et al., Attention Is All You Need, NeurIPS 2017. Pre-norm: Xiong et al., On Layer
    Normalization in the Transformer Architecture, ICML 2020. Rotary positions: Su et al., RoFormer,
    Neurocomputing 568, 2024.
  """

  embedding: nn.Module
  features: options.Count = 128
  layers: options.Count = 2
  heads: options.Count = 4
  mlp_features: options.Count = 256
  max_length: options.Count = 512
  dropout: options.Share = 0.1
  dtype: jnp.dtype = jnp.float32
  norm: str = 'pre'
  position: str = 'learned'
  remat: bool = False

  def __post_init__(self) -> None:
    options.check_fields(self)
    _attention.check(self.features, self.heads, self.norm)
    if self.position not in POSITIONS:
      raise ValueError(f'no position {self.position!r}{errors.nearest(self.position, POSITIONS)}')
    if self.position == 'rotary' and self.features // self.heads % 2:
      raise ValueError(
        f'rotary positions turn pairs of features, and {self.features} features in {self.heads} '
        f'heads are {self.features // self.heads} a head: choose an even number'
      )
    super().__post_init__()

  @nn.nowrap
  def layers_from_below(self) -> Sequence[protocol.Layer]:
    """The embedding with the positions, its projection where there is one, and the blocks."""
    embedding = protocol.Layer(('embedding', 'positions'))
    projection = protocol.Layer(('Dense_0',), 'Dense_0')
    return embedding, projection, *_attention.layers(self.layers, '_Block', 'LayerNorm_0')

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
    """Inputs (see `Embedding`) -> states `[B, S, features]`.

    Raises:
      ValueError: S is longer than `max_length`.
    """
    x = self.embedding(inputs, train=train)  # [B, S, E]
    length = x.shape[1]
    if x.shape[-1] != self.features:
      x = nn.Dense(self.features, dtype=self.dtype)(x)
    if self.position == 'learned':
      if length > self.max_length:
        raise ValueError(
          f'A sequence of {length} tokens is longer than max_length={self.max_length}.'
        )
      positions = self.param(
        'positions', nn.initializers.normal(0.02), (self.max_length, self.features)
      )
      x = x + positions[None, :length].astype(self.dtype)  # [B, S, D]
    elif self.position == 'sinusoidal':
      x = x * self.features**0.5 + _waves(length, self.features).astype(self.dtype)
    attend = inputs['mask'][:, None, None, :]  # [B, 1, 1, S]
    block = _attention.blocks(self.remat)
    for i in range(self.layers):
      x = block(
        self.heads,
        self.mlp_features,
        self.dropout,
        self.dtype,
        self.norm,
        self.position == 'rotary',
        name=f'_Block_{i}',
      )(x, attend, train)
    return nn.LayerNorm(dtype=self.dtype)(x) if self.norm == 'pre' else x


def _waves(length: int, features: int) -> jax.Array:
  """Returns `[1, S, D]`: sin(s · 10000^(−2i/D)) at 2i, and the cosine at 2i + 1."""
  even = np.arange(0, features, 2)
  angles = np.outer(np.arange(length), 10000.0 ** (-even / features))  # [S, ⌈D/2⌉]
  waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, -1)
  return jnp.asarray(waves[None, :, :features], jnp.float32)
