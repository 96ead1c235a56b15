"""Residual networks over images, normalized over groups of channels or over batches."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import errors, options
from mtl_jax.encoders import _images, protocol

NORMS = ('group', 'batch')


class Norm(NamedTuple):
  """A normalization of channels, in training or not; of a batch with PyTorch's momentum and ε."""

  kind: str
  groups: int
  train: bool
  dtype: jnp.dtype

  def make(self, features: int) -> nn.Module:
    """That of so many channels."""
    if self.kind == 'batch':
      return nn.BatchNorm(not self.train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
    return nn.GroupNorm(math.gcd(features, self.groups), epsilon=1e-5, dtype=self.dtype)


class ResNet(nn.Module):
  """ResNet of basic blocks; by default ResNet-18 for small images.

  Attributes:
    blocks: number of blocks of each stage; every stage but the first halves the image.
    features: channels of the first stage; each further one has twice as many.
    groups: of each GroupNorm, or as many of them as divide the channels.
    small_images: begin with a 3 × 3 convolution, as on CIFAR; False: with 7 × 7 and a maximum, as
      on ImageNet, which together quarter height and width.
    norm: 'group', or 'batch', as published: running means are then the model's state, which hard
      sharing carries. With inputs of each task's own, each task's batch is normalized by itself.
    dtype: of the computation; parameters are float32.

  Raises:
    ValueError: no stage, or an option has no such value.

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016; Ioffe & Szegedy, Batch
    Normalization, ICML 2015; Wu & He, Group Normalization, ECCV 2018.
  """

  blocks: options.Counts = (2, 2, 2, 2)
  features: options.Count = 64
  groups: options.Count = 32
  small_images: bool = True
  norm: str = 'group'
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self) -> None:
    options.check_fields(self)
    if self.norm not in NORMS:
      raise ValueError(f'norm: {self.norm!r}{errors.nearest(self.norm, NORMS)}')
    super().__post_init__()

  @nn.nowrap
  def layers_from_below(self) -> Sequence[protocol.Layer]:
    """The first convolution with its normalization, and the blocks."""
    names = [f'_Residual_{i}' for i in range(sum(self.blocks))]
    first = protocol.Layer(('Conv_0', 'GroupNorm_0', 'BatchNorm_0'), 'Conv_0')
    return first, *(protocol.Layer((name,), name, block=True) for name in names)

  @nn.compact
  def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
    """Images `[B, H, W, C]` -> means over the image `[B, features * 2**(stages - 1)]`.

    Raises:
      ValueError: these are no images.
    """
    x = _images.prepare(inputs, self.dtype)
    if self.small_images:
      x = _conv(self.features, 3, 1, self.dtype)(x)
    else:
      x = _conv(self.features, 7, 2, self.dtype)(x)
    norm = Norm(self.norm, self.groups, train, self.dtype)
    x = nn.relu(norm.make(self.features)(x))  # [B, H', W', features]
    if not self.small_images:
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for stage, count in enumerate(self.blocks):
      for i in range(count):
        stride = 2 if stage and not i else 1
        x = _Residual(self.features * 2**stage, stride, norm, self.dtype)(x)
    return x.mean(axis=(1, 2))


class _Residual(nn.Module):
  """Two 3 × 3 convolutions added to their input, or to its projection where the shape changes."""

  features: int
  stride: int
  norm: Norm
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = _conv(self.features, 3, self.stride, self.dtype)(x)
    y = nn.relu(self.norm.make(self.features)(y))
    y = _conv(self.features, 3, 1, self.dtype)(y)
    y = self.norm.make(self.features)(y)
    if x.shape != y.shape:
      x = _conv(self.features, 1, self.stride, self.dtype)(x)
      x = self.norm.make(self.features)(x)
    return nn.relu(x + y)


def _conv(features: int, kernel: int, stride: int, dtype: jnp.dtype) -> nn.Conv:
  return nn.Conv(
    features,
    (kernel, kernel),
    strides=(stride, stride),
    padding=kernel // 2,
    use_bias=False,
    kernel_init=nn.initializers.he_normal(),
    dtype=dtype,
  )
