"""The forward pass and the penalty of every architecture against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import encoders, optim, sharing
from tests import models
from tests.sharing import contract_test

SIZES = (16, 16)


def forward(name, sizes=SIZES, **options):
  """Features of the MLP by task, our parameters as float64, and the inputs."""
  model = sharing.get(name)(encoders.MLP(sizes), models.tasks(text=False), **options)
  batch = models.shared_batch('mlp')
  params = models.drawn(model, batch)
  outputs = jax.jit(model.outputs)(params, batch)
  exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  return outputs['score'], exact, batch['inputs'].astype(np.float64)


def dense(x, layer):
  return x @ layer['kernel'] + layer['bias']


def relu(x):
  return np.maximum(x, 0)


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def check(actual, features, head):
  np.testing.assert_allclose(actual, dense(features, head['Dense_0'])[:, 0], rtol=1e-4, atol=1e-5)


def test_separate():
  actual, params, x = forward('separate')
  assert params['shared'] == {}
  own = params['tasks']['score']
  for layer in ('Dense_0', 'Dense_1'):
    x = relu(dense(x, own['encoder'][layer]))
  check(actual, x, own['head'])


def test_soft_reads_its_column():
  actual, params, x = forward('soft')
  for layer in ('Dense_0', 'Dense_1'):
    x = relu(dense(x, {k: v[2] for k, v in params['shared']['columns'][layer].items()}))
  check(actual, x, params['tasks']['score']['head'])


@pytest.mark.parametrize('by_channel', [True, False])
def test_cross_stitch_mixes_after_every_layer(by_channel):
  """The first layer has two blocks of channels, the second a number that blocks do not divide."""
  sizes = (32, 20)
  actual, params, x = forward('cross_stitch', sizes, by_channel=by_channel)
  columns = [x, x, x]
  for layer, channels in zip(('Dense_0', 'Dense_1'), sizes, strict=True):
    weights, alpha = params['shared']['columns'][layer], params['shared']['stitches'][layer]
    assert alpha.shape == (3, 3, channels if by_channel else 1)
    linear = [dense(c, {k: v[i] for k, v in weights.items()}) for i, c in enumerate(columns)]
    columns = [relu(sum(alpha[i, j] * linear[j] for j in range(3))) for i in range(3)]
  head = params['tasks']['score']['head']
  check(actual, columns[2], head)


def test_one_task_has_nothing_to_be_stitched_to():
  model = sharing.cross_stitch(encoders.MLP(SIZES), models.tasks(text=False)[:1])
  whole = models.shared_batch('mlp')
  name = model.task_names[0]
  batch = {'inputs': whole['inputs'], 'targets': {name: whole['targets'][name]}}
  stitches = models.init(model, batch)['shared']['stitches']
  assert all(np.all(leaf == 1.0) for leaf in jax.tree.leaves(stitches))


@pytest.mark.parametrize('name', ['ltb', 'ple'])
def test_layers_side_by_side_are_refused(name):
  encoder = encoders.CNN(encoders.Embedding(9, 8), 4, (2, 3))
  model = sharing.get(name)(encoder, models.tasks(text=True))
  with pytest.raises(ValueError, match="'Conv_0' and 'Conv_1' read the same"):
    jax.eval_shape(model.init, jax.random.key(0), models.shared_batch('transformer'))


def mixture(params, x, read):
  experts = params['shared']['experts']
  own = params['tasks']['score']
  states = []
  for e in read:
    state = x
    for layer in ('Dense_0', 'Dense_1'):
      state = relu(dense(state, {k: v[e] for k, v in experts[layer].items()}))
    states.append(state)
  gate = np.exp(dense(x, own['gate']))
  gate /= gate.sum(1, keepdims=True)
  return sum(g[:, None] * state for g, state in zip(gate.T, states, strict=True)), own['head']


def test_mmoe():
  actual, params, x = forward('mmoe', experts=3)
  check(actual, *mixture(params, x, (0, 1, 2)))


def test_cgc_reads_the_shared_experts_and_its_own():
  """'score' is the third of three tasks: experts 0, 1 are shared, 6 and 7 its own."""
  actual, params, x = forward('cgc', shared_experts=2, task_experts=2)
  assert params['shared']['experts']['Dense_0']['bias'].shape == (8, 16)
  check(actual, *mixture(params, x, (0, 1, 6, 7)))


def shapes_of(model, batch):
  return jax.eval_shape(model.init, jax.random.key(0), batch)['shared']


def test_experts_have_their_embedding_in_common():
  model, batch = models.model('transformer', share=sharing.mmoe), models.shared_batch()
  experts = shapes_of(model, batch)['experts']
  shapes = jax.tree.map(jnp.shape, shapes_of(models.model('transformer'), batch))
  assert jax.tree.map(jnp.shape, experts['embedding']) == shapes['embedding']
  del experts['embedding'], shapes['embedding']
  assert jax.tree.map(lambda x: x.shape[1:], experts) == shapes


def test_adapters():
  actual, params, x = forward('adapters', layers=r'Dense_\d', features=3)
  for layer in ('Dense_0', 'Dense_1'):
    own = params['tasks']['score']['encoder'][layer]
    y = dense(x, params['shared'][layer])
    x = relu(y + gelu(y @ own['down'] + own['down_bias']) @ own['up'] + own['up_bias'])
  check(actual, x, params['tasks']['score']['head'])


def test_hyper_adapters():
  options = {'features': 3, 'embedding': 5, 'hidden': 7}
  actual, params, x = forward('hyper_adapters', layers=r'Dense_\d', **options)
  shared, hyper = params['shared'], params['shared']['hyper']
  assert set(params['tasks']['score']['encoder']) == {'embedding'}
  for layer in ('Dense_0', 'Dense_1'):
    known = (params['tasks']['score']['encoder']['embedding'], shared['layers'][layer])
    v = relu(np.concatenate((*known, shared['places']['output'])) @ hyper['input'])
    v = v @ hyper['output']
    down, up, scale, shift = (
      np.tensordot(v, hyper[name], 1) for name in ('down', 'up', 'scale', 'shift')
    )
    y = dense(x, shared['encoder'][layer])
    change = gelu(y @ down) @ up
    change -= change.mean(1, keepdims=True)
    x = relu(y + scale * change / np.sqrt(change.var(1, keepdims=True) + 1e-5) + shift)
  check(actual, x, params['tasks']['score']['head'])


def test_hyper_adapters_tell_layers_from_places():
  model, batch = models.model('transformer', share=sharing.hyper_adapters), models.shared_batch()
  shared = shapes_of(model, batch)
  assert set(shared['layers']) == {'_Block_0'}
  assert set(shared['places']) == {'MultiHeadDotProductAttention_0', 'Dense_1'}


def test_lora():
  actual, params, x = forward('lora', layers=r'Dense_\d', rank=2, alpha=3.0)
  for layer in ('Dense_0', 'Dense_1'):
    own = params['tasks']['score']['encoder'][layer]
    x = relu(dense(x, params['shared'][layer]) + 3.0 / 2 * x @ own['a'] @ own['b'])
  check(actual, x, params['tasks']['score']['head'])


def test_mtl_lora():
  actual, params, x = forward('mtl_lora', layers=r'Dense_\d', rank=2, alpha=3.0, temperature=0.5)
  for layer in ('Dense_0', 'Dense_1'):
    own, update = params['tasks']['score']['encoder'][layer], params['shared']['updates'][layer]
    share = np.exp(own['weights'] / 0.5)
    up = np.tensordot(share / share.sum(), update['up'], 1)
    low = x @ update['down'] @ own['transform'] @ up
    x = relu(dense(x, params['shared']['encoder'][layer]) + 3.0 / 2 * low)
  check(actual, x, params['tasks']['score']['head'])


@pytest.mark.parametrize('name', ['lora', 'mtl_lora', 'adapters'])
def test_inside_a_transformer_the_start_is_the_trunk(name):
  options = {'scale': 0.0} if name == 'adapters' else {}
  model = models.model('transformer', share=functools.partial(sharing.get(name), **options))
  plain, batch = models.model('transformer'), models.shared_batch()
  params = models.init(model, batch)

  @jax.jit
  def both(params):
    heads = {task: own['head'] for task, own in params['tasks'].items()}
    trunk = {'shared': params['shared'].get('encoder', params['shared']), 'tasks': heads}
    return model.outputs(params, batch), plain.outputs(trunk, batch)

  models.assert_trees_close(*both(params))
  places = params['tasks']['intent']['encoder']
  attention = '_Block_0.MultiHeadDotProductAttention_0'
  expected = {f'{attention}.query', f'{attention}.value'}
  assert set(places) == ({attention, '_Block_0.Dense_1'} if name == 'adapters' else expected)


def reference(penalty, rows):
  if penalty == 'pairs':
    return sum(np.sum((a - b) ** 2) for i, a in enumerate(rows) for b in rows[:i])
  if penalty == 'mean':
    return np.sum((rows - rows.mean(0)) ** 2)
  return np.linalg.svd(rows, compute_uv=False).sum()


@pytest.mark.parametrize('penalty', ['pairs', 'mean', 'trace'])
def test_penalties(penalty):
  """The value against NumPy, the slope against finite differences in float64, rules by path."""
  rules = ('Dense_0/kernel=0.5', 'Dense_0=0')
  model = contract_test.mlp('soft')
  model = sharing.soft(
    model.shared.encoder, model.tasks, penalty=penalty, strength=2.0, strengths=rules
  )
  batch = models.shared_batch('mlp')
  params = models.drawn(model, batch)
  rows = {
    '/'.join((layer, name)): np.asarray(leaf, np.float64).reshape(3, -1)
    for layer, leaves in params['shared']['columns'].items()
    for name, leaf in leaves.items()
  }
  strength = {'Dense_0/kernel': 0.5, 'Dense_1/kernel': 2.0, 'Dense_1/bias': 2.0}
  expected = sum(value * reference(penalty, rows[path]) for path, value in strength.items())
  value, slope = jax.jit(jax.value_and_grad(model.penalty))(params)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  slope = slope['shared']['columns']
  assert not np.asarray(slope['Dense_0']['bias']).any()
  where = np.random.default_rng(0).normal(size=rows['Dense_1/bias'].shape)
  steps = [reference(penalty, rows['Dense_1/bias'] + h * where) for h in (1e-5, -1e-5)]
  along = np.sum(where * np.asarray(slope['Dense_1']['bias']))
  np.testing.assert_allclose(along, 2.0 * (steps[0] - steps[1]) / 2e-5, rtol=1e-4)


def test_the_trace_norm_of_equal_columns():
  """Rank one: the value is right and the slope a subgradient, not NaN."""
  row = np.random.default_rng(0).normal(size=7).astype(np.float32)
  same = {'shared': {'columns': {'w': jnp.stack([jnp.asarray(row)] * 3)}}}
  model = sharing.soft(encoders.MLP((2,)), models.tasks(text=False), penalty='trace', strength=1.0)
  value, slope = jax.value_and_grad(model.penalty)(same)
  norm = np.linalg.norm(row)
  np.testing.assert_allclose(value, np.sqrt(3) * norm, rtol=1e-5)
  expected = np.stack([row / norm / np.sqrt(3)] * 3)
  np.testing.assert_allclose(slope['shared']['columns']['w'], expected, atol=1e-5)
  zero = jax.tree.map(jnp.zeros_like, same)
  assert not np.asarray(jax.grad(model.penalty)(zero)['shared']['columns']['w']).any()


def test_the_penalty_draws_the_columns_together():
  batch = models.shared_batch('mlp')
  model = sharing.soft(
    encoders.MLP(SIZES), models.tasks(text=False), strength=10.0, start='independent'
  )
  balance, optimizer = optim.mgda(), optax.sgd(0.02)
  state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(0), batch)
  step = mtl_jax.make_train_step(model, balance, optimizer)
  penalties = []
  for _ in range(10):
    state, metrics = step(state, batch)
    penalties.append(float(metrics['penalty']))
  assert penalties[-1] < 0.1 * penalties[0]


def test_columns_start_equal_or_apart():
  batch = models.shared_batch('mlp')
  for start, apart in (('same', False), ('independent', True)):
    model = sharing.soft(encoders.MLP(SIZES), models.tasks(text=False), start=start)
    kernel = np.asarray(models.init(model, batch)['shared']['columns']['Dense_0']['kernel'])
    assert (np.abs(kernel[0] - kernel[1]).max() > 0) == apart


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('soft', {'penalty': 'trac'}, "did you mean 'trace'"),
    ('soft', {'start': 'equal'}, 'Valid: independent, same'),
    ('soft', {'strength': -1.0}, 'soft.strength: need 0 or more, not -1'),
    ('soft', {'strengths': ('(=1',)}, "not '\\(=1'"),
    ('soft', {'strengths': ('Dense',)}, "need 'PATTERN=λ'"),
    ('cross_stitch', {'own_weight': 0.0}, 'cross_stitch.own_weight: need more than 0'),
    ('cross_stitch', {'layers': 'Block'}, "matches 'Block'; there are Dense_0"),
    ('mmoe', {'experts': 0}, 'mmoe.experts: need 1 or more, not 0'),
    ('cgc', {'shared_experts': 0, 'task_experts': 0}, 'one of them must be at least 1'),
    ('adapters', {'features': 0}, 'adapters.features: need 1 or more'),
    ('adapters', {}, 'there are Dense_0'),
    ('lora', {'rank': 0}, 'lora.rank: need 1 or more'),
    ('mtl_lora', {'temperature': 0}, 'mtl_lora.temperature: need more than 0'),
    ('mtl_lora', {}, 'there are Dense_0'),
    ('hyper_adapters', {'hidden': 0}, 'hyper_adapters.hidden: need 1 or more'),
    ('hyper_adapters', {'layers': '('}, 'no regular expression'),
  ],
)
def test_options_that_cannot_be(name, options, message):
  with pytest.raises(ValueError, match=message):
    models.init(
      sharing.get(name)(encoders.MLP(SIZES), models.tasks(text=False), **options),
      models.shared_batch('mlp'),
    )
