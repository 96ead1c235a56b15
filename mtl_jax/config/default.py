"""Every key of a config, with its default."""

import copy
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from mtl_jax import optim, sharing
from mtl_jax.build import transfer
from mtl_jax.config.fit import merge, task_section
from mtl_jax.data import pipeline
from mtl_jax.optim import _listing


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
  sections = {
    name: merge(f'tasks.{name}', task_section(), given) for name, given in options.items()
  }
  return config_dict.ConfigDict(sections, sort_keys=False)


def dotted(values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Returns a section whose names may contain dots, as those of `variants` and `paper` do."""
  return config_dict.ConfigDict(dict(values), sort_keys=False, allow_dotted_keys=True)
