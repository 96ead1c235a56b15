"""What a run starts from: data, tokenizer, first parameters, and which of them are not trained."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import errors
from mtl_jax.build import layers as layers_lib
from mtl_jax.build import transfer
from mtl_jax.build.encoder import source_of
from mtl_jax.data import pipeline, sources, text
from mtl_jax.data import vocabularies as vocabularies_lib
from mtl_jax.model import MultiTaskModel, is_frozen, read_by

Run = Mapping[str, Any]
_LOG = logging.getLogger(__name__)


def load_data(run: Run) -> pipeline.Data:
  """The data set of a run, with the vocabularies of the encoder or run that it starts from."""
  vocabularies, tokenizer = None, None
  source = sources.of(run['dataset'], run['tasks'])
  if run['init_from']:
    found = transfer.find_run(run['init_from'], run['seed'])
    vocabularies = vocabularies_lib.read(found)
    arrays = source.input.kind == 'array'
    if arrays != (vocabularies.tokenizer is None):
      reads = ('texts', 'arrays') if arrays else ('arrays', 'texts')
      raise errors.ConfigError(
        f'init_from: {found} was trained on {reads[0]}, and {run["dataset"]["name"]!r} has '
        f'{reads[1]}'
      )
  elif (pretrained := source_of(run)) and not run['dataset']['tokenizer']:
    tokenizer = text.pretrained(pretrained.tokenizer())
  return pipeline.load(
    run['dataset'],
    _tasks(run),
    run['train']['batch_size'] * _accumulate(run),
    run['seed'],
    vocabularies,
    tokenizer,
    new_tasks=True,
    source=source,
  )


def _tasks(run: Run) -> dict[str, dict[str, Any]]:
  """The options of the tasks, their batches as large as a step needs."""
  return {
    name: dict(options) | {'batch_size': options.get('batch_size', 0) * _accumulate(run)}
    for name, options in run['tasks'].items()
  }


def _accumulate(run: Run) -> int:
  """How many batches make a step."""
  return run['train'].get('accumulate', 1)


def elsewhere(run: Run) -> bool:
  """Whether training starts from parameters that others trained."""
  source = source_of(run)
  return bool(run['init_from'] or (source and source.pretrained))


def transplant(
  run: Run, data: pipeline.Data, model: MultiTaskModel, batch: Any, fresh: Any, seed: int
) -> tuple[Any, Any]:
  """Initial parameters and state with the values of an earlier run, or of a pretrained encoder.

  `fresh` is of `MultiTaskModel.init_with_state`.
  """
  params, state = fresh
  options = run['transfer']
  layers = layers_lib.layers_of(model, params, batch, options['layers'])
  renewed = layers_lib.highest(layers, options['reinitialize'])
  source = source_of(run)
  if source and not run['init_from']:
    return transfer.from_encoder(params, source.params(), fresh=renewed).params, state
  found = transfer.find_run(run['init_from'], seed)
  earlier = vocabularies_lib.read(found)
  for task, names in earlier.labels.items():
    if data.label_names.get(task, names) != names:
      raise errors.ConfigError(f'init_from: {found} has other classes of task {task!r}')
  tokenizers = [v.tokenizer and v.tokenizer.backend.to_str() for v in (earlier, data.vocabularies)]
  if tokenizers[0] != tokenizers[1]:
    raise errors.ConfigError(f'init_from: {found} has another tokenizer than the first seed')
  made = transfer.from_params(params, transfer.read_run(found), fresh=renewed)
  fresh_heads = sorted({'/'.join(path.split('/')[:2]) for path in made.fresh})
  _LOG.info(
    'starts from %s; fresh: %s; not used: %s',
    '/'.join(found.parts[-2:]),
    ', '.join(fresh_heads) or 'nothing',
    ', '.join(sorted({'/'.join(path.split('/')[:2]) for path in made.unused})) or 'nothing',
  )
  if state is not None:
    state = transfer.from_params(state, transfer.read_run(found, 'model_state')).params
  return made.params, state


def with_first_state(model: MultiTaskModel, batch: Any) -> MultiTaskModel:
  """The model, bound to zeros where it keeps a state, for what reads only shapes."""
  shapes = jax.eval_shape(model.init_state, batch)
  if shapes is None:
    return model
  return model.with_state(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))


def freeze(model: MultiTaskModel, run: Run, batch: Any) -> tuple[MultiTaskModel, list[str]]:
  """The model without gradients on frozen parameters of θ, and the paths of all frozen ones."""
  options = run['transfer']
  if not (options['freeze_layers'] or options['freeze'] or model.frozen):
    return model, []
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
  layers = layers_lib.layers_of(model, shapes, batch, options['layers'])
  for pattern in options['freeze']:
    if not any(is_frozen(path, [pattern]) for path in layers):
      raise errors.ConfigError(
        f'transfer.freeze: {pattern!r} matches no parameter whole; there are, for example, '
        f'{", ".join(list(layers)[:5])}'
      )
  patterns = (*model.frozen, *options['freeze'])
  lowest = layers_lib.lowest(layers, options['freeze_layers'])
  chosen = [path for path in layers if path in lowest or is_frozen(path, patterns)]
  if len(chosen) == len(layers):
    raise errors.ConfigError('transfer: every parameter is frozen, and nothing could be learned')
  held = tuple(re.escape(path) for path in chosen if path.startswith('shared/'))
  return dataclasses.replace(model, frozen=held), chosen


def anchored(model: MultiTaskModel, run: Run, batch: Any) -> list[str] | None:
  """Paths of the parameters that `transfer.l2_sp` holds to where they start; None: the shared."""
  tasks = run['transfer']['l2_sp_tasks']
  if not tasks:
    return None
  return read_by(model, jax.eval_shape(model.init, jax.random.key(0), batch), batch, tasks)


def check_transfer(run: Run) -> None:
  """Raises ConfigError unless the options of transfer fit each other."""
  options = run['transfer']
  for pattern in (options['layers'], *options['freeze']):
    try:
      compiled = re.compile(pattern)
    except re.error as e:
      raise errors.ConfigError(f'transfer: {pattern!r} is no regular expression: {e}') from None
    if pattern and pattern == options['layers'] and compiled.groups != 1:
      raise errors.ConfigError(
        f'transfer.layers: {pattern!r} needs one group, around the number of a layer'
      )
  for name in options['l2_sp_tasks']:
    if name not in run['tasks']:
      near = errors.nearest(name, run['tasks'])
      raise errors.ConfigError(f'transfer.l2_sp_tasks: no task {name!r}{near}')
  if options['l2_sp_tasks'] and not options['l2_sp']:
    raise errors.ConfigError('transfer.l2_sp_tasks: set transfer.l2_sp, the strength, too')
  if options['reinitialize'] and not elsewhere(run):
    raise errors.ConfigError(
      'transfer.reinitialize: every layer is fresh: there is neither init_from nor a pretrained '
      'encoder'
    )
