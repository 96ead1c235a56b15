"""How tasks share parameters, by name. Each is `(encoder, tasks, **options) -> MultiTaskModel`."""

from collections.abc import Callable

from mtl_jax import errors
from mtl_jax.model import MultiTaskModel
from mtl_jax.sharing.hard import hard

SHARING: dict[str, Callable[..., MultiTaskModel]] = {'hard': hard}
"""Every architecture by name."""


def get(name: str) -> Callable[..., MultiTaskModel]:
  """The architecture called `name`; ConfigError with the nearest names otherwise."""
  if name not in SHARING:
    raise errors.ConfigError(f'Unknown sharing {name!r}{errors.nearest(name, SHARING)}')
  return SHARING[name]


__all__ = ['SHARING', 'get', 'hard']
