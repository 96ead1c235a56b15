"""Shared encoders, by name. Each is a Flax module `(inputs, train=False) -> features`."""

from typing import Any

from flax import linen as nn

from mtl_jax import errors
from mtl_jax.encoders.mlp import MLP
from mtl_jax.encoders.text import BiLSTM, Embedding, Transformer

ENCODERS: dict[str, type[nn.Module]] = {'mlp': MLP, 'bilstm': BiLSTM, 'transformer': Transformer}
"""Every encoder by name."""


def get(name: str, **kwargs: Any) -> nn.Module:
  """The encoder called `name`, made with `kwargs`; ConfigError with the nearest names otherwise."""
  if name not in ENCODERS:
    raise errors.ConfigError(f'Unknown encoder {name!r}{errors.nearest(name, ENCODERS)}')
  return ENCODERS[name](**kwargs)


__all__ = ['ENCODERS', 'MLP', 'BiLSTM', 'Embedding', 'Transformer', 'get']
