"""Convolutions as matrix products, which a CPU multiplies faster where kernels are stacked."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def convolution() -> Any:
  """`convolve` on a CPU, elsewhere XLA's: what makes a convolution for `nn.Conv`."""
  return convolve if jax.default_backend() == 'cpu' else jax.lax.conv_general_dilated


def convolve(
  lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
  """`jax.lax.conv_general_dilated` as Flax calls it, as one product with the windows.

  Under `vmap` over kernels this is a batched product, where XLA would make a grouped convolution,
  which on a CPU takes several times as long. The windows of all kernels, as many times the input as
  a kernel has places, are held while they are multiplied; for the gradient they are cut out again.

  Args:
    lhs: `[B, ..., C]`.
    rhs: `[..., C, F]`.
    window_strides: one for each axis between.
    padding: likewise (before, after), or a name.
    **options: dilations and groups; where there are any, it stays a convolution, and where a kernel
      is larger than the input.
  """
  sizes, strides = rhs.shape[:-2], tuple(window_strides)
  dilated = [
    d for name in ('lhs_dilation', 'rhs_dilation') for d in options.get(name) or () if d != 1
  ]
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(lhs.shape[1:-1], sizes, strides, padding)
  room = [
    length + sum(pads) - size
    for length, pads, size in zip(lhs.shape[1:-1], padding, sizes, strict=True)
  ]
  if dilated or options.get('feature_group_count', 1) != 1 or min(room) < 0:
    return jax.lax.conv_general_dilated(lhs, rhs, strides, padding, **options)
  # Of each axis between, what the first place of a kernel sees.
  ends = [length // stride * stride + 1 for length, stride in zip(room, strides, strict=True)]

  @jax.checkpoint
  def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    windows = [
      x[:, *(slice(i, i + end, s) for i, end, s in zip(place, ends, strides, strict=True))]
      for place in itertools.product(*map(range, sizes))
    ]
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jnp.matmul(jnp.concatenate(windows, axis=-1), flat, precision=options.get('precision'))

  return product(lhs, rhs)
