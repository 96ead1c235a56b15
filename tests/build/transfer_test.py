"""Starting from other parameters, and changing them gently: against plain NumPy, and in runs."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import config as config_lib
from mtl_jax import encoders, errors, heads, sharding, sharing, train
from mtl_jax.build import encoder as encoder_lib
from mtl_jax.build import layers as layers_lib
from mtl_jax.build import start as start_lib
from mtl_jax.build import transfer
from mtl_jax.encoders import bert
from mtl_jax.tasks import Task
from tests import train_test
from tests.encoders import bert_test

config_file, config = train_test.config_file, train_test.config  # the tiny lexicon
compiled = train_test.compiled
INPUTS = {'tokens': jnp.ones((2, 3), jnp.int32), 'mask': jnp.ones((2, 3), bool)}
BATCH = {'inputs': INPUTS, 'targets': {'a': jnp.zeros(2, jnp.int32), 'b': jnp.zeros(2, jnp.int32)}}


def flat(tree):
  return {sharding.path_of(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def two_tasks():
  return [Task(name, heads.get('classification', num_classes=2)) for name in 'ab']


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  """A BERT of two blocks with the tokenizer of three letters."""
  folder = bert_test.plain_bert(tmp_path_factory.mktemp('bert') / 'tiny')
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghiklmnoprstu', '##a', '##o']
  (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
  return folder


@pytest.fixture(scope='module')
def pretrained(checkpoint):
  return bert.load(checkpoint)


@pytest.mark.parametrize('name', ['hard', 'separate', 'soft', 'cross_stitch', 'mmoe', 'adapters'])
def test_every_encoder_starts_with_the_pretrained_values(name, pretrained):
  model = sharing.get(name)(encoders.Bert(**pretrained.options), two_tasks())
  shapes = jax.eval_shape(model.init, jax.random.key(0), BATCH)
  rng = np.random.default_rng(0)
  fresh = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)
  made = transfer.from_encoder(fresh, pretrained.params)
  before, after, source = flat(fresh), flat(made.params), flat(pretrained.params)
  assert before.keys() == after.keys()
  found = set()
  for path, value in after.items():
    assert value.shape == before[path].shape
    ends = [end for end in source if path == end or path.endswith(f'/{end}')]
    assert bool(ends) == (path not in made.fresh)
    for end in ends:
      found.add(end)
      rows = value if value.ndim > source[end].ndim else value[None]
      for row in rows:
        np.testing.assert_array_equal(row, source[end])
    if not ends:
      np.testing.assert_array_equal(value, before[path])
  assert found == set(source)


def test_a_pretrained_encoder_that_does_not_fit(pretrained):
  wider = encoders.Bert(**pretrained.options | {'mlp_features': 40})
  params = jax.eval_shape(sharing.hard(wider, two_tasks()).init, jax.random.key(0), BATCH)
  with pytest.raises(errors.ConfigError, match=r'_Block_0/Dense_0/kernel is \[16, 40\]'):
    transfer.from_encoder(params, pretrained.params)
  shallow = encoders.Bert(**pretrained.options | {'layers': 1})
  params = jax.eval_shape(sharing.hard(shallow, two_tasks()).init, jax.random.key(0), BATCH)
  with pytest.raises(errors.ConfigError, match=r'_Block_1/.* has no place'):
    transfer.from_encoder(params, pretrained.params)


def test_layers(pretrained):
  model = sharing.hard(encoders.Bert(**pretrained.options), two_tasks())
  params = jax.eval_shape(model.init, jax.random.key(0), BATCH)
  layers = layers_lib.layers_of(model, params, BATCH)
  assert set(layers.values()) == {0, 1, 2, 3}
  for path, layer in layers.items():
    if path.startswith('tasks/'):
      assert layer == 3
    elif path.startswith('shared/embedding/'):
      assert layer == 0
    else:
      assert path.startswith(f'shared/_Block_{layer - 1}/')
  assert all(p.startswith('shared/embedding/') for p in layers_lib.lowest(layers, 1))
  assert len(layers_lib.lowest(layers, 1)) == 5
  assert {p.split('/')[1] for p in layers_lib.highest(layers, 1)} == {'_Block_1'}
  assert layers_lib.lowest(layers, 0) == layers_lib.highest(layers, 0) == []


def test_layers_of_other_encoders():
  embedding = encoders.Embedding(9, 4)
  params = {
    'transformer': encoders.Transformer(embedding, 4, 2, 2, 4),
    'bilstm': encoders.BiLSTM(embedding, 4, layers=2),
  }
  found = {}
  for name, encoder in params.items():
    model = sharing.separate(encoder, two_tasks())
    shapes = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    found[name] = layers_lib.layers_of(model, shapes, BATCH)
  assert set(found['transformer'].values()) == {0, 1, 2, 3}
  assert set(found['bilstm'].values()) == {0, 1, 2, 3, 4, 5}  # two directions
  assert found['transformer']['tasks/a/encoder/positions'] == 0
  assert found['transformer']['tasks/a/encoder/_Block_1/Dense_0/kernel'] == 2
  assert found['bilstm']['tasks/a/head/Dense_0/kernel'] == 5
  assert found['transformer']['tasks/a/encoder/LayerNorm_0/scale'] == 2


@pytest.mark.parametrize(
  ('encoder', 'expected'),
  [
    (encoders.LeNet(), {'Conv_0': 0, 'Conv_1': 1, 'Dense_0': 2}),
    (
      encoders.ResNet((1, 1), 4, 2),
      {'Conv_0': 0, 'GroupNorm_0': 0, '_Residual_0': 1, '_Residual_1': 2},
    ),
    (encoders.ViT(4, 4, 2, 2, 4), {'Conv_0': 0, 'Block_0': 1, 'Block_1': 2, 'LayerNorm_0': 2}),
    (encoders.MLP((3, 4)), {'Dense_0': 0, 'Dense_1': 1}),
  ],
)
def test_layers_of_images(encoder, expected):
  batch = {'inputs': jnp.zeros((2, 28, 28, 1)), 'targets': BATCH['targets']}
  model = sharing.hard(encoder, two_tasks())
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
  layers = layers_lib.layers_of(model, shapes, batch)
  for start, layer in expected.items():
    assert {v for p, v in layers.items() if p.startswith(f'shared/{start}/')} == {layer}, start
  tokens = ('shared/positions', 'shared/class_token')
  starts = (*(f'shared/{start}/' for start in expected), *tokens)
  assert all(p.startswith(starts) for p in layers if p.startswith('shared/'))
  assert {v for p, v in layers.items() if p in tokens} <= {0}
  assert {v for p, v in layers.items() if p.startswith('tasks/')} == {max(expected.values()) + 1}


@pytest.mark.parametrize(
  ('name', 'beside'),
  [
    ('cross_stitch', 'shared/stitches/'),
    ('ple', 'shared/gates/'),
    ('ltb', 'shared/parents'),
    ('hyper_adapters', ('shared/hyper', 'shared/layers', 'shared/places', 'tasks/')),
    ('adapters', 'tasks/'),
    ('shared_private', 'shared/discriminator'),
    ('hierarchical', 'shared/heads/'),
  ],
)
def test_only_encoders_have_layers(name, beside):
  encoder = encoders.Transformer(encoders.Embedding(9, 8), 8, 2, 2, 8)
  options = {'depths': ('a=1',), 'after': ('b<a',)} if name == 'hierarchical' else {}
  model = sharing.get(name)(encoder, two_tasks(), **options)
  shapes = jax.eval_shape(model.init, jax.random.key(0), BATCH)
  layers = layers_lib.layers_of(model, shapes, BATCH)
  found = [path for path in layers if path.startswith(beside)]
  assert found
  for path, layer in layers.items():
    above = path in found or (path.startswith('tasks/') and '/encoder/' not in path)
    assert (layer == 3) == above, path


PARAMS = {
  'shared': {
    'embedding': {'w': jnp.arange(3.0)},
    '_Block_0': {'w': jnp.ones(2)},
    '_Block_1': {'w': jnp.full(2, 5.0)},
  },
  'tasks': {'a': {'Dense_0': {'w': jnp.full(2, 3.0)}}},
}
LAYERS = {
  'shared/embedding/w': 0,
  'shared/_Block_0/w': 1,
  'shared/_Block_1/w': 2,
  'tasks/a/Dense_0/w': 3,
}


def test_discriminative_rates():
  tx = transfer.scale_by_layer(0.5, LAYERS)
  updates, _ = tx.update(jax.tree.map(jnp.ones_like, PARAMS), tx.init(PARAMS), PARAMS)
  rates = {path: value[0] for path, value in flat(updates).items()}
  assert rates == {
    'shared/embedding/w': 0.125,
    'shared/_Block_0/w': 0.25,
    'shared/_Block_1/w': 0.5,
    'tasks/a/Dense_0/w': 1.0,
  }


def test_gradual_unfreezing():
  tx = optax.chain(optax.sgd(1.0), transfer.unfreeze_gradually(2, LAYERS))
  state = tx.init(PARAMS)
  moved = []
  step = jax.jit(tx.update)
  for _ in range(7):
    updates, state = step(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
    moved.append([path for path, value in flat(updates).items() if value.any()])
  order = ['tasks/a/Dense_0/w', 'shared/_Block_1/w', 'shared/_Block_0/w', 'shared/embedding/w']
  for number, paths in enumerate(moved):
    assert set(paths) == set(order[: number // 2 + 1])


def test_l2_sp_is_the_gradient_of_the_penalty():
  tx = transfer.l2_sp(0.3)
  state = tx.init(PARAMS)
  moved = jax.tree.map(lambda x: x + 0.5, PARAMS)
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = tx.update(zeros, state, moved)
  for path, value in flat(updates).items():
    expected = 2 * 0.3 * 0.5 if path.startswith('shared/') else 0.0
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_l2_sp_of_chosen_parameters():
  tx = transfer.l2_sp(0.3, ['shared/_Block_0/w', 'tasks/a/Dense_0/w'])
  state = tx.init(PARAMS)
  assert set(state.start) == {'shared/_Block_0/w', 'tasks/a/Dense_0/w'}
  moved = jax.tree.map(lambda x: x + 0.5, PARAMS)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), state, moved)
  for path, value in flat(updates).items():
    np.testing.assert_allclose(value, 0.3 if path in state.start else 0.0, rtol=1e-6)


def _with(config, **changes):
  changed = config.copy_and_resolve_references()
  changed.balance.name = 'sum_tasks'
  changed.train.steps = 2
  changed.train.log_every = 1
  changed.eval.test = False
  changed.update_from_flattened_dict(changes)
  return changed


def _params(directory):
  return transfer.read_run(transfer.find_run(directory, 0))


@pytest.fixture(scope='module')
def earlier(config, tmp_path_factory):
  """Two tasks, trained for two steps."""
  workdir = tmp_path_factory.mktemp('earlier')
  train.run(_with(config, only=('pos', 'inflection')), workdir)
  return workdir


def test_a_run_starts_from_an_earlier_one(config, earlier, tmp_path):
  source = _params(earlier)
  changed = _with(config, init_from=str(earlier), only=('pos', 'lemma'))
  changed.update_from_flattened_dict(
    {
      'optimizer.learning_rate': 0.0,
      'optimizer.l2_shared': 0.0,
      'transfer.reinitialize': 1,
    }
  )
  train.run(changed, tmp_path)
  found = _params(tmp_path)
  for path, value in found.items():
    renewed = '/_Block_' in path or 'LayerNorm' in path or path.startswith('tasks/lemma')
    if not renewed:
      np.testing.assert_array_equal(value, source[path], err_msg=path)
  kernels = [p for p in found if '/_Block_0/' in p and p.endswith('kernel')]
  assert kernels
  assert not any(np.array_equal(found[p], source[p]) for p in kernels)
  run = tmp_path / 'default' / 'seed_0'
  assert str(earlier) not in (run / 'config.json').read_text()
  again = train.run(changed, tmp_path)
  assert again[0]['steps'] == 2


def test_frozen_parameters_stay(config, earlier, tmp_path):
  source = _params(earlier)
  changed = _with(config, init_from=str(earlier / 'default' / 'seed_0'), only=('pos', 'inflection'))
  changed.transfer.update(freeze_layers=2, freeze=('tasks/pos/.*bias',))
  changed.optimizer.l2_shared = 0.1
  train.run(changed, tmp_path)
  frozen = 0
  for path, value in _params(tmp_path).items():
    held = not path.startswith('tasks/') and 'LayerNorm_0/' not in path.removeprefix('shared/')
    same = np.array_equal(value, source[path])
    if '/embedding/' in path or 'positions' in path or '_Block_0' in path:
      assert same, path
      frozen += 1
    elif path.startswith('tasks/pos/') and path.endswith('bias'):
      assert same, path
    elif path.endswith('kernel'):
      assert not same or held, path
  assert frozen > 5


def test_lower_tasks_stay_what_they_were(config, earlier, tmp_path):
  """What 'pos' depends on keeps close to its start."""
  distances = []
  for strength, tasks in ((0.0, ()), (100.0, ('pos',))):
    changed = _with(config, init_from=str(earlier), only=('pos', 'lemma'))
    changed.transfer.update(l2_sp=strength, l2_sp_tasks=tasks)
    changed.train.steps = 8
    train.run(changed, tmp_path / str(strength))
    found, source = _params(tmp_path / str(strength)), _params(earlier)
    used = [path for path in found if path.startswith(('shared/', 'tasks/pos/'))]
    assert {path.split('/')[0] for path in used} == {'shared', 'tasks'}
    distances.append(sum(np.sum(np.square(found[path] - source[path])) for path in used))
  free, held = distances
  assert held < 0.5 * free


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'transfer.l2_sp_tasks': ('po',)}, "l2_sp_tasks: no task 'po'; did you mean 'pos'"),
    ({'transfer.l2_sp_tasks': ('pos',)}, 'set transfer.l2_sp, the strength'),
    ({'init_from': 'nowhere'}, 'not the directory of a run'),
    ({'transfer.layer_decay': 0.0}, 'layer_decay: need more than 0'),
    ({'transfer.reinitialize': 1}, 'every layer is fresh'),
    ({'transfer.freeze': ('shared/nothing',)}, 'matches no parameter whole'),
    ({'transfer.freeze': ('.*',)}, 'every parameter is frozen'),
    ({'transfer.layers': r'Block_\d'}, 'needs one group'),
    (
      {'transfer.layers': r'_Block_(.*)', 'transfer.freeze_layers': 1},
      r"finds '0/.*' in shared/_Block_0/.*, which is no number",
    ),
    ({'transfer.freeze': (1,)}, 'transfer.freeze: need texts'),
    ({'transfer.freeze': ('(',)}, 'no regular expression'),
    ({'encoder.name': 'bert'}, 'encoder.bert.path: give the folder'),
    ({'encoder.name': 'bert', 'encoder.bert.path': 'no_such:x'}, 'no package'),
  ],
)
def test_errors(changes, message, config, tmp_path):
  with pytest.raises(errors.ConfigError, match=message):
    train.run(_with(config, **changes), tmp_path)


def test_an_earlier_run_of_another_model(config, earlier, tmp_path):
  changed = _with(config, init_from=str(earlier))
  changed.encoder.transformer.mlp_features = 24
  with pytest.raises(errors.ConfigError, match=r'another model: .*Dense_0/bias is \[24\] here and'):
    train.run(changed, tmp_path)


def test_an_earlier_run_of_longer_texts(config, earlier, tmp_path):
  changed = _with(config, init_from=str(earlier), only=('pos',))
  changed.dataset.max_length = 4
  train.run(changed, tmp_path)
  before, after = (_params(where)['shared/positions'].shape for where in (earlier, tmp_path))
  assert before == after
  assert before[0] > 4
  changed = _with(config, init_from=str(tmp_path), only=('lemma',))
  train.run(changed, tmp_path / 'third')
  short = _with(config, only=('pos',))
  short.dataset.max_length = 4
  train.run(short, tmp_path / 'short')
  changed = _with(config, init_from=str(tmp_path / 'short'), only=('pos',))
  with pytest.raises(errors.ConfigError, match='max_length bounds learned positions'):
    train.run(changed, tmp_path / 'none')


def test_texts_longer_than_a_pretrained_encoder_reads(config, checkpoint, pretrained):
  changed = _with(config, only=('pos',))
  changed.encoder.name, changed.encoder.bert.path = 'bert', str(checkpoint)
  (resolved,) = config_lib.resolve(changed)
  most = bert.longest(pretrained.options)
  data = types.SimpleNamespace(vocab_size=5, bucket_lengths=(4, most))
  assert encoder_lib.build_encoder(resolved, data).positions == most
  data.bucket_lengths = (4, most + 1)
  with pytest.raises(errors.ConfigError, match=f'reads {most} tokens.*dataset.max_length={most} '):
    encoder_lib.build_encoder(resolved, data)


def test_a_pretrained_encoder_from_a_config(config, checkpoint, pretrained, tmp_path):
  changed = _with(config, only=('pos', 'inflection'))
  changed.dataset.tokenizer = ''
  changed.update_from_flattened_dict(
    {
      'encoder.name': 'bert',
      'encoder.bert.path': str(checkpoint),
      'optimizer.learning_rate': 0.0,
      'dataset.max_length': 10,
    }
  )
  train.run(changed, tmp_path)
  run = tmp_path / 'default' / 'seed_0'
  found, source = _params(tmp_path), flat(pretrained.params)
  for path, value in source.items():
    np.testing.assert_array_equal(found[f'shared/{path}'], value)
  assert str(checkpoint.parent) not in (run / 'config.json').read_text()
  (resolved,) = config_lib.resolve(changed)
  data = start_lib.load_data(resolved)
  batch = data.example_batch()
  first = batch['inputs']['tokens'][:, 0]
  assert (first == 2).all()  # [CLS]
