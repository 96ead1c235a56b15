"""LeNet, as multi-task papers have it for Multi-MNIST."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import _images, _products, protocol


class LeNet(nn.Module):
  """Two convolutions, each with a maximum over 2 × 2 and ReLU, and a dense layer.

  Attributes:
    features: filters of the convolutions.
    kernels: their sizes; Pareto MTL has (9, 5) for images of 36 × 36.
    dense: width of the last layer.
    dropout: rate on whole channels of an image after the second convolution; Kurin et al. have 0.5
      on those of a whole batch at once.
    dtype: of the computation; parameters are float32.

  Raises:
    ValueError: filters and sizes differ in number, or an option has no such value.

  References:
    LeCun et al., Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 86(11), 1998;
    this variant: Sener & Koltun, NeurIPS 2018; Lin et al., Pareto Multi-Task Learning, NeurIPS
    2019; Kurin et al., In Defense of the Unitary Scalarization, NeurIPS 2022.
  """

  features: options.Counts = (10, 20)
  kernels: options.Counts = (5, 5)
  dense: options.Count = 50
  dropout: options.Share = 0.0
  dtype: jnp.dtype = jnp.float32

  def __post_init__(self) -> None:
    options.check_fields(self)
    if len(self.features) != len(self.kernels):
      raise ValueError(
        f'features {tuple(self.features)} and kernels {tuple(self.kernels)}: need as many of each'
      )
    super().__post_init__()

  @nn.nowrap
  def layers_from_below(self) -> Sequence[protocol.Layer]:
    """The convolutions and the dense layer."""
    names = (*(f'Conv_{i}' for i in range(len(self.features))), 'Dense_0')
    return [protocol.Layer((name,), name, block=True) for name in names]

  @nn.compact
  def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
    """Images `[B, H, W, C]` -> `[B, dense]`.

    Raises:
      ValueError: the images are too small, or not images.
    """
    x = _images.prepare(inputs, self.dtype)
    # Of a CPU's convolutions, those of few channels have slow gradients, the more so under vmap.
    for i, (features, kernel) in enumerate(zip(self.features, self.kernels, strict=True)):
      if min(x.shape[1:3]) < kernel + 1:
        raise ValueError(
          f'Images {inputs.shape} are too small for LeNet with kernels {tuple(self.kernels)}: '
          f'{x.shape[1]} × {x.shape[2]} are left for one of {kernel} × {kernel}.'
        )
      x = nn.Conv(
        features,
        (kernel, kernel),
        padding='VALID',
        dtype=self.dtype,
        conv_general_dilated_cls=_products.convolution,
      )(x)
      if i > 0:
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
      x = nn.relu(_halve(x))  # [B, H', W', features]
    x = x.reshape(x.shape[0], -1)
    return nn.relu(nn.Dense(self.dense, dtype=self.dtype)(x))


def _halve(x: jax.Array) -> jax.Array:
  """The maximum over 2 × 2, an odd last row or column left out: `[B, H, W, C]` -> half of H and W.

  Its gradient takes a CPU a fraction of the time of that of `nn.max_pool`.
  """
  batch, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  x = jnp.maximum(x[:, :, 0], x[:, :, 1])
  return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])
