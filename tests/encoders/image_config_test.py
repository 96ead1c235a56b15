"""Encoders of images from a config: two steps each, the whole command, what does not fit."""

import json

import jax
import numpy as np
import pytest

import mtl_jax
from mtl_jax import checkpoint, describe, errors, evaluate, train
from mtl_jax import config as config_lib
from mtl_jax.build import model as model_lib
from mtl_jax.build import start
from mtl_jax.config import command_line
from mtl_jax.data import text
from tests.data import multi_mnist_test
from tests.encoders import modules

pytestmark = pytest.mark.filterwarnings('ignore:.*not the published split')

_CONFIG = """
from mtl_jax import config as config_lib

def get_config():
  c = config_lib.default()
  c.tasks = config_lib.tasks({{'left': {{}}, 'right': {{'hidden': 5, 'dropout': 0.5}}}})
  c.dataset.update(name='multi_mnist', manual_dir={raw!r}, data_dir={data!r})
  c.encoder.name = 'lenet'
  c.encoder.mlp.features = (6, 5)
  c.encoder.lenet.update(features=(2, 3), dense=5, dropout=0.5)
  c.encoder.resnet.update(blocks=(1, 1), features=4)
  c.encoder.vit.update(patch=7, features=8, layers=1, heads=2, mlp_features=8)
  c.train.batch_size = 16
  c.train.steps = 6
  c.train.eval_every = 3
  c.eval.batch_size = 16
  return c
"""


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  root = tmp_path_factory.mktemp('images')
  raw = multi_mnist_test.write(root / 'raw')
  (root / 'c.py').write_text(_CONFIG.format(raw=str(raw), data=str(root / 'data')))
  return root / 'c.py'


@pytest.fixture(scope='module')
def config(config_file):
  return command_line.load(str(config_file))


def resolve(config, **changes):
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(changes)
  return config_lib.resolve(changed)[0]


@pytest.mark.parametrize(
  ('name', 'sharing'),
  [
    ('mlp', 'hard'),
    ('lenet', 'hard'),
    ('resnet', 'hard'),
    ('vit', 'hard'),
    ('lenet', 'cross_stitch'),
    ('lenet', 'mmoe'),
    ('resnet', 'mtan'),
  ],
)
def test_two_steps(name, sharing, config):
  changes = {'encoder.name': name, 'sharing.name': sharing, 'balance.name': 'sum_tasks'}
  run = resolve(config, **changes)
  before, after = modules.two_steps(run, start.load_data(run))
  changed = jax.tree.map(lambda a, b: np.any(a != b), before, after)
  assert all(jax.tree.leaves(changed['tasks']))
  assert any(jax.tree.leaves(changed['shared']))


def test_the_whole_command(config_file, tmp_path, capsys):
  """To the results, and from them to one of the tasks, whose head has a hidden layer now."""
  arguments = ['train', f'--config={config_file}', f'--workdir={tmp_path / "w"}']
  assert train.main(arguments) == 0
  run = tmp_path / 'w' / 'default' / 'seed_0'
  results = json.loads((run / 'results.json').read_text())
  assert set(results['test']['metrics']) == {'left', 'right'}
  assert not (run / 'tokenizer.json').exists()
  assert train.main(arguments) == 0
  assert 'finished' in capsys.readouterr().out
  more = [f'--config.init_from={tmp_path / "w"}', '--config.train.steps=1', '--config.only=left']
  more += ['--config.tasks.left.hidden=5', '--config.train.eval_every=1']
  assert train.main([*arguments[:2], f'--workdir={tmp_path / "v"}', *more]) == 0
  assert 'fresh: tasks/left; not used: tasks/left, tasks/right' in capsys.readouterr().out


def test_batch_norm_from_training_to_predictions(config_file, tmp_path, capsys):
  """Running means are stored, predicted with, and taken over by a run that starts from it."""
  flags = ['--config.encoder.name=resnet', '--config.encoder.resnet.norm=batch']
  arguments = ['train', f'--config={config_file}', *flags]
  whole, after = tmp_path / 'whole', tmp_path / 'after'
  assert train.main([*arguments, f'--workdir={whole}']) == 0
  found = checkpoint.read_best(whole / 'default/seed_0/checkpoints')
  stats = {path: value for path, value in found.items() if path.startswith('model_state/')}
  assert any(value.any() for path, value in stats.items() if path.endswith('/mean'))
  model = mtl_jax.load(whole)
  run = resolve(command_line.load(str(config_file)), **{'encoder.name': 'resnet'})
  evaluator = evaluate.Evaluator(model.model, start.load_data(run), 16)
  again = evaluator.evaluate(model.params[0], 'test')
  results = json.loads((whole / 'default/seed_0/results.json').read_text())
  assert again['metrics'] == results['test']['metrics']
  assert again['loss'] == pytest.approx(results['test']['loss'], rel=1e-5)
  more = [f'--config.init_from={whole}', '--config.train.steps=1', '--config.train.eval_every=1']
  more += ['--config.optimizer.learning_rate=0.0', '--config.only=left']
  assert train.main([*arguments, *more, f'--workdir={after}']) == 0
  later = checkpoint.read_best(after / 'default/seed_0/checkpoints')
  for path, value in stats.items():
    if path.endswith('/mean'):  # one step of momentum 0.9 away, of 6 from zeros
      assert np.linalg.norm(later[path] - value) < 0.5 * np.linalg.norm(value)
  capsys.readouterr()


def test_columns_of_a_resnet_are_mixed_after_every_block(config):
  """Not after its first convolution alone."""
  found = {}
  for sharing, part in (('cross_stitch', 'stitches'), ('ltb', 'parents'), ('ple', 'gates')):
    run = resolve(config, **{'encoder.name': 'resnet', 'sharing.name': sharing})
    data = start.load_data(run)
    model = model_lib.build_model(run, data)
    params = jax.eval_shape(model.init, jax.random.key(0), data.example_batch())
    found[part] = params['shared'][part]
  assert list(found['stitches']) == ['Conv_0', '_Residual_0', '_Residual_1']
  assert found['parents'].shape == (2, 4, 4)  # of the second and of the third layer
  assert len(found['gates']) == 1  # of two levels


def test_images_and_texts_do_not_start_from_each_other(config_file, tmp_path, capsys):
  (tmp_path / 'vocabulary.json').write_text(
    '{"labels": {"left": ["0"]}, "tokenizer": "tokenizer.json", "pieces": null}'
  )
  text.train('characters', ['ab'], 0, 1, False, False, False).save(tmp_path / 'tokenizer.json')
  (tmp_path / 'checkpoints').mkdir()
  arguments = ['train', f'--config={config_file}', f'--workdir={tmp_path / "v"}']
  assert train.main([*arguments, f'--config.init_from={tmp_path}']) == 2
  assert "was trained on texts, and 'multi_mnist' has arrays" in capsys.readouterr().err


def test_describe(config_file, capsys):
  assert describe.main(['describe', f'--config={config_file}']) == 0
  said = capsys.readouterr().out
  # 2·25 + 2, 3·2·25 + 3 and 3·16·5 + 5; 5·10 + 10, and before it 5·5 + 5.
  for number in ('450', '60', '90'):
    assert f' {number} ' in said


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'encoder.name': 'transformer'},
      "'transformer' reads texts, and data set 'multi_mnist' has a",
    ),
    ({'encoder.name': 'bert'}, "'bert' reads texts, .* choose one of mlp, lenet, resnet, vit"),
    ({'encoder.embedding.vectors': __file__}, "data set 'multi_mnist' has no words"),
    ({'encoder.embedding.freeze_vectors': True}, "data set 'multi_mnist' has no words"),
    ({'encoder.lenet.kernels': (5,)}, r'encoder.lenet: features \(2, 3\) and kernels \(5,\): need'),
    ({'encoder.lenet.kernels': (5, 0)}, 'encoder.lenet.kernels: need one or more integers from 1'),
    (
      {'encoder.name': 'mlp', 'encoder.mlp.features': ()},
      'encoder.mlp.features: need one or more',
    ),
    ({'encoder.name': 'resnet', 'encoder.resnet.blocks': (1, 'a')}, 'encoder.resnet.blocks: need'),
    ({'encoder.name': 'vit', 'encoder.vit.heads': 3}, 'encoder.vit: '),
    ({'tasks.left.hidden': -1}, r'tasks.left.hidden: need 0 or more, not -1'),
  ],
)
def test_what_does_not_fit(changes, message, config):
  """All before any data is read."""
  with pytest.raises(errors.ConfigError, match=message):
    resolve(config, **changes)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['encoder.name=vit', 'encoder.vit.patch=5'], 'Patches of 5 × 5 do not fit images'),
    (
      ['encoder.lenet.kernels=(27,5)'],
      'too small for LeNet with kernels (27, 5): 1 × 1 are left for one of 5 × 5',
    ),
    (['dataset.tokenizer=words'], 'tokenizer: the inputs are arrays of numbers, not texts'),
    (['sharing.name=lora', 'sharing.lora.layers=Conv_1'], "lora.layers: 'Conv_1' is not linear"),
    (['encoder.name=flax.linen:LayerNorm'], 'cannot read features (16, 28, 28, 1)'),
  ],
)
@pytest.mark.parametrize('command', [train, describe])
def test_what_only_the_images_tell(command, flags, message, config_file, tmp_path, capsys):
  name = command.__name__.split('.')[-1]
  arguments = [name, f'--config={config_file}', *(f'--config.{flag}' for flag in flags)]
  arguments += [f'--workdir={tmp_path / "w"}'] if command is train else []
  assert command.main(arguments) == 2
  assert message in capsys.readouterr().err
