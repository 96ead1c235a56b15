"""The encoder of a run, and whether its options fit."""

import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mtl_jax import encoders, errors
from mtl_jax.data import sources, text
from mtl_jax.data.known import Known

Run = Mapping[str, Any]
_LOG = logging.getLogger(__name__)


def source_of(run: Run) -> encoders.protocol.Source | None:
  """Where the run's encoder comes from; None for one that is not pretrained."""
  name = run['encoder']['name']
  return encoders.source(name, run['encoder'].get(name, {}))


def build_encoder(run: Run, data: Known) -> Any:
  """The encoder, a Flax module, over the embedding."""
  name, source = run['encoder']['name'], source_of(run)
  if source:
    vocab_size, longest = source.sizes()
    if data.vocab_size > vocab_size:
      raise errors.ConfigError(
        f'encoder.{name} knows {vocab_size} tokens, and the tokenizer has {data.vocab_size}: '
        'leave dataset.tokenizer empty to use its own'
      )
    if data.bucket_lengths[-1] > longest:
      raise errors.ConfigError(
        f'encoder.{name} reads {longest} tokens, and the longest example has '
        f'{data.bucket_lengths[-1]}: set dataset.max_length={longest} or less'
      )
    return source.encoder(jnp.dtype(run['dtype']))
  offered = _offered(run, data)
  if encoders.custom.is_dotted(name):
    return encoders.custom.make(name, run['encoder']['custom'], offered)
  return encoders.custom.make(encoders.ENCODERS[name], run['encoder'][name], offered)


def _offered(run: Run, data: Known) -> dict[str, Any]:
  """What an encoder is given beside its options, where it has such a parameter."""
  dtype, options = jnp.dtype(run['dtype']), dict(run['encoder']['embedding'])
  tokenizer, path = data.vocabularies.tokenizer, options.pop('vectors')
  if tokenizer is None:
    return {'dtype': dtype}
  if path:
    options['vectors'] = _vectors(path, tokenizer, options['features'])
  embedding = encoders.Embedding(
    vocab_size=data.vocab_size, pieces_vocab_size=data.pieces_vocab_size, dtype=dtype, **options
  )
  return {'dtype': dtype, 'embedding': embedding, 'max_length': data.vocabularies.longest}


def _vectors(path: str, tokenizer: text.Tokenizer, features: int) -> encoders.Vectors:
  """Word vectors for the ids of a tokenizer; says how many of them have one."""
  words = [''] * tokenizer.size
  for word, index in tokenizer.backend.get_vocab().items():
    words[index] = word
  vectors = encoders.load_vectors(pathlib.Path(path).expanduser(), words, features)
  known = int(vectors.known.sum())
  _LOG.info(
    '%s: vectors for %d of %d tokens (%.1f%%)', path, known, len(words), 100 * vectors.coverage
  )
  return vectors


def check_encoder(run: Run) -> None:
  """Raises ConfigError unless the encoder can be made of its options and serves the tasks."""
  options = run['encoder']
  name, embedding = options['name'], options['embedding']
  data_set, vectors = run['dataset']['name'], embedding['vectors']
  source_data = sources.of(run['dataset'], run['tasks'])
  arrays = source_data.input.kind == 'array'
  serve = encoders.ARRAYS if arrays else (*encoders.TEXT, *encoders.PRETRAINED)
  if name not in serve and not encoders.custom.is_dotted(name):
    raise errors.ConfigError(
      f'encoder.name: {name!r} reads {"texts" if arrays else "arrays of numbers"}, and data set '
      f'{data_set!r} has {"arrays, such as images" if arrays else "texts"}: choose one of '
      f'{", ".join(serve)}'
    )
  if arrays and (vectors or embedding['freeze_vectors']):
    raise errors.ConfigError(f'encoder.embedding.vectors: data set {data_set!r} has no words')
  if vectors and not pathlib.Path(vectors).expanduser().is_file():
    raise errors.ConfigError(f'encoder.embedding.vectors: no file {vectors!r}')
  if embedding['freeze_vectors'] and not vectors:
    raise errors.ConfigError('encoder.embedding.freeze_vectors: set encoder.embedding.vectors too')
  if encoders.custom.is_dotted(name):
    offered = ('dtype',) if arrays else ('dtype', 'embedding', 'max_length')  # see `_offered`
    encoders.custom.check(name, options['custom'], dict.fromkeys(offered))
    try:
      json.dumps(options['custom'])
    except TypeError as e:
      raise errors.ConfigError(
        f'encoder.custom: need numbers, texts, bools and tuples: {e}'
      ) from None
    return
  source = source_of(run)
  if source:
    if vectors:
      raise errors.ConfigError(
        f'encoder.embedding.vectors: encoder {name!r} has an embedding of its own'
      )
    source.check(f'encoder.{name}')
    return
  try:
    encoders.get(name, **{} if arrays else {'embedding': None}, **options[name])
  except ValueError as e:
    raise errors.ConfigError(f'encoder.{name}: {e}') from None
  tagging = [task for task in run['tasks'] if source_data.tasks[task].rules.per_token]
  if name == 'cnn' and options['cnn']['pool'] and tagging:
    raise errors.ConfigError(
      f'encoder.cnn.pool: task {tagging[0]!r} labels every token: set it to False; tasks that '
      "label whole examples can have pooling='max'"
    )
