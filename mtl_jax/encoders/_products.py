"""Convolutions as matrix products, which a CPU multiplies faster where kernels are stacked."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp


def convolve(
  lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, **options: Any
) -> jax.Array:
  """`jax.lax.conv_general_dilated` as Flax calls it, as one product with the windows.

  Under `vmap` over kernels this is a batched product, where XLA would make a grouped convolution,
  which on a CPU takes several times as long. The windows are cut out again for the gradient, so
  that only the input is kept.

  Args:
    lhs: `[B, ..., C]`.
    rhs: `[..., C, F]`.
    window_strides: one for each axis between.
    padding: likewise (before, after), or a name.
    **options: dilations and groups; where there are any, it stays a convolution.
  """
  axes = rhs.ndim - 2
  strides = (window_strides,) * axes if isinstance(window_strides, int) else tuple(window_strides)
  dilated = [
    d for name in ('lhs_dilation', 'rhs_dilation') for d in options.get(name) or () if d != 1
  ]
  if dilated or options.get('feature_group_count', 1) != 1:
    return jax.lax.conv_general_dilated(lhs, rhs, strides, padding, **options)
  sizes = rhs.shape[:axes]
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(lhs.shape[1:-1], sizes, strides, padding)

  @jax.checkpoint
  def product(x, kernel):
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    # Of the axis between, what the first place of a kernel sees.
    ends = [
      (length - size) // stride * stride + 1
      for length, size, stride in zip(x.shape[1:-1], sizes, strides, strict=True)
    ]
    windows = [
      x[:, *(slice(i, i + end, s) for i, end, s in zip(place, ends, strides, strict=True))]
      for place in itertools.product(*map(range, sizes))
    ]
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jnp.matmul(jnp.concatenate(windows, axis=-1), flat, precision=options.get('precision'))

  return product(lhs, rhs)
