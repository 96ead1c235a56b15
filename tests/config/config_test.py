"""A config is checked whole, and a wrong name answered with the nearest valid one."""

import json

import pytest

from mtl_jax import config as config_lib
from mtl_jax import encoders, errors, heads, optim, sharing
from mtl_jax.build import balance as balance_lib
from mtl_jax.config import checks, sections
from mtl_jax.data import builders
from mtl_jax.plain import leaves


def _config(**changes):
  config = config_lib.default()
  config.dataset.name = 'english_words'
  config.tasks = config_lib.tasks({'pos': {}, 'inflection': {'weight': 2}, 'lemma': {}})
  config.train.steps = 10
  config.update_from_flattened_dict(changes)
  return config


def test_the_default_has_options_for_every_choice():
  plain = config_lib.plain(config_lib.default())
  for section, names in sections.CHOICES.items():
    node = plain
    for part in section.split('.'):
      node = node[part]
    assert node['name'] in names or (section == 'encoder' and not node['name'])
    assert {name for name, value in node.items() if isinstance(value, dict)} <= {
      *names,
      'schedule',  # a section of its own
      'embedding',  # of every text encoder
      'custom',  # options of a user's own encoder
    }
  files = {'bert'}  # read from a folder
  assert set(sections.CHOICES['encoder']) == {*encoders.ENCODERS} | files
  assert set(sections.CHOICES['sharing']) == set(sharing.SHARING)
  for name in encoders.TEXT:
    encoders.get(name, embedding=None, **plain['encoder'][name])
  for name in encoders.ARRAYS:
    encoders.get(name, **plain['encoder'][name])
  embedding = plain['encoder']['embedding'] | {'vectors': None}  # '', no file
  encoders.Embedding(vocab_size=2, **embedding)
  assert config_lib.default().is_locked


def test_resolve_expands_variants_and_seeds():
  config = _config(seeds=(0, 3))
  config.variants = config_lib.dotted(
    {
      'pos_only': {'only': ('pos',), 'tasks.pos.weight': 3},
      'both': {'balance.name': 'gradnorm+pcgrad', 'balance': {'gradnorm': {'alpha': 1}}},
    }
  )
  runs = config_lib.resolve(config)
  assert [(run['variant'], run['seed']) for run in runs] == [
    ('pos_only', 0),
    ('pos_only', 3),
    ('both', 0),
    ('both', 3),
  ]
  assert runs[0]['tasks'].keys() == {'pos'}
  assert runs[0]['tasks']['pos']['weight'] == 3.0
  assert list(runs[2]['tasks']) == ['pos', 'inflection', 'lemma']
  balance = runs[2]['balance']
  assert balance['gradnorm']['alpha'] == 1.0
  assert balance['pcgrad'] == {'order': 'random', 'reduction': 'sum'}
  assert set(balance) & set(optim.METHODS) == {'gradnorm', 'pcgrad'}
  assert config_lib.resolve(config, ['both']) == runs[2:]
  assert {run['order'] for run in runs} == {('pos_only', 'both')}


def test_a_run_has_only_the_options_of_what_it_chooses():
  (run,) = config_lib.resolve(_config())
  assert run['variant'] == 'default'
  assert set(run['encoder']) == {'name', 'embedding', 'transformer'}
  assert not set(run['balance']) & set(optim.METHODS)  # sum_tasks has none
  assert 'sgd' not in run['optimizer']
  assert set(run['optimizer']['schedule']) == {
    'name',
    'warmup_steps',
    'warmup_share',
    'cosine',
  }
  assert not {'seeds', 'variants', 'only'} & set(run)
  assert run['order'] == ('default',)
  assert 'order' not in json.loads(config_lib.to_json(run))
  assert json.loads(config_lib.to_json(run))['tasks']['inflection']['weight'] == 2.0


def test_names_with_commas_are_split_in_only():
  (run,) = config_lib.resolve(_config(only=('lemma,pos',)))
  assert list(run['tasks']) == ['pos', 'lemma']


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'balance.name': 'pcgrd'}, r"balance.name: no 'pcgrd'; did you mean 'pcgrad'\?"),
    ({'balance.name': 'pcgrad+gradnorm'}, "'pcgrad' makes one direction"),
    ({'encoder.name': 'transfomer'}, r"encoder.name: no 'transfomer'; did you mean 'transformer'"),
    ({'sharing.name': 'sof'}, r"sharing.name: no 'sof'; did you mean 'soft'"),
    ({'sharing.name': 'lora', 'sharing.lora.rank': 0}, 'sharing.lora.rank: need 1 or more, not 0'),
    (
      {'sharing.name': 'cgc', 'sharing.cgc.common': '('},
      'sharing.cgc.common: .* is no regular',
    ),
    (
      {'sharing.name': 'soft', 'sharing.soft.strengths': ('a',)},
      "sharing.soft.strengths: need 'PAT",
    ),
    ({'sharing.name': 'soft', 'sharing.soft.strengths': (0.1,)}, 'soft.strengths: need texts'),
    ({'sharing.name': 'hierarchical', 'sharing.hierarchical.depths': (1, 2)}, 'need texts'),
    ({'sharing.name': 'ltb', 'sharing.ltb.tree': (0, 1, 0)}, 'sharing.ltb.tree: need texts'),
    (
      {'sharing.name': 'lora', 'sharing.lora.alpha': float('nan')},
      'sharing.lora.alpha: need a finite number, not nan',
    ),
    ({'optimizer.name': 'adamww'}, "did you mean 'adamw'"),
    ({'optimizer.schedule.name': 'cosin'}, "did you mean 'cosine'"),
    ({'dataset.name': 'english_word'}, "did you mean 'english_words'"),
    ({'only': ('lema',)}, "only: no task 'lema'; did you mean 'lemma'"),
    (
      {'train.early_stopping.metric': 'pos.f1'},
      r"train.early_stopping.metric: no metric 'pos.f1'; did you mean",
    ),
    ({'train.epochs': 1.0}, 'either steps or epochs'),
    ({'train.batch_size': 0}, 'train.batch_size: need 1 or more'),
    ({'train.steps': -1, 'train.epochs': 1.0}, 'train.steps: need 0 or more'),
    ({'optimizer.learning_rate': float('nan')}, 'optimizer.learning_rate: need 0 or more'),
    ({'encoder.transformer.dropout': 1.0}, 'encoder.transformer.dropout: need less than 1'),
    ({'tasks.pos.pooling': 'men'}, "tasks.pos.pooling: no 'men'; did you mean 'mean'"),
    ({'dtype': 'float16'}, "dtype: no 'float16'"),
    ({'seeds': (0, 0)}, 'seeds: need different integers'),
    ({'seeds': (2**63,)}, 'seeds: need different integers'),
    ({'balance.name': 'pcgrad', 'balance.pcgrad.order': 'foo'}, "balance.pcgrad: order .*'foo'"),
    (
      {
        'balance.name': 'normalize_task_gradients',
        'balance.normalize_task_gradients.kind': 'l3',
      },
      "unknown kind 'l3'",
    ),
    ({'balance.name': 'gradnorm', 'balance.gradnorm.alpha': float('nan')}, 'alpha: need 0 or more'),
    ({'balance.name': 'gradnorm', 'balance.gradnorm.learning_rate': -1.0}, 'need 0 or more'),
    ({'balance.at': 'head'}, "balance.at: no 'head'"),
    ({'balance.jacobian': 'dense'}, "balance.jacobian: no 'dense'"),
    ({'balance.every_k': 0}, 'balance.every_k: need 1 or more'),
    ({'balance.groups': ('layer', 'matrix')}, 'balance.groups: need one of whole, layer, matrix'),
    ({'balance.groups': ('layer,matrix',)}, 'need texts without commas'),
    ({'balance.groups': ('(',)}, 'no regular expression'),
    ({'balance.name': 'gradnorm', 'balance.gradnorm.parameters': '('}, 'gradnorm: parameters='),
    ({'balance.groups': ('row',), 'balance.name': 'auto_lambda'}, 'by_group takes'),
    ({'balance.ema_weights': 0.5, 'balance.name': 'graddrop'}, 'ema_weights takes'),
    ({'balance.ema_weights': 1.0}, 'balance.ema_weights: need less than 1'),
    (
      {'balance.name': 'static', 'balance.static.weights': (1.0, 2.0)},
      r'balance.static.weights: need 3 numbers, one a task \(pos, inflection, lemma\)',
    ),
    ({'balance.name': 'static', 'balance.static.weights': ('a', 'b', 'c')}, 'need 3 numbers'),
    ({'balance.jacobian': 'matrix_free', 'balance.name': 'graddrop'}, 'matrix_free'),
    ({'encoder.transformer.heads': 0}, 'encoder.transformer.heads: need 1 or more'),
    ({'encoder.name': 'bilstm', 'encoder.bilstm.layers': 0}, 'layers: need 1 or more'),
    ({'encoder.embedding.features': 0}, 'encoder.embedding.features: need 1 or more'),
    ({'tasks.pos.dropout': 1.0}, 'tasks.pos.dropout: need less than 1'),
    (
      {
        'optimizer.schedule.name': 'exponential',
        'optimizer.schedule.exponential.every': 0,
      },
      'exponential.every: need 1 or more',
    ),
    ({'seeds': ('a',)}, 'seeds: need different integers'),
    ({'name': 'a\udcff'}, r'^name has a lone surrogate'),
    ({'init_from': 'a\0b'}, r'init_from: .* has a NUL'),
    ({'transfer.freeze': ('\ud800',)}, 'transfer.freeze has a lone surrogate'),
    ({'paper': {'\udcff': 1}}, 'paper has a lone surrogate'),
    ({'variants': {'\udcff': {}}}, 'variants has a lone surrogate'),
    ({'variants': {'v': {'name': '\udcff'}}}, 'variants.v.name has a lone surrogate'),
    ({'optimizer.learning_rate': 10**400}, 'optimizer.learning_rate: need a number below'),
    ({'encoder.cnn.widths': (2**64,)}, 'encoder.cnn.widths: need an integer from'),
    ({'optimizer.schedule.warmup_share': 1.5}, 'warmup_share: need at most 1'),
    (
      {'optimizer.schedule.warmup_steps': 11},
      'warmup_steps: 11 is more than the 10 steps of training; warmup_share',
    ),
    ({'tasks': {'pos': 'x'}}, "tasks.pos: need a section with keys, not 'x'"),
  ],
)
def test_bad_values(changes, message):
  plain = config_lib.plain(_config())
  for path, value in changes.items():
    *sections, last = path.split('.')
    node = plain
    for section in sections:
      node = node[section]
    node[last] = value
  with pytest.raises(errors.ConfigError, match=message):
    config_lib.validate(plain)


def test_enormous_integers():
  """The message has no number: one of more than 4300 digits cannot even be printed."""
  config = _config()
  paths = [path for path, value in leaves(config_lib.plain(config)) if type(value) is int]
  assert len(paths) > 50
  values = dict.fromkeys(paths, (2**64,)) | {paths[0]: (2**31, -(2**31) - 1, 10**5000)}
  for path, bad in values.items():
    for value in bad:
      config.update_from_flattened_dict({path: value})
      with pytest.raises(errors.ConfigError, match=rf'^{path}: need an integer from'):
        config_lib.validate(config)
    config.update_from_flattened_dict({path: 1})


@pytest.mark.parametrize('path', checks.PATHS)
@pytest.mark.parametrize('value', ['a' * 300, 'b/' * 3000, '~nobody_of_this_name/x'])
def test_paths_that_could_be_none(path, value):
  with pytest.raises(errors.ConfigError, match=rf'^{path}: .* is no usable path: '):
    config_lib.validate(_config(**{path: value}))


@pytest.mark.parametrize('name', optim.METHODS)
def test_every_method_is_reached_by_its_name(name):
  config = _config(**{'balance.name': name, 'balance.krum.num_byzantine': 0})
  (run,) = config_lib.resolve(config)
  needs = optim.get(name, **({'num_byzantine': 0} if name == 'krum' else {})).needs
  assert balance_lib.build_balance(run).needs == needs


def test_wrappers_and_preferences_from_a_config():
  changes = {
    'balance.name': 'gradnorm+aligned_mtl',
    'balance.aligned_mtl.preference': (1.0, 2.0, 1.0),
    'balance.ema_gramian': 0.5,
    'balance.ema_weights': 0.5,
    'balance.clip_conflict': 0.1,
    'balance.every_k': 3,
    'balance.warmup_steps': 5,
    'balance.groups': ('embedding.*', 'layer_0/.*'),
  }
  (run,) = config_lib.resolve(_config(**changes))
  assert balance_lib.build_balance(run).needs == 'jacobian'
  (run,) = config_lib.resolve(_config(**(changes | {'balance.groups': ('whole',)})))
  balance = balance_lib.build_balance(run)
  state = balance.weighting.init(3)
  assert [type(part).__name__ for part in (state, state.inner, state.inner.inner)] == [
    'WarmupState',
    'EveryKState',
    'EmaState',
  ]


@pytest.mark.parametrize(
  ('paper', 'message'),
  [
    ({'rows': {'a': 3}}, 'paper.rows: need'),
    ({'rows': 3}, 'paper.rows: need'),
    ({'rows': {'a': {'pos.micro_f1': 'x'}}}, 'paper.rows: need'),
    ({'row': {}}, "paper: no key 'row'; did you mean 'rows'"),
  ],
)
def test_a_paper_of_another_shape(paper, message):
  config = _config()
  config.paper = config_lib.dotted(paper)
  with pytest.raises(errors.ConfigError, match=message):
    config_lib.validate(config)
  config.paper = config_lib.dotted({'source': 's', 'rows': {'a': {'pos.micro_f1': 1, 'b': None}}})
  config_lib.validate(config)


def test_paths_of_this_machine_are_not_part_of_a_run():
  here, there = (
    config_lib.resolve(_config(**{'dataset.data_dir': path, 'dataset.manual_dir': path}))[0]
    for path in ('/here', '/there')
  )
  assert here['dataset']['data_dir'] == '/here'
  assert config_lib.to_json(here) == config_lib.to_json(there)


def test_a_task_that_the_data_lacks():
  config = _config()
  config.tasks = config_lib.tasks({'posture': {}})
  with pytest.raises(errors.ConfigError, match=r"no task 'posture'.*Valid: inflection, lemma, pos"):
    config_lib.validate(config)
  config.tasks = config_lib.tasks({})
  with pytest.raises(errors.ConfigError, match='tasks: name at least one'):
    config_lib.validate(config)


def test_unknown_task_options():
  with pytest.raises(
    errors.ConfigError, match=r"no key 'wieght' in tasks.pos; did you mean 'weight'"
  ):
    config_lib.tasks({'pos': {'wieght': 1.0}})
  with pytest.raises(errors.ConfigError, match=r"tasks.pos.weight: need a number, not 'x'"):
    config_lib.tasks({'pos': {'weight': 'x'}})
  with pytest.raises(errors.ConfigError, match=r"tasks.pos: need a section with keys, not 'x'"):
    config_lib.tasks({'pos': 'x'})
  with pytest.raises(
    errors.ConfigError, match=r"tasks: need a section with keys, .* not \['pos'\]"
  ):
    config_lib.tasks(['pos'])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'trian.steps': 1}, r"variants.v: no key 'trian'; did you mean 'train'"),
    ({'train.step': 1}, r"variants.v: no key 'step' in train; did you mean 'steps'"),
    ({'train.steps.x': 1}, r'variants.v: train.steps is a single value'),
    ({'train.steps': 1.5}, r'variants.v: train.steps: need an integer, not 1.5'),
    ({'train.steps': True}, r'train.steps: need an integer, not True'),
    ({'eval.test': 1}, r'eval.test: need True or False, not 1'),
    ({'train': 3}, r'train: need a section with keys, not 3'),
    ({'only': 'pos'}, r"only: need a tuple, such as .*, not 'pos'"),
    ({'balance.name': 'x'}, r"variant 'v': balance.name: no 'x'"),
  ],
)
def test_bad_variants(change, message):
  config = _config()
  config.variants = config_lib.dotted({'ok': {}, 'v': change})
  with pytest.raises(errors.ConfigError, match=message):
    config_lib.validate(config)


def test_only_chosen_variants_are_looked_at_and_the_wrong_one_is_named():
  config = _config()
  wrong = {'a/b': {}, 'typo': {'train.step': 1}, 'value': {'balance.name': 'x'}, 'none': 3}
  config.variants = config_lib.dotted({'ok': {}, 'fine': {'train.steps': 5}, **wrong})
  assert [run['variant'] for run in config_lib.resolve(config, ['fine', 'ok'])] == ['ok', 'fine']
  for name in wrong:
    with pytest.raises(errors.ConfigError, match=rf"variants.*{name}|variant '{name}': "):
      config_lib.resolve(config, [name])
  config.encoder.name = 'x'  # in the config itself: of the first that is looked at
  with pytest.raises(errors.ConfigError, match=r"^variant 'fine': encoder.name: no 'x'"):
    config_lib.resolve(config, ['fine'])


def test_unknown_variants():
  config = _config()
  config.variants = config_lib.dotted({'sum': {}, 'a/b': {}})
  with pytest.raises(errors.ConfigError, match='cannot name a directory'):
    config_lib.validate(config)
  config.variants = config_lib.dotted({'sum': {}})
  with pytest.raises(errors.ConfigError, match=r"no variant 'sun'; did you mean 'sum'"):
    config_lib.resolve(config, ['sun'])


def test_an_unknown_key_in_a_plain_dict():
  plain = config_lib.plain(_config())
  plain['optimizer']['learning_rat'] = 1.0
  with pytest.raises(errors.ConfigError, match=r"'learning_rat' in optimizer; did you mean 'learn"):
    config_lib.validate(plain)


def test_check_path():
  config = _config()
  config_lib.check_path(config, 'optimizer.adamw.weight_decay')
  with pytest.raises(errors.ConfigError, match=r"no key 'weight_decy' in optimizer.adamw; did you"):
    config_lib.check_path(config, 'optimizer.adamw.weight_decy')


def test_differences_names_keys_and_values():
  old = {'a': {'b': 1, 'c': 2}, 'd': [1]}
  new = {'a': {'b': 1, 'c': 3}, 'e': {}}
  assert config_lib.differences(old, new) == [
    'a.c: 2 -> 3',
    'd: [1] -> (absent)',
    'e: new',
  ]


def test_differences_are_told_by_section_and_few():
  task = {'weight': 1.0, 'l2': 0.0}
  old = {
    'tasks': {'pos': task, 'lemma': task},
    'x': {'y': {'z': 1, 'w': 2}},
    **dict.fromkeys('abc', 1),
  }
  new = {'tasks': {'pos': task | {'l2': 1.0}, 'slots': task}, 'x': {}, **dict.fromkeys('abc', 2)}
  lines = ['tasks.pos.l2: 0.0 -> 1.0', 'task lemma: gone', 'task slots: new', 'x.y: gone']
  assert config_lib.differences(old, new) == [*lines, *(f'{key}: 1 -> 2' for key in 'abc')]
  many = [dict.fromkeys(map(str, range(30)), value) for value in (1, 2)]
  found = config_lib.differences(*many)
  assert len(found) == 11
  assert found[-1] == 'and 20 more'


@pytest.mark.parametrize('name', sorted(builders.REGISTRY))
def test_every_data_set_can_be_configured(name):
  config = _config(**{'dataset.name': name})
  config.tasks = config_lib.tasks({task: {} for task in builders.get(name).TASKS})
  if builders.get(name).INPUT.kind == 'array':
    config.encoder.name = 'mlp'
  (run,) = config_lib.resolve(config)
  assert set(run['tasks']) == set(builders.get(name).TASKS)
  assert set(heads.POOLINGS) >= {s['pooling'] for s in run['tasks'].values() if 'pooling' in s}


def test_what_is_left_open_is_chosen():
  config = config_lib.default()
  config.dataset.name = 'english_words'
  config.tasks = config_lib.tasks({'pos': {}})
  (run,) = config_lib.resolve(config)
  assert run['encoder']['name'] == 'transformer'
  assert (run['train']['steps'], run['train']['epochs']) == (0, 10.0)
  config.dataset.name = 'multi_mnist'
  config.tasks = config_lib.tasks({'left': {}})
  (run,) = config_lib.resolve(config)
  assert run['encoder']['name'] == 'mlp'


def test_metrics_of_a_task_can_be_chosen():
  config = config_lib.default()
  config.dataset.name = 'english_words'
  config.tasks = config_lib.tasks({'inflection': {'metrics': 'macro_f1'}})
  (run,) = config_lib.resolve(config)
  assert run['tasks']['inflection']['metrics'] == ('macro_f1',)
  config.tasks = config_lib.tasks({'inflection': {'metrics': ('mae',)}})
  with pytest.raises(errors.ConfigError, match="metric 'mae' is not defined for classification"):
    config_lib.resolve(config)
  config.tasks = config_lib.tasks({'inflection': {'column': 'x'}})
  with pytest.raises(errors.ConfigError, match=r'tasks.inflection.column: is for dataset.files'):
    config_lib.resolve(config)
