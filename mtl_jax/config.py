"""What a run can be told: the config with every key, its checks, its expansion into single runs.

Building models, data and optimizers from a config is the work of `train`.
"""

import copy
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import config_dict

from mtl_jax import _config_checks, errors, optim, sharing, transfer
from mtl_jax._plain import Plain, is_int, is_number, is_section, leaves
from mtl_jax.data import pipeline
from mtl_jax.optim import _listing

_PATHS = ('data_dir', 'manual_dir')
_TASK: Plain = {
  'weight': 1.0,  # multiplies the task's loss; 0: off, evaluated only
  'l2': 0.0,  # λ_i of λ_i‖φ_i‖² on the task's own parameters; not balanced
  # How a head for whole examples reads the tokens: see heads.POOLINGS. Without tokens: unused.
  'pooling': 'mean',
  'sentence': '',  # tagging: how the view of the sentence beside each token is pooled; '': none
  'hidden': 0,  # width of a layer of the task's own, before its outputs; 0: none
  'dropout': 0.0,  # on what the head reads, or on its hidden layer
}


def default() -> config_dict.ConfigDict:
  """Returns the config with every key at its default, locked: a misspelt key is an error."""
  c = config_dict.ConfigDict(sort_keys=False)
  c.name = 'run'
  c.seeds = (0,)  # each is a run of its own
  c.variants = dotted({})  # {name: {dotted path: value}}: each is trained with every seed

  c.tasks = tasks({})  # {name: options}
  c.only = ()  # the tasks to train; () for all

  c.dataset = copy.deepcopy(dict(pipeline.DEFAULTS))

  # The shared half: one of these, or a module, class or function of your own by its name,
  # 'package.module:Name'; `dtype` and, for texts, `embedding` and `max_length` are given where it
  # has such a parameter.
  c.encoder = {
    'name': 'transformer',
    # Of the tokens; the pieces of a word, where the data set has them, pass a small CNN.
    'embedding': {
      'features': 128,
      'pieces_embedding': 32,
      'pieces_features': 64,
      'dropout': 0.1,
      'vectors': '',  # a text file of GloVe or fastText, of width `features`; '': none
      'freeze_vectors': False,  # do not train them
    },
    'cnn': {
      'features': 100,  # of each width
      'widths': (3, 4, 5),
      'pool': True,  # False: a state a token, for tagging
      'dropout': 0.5,
    },
    'lstm': {'features': 128, 'layers': 1, 'dropout': 0.1},
    'bilstm': {'features': 128, 'layers': 1, 'dropout': 0.1},
    'transformer': {
      'features': 128,
      'layers': 2,
      'heads': 4,
      'mlp_features': 256,
      'dropout': 0.1,
      'norm': 'pre',  # or 'post'
      'position': 'learned',  # 'rotary', 'sinusoidal'
      'remat': False,  # less memory, more time
    },
    # A pretrained one. The data set's tokenizer is its own, unless another is given.
    'bert': {
      'path': '',  # a folder with config.json, model.safetensors and tokenizer, or PACKAGE:FOLDER
      'pretrained': True,  # False: the same network from scratch
      'layers': 0,  # only so many blocks, from the first; 0: all
      'dropout': 0.1,
      'remat': False,
    },
    # Of arrays of numbers: vectors and images.
    'mlp': {'features': (128, 128), 'dropout': 0.0},
    'lenet': {'features': (10, 20), 'kernels': (5, 5), 'dense': 50, 'dropout': 0.0},
    'resnet': {
      'blocks': (2, 2, 2, 2),  # of each stage
      'features': 64,  # of the first stage; each further one has twice as many
      'groups': 32,  # of each normalization
      'small_images': True,  # begin as on CIFAR; False: as on ImageNet
    },
    'vit': {
      'patch': 4,  # pixels, must divide height and width
      'features': 128,
      'layers': 4,
      'heads': 4,
      'mlp_features': 256,
      'dropout': 0.0,
      'remat': False,
    },
    'custom': {},  # options of your own encoder: `config.encoder.custom.width = 3`
  }
  # How the tasks share it: see docs/sharing.md.
  c.sharing = {
    'name': 'hard',
    **{name: options for name in sharing.SHARING if (options := sharing.options(name))},
  }

  # Start from the best parameters of an earlier run: WORKDIR/VARIANT/seed_K, or a WORKDIR with one
  # run, or one of the same seed. Vocabularies are that run's; heads of new tasks are fresh.
  c.init_from = ''
  # How gently a pretrained encoder changes. Its layers are numbered from the embedding, 0.
  c.transfer = {
    'freeze_layers': 0,  # the lowest so many are not trained
    'freeze': (),  # further parameters, as regular expressions of whole paths: 'shared/.*bias'
    'unfreeze_every': 0,  # steps until one more layer is trained, from the top; 0: all at once
    'layer_decay': 1.0,  # learning rate of a layer, as a share of that of the layer above
    'reinitialize': 0,  # the top so many start fresh
    'l2_sp': 0.0,  # λ of λ‖θ − θ⁰‖², θ⁰ where training began; not balanced
    # Names of lower tasks: θ of `l2_sp` is what their outputs depend on, their own halves too
    # (successive regularization); () for all shared parameters.
    'l2_sp_tasks': (),
    'layers': transfer.LAYERS,  # regular expression that finds a layer's number in a path
  }

  # How the tasks' gradients become one: 'pcgrad', 'gradnorm', 'gradnorm+pcgrad', ...
  # `python -m mtl_jax.optim` lists the methods; each has a section of its options here.
  c.balance = {
    'name': 'sum_tasks',
    'at': 'parameters',  # or 'representation': the gradients of the shared features
    'jacobian': 'auto',  # 'stacked', 'sequential', 'matrix_free': see make_train_step
    'tasks_at_once': 0,  # tasks pulled back in one pass; 0: as the device likes it
    'unit_task_weights': False,  # loss weights spare the tasks' own parameters
    'monitor': False,  # log cosines, conflicts and improved tasks for every method
    # Around the method, in this order; the defaults do nothing.
    'ema_gramian': 0.0,  # smooths G over steps: share of the past
    'ema_weights': 0.0,  # smooths the weights over steps (CR-MOGM): share of the past
    'clip_conflict': 1.0,  # the direction's largest −cos with a task's gradient
    'every_k': 1,  # steps between two sets of weights
    'warmup_steps': 0,  # of the plain mean
    'groups': ('whole',),  # balanced each by itself: 'layer', 'matrix', or regular expressions
    **{name: options for name in optim.METHODS if (options := _listing.options(name))},
  }

  # What optax makes of the balanced gradient.
  c.optimizer = {
    'name': 'adamw',
    'learning_rate': 1e-3,  # the peak
    'clip_norm': 1.0,  # of the gradient on all parameters; 0: no clipping
    'l2_shared': 0.0,  # λ of λ‖θ‖²: 2λθ is added before clipping, not balanced
    # Weight decay is decoupled, and spares biases, normalizations and what mixes columns.
    'adamw': {'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'weight_decay': 0.01},
    'adam': {'b1': 0.9, 'b2': 0.999, 'eps': 1e-8},
    'sgd': {'momentum': 0.9, 'nesterov': False},
    'schedule': {
      'name': 'cosine',
      'warmup_steps': 0,  # linear from 0 to the peak
      'cosine': {'final': 0.0},  # share of the peak at the last step
      'linear': {'final': 0.0},
      'exponential': {'rate': 0.5, 'every': 1000},  # times `rate` every `every` steps, smoothly
    },
  }

  c.train = {
    'batch_size': 32,
    'steps': 0,  # one of steps and epochs is given, the other 0
    'epochs': 0.0,
    'log_every': 50,  # steps
    'eval_every': 0,  # steps; 0: after every epoch
    'checkpoint_every': 0,  # steps; 0: with every evaluation
    # The parameters with the best validation metric are kept; training stops after `patience`
    # evaluations without a gain above `min_delta`.
    'early_stopping': {
      'metric': 'mean',  # 'mean' of the main metrics, 'loss', 'joint.exact_match', 'TASK.METRIC'
      'patience': 0,  # evaluations; 0: train to the end
      'min_delta': 0.0,
    },
  }
  c.eval = {
    'batch_size': 256,
    'test': True,  # evaluate the best parameters on the test split at the end
  }
  c.mesh = {
    'data': 1,  # devices that share a batch; 0: all that `fsdp` leaves
    'fsdp': 1,  # devices that share batch and parameters
  }
  c.dtype = 'float32'  # of the computation, or 'bfloat16'; parameters stay float32

  # Published numbers beside ours: {'source': ..., 'rows': {model: {'TASK.METRIC': percent}}}.
  c.paper = dotted({})
  c.lock()
  c.encoder.custom.unlock()
  return c


def tasks(options: Mapping[str, Mapping[str, Any]]) -> config_dict.ConfigDict:
  """Returns the tasks section: `config.tasks = tasks({'pos': {}, 'lemma': {'weight': 2.0}})`.

  Raises:
    ConfigError: an option does not exist, or its value has the wrong type.
  """
  sections = {name: _merge(f'tasks.{name}', _TASK, given) for name, given in options.items()}
  return config_dict.ConfigDict(sections, sort_keys=False)


def dotted(values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Returns a section whose names may contain dots, as those of `variants` and `paper` do."""
  return config_dict.ConfigDict(dict(values), sort_keys=False, allow_dotted_keys=True)


def plain(config: config_dict.ConfigDict | Mapping[str, Any]) -> Plain:
  """Returns a config as nested dicts, whatever it was made from."""
  return {name: plain(value) if is_section(value) else value for name, value in config.items()}


def resolve(
  config: config_dict.ConfigDict | Mapping[str, Any], variants: Iterable[str] = ()
) -> list[Plain]:
  """Expands a config into its runs and checks each of them.

  Args:
    config: `default()` with changes, whole.
    variants: names of the variants to train; () for all.

  Returns:
    one config for each variant and seed, seeds varying fastest: `seed` and `variant` in place of
    `seeds`, `variants` and `only`, the `tasks` to be trained, and no options of what is not chosen.

  Raises:
    ConfigError: a key, task, method, encoder, metric or value does not exist or fit; the message
      names the nearest that does.
  """
  whole = _merge('', plain(default()), plain(config))
  seeds = whole.pop('seeds')
  changes = whole.pop('variants') or {'default': {}}
  variants = tuple(variants)
  for name in variants:
    if name not in changes:
      raise errors.ConfigError(f'no variant {name!r}{errors.nearest(name, changes)}')
  valid = all(is_int(seed) and 0 <= seed < 2**63 for seed in seeds)
  if not seeds or not valid or len(set(seeds)) < len(seeds):
    raise errors.ConfigError(f'seeds: need different integers from 0 to 2**63 - 1, not {seeds}')
  _config_checks.check_paper(whole['paper'])
  runs = []
  for name, change in changes.items():
    if not isinstance(change, Mapping):
      raise errors.ConfigError(f'variants.{name}: need {{path: value}}, not {change!r}')
    if name in ('.', '..') or '/' in name:
      raise errors.ConfigError(f'variants: {name!r} cannot name a directory')
    single = copy.deepcopy(whole)
    for path, value in leaves(change):
      _assign(single, path, value, f'variants.{name}: ')
    single = _config_checks.check(single, f'variant {name!r}: ' if len(changes) > 1 else '')
    if not variants or name in variants:
      runs += [{'name': single['name'], 'variant': name, 'seed': seed} | single for seed in seeds]
  return runs


def validate(config: config_dict.ConfigDict | Mapping[str, Any]) -> None:
  """Raises ConfigError for what `resolve` would not accept."""
  resolve(config)


def to_json(run: Plain) -> str:
  """Returns a run's config as text; equal `portable` configs give equal texts."""
  return json.dumps(portable(run), indent=2, ensure_ascii=False) + '\n'


def portable(run: Plain) -> Plain:
  """Returns a run's config without the paths of this machine."""
  run = copy.deepcopy(run)
  for key in _PATHS:
    if is_section(run.get('dataset')):
      run['dataset'].pop(key, None)
  for path in ('encoder.embedding.vectors', 'encoder.bert.path', 'init_from'):
    *sections, key = path.split('.')
    node: Any = run
    for section in sections:
      node = node.get(section, {})
    if node.get(key):
      parts = pathlib.PurePath(node[key]).parts
      node[key] = '/'.join(parts[-2:] if path == 'init_from' else parts[-1:])
  return run


def differences(old: Plain, new: Plain) -> list[str]:
  """Returns `key: old -> new` for every key in which two configs read from JSON differ."""
  before, after = dict(leaves(old)), dict(leaves(new))
  absent = '(absent)'
  return [
    f'{path}: {before.get(path, absent)!r} -> {after.get(path, absent)!r}'
    for path in before | after
    if before.get(path, absent) != after.get(path, absent)
  ]


def check_path(config: config_dict.ConfigDict | Mapping[str, Any], path: str) -> None:
  """Raises ConfigError, with the nearest valid name, unless `path` names a key of the config."""
  node: Any = plain(config)
  walked: list[str] = []
  for part in path.split('.'):
    where = '.'.join(walked)
    if not is_section(node):
      raise errors.ConfigError(f'{where} is a single value and has no key {part!r}')
    if part not in node and where == 'encoder.custom':
      raise errors.ConfigError(f'no key {part!r} in {where}: set it in the config file first')
    if part not in node:
      inside = f' in {where}' if where else ''
      raise errors.ConfigError(f'no key {part!r}{inside}{errors.nearest(part, node)}')
    node = node[part]
    walked.append(part)


def _merge(path: str, base: Plain, given: Mapping[str, Any]) -> Plain:
  """Returns `base` with the values of `given`, which may only have keys and types that base has."""
  merged = dict(base)
  for name, value in given.items():
    where = f'{path}.{name}' if path else name
    if name not in base:
      inside = f' in {path}' if path else ''
      raise errors.ConfigError(f'no key {name!r}{inside}{errors.nearest(name, base)}')
    merged[name] = _fit(where, base[name], value)
  return merged


def _fit(where: str, base: Any, value: Any) -> Any:
  """Returns `value` in the type of `base`."""
  if where in ('variants', 'paper') and is_section(value):
    return dict(value)  # their names are the user's own
  if where == 'encoder.custom' and is_section(value):
    return plain(value)
  if where == 'tasks' and is_section(value):
    return {name: _merge(f'tasks.{name}', _TASK, given) for name, given in value.items()}
  if is_section(base) and is_section(value):
    return _merge(where, base, value)
  if isinstance(base, tuple) and isinstance(value, tuple | list):
    return tuple(value)
  if isinstance(base, float) and is_number(value):
    return float(value)
  if is_int(base) and is_int(value):
    return value
  if isinstance(base, bool | str) and type(base) is type(value):
    return value
  raise errors.ConfigError(f'{where}: need {_describe(base)}, not {value!r}')


def _describe(base: Any) -> str:
  if is_section(base):
    return 'a section with keys'
  kinds = {bool: 'True or False', int: 'an integer', float: 'a number', str: 'a text'}
  return kinds.get(type(base), f'a {type(base).__name__}')


def _assign(run: Plain, path: str, value: Any, where: str) -> None:
  """Sets the key at a dotted path."""
  *parents, last = path.split('.')
  if parents == ['encoder', 'custom']:
    run['encoder']['custom'][last] = value
    return
  try:
    check_path(run, path)
    node = run
    for part in parents:
      node = node[part]
    node[last] = _fit(path, node[last], value)
  except errors.ConfigError as e:
    raise errors.ConfigError(f'{where}{e}') from None
