"""Encoders from a config: ours and a user's own, with two steps of training each."""

import textwrap

import jax
import numpy as np
import pytest
from flax import linen as nn

from mtl_jax import config as config_lib
from mtl_jax import describe, encoders, errors, train
from mtl_jax.data import pipeline
from tests import train_test
from tests.encoders import modules

config_file, config = train_test.config_file, train_test.config  # the tiny lexicon
OWN = """
  import jax.numpy as jnp
  from flax import linen as nn

  class Bag(nn.Module):
    embedding: nn.Module
    width: int = 4
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs, train=False):
      return nn.Dense(self.width, dtype=self.dtype)(self.embedding(inputs, train=train))

  def bag(embedding, max_length, double=1, **options):
    return Bag(embedding, width=max_length * double, **options)

  class Plain(nn.Module):
    def __call__(self, inputs, train=False):
      return nn.one_hot(inputs['tokens'], 3)

  class Counting(nn.Module):
    embedding: nn.Module

    @nn.compact
    def __call__(self, inputs, train=False):
      return nn.BatchNorm(use_running_average=not train)(self.embedding(inputs, train=train))

  instance = Plain()

  def features(inputs, classes=3):
    return nn.one_hot(inputs['tokens'], classes)

  class NoModule:
    pass

  def nothing(embedding):
    return 3

  def fussy(embedding):
    raise ValueError('too small')

  def demanding(embedding, depth):
    return Bag(embedding)

  number = 3
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
  """A package of the user's."""
  package = tmp_path / 'my_package'
  package.mkdir()
  (package / '__init__.py').write_text('')
  (package / 'my_module.py').write_text(textwrap.dedent(OWN))
  (package / 'broken.py').write_text('1 / 0')
  (package / 'lacking.py').write_text('import no_such_package')
  monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(scope='module')
def data(config):
  (run,) = config_lib.resolve(config)
  del run['tasks']['lemma']  # two tasks do, and compile faster
  return pipeline.load(run['dataset'], tuple(run['tasks']), run['train']['batch_size'], 0)


def _resolve(config, **changes):
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict({k: v for k, v in changes.items() if '.custom.' not in k})
  custom = {k.split('.')[-1]: v for k, v in changes.items() if '.custom.' in k}
  changed.encoder.custom = custom
  return config_lib.resolve(changed)[0]


_SMALL = {'balance.name': 'sum_tasks', 'only': ('pos', 'inflection')}


@pytest.mark.parametrize(
  'changes',
  [
    {'encoder.name': 'cnn', 'encoder.cnn.features': 4},
    {'encoder.name': 'bilstm', 'encoder.bilstm.features': 4},
    {
      'encoder.transformer.norm': 'post',
      'encoder.transformer.position': 'rotary',
      'encoder.transformer.remat': True,
    },
  ],
  ids=lambda changes: changes.get('encoder.name', 'transformer'),
)
def test_two_steps(changes, config, data):
  run = _resolve(config, **changes, **_SMALL)
  before, after = modules.two_steps(run, data)
  same = jax.tree.map(lambda a, b: not np.any(a != b), before, after)
  assert not any(jax.tree.leaves(same))


def test_the_whole_command_with_ones_own_encoder(config_file, tmp_path):
  """From the command line to the results."""
  text = config_file.read_text().replace("'gradnorm+pcgrad'", "'sum_tasks'")
  text = text.replace('  return c', '  c.encoder.custom.double = 3\n  return c')
  (tmp_path / 'c.py').write_text(text)
  arguments = [f'--config={tmp_path / "c.py"}', f'--workdir={tmp_path / "w"}']
  flags = ['--config.encoder.name=my_package.my_module:bag', '--config.train.steps=2']
  flags += ['--config.encoder.custom.double=2', '--config.only=pos', '--config.train.eval_every=2']
  assert train.main(['train', *arguments, *flags]) == 0
  run = tmp_path / 'w' / 'default' / 'seed_0'
  assert '"steps": 2,' in (run / 'results.json').read_text()
  assert '"double": 2' in (run / 'config.json').read_text()


def test_a_plain_function_is_an_encoder_without_parameters(config, data):
  name = 'my_package.my_module:features'
  run = _resolve(
    config,
    **{'encoder.name': name, 'encoder.custom.classes': 5, 'optimizer.schedule.name': 'constant'},
    **_SMALL,
  )
  before, after = modules.two_steps(run, data)
  assert before['shared'] == {}
  assert before['tasks']['pos']['Dense_0']['kernel'].shape[0] == 5
  assert np.any(
    before['tasks']['pos']['Dense_0']['kernel'] != after['tasks']['pos']['Dense_0']['kernel']
  )
  x = np.ones((2, 3), np.float32)
  np.testing.assert_array_equal(encoders.get(double, by=3.0).apply({}, x), 3 * x)
  with pytest.raises(ValueError, match="no option 'bz'; Valid: by"):
    encoders.get(double, bz=3.0)


def double(inputs, by=2.0):
  return by * inputs


@pytest.mark.parametrize('command', [train, describe])
@pytest.mark.parametrize('frozen', [0, 1])
def test_a_state_that_sharing_does_not_carry_is_refused_in_a_line(
  command, frozen, config_file, capsys, tmp_path
):
  name = command.__name__.split('.')[-1]
  flags = ['--config.encoder.name=my_package.my_module:Counting', '--config.only=pos']
  flags += ['--config.sharing.name=separate']
  flags += [f'--config.transfer.freeze_layers={frozen}', f'--config={config_file}']
  flags += [f'--workdir={tmp_path / "w"}'] if command is train else []
  assert command.main([name, *flags]) == 2
  assert "keeps the variables ['batch_stats']" in capsys.readouterr().err


def test_vectors_from_a_config(config, data, tmp_path, caplog):
  """Their coverage is told; frozen ones stay, in spite of weight decay."""
  words = data.vocabularies.tokenizer.backend.get_vocab()
  path = tmp_path / 'v.txt'
  known = [word for word in words if word in 'abd']
  path.write_text(''.join(f'{word} 0.5 {i} 2\n' for i, word in enumerate(known)))
  changes = {'encoder.embedding.vectors': str(path), 'encoder.embedding.features': 3}
  changes |= {'encoder.name': 'lstm', 'encoder.lstm.features': 4, **_SMALL}
  run = _resolve(config, **changes, **{'encoder.embedding.freeze_vectors': True})
  assert '"vectors": "v.txt"' in config_lib.to_json(run)
  with caplog.at_level('INFO', 'mtl_jax'):
    before, after = modules.two_steps(run, data)
  assert f'vectors for {len(known)} of {data.vocab_size} tokens' in caplog.text
  name = encoders.FROZEN
  tables = [params['shared']['embedding'][name]['embedding'] for params in (before, after)]
  np.testing.assert_array_equal(*tables)
  cells = [params['shared']['OptimizedLSTMCell_0'] for params in (before, after)]
  assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), *cells)))
  for i, word in enumerate(known):
    assert tables[0][words[word]].tolist() == [0.5, i, 2.0]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'encoder.name': 'lent'}, "encoder.name: no 'lent'; did you mean 'lenet'"),
    ({'encoder.name': 'vit'}, "'vit' reads arrays .* 'english_words' has texts: choose one of cnn"),
    ({'encoder.name': 'custom'}, "encoder.name: no 'custom'"),
    ({'encoder.transformer.norm': 'per'}, "encoder.transformer: no norm 'per'; did you mean 'pre'"),
    ({'encoder.transformer.position': 'x'}, "encoder.transformer: no position 'x'"),
    ({'encoder.name': 'cnn', 'encoder.cnn.widths': ()}, 'encoder.cnn.widths: need'),
    ({'encoder.embedding.vectors': 'v.txt'}, "encoder.embedding.vectors: no file 'v.txt'"),
    ({'encoder.embedding.freeze_vectors': True}, 'set encoder.embedding.vectors too'),
    (
      {'encoder.name': 'bert', 'encoder.bert.path': 'x', 'encoder.embedding.vectors': __file__},
      "encoder.embedding.vectors: encoder 'bert' has an embedding of its own",
    ),
    ({'encoder.name': 'my_package.Bag'}, "write 'package.module:Name'"),
    ({'encoder.name': 'my_package:'}, "write 'package.module:Name'"),
    ({'encoder.name': 'no_package.m:Bag'}, "no module 'no_package'.*PYTHONPATH"),
    ({'encoder.name': 'my_package.no:Bag'}, "no module 'my_package.no'"),
    ({'encoder.name': 'my_package.broken:Bag'}, 'importing my_package.broken failed: ZeroDiv'),
    ({'encoder.name': 'my_package.lacking:Bag'}, "lacking failed: Module.*'no_such_package'"),
    ({'encoder.name': 'my_package.my_module:Bga'}, "has no 'Bga'; did you mean 'Bag'"),
    ({'encoder.name': 'my_package.my_module:NoModule'}, 'is the class NoModule: need a flax'),
    ({'encoder.name': 'my_package.my_module:number'}, r'is 3 \(int\): need a flax.linen.Module'),
    ({'encoder.name': 'my_package.my_module:demanding'}, "missing a required argument: 'depth'"),
    (
      {'encoder.name': 'my_package.my_module:Bag', 'encoder.custom.widht': 3},
      "no option 'widht'; did you mean 'width'",
    ),
    (
      {'encoder.name': 'my_package.my_module:instance', 'encoder.custom.width': 3},
      "finished module and takes no options such as 'width'",
    ),
  ],
)
def test_what_a_config_cannot_have(changes, message, config):
  """All before any data is read."""
  with pytest.raises(errors.ConfigError, match=message):
    _resolve(config, **changes)


def test_a_cnn_with_pooling_cannot_tag(config):
  changed = config.copy_and_resolve_references()
  changed.dataset.name, changed.encoder.name = 'snips', 'cnn'
  changed.tasks = config_lib.tasks({'intent': {}, 'slots': {}})
  with pytest.raises(errors.ConfigError, match=r"encoder.cnn.pool: task 'slots' labels every tok"):
    config_lib.resolve(changed)
  changed.encoder.cnn.pool = False
  config_lib.resolve(changed)


def test_variants_can_have_an_encoder_of_their_own(config):
  changed = config.copy_and_resolve_references()
  name = 'my_package.my_module:Bag'
  changed.variants = config_lib.dotted(
    {'ours': {}, 'own': {'encoder.name': name, 'encoder.custom.width': 7}}
  )
  ours, own = config_lib.resolve(changed)
  assert set(ours['encoder']) == {'name', 'embedding', 'transformer'}
  assert set(own['encoder']) == {'name', 'embedding', 'custom'}
  assert own['encoder']['custom'] == {'width': 7}


def test_options_of_ones_own_begin_in_the_config_file(config):
  with pytest.raises(errors.ConfigError, match=r'encoder\.custom: set it in the config file'):
    config_lib.check_path(config, 'encoder.custom.width')


def test_get_takes_objects():
  class Own(nn.Module):
    width: int = 3

    def __call__(self, inputs, train=False):
      return inputs

  assert encoders.get(Own, width=5).width == 5
  assert encoders.get(lambda width: Own(width), width=4).width == 4
  made = Own()
  assert encoders.get(made) is made
  assert type(encoders.get('my_package.my_module:instance')).__name__ == 'Plain'
  with pytest.raises(ValueError, match="'Own' has no option 'height'"):
    encoders.get(Own, height=5)
  for name, message in (('nothing', r'returned 3 \(int\)'), ('fussy', 'too small')):
    with pytest.raises(ValueError, match=message):
      encoders.get(f'my_package.my_module:{name}', embedding=None)
