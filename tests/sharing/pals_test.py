"""PALs against float64 NumPy on unpadded sentences; trunks without a gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import MultiTaskModel, Task, encoders, heads, optim, sharing
from tests import models
from tests.encoders import oracles
from tests.sharing import contract_test

V, S, LENGTHS = 11, 6, (6, 4, 1)
PATHS = ('_Block_0.Dense_1', '_Block_1.Dense_1')


def tasks():
  return [Task(name, heads.get('regression'), kind='regression') for name in 'ab']


def sentences():
  tokens = np.random.default_rng(0).integers(0, V, (3, S)).astype(np.int32)
  return {'tokens': tokens, 'mask': np.arange(S) < np.array(LENGTHS)[:, None]}


def batch():
  y = np.ones(3, np.float32)
  return {'inputs': sentences(), 'targets': {'a': y, 'b': -y}}


def transformer(**options):
  embedding, options = encoders.Embedding(V, 8, dropout=0.0), {'dropout': 0.0} | options
  return encoders.Transformer(
    embedding, features=8, layers=2, heads=2, mlp_features=10, max_length=S, **options
  )


def pal(own, path, h, heads=3):
  """Softmax attention over the rows of `[S, m]`, a slice of features at a time."""
  low, parts = h @ own['down'], []
  q, k, v = (low @ own['attention'][path][name] for name in ('query', 'key', 'value'))
  size = low.shape[-1] // heads
  for i in range(heads):
    q_i, k_i, v_i = (part[:, i * size : (i + 1) * size] for part in (q, k, v))
    parts.append(oracles.softmax(q_i @ k_i.T / np.sqrt(size)) @ v_i)
  return np.concatenate(parts, axis=-1) @ own['up']


def block(p, h, joined, norm):
  def attend(x):
    return oracles.attention(p['MultiHeadDotProductAttention_0'], x)

  def feed_forward(x):
    return oracles.dense(p['Dense_1'], oracles.gelu(oracles.dense(p['Dense_0'], x)))

  first, second = (functools.partial(oracles.layer_norm, p[f'LayerNorm_{i}']) for i in (0, 1))
  if norm == 'pre':
    x = h + attend(first(h))
    return x + feed_forward(second(x)) + joined
  x = first(h + attend(h))
  return second(x + feed_forward(x) + joined)


@pytest.mark.parametrize('norm', ['pre', 'post'])
def test_pals_join_their_blocks(norm):
  """The second task's; without their way up, the trunk is as it was."""
  model = sharing.pals(transformer(norm=norm), tasks(), features=6, heads=3)
  params = models.drawn(model, batch())
  shared, own = params['shared'], params['tasks']['b']['encoder']
  assert own['down'].shape == (8, 6)
  assert set(own['attention']) == set(PATHS)
  encode = jax.jit(lambda own: model.encode_task(shared, own, 1, sentences()))
  for up in (own['up'], np.zeros_like(own['up'])):
    states = encode(own | {'up': up})
    exact, low = jax.tree.map(lambda x: np.asarray(x, np.float64), (shared, own | {'up': up}))
    for row, length in enumerate(LENGTHS):
      x = exact['embedding']['Embed_0']['embedding'][sentences()['tokens'][row, :length]]
      x = x + exact['positions'][:length]
      for i, path in enumerate(PATHS):
        x = block(exact[f'_Block_{i}'], x, pal(low, path, x) if up.any() else 0.0, norm)
      if norm == 'pre':
        x = oracles.layer_norm(exact['LayerNorm_0'], x)
      np.testing.assert_allclose(states[row, :length], x, atol=2e-5)


def test_in_blocks_that_compute_themselves_again():
  """Their gradients are those of blocks that keep what they computed."""
  slopes = []
  for remat in (False, True):
    model = sharing.pals(transformer(remat=remat), tasks(), features=6, heads=3)
    params = models.drawn(model, batch())
    shared, own = params['shared'], params['tasks']['b']['encoder']

    def total(own, shared, model=model):
      return jnp.sum(model.encode_task(shared, own, 1, sentences()) ** 3)

    slopes.append(jax.jit(jax.grad(total))(own, shared))
  assert np.asarray(slopes[0]['down']).any()
  models.assert_trees_close(*slopes)


def test_of_one_position_attention_is_its_value():
  """An MLP's layer is in no block: its PAL reads what the layer reads."""
  model = sharing.pals(encoders.MLP((4, 5)), tasks(), layers='Dense_1', features=6, heads=3)
  x = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
  own_batch = {name: {'inputs': x, 'targets': np.ones(3, np.float32)} for name in 'ab'}
  params = models.init(model, own_batch)
  assert not np.asarray(params['tasks']['a']['encoder']['up']).any()
  params = models.drawn(model, own_batch)
  own, shared = params['tasks']['a']['encoder'], params['shared']
  actual = jax.jit(lambda: model.encode_task(shared, own, 0, x))()
  own, shared = jax.tree.map(lambda x: np.asarray(x, np.float64), (own, shared))
  h = oracles.relu(oracles.dense(shared['Dense_0'], x))
  joined = h @ own['down'] @ own['attention']['Dense_1']['value'] @ own['up']
  expected = oracles.relu(oracles.dense(shared['Dense_1'], h) + joined)
  np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_vision_transformers_have_no_padding():
  model = sharing.pals(encoders.ViT(2, 8, 2, 2, 10), tasks())
  images = {'inputs': np.zeros((3, 4, 4, 1), np.float32), 'targets': batch()['targets']}
  params = jax.eval_shape(model.init, jax.random.key(0), images)
  expected = {path.removeprefix('_') for path in PATHS}
  assert set(params['tasks']['a']['encoder']['attention']) == expected


def frozen(name):
  """A model of two tasks, and a batch."""
  options = {'layers': 'Dense_1', 'freeze': True} | contract_test.OPTIONS[name]
  x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  model = sharing.get(name)(encoders.MLP((5, 5)), tasks(), **options)
  return model, {'inputs': x, 'targets': batch()['targets']}


@pytest.mark.parametrize('name', ['adapters', 'lora', 'hyper_adapters', 'pals'])
def test_a_frozen_trunk_has_no_gradient(name):
  """Exactly none, from any loss; all else has one, but what a single position leaves idle."""
  model, batch = frozen(name)
  params = models.drawn(model, batch)
  grads = jax.jit(lambda p: mtl_jax.task_gradients(model, p, batch))(params)[1]
  trunk = 'shared/encoder/' if name == 'hyper_adapters' else 'shared/'
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    path = jax.tree_util.keystr(path, simple=True, separator='/')
    idle = path.endswith(('/query', '/key'))
    assert np.asarray(leaf).any() == (not path.startswith(trunk) and not idle), path


def test_a_step_with_all_of_the_shared_half_frozen():
  """Nothing is left to balance: the trunk stays, adapters and heads move, all is finite."""
  model, batch = frozen('adapters')
  before = models.drawn(model, batch)
  balance, optimizer = optim.mgda(), optax.sgd(0.1)
  step = mtl_jax.make_train_step(model, balance, optimizer)
  state = mtl_jax.init_train_state(
    model, balance, optimizer, jax.random.key(0), batch, params=before
  )
  state, metrics = step(state, batch)
  jax.tree.map(np.testing.assert_array_equal, state.params['shared'], before['shared'])
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params['tasks'], before['tasks'])
  assert all(jax.tree.leaves(moved))
  assert np.isfinite(metrics['loss']).all()


def test_a_pattern_that_freezes_nothing_is_refused():
  model = MultiTaskModel(encoders.MLP((4,)), models.tasks(text=False), frozen=('shared/Dense',))
  with pytest.raises(ValueError, match="'shared/Dense' matches no parameter; there are shared/Den"):
    jax.eval_shape(model.init, jax.random.key(0), models.shared_batch('mlp'))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'features': 6, 'heads': 4}, 'features=6 and heads=4'),
    ({'layers': '('}, 'no regular expression'),
    ({'layers': 'Block'}, "matches 'Block'; there are Dense_0"),
    ({'layers': r'Dense_\d'}, "'Dense_0': "),
  ],
)
def test_options_that_cannot_be(options, message):
  def build():
    model = sharing.pals(encoders.MLP((16, 16)), models.tasks(text=False), **options)
    jax.eval_shape(model.init, jax.random.key(0), models.shared_batch('mlp'))

  with pytest.raises(ValueError, match=message):
    build()
