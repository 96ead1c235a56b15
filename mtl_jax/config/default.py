"""Every key of a config, with its default."""

import copy
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from mtl_jax import encoders, errors
from mtl_jax.config import sections
from mtl_jax.config.fit import describe, merge, merge_task
from mtl_jax.data import pipeline
from mtl_jax.plain import is_section, plain


def default() -> config_dict.ConfigDict:
  """Returns the config with every key at its default, locked: a misspelt key is an error.

  What the options of a section mean is said where they stand: by what `sections` names.
  """
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
    # '': 'transformer' for texts, 'mlp' for numbers.
    'name': '',
    # Of the tokens; `vectors` is a text file of GloVe or fastText, of width `features`; '': none.
    'embedding': encoders.options_of('embedding') | {'vectors': ''},
    **sections.defaults('encoder'),
    'custom': {},  # options of your own encoder: `config.encoder.custom.width = 3`
  }
  # How the tasks share it: see docs/sharing.md.
  c.sharing = {'name': 'hard', **sections.defaults('sharing')}

  # Start from the best parameters of an earlier run: WORKDIR/VARIANT/seed_K, or a WORKDIR with one
  # run, or one of the same seed. Vocabularies are that run's; heads of new tasks are fresh.
  c.init_from = ''
  c.transfer = sections.defaults('transfer')  # how gently a pretrained encoder changes

  # How the tasks' gradients become one: 'pcgrad', 'gradnorm', 'gradnorm+pcgrad', ...
  # `python -m mtl_jax.optim` lists the methods; each has a section of its options here.
  c.balance = sections.defaults('balance')

  # What optax makes of the balanced gradient.
  c.optimizer = sections.defaults('optimizer') | {
    'schedule': sections.defaults('optimizer.schedule')
  }

  c.train = sections.defaults('train') | {
    'early_stopping': sections.defaults('train.early_stopping')
  }
  c.eval = sections.defaults('eval')
  c.mesh = sections.defaults('mesh')
  c.dtype = 'float32'  # of the computation, or 'bfloat16'; parameters stay float32

  # Published numbers beside ours: {'source': ..., 'rows': {model: {'TASK.METRIC': percent}}}.
  c.paper = dotted({})
  c.lock()
  c.encoder.custom.unlock()
  return c


def complete(given: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Returns `default()` with the values of nested dicts, as a file in TOML has them.

  Raises:
    ConfigError: a key does not exist, or a value does not fit.
  """
  config = config_dict.ConfigDict(sort_keys=False)
  for key, value in merge('', plain(default()), plain(given)).items():
    if key == 'tasks':
      config.tasks = tasks(value)
    elif key in ('variants', 'paper'):
      config[key] = dotted(value)
    else:
      config[key] = value
  config.lock()
  config.encoder.custom.unlock()
  return config


def tasks(options: Mapping[str, Mapping[str, Any]]) -> config_dict.ConfigDict:
  """Returns the tasks section: `config.tasks = tasks({'pos': {}, 'lemma': {'weight': 2.0}})`.

  Raises:
    ConfigError: an option does not exist, or its value has the wrong type.
  """
  if not is_section(options):
    raise errors.ConfigError(f'tasks: need {describe({})}, one a task, not {options!r}')
  sections = {name: merge_task(name, given) for name, given in options.items()}
  return config_dict.ConfigDict(sections, sort_keys=False)


def dotted(values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Returns a section whose names may contain dots, as those of `variants` and `paper` do."""
  return config_dict.ConfigDict(dict(values), sort_keys=False, allow_dotted_keys=True)
