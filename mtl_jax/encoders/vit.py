"""Vision Transformer for small images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import _attention, _images, protocol


class ViT(nn.Module):
  """Patches of an image and a class token through pre-norm Transformer blocks.

  Attributes:
    patch: height and width of a patch; must divide those of the images.
    features: width.
    layers: number of blocks.
    heads: attention heads; must divide `features`.
    mlp_features: width of each block's feed-forward layer (GELU).
    dropout: rate on the embedded patches, on attention and on what each block adds.
    dtype: of the computation; parameters are float32.
    remat: keep only the input of each block for the backward pass, and compute the rest again.

  Raises:
    ValueError: the heads do not divide the width, or an option has no such value.

  References:
    Dosovitskiy et al., An Image Is Worth 16x16 Words, ICLR 2021.
  """

  patch: options.Count = 4
  features: options.Count = 128
  layers: options.Count = 4
  heads: options.Count = 4
  mlp_features: options.Count = 256
  dropout: options.Share = 0.0
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  def __post_init__(self) -> None:
    options.check_fields(self)
    _attention.check(self.features, self.heads)
    super().__post_init__()

  @nn.nowrap
  def layers_from_below(self) -> Sequence[protocol.Layer]:
    """The patches with the class token and the positions, and the blocks."""
    patches = protocol.Layer(('Conv_0', 'class_token', 'positions'), 'Conv_0')
    return patches, *_attention.layers(self.layers, 'Block', 'LayerNorm_0')

  @nn.compact
  def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
    """Images `[B, H, W, C]`, all of one size -> the class token's state `[B, features]`.

    Raises:
      ValueError: the patches do not fit the images, or these are no images.
    """
    x = _images.prepare(inputs, self.dtype)
    if x.shape[1] % self.patch or x.shape[2] % self.patch:
      raise ValueError(
        f'Patches of {self.patch} × {self.patch} do not fit images {inputs.shape}: choose a patch '
        'that divides height and width.'
      )
    size = (self.patch, self.patch)
    x = nn.Conv(self.features, size, strides=size, padding='VALID', dtype=self.dtype)(x)
    x = x.reshape(x.shape[0], -1, self.features)  # [B, N, D]
    token = self.param('class_token', nn.initializers.zeros, (1, 1, self.features))
    token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.features))
    x = jnp.concatenate([token, x], axis=1)  # [B, 1 + N, D]
    positions = self.param('positions', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    x = x + positions.astype(self.dtype)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    block = _attention.blocks(self.remat)
    for i in range(self.layers):
      x = block(self.heads, self.mlp_features, self.dropout, self.dtype, name=f'Block_{i}')(
        x, None, train
      )
    return nn.LayerNorm(dtype=self.dtype)(x)[:, 0]
