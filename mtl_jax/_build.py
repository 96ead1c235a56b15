"""Builds what a run trains from its resolved config: model, balance, optimizer, compiled steps."""

import contextlib
import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mtl_jax import (
  _direction,
  _optimizer,
  _start,
  encoders,
  errors,
  heads,
  metrics,
  optim,
  sharding,
  train_step,
)
from mtl_jax import sharing as sharing_lib
from mtl_jax.data import builders, pipeline, text
from mtl_jax.model import MultiTaskModel
from mtl_jax.tasks import Task

Run = Mapping[str, Any]
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Program:
  """All that is the same for every seed of a variant, so that it is compiled once.

  Attributes:
    model: the model.
    balance: the balancing method.
    optimizer: what follows it.
    schedule: step -> learning rate.
    mesh: None on a single device.
    step: compiled `(state, batch) -> (state, metrics)`.
    init: seed -> a fresh state, compiled.
    eval_step: compiled `(params, batch) -> sums and predictions`.
    compilations: how often `step` was compiled so far.
  """

  model: MultiTaskModel
  balance: optax.GradientTransformation
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  mesh: Mesh | None
  init: Callable[[int], train_step.TrainState]
  step: Callable[..., Any]
  eval_step: Callable[..., Any]
  compilations: Callable[[], int]

  def put(self, batch: Any) -> Any:
    """Brings a batch of NumPy arrays to where the steps expect it."""
    if self.mesh is None:
      return batch
    if jax.process_count() > 1:
      batch = jax.tree.map(_own_rows, batch)
    return sharding.shard_batch(batch, self.mesh)


def program(run: Run, data: pipeline.Data, steps: int) -> Program:
  """Builds what a run trains.

  Args:
    run: a config from `config.resolve`.
    data: its data set, from `data.pipeline.load`.
    steps: number of training steps, for the learning-rate schedule.

  Raises:
    ConfigError: an option does not fit another, or the devices.
  """
  model = build_model(run, data)
  balance = build_balance(run)
  schedule = _optimizer.build_schedule(run, steps)
  mesh = build_mesh(run)
  batch = data.example_batch()  # the same for every seed: only its shapes count
  with as_config_errors():
    model, frozen = _start.freeze(model, run, batch)
    anchored = _start.anchored(model, run, batch)
  optimizer = _optimizer.build(run, schedule, frozen, anchored)
  options = run['balance']

  def init(key, params=None):
    return train_step.init_train_state(
      model, balance, optimizer, key, batch, params=params, mesh=mesh
    )

  compiled = jax.jit(init) if mesh is None else init
  fresh = jax.jit(model.init)

  def start(seed):
    key = jax.random.key(seed)
    if not _start.elsewhere(run):
      return compiled(key)
    # With the key that `init_train_state` would give the model.
    params = fresh(jax.random.split(key)[0], batch)
    return compiled(key, _start.transplant(run, data, params, seed))

  step = train_step.make_train_step(
    model,
    balance,
    optimizer,
    mesh=mesh,
    at=options['at'],
    jacobian=options['jacobian'],
    tasks_at_once=options['tasks_at_once'] or None,
    unit_task_weights=options['unit_task_weights'],
    monitor=options['monitor'],
  )
  with as_config_errors():  # before any work; jit keeps the trace
    jax.eval_shape(step, jax.eval_shape(init, jax.random.key(0)), batch)
  if mesh is None:
    eval_step = train_step.make_eval_step(model)
  else:  # every process gets the whole result
    everywhere = NamedSharding(mesh, PartitionSpec())
    eval_step = jax.jit(train_step.make_eval_step(model, jit=False), out_shardings=everywhere)
  count = step._cache_size  # type: ignore[attr-defined]
  return Program(
    model,
    balance,
    optimizer,
    schedule,
    mesh,
    start,
    step,
    eval_step,
    count,
  )


@contextlib.contextmanager
def as_config_errors() -> Iterator[None]:
  """What only the shapes tell of a config, a ValueError of a module, becomes a ConfigError."""
  try:
    yield
  except ValueError as e:
    raise errors.ConfigError(str(e)) from None


def build_model(run: Run, data: pipeline.Data) -> MultiTaskModel:
  """The encoder, the heads and how they share."""
  dtype = jnp.dtype(run['dtype'])
  tasks = [_task(name, run, data, dtype) for name in run['tasks']]
  return _share(run, build_encoder(run, data), tasks)


def _share(run: Run, encoder: Any, tasks: list[Task]) -> MultiTaskModel:
  name = run['sharing']['name']
  return sharing_lib.get(name)(encoder, tasks, **run['sharing'].get(name, {}))


def check_sharing(run: Run) -> None:
  """Raises ConfigError unless the tasks can share as they are told to."""
  try:
    _share(run, encoders.MLP(), [Task(name, None) for name in run['tasks']])
  except errors.ConfigError as e:
    raise errors.ConfigError(f'sharing.{e}') from None


def build_encoder(run: Run, data: pipeline.Data) -> Any:
  """The encoder, a Flax module, over the embedding."""
  name = run['encoder']['name']
  if name == 'bert':
    options = dict(run['encoder']['bert'])
    options.pop('pretrained')
    given = encoders.bert.options(options.pop('path'), options.pop('layers'))
    if data.vocab_size > given['vocab_size']:
      raise errors.ConfigError(
        f'encoder.bert knows {given["vocab_size"]} tokens, and the tokenizer has '
        f'{data.vocab_size}: leave dataset.tokenizer empty to use its own'
      )
    most = encoders.bert.longest(given)
    if data.bucket_lengths[-1] > most:
      raise errors.ConfigError(
        f'encoder.bert reads {most} tokens, and the longest example has {data.bucket_lengths[-1]}: '
        f'set dataset.max_length={most} or less'
      )
    return encoders.Bert(**given, **options, dtype=jnp.dtype(run['dtype']))
  offered = _offered(run, data)
  if encoders.custom.is_dotted(name):
    return encoders.custom.make(name, run['encoder']['custom'], offered)
  return encoders.custom.make(encoders.ENCODERS[name], run['encoder'][name], offered)


def _offered(run: Run, data: pipeline.Data) -> dict[str, Any]:
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
  arrays = builders.get(data_set).INPUT.kind == 'array'
  serve = encoders.ARRAYS if arrays else (*encoders.TEXT, 'bert')
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
  if name == 'bert':
    bert = options['bert']
    if vectors:
      raise errors.ConfigError('encoder.embedding.vectors: a BERT has its own embedding')
    if not bert['path']:
      raise errors.ConfigError(
        'encoder.bert.path: give the folder of a checkpoint, or PACKAGE:FOLDER of one in an '
        f'installed package, such as {encoders.bert.MINILM}'
      )
    encoders.bert.options(bert['path'], bert['layers'])
    return
  try:
    encoders.get(name, **{} if arrays else {'embedding': None}, **options[name])
  except ValueError as e:
    raise errors.ConfigError(f'encoder.{name}: {e}') from None
  tasks = builders.get(data_set).TASKS
  tagging = [task for task in run['tasks'] if tasks[task].kind == 'tagging']
  if name == 'cnn' and options['cnn']['pool'] and tagging:
    raise errors.ConfigError(
      f'encoder.cnn.pool: task {tagging[0]!r} labels every token: set it to False; tasks that '
      "label whole examples can have pooling='max'"
    )


def _task(name: str, run: Run, data: pipeline.Data, dtype: Any) -> Task:
  options, spec = run['tasks'][name], data.specs[name]
  kwargs = {'hidden': options['hidden'], 'dropout': options['dropout'], 'dtype': dtype}
  if spec.kind != 'regression':
    kwargs['num_classes'] = data.num_classes[name]
  if spec.kind == 'tagging':
    kwargs['sentence'] = options['sentence'] or None
  else:
    kwargs['pooling'] = options['pooling']
  return Task(
    name,
    heads.get(spec.kind, **kwargs),
    spec.kind,
    metrics=tuple(spec.metrics),
    weight=options['weight'],
  )


def build_balance(run: Run) -> optim.Balancer:
  """The balancing method; scalings alone are followed by the plain sum.

  Raises:
    ConfigError: an option has no such value.
  """
  options = run['balance']
  try:
    links = [_method(name, options) for name in options['name'].split('+')]
    if isinstance(links[-1], optim.Normalizer):
      links.append(optim.sum_tasks())
    return _wrap(optim.compose(*links), options)
  except ValueError as e:
    raise errors.ConfigError(f'balance.{e}') from None


def check_balance(run: Run) -> None:
  """Raises ConfigError unless the balancing method can be built, and computed as it is asked to."""
  options, balance = run['balance'], build_balance(run)
  try:
    _direction.check(balance, options['at'], options['jacobian'])
  except ValueError as e:
    raise errors.ConfigError(f'balance: {e}') from None


def _method(name: str, options: Run) -> optim.Balancer | optim.Normalizer:
  given = options.get(name, {})
  return optim.get(name, **{k: None if v == () else v for k, v in given.items()})


def _wrap(balance: optim.Balancer, options: Run) -> optim.Balancer:
  """The wrappers that a config asks for, from the inside out."""
  if options['ema_gramian']:
    balance = optim.ema_gramian(balance, options['ema_gramian'])
  if options['ema_weights']:
    balance = optim.ema_weights(balance, options['ema_weights'])
  if options['clip_conflict'] < 1:
    balance = optim.clip_conflict(balance, options['clip_conflict'])
  if options['every_k'] > 1:
    balance = optim.every_k(balance, options['every_k'])
  if options['warmup_steps']:
    balance = optim.with_warmup(balance, options['warmup_steps'])
  groups = options['groups']
  named = len(groups) == 1 and groups[0] in optim.GROUPS
  if groups and groups != ('whole',):
    balance = optim.by_group(balance, groups[0] if named else groups)
  return balance


def build_mesh(run: Run) -> Mesh | None:
  """The device mesh; None for a single device."""
  data, fsdp = run['mesh']['data'], run['mesh']['fsdp']
  devices = jax.devices()
  if data == 0:
    data = max(len(devices) // fsdp, 1)
  if data * fsdp > len(devices):
    raise errors.ConfigError(
      f'mesh: data={data} × fsdp={fsdp} needs {data * fsdp} devices, and there are {len(devices)}'
    )
  if data * fsdp == 1 and jax.process_count() == 1:
    return None
  for key in ('train', 'eval'):
    size = run[key]['batch_size']
    if size % (data * fsdp):
      raise errors.ConfigError(
        f'{key}.batch_size: {size} examples cannot be split over {data * fsdp} devices'
      )
  return sharding.make_mesh(data, fsdp, devices[: data * fsdp])


def higher_is_better(metric: str) -> bool:
  """The direction of a selection metric: 'loss' and errors fall, all else rises."""
  if metric in ('mean', 'joint.exact_match'):
    return True
  return metric != 'loss' and metrics.METRICS[metric.split('.')[-1]].higher_is_better


def _own_rows(leaf: Any) -> Any:
  """This process's rows of a whole batch."""
  rows = leaf.shape[0] // jax.process_count()
  return leaf[jax.process_index() * rows : (jax.process_index() + 1) * rows]
