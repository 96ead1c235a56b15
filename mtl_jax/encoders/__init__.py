"""Shared encoders, by name. Each is a Flax module `(inputs, train=False) -> features`."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from mtl_jax import errors
from mtl_jax import options as options_lib
from mtl_jax.encoders import bert, custom, protocol
from mtl_jax.encoders.bert import Bert
from mtl_jax.encoders.convolution import CNN
from mtl_jax.encoders.custom import Function
from mtl_jax.encoders.embedding import Embedding
from mtl_jax.encoders.lenet import LeNet
from mtl_jax.encoders.mlp import MLP
from mtl_jax.encoders.protocol import FROZEN
from mtl_jax.encoders.recurrent import LSTM, BiLSTM
from mtl_jax.encoders.resnet import ResNet
from mtl_jax.encoders.transformer import Transformer
from mtl_jax.encoders.vectors import Vectors, load_vectors
from mtl_jax.encoders.vit import ViT

TEXT: dict[str, type[nn.Module]] = {
  'cnn': CNN,
  'lstm': LSTM,
  'bilstm': BiLSTM,
  'transformer': Transformer,
}
"""The text encoders by name: they take an `embedding`."""

IMAGES: dict[str, type[nn.Module]] = {'lenet': LeNet, 'resnet': ResNet, 'vit': ViT}
"""The image encoders by name."""

ARRAYS: dict[str, type[nn.Module]] = {'mlp': MLP, **IMAGES}
"""The encoders of arrays of numbers by name."""

ENCODERS: dict[str, type[nn.Module]] = {**TEXT, **ARRAYS}
"""Every encoder by name."""

PRETRAINED: dict[str, Callable[..., protocol.Source]] = {'bert': bert.Checkpoint}
"""Families of text encoders that others have trained, by name; each has a tokenizer of its own."""

_KNOWN = ('embedding', 'max_length', 'dtype', 'pieces_vocab_size', 'parent', 'name')  # no options


def options_of(name: str) -> dict[str, Any]:
  """The options that a config has for an encoder, or for the 'embedding', and their defaults."""
  return options_lib.defaults(owner_of(name), _KNOWN)


def owner_of(name: str) -> Callable[..., Any]:
  """What has these options in its signature."""
  owners: dict[str, Callable[..., Any]] = {**ENCODERS, **PRETRAINED, 'embedding': Embedding}
  return owners[name]


def source(name: str, options: Mapping[str, Any]) -> protocol.Source | None:
  """Where the encoder called `name` comes from; None for one that is not pretrained."""
  return PRETRAINED[name](**options) if name in PRETRAINED else None


def get(name: str | nn.Module | Callable[..., Any], **kwargs: Any) -> nn.Module:
  """The encoder called `name`, made with `kwargs`.

  Args:
    name: one of `ENCODERS`; 'package.module:Name' of a module, a module class, a function that
      returns a module, or one from `inputs` to features; or such an object itself.
    **kwargs: its options.

  Raises:
    ValueError: there is no such encoder (the nearest names are listed), it cannot be imported, is
      no module, or has no such option.
    ValueError: an option has no such value.
  """
  if isinstance(name, str) and not custom.is_dotted(name):
    if name not in ENCODERS:
      raise ValueError(
        f'Unknown encoder {name!r}{errors.nearest(name, ENCODERS)}, or package.module:Name of '
        'your own'
      )
    return ENCODERS[name](**kwargs)
  return custom.make(name, kwargs)


__all__ = [
  'ARRAYS',
  'CNN',
  'ENCODERS',
  'FROZEN',
  'IMAGES',
  'LSTM',
  'MLP',
  'PRETRAINED',
  'TEXT',
  'Bert',
  'BiLSTM',
  'Embedding',
  'Function',
  'LeNet',
  'ResNet',
  'Transformer',
  'Vectors',
  'ViT',
  'bert',
  'custom',
  'get',
  'load_vectors',
  'options_of',
  'owner_of',
  'protocol',
  'source',
]
