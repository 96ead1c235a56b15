"""What every image encoder does first."""

import jax
import jax.numpy as jnp


def prepare(images: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Returns images `[B, H, W, C]` in `dtype`: floats as they are, uint8 divided by 255.

  Raises:
    ValueError: the array has other axes, or is of another type.
  """
  images = jnp.asarray(images)
  if images.ndim != 4:
    hint = ': add the channels, images[..., None]' if images.ndim == 3 else ''
    raise ValueError(f'Images need the axes [B, H, W, C], not the shape {images.shape}{hint}.')
  if images.dtype == jnp.uint8:
    images = images.astype(jnp.float32) / 255
  elif not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f'Images need to be float or uint8 (0 to 255), not {images.dtype}: convert them.'
    )
  return images.astype(dtype)
