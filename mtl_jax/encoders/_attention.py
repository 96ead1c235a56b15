"""The self-attention block of `Transformer`, `ViT` and `Bert`, and rotary positions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtl_jax import errors
from mtl_jax.encoders import protocol

NORMS = ('pre', 'post')
"""Where a block normalizes: what each half reads, or the sum after it."""


class Block(nn.Module):
  """Self-attention and a feed-forward layer, each added to its input.

  Attributes:
    heads: attention heads.
    mlp_features: width of the feed-forward layer.
    dropout: rate on attention and on what each half adds.
    dtype: of the computation; parameters are float32.
    norm: one of `NORMS`.
    rotary: turn queries and keys by their positions.
    activation: of the feed-forward layer; by default GELU with tanh.
    epsilon: added to the variances in the normalizations.
  """

  heads: int
  mlp_features: int
  dropout: float
  dtype: jnp.dtype
  norm: str = 'pre'
  rotary: bool = False
  activation: Callable[[jax.Array], jax.Array] = nn.gelu
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array, attend: jax.Array | None, train: bool) -> jax.Array:
    """`[B, S, D]`, and bool `[B, 1, 1, S]` (what may be attended to) -> `[B, S, D]`."""

    def normalized(x: jax.Array, norm: str) -> jax.Array:
      return nn.LayerNorm(self.epsilon, dtype=self.dtype)(x) if norm == self.norm else x

    def dropped(y: jax.Array) -> jax.Array:
      return nn.Dropout(self.dropout, deterministic=not train)(y)

    y = nn.MultiHeadDotProductAttention(
      self.heads,
      dtype=self.dtype,
      dropout_rate=self.dropout,
      deterministic=not train,
      attention_fn=functools.partial(_attention, rotary=self.rotary),
    )(normalized(x, 'pre'), mask=attend)
    x = normalized(x + dropped(y), 'post')
    y = nn.Dense(self.mlp_features, dtype=self.dtype)(normalized(x, 'pre'))
    y = nn.Dense(x.shape[-1], dtype=self.dtype)(self.activation(y))
    return normalized(x + dropped(y), 'post')


def blocks(remat: bool) -> Any:
  """`Block`, or one that keeps only its input for the backward pass and computes the rest again."""
  return nn.remat(Block, static_argnums=(3,)) if remat else Block  # 3: train


def layers(count: int, prefix: str, *after: str) -> list[protocol.Layer]:
  """What an encoder says of its blocks 'prefix_0', ...

  Args:
    count: how many there are.
    prefix: of their names.
    after: parameters that go with the last.
  """
  found = []
  for name in (f'{prefix}_{i}' for i in range(count)):
    attention = f'{name}/MultiHeadDotProductAttention_0'
    layer = protocol.Layer(
      (name,),
      name,
      block=True,
      sublayers=(attention, f'{name}/Dense_1'),
      projections=(f'{attention}/query', f'{attention}/value'),
    )
    found.append(layer)
  return [*found[:-1], found[-1]._replace(params=(*found[-1].params, *after))]


def check(features: int, heads: int, norm: str = 'pre') -> None:
  """Raises ValueError for a width that the heads do not divide, or an unknown norm."""
  if features % heads:
    raise ValueError(
      f'{heads} heads do not divide {features} features: choose a multiple of the heads'
    )
  if norm not in NORMS:
    raise ValueError(f'no norm {norm!r}{errors.nearest(norm, NORMS)}')


def rotate(x: jax.Array) -> jax.Array:
  """Turns the pairs of features (2i, 2i + 1) at position s by the angle s · 10000^(−2i/d).

  The product of a query and a key then depends on their distance alone.

  Args:
    x: queries or keys `[B, S, H, d]`, d even.
  """
  positions = np.arange(x.shape[1])
  angles = np.outer(positions, 10000.0 ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1]))  # [S, d/2]
  cos, sin = (jnp.asarray(f(angles), jnp.float32)[None, :, None] for f in (np.cos, np.sin))
  even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
  turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
  return turned.reshape(x.shape).astype(x.dtype)


def _attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array | None = None,
  dropout_rng: jax.Array | None = None,
  dropout_rate: float = 0.0,
  deterministic: bool = True,
  rotary: bool = False,
) -> jax.Array:
  """Attention over `[B, S, H, d]`; JAX's own function has no dropout, so Flax's serves there."""
  if rotary:
    query, key = rotate(query), rotate(key)
  if deterministic or not dropout_rate:
    return jax.nn.dot_product_attention(query, key, value, mask=mask)
  return nn.dot_product_attention(  # each weight is dropped by itself, of every head and example
    query,
    key,
    value,
    mask=mask,
    broadcast_dropout=False,
    dropout_rng=dropout_rng,
    dropout_rate=dropout_rate,
  )
