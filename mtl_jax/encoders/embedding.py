"""Token embeddings, which every text encoder begins with.

The inputs of text encoders are `{'tokens': int [B, S], 'mask': bool [B, S]}` and, where words are
also given by their sub-word pieces or characters, `'pieces': int [B, S, P]` (0: padding). They
return one state a token (`CNN` may return one vector an example): pooling and reading belong to the
heads.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders.protocol import FROZEN
from mtl_jax.encoders.vectors import Vectors


class Embedding(nn.Module):
  """Token embeddings and, where the inputs have pieces, a small CNN over each word's pieces.

  Attributes:
    vocab_size: number of token ids.
    features: width of a token's embedding.
    pieces_vocab_size: number of piece ids; 0: the inputs have no pieces.
    pieces_embedding: width of a piece's embedding.
    pieces_features: filters of the CNN (width 3, maximum over the word), joined to the embedding.
    dropout: rate on the result.
    dtype: of the computation; parameters are float32.
    vectors: pretrained, from `load_vectors`; tokens that have none begin as draws from a normal
      distribution with the mean and deviation of those that have, feature by feature.
    freeze_vectors: give the whole table no gradient (Kim's CNN-static). An optimizer that decays
      weights must leave the parameter, called `FROZEN`, alone; training from a config does.

  Raises:
    ValueError: an option has no such value, the vectors are not `[vocab_size, features]`, or none
      are given to be frozen.
  """

  vocab_size: int
  features: options.Count = 128
  pieces_vocab_size: options.Natural = 0
  pieces_embedding: options.Count = 32
  pieces_features: options.Count = 64
  dropout: options.Share = 0.1
  dtype: jnp.dtype = jnp.float32
  vectors: Vectors | None = None
  freeze_vectors: bool = False

  def __post_init__(self) -> None:
    options.check_fields(self)
    if self.vectors is not None and self.vectors.table.shape != (self.vocab_size, self.features):
      raise ValueError(
        f'vectors {list(self.vectors.table.shape)} are not for {self.vocab_size} tokens of '
        f'{self.features} features: load them for this vocabulary, and set features to their width'
      )
    if self.freeze_vectors and self.vectors is None:
      raise ValueError('freeze_vectors: there are no vectors to freeze: give vectors, or train')
    super().__post_init__()

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
    """Inputs (see the module) -> `[B, S, features (+ pieces_features)]`."""
    x = nn.Embed(
      self.vocab_size,
      self.features,
      embedding_init=_initializer(self.features, self.vectors),
      dtype=self.dtype,
      name=FROZEN if self.freeze_vectors else None,
    )(inputs['tokens'])  # [B, S, features]
    if self.freeze_vectors:
      x = jax.lax.stop_gradient(x)
    if self.pieces_vocab_size:
      pieces = inputs['pieces']  # [B, S, P]
      chars = nn.Embed(
        self.pieces_vocab_size,
        self.pieces_embedding,
        embedding_init=_initializer(self.pieces_embedding),
        dtype=self.dtype,
      )(pieces)
      chars = nn.Dropout(self.dropout, deterministic=not train)(chars)  # [B, S, P, E]
      chars = nn.relu(nn.Conv(self.pieces_features, (3,), dtype=self.dtype)(chars))
      chars = jnp.where((pieces > 0)[..., None], chars, 0).max(axis=2)  # [B, S, F]
      x = jnp.concatenate([x, chars], axis=-1)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


def _initializer(features: int, vectors: Vectors | None = None) -> Callable[..., jax.Array]:
  if vectors is None:
    return nn.initializers.normal(features**-0.5)
  found = vectors.table[vectors.known]  # [known, E]
  mean, deviation = found.mean(axis=0, keepdims=True), found.std(axis=0, keepdims=True)

  def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    drawn = mean + deviation * jax.random.normal(key, shape, dtype)
    return jnp.where(vectors.known[:, None], vectors.table, drawn).astype(dtype)

  return init
