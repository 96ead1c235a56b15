"""Tasks, heads, encoders and the model made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import mtl_jax
from mtl_jax import encoders, heads, tasks
from tests import models


def test_losses_against_numpy():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 3)).astype(np.float32)
  labels = np.array([0, 2, -1, -2], np.int32)
  values, valid = tasks.softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
  log_probabilities = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
  assert valid.tolist() == [True, True, False, False]
  np.testing.assert_allclose(values[:2], -log_probabilities[[0, 1], [0, 2]], rtol=1e-5)

  binary = np.array([[1, 0, -1]] * 4, np.int32)
  values, valid = tasks.sigmoid_cross_entropy(jnp.asarray(logits), jnp.asarray(binary))
  probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
  np.testing.assert_allclose(values[:, 0], -np.log(probabilities[:, 0]), rtol=1e-5)
  np.testing.assert_allclose(values[:, 1], -np.log(1 - probabilities[:, 1]), rtol=1e-5)
  assert not valid[:, 2].any()

  values, _ = tasks.squared_error(jnp.array([1.0, 2.0]), jnp.array([3.0, 2.5]))
  np.testing.assert_allclose(values, [4.0, 0.25])


def test_mean_loss_is_over_valid_labels_and_weighted():
  task = mtl_jax.Task('t', None, kind='regression', weight=3.0)
  outputs, targets = jnp.array([1.0, 2.0, 9.0]), jnp.array([0.0, 0.0, 0.0])
  loss, count = task.mean_loss(outputs, targets, jnp.array([True, True, False]))
  assert (float(loss), float(count)) == (7.5, 2.0)
  loss, count = task.mean_loss(outputs, targets, jnp.zeros(3, bool))
  assert (float(loss), float(count)) == (0.0, 0.0)


def test_weight_zero_switches_a_task_off():
  """Loss, labels and gradient are 0 whatever the values are; elements are what they are."""
  task = mtl_jax.Task('t', None, kind='regression', weight=0.0)
  outputs, targets = jnp.array([1.0, jnp.nan]), jnp.zeros(2)
  (loss, count), grads = jax.value_and_grad(task.mean_loss, has_aux=True)(outputs, targets)
  assert (float(loss), float(count)) == (0.0, 0.0)
  np.testing.assert_array_equal(grads, 0.0)
  assert float(task.elements(outputs, targets)[0][0]) == 1.0
  with pytest.raises(ValueError, match='do not fit'):
    task.mean_loss(outputs, jnp.zeros(3))


def test_a_label_without_loss_carries_no_gradient():
  def loss(logits):
    return mtl_jax.Task('t', None).mean_loss(logits, jnp.array([1, -1, -2]))[0]

  grads = jax.grad(loss)(jnp.ones((3, 4)))
  assert np.asarray(grads[0]).any()
  assert not np.asarray(grads[1:]).any()


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'name': 'inputs'}, 'cannot be called'),
    ({'name': 'a b'}, 'cannot be called'),
    ({'name': 'a', 'kind': 'ranking'}, 'unknown kind'),
    ({'name': 'a', 'weight': -1.0}, 'negative or not finite'),
    ({'name': 'a', 'weight': float('nan')}, 'negative or not finite'),
  ],
)
def test_bad_tasks(kwargs, message):
  with pytest.raises(ValueError, match=message):
    mtl_jax.Task(head=None, **kwargs)


def test_a_custom_loss_is_used():
  def absolute(outputs, targets):
    return jnp.abs(outputs - targets), jnp.ones(targets.shape, bool)

  task = mtl_jax.Task('t', None, kind='regression', loss=absolute)
  assert float(task.mean_loss(jnp.array([3.0]), jnp.array([1.0]))[0]) == 2.0


def test_parameters_are_plain_dicts_in_two_halves():
  model, batch = models.model('transformer'), models.shared_batch()
  params = models.init(model, batch)
  assert set(params) == {'shared', 'tasks'}
  assert set(params['tasks']) == set(models.NAMES)
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
  own = jax.eval_shape(model.init, jax.random.key(0), models.own_batch())
  assert jax.tree.structure(own) == jax.tree.structure(params)
  assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, params)


def test_outputs_and_evaluation():
  model, batch = models.model('transformer'), models.shared_batch()
  params = models.init(model, batch)
  shapes = {k: v.shape for k, v in jax.eval_shape(model.outputs, params, batch).items()}
  assert shapes == {'intent': (16, 5), 'slots': (16, 8, 7), 'topics': (16, 3), 'score': (16,)}
  unlabelled = jax.eval_shape(model.outputs, params, {'inputs': batch['inputs']})
  assert {k: v.shape for k, v in unlabelled.items()} == shapes
  step = mtl_jax.make_eval_step(model)
  result, losses = jax.jit(lambda p: (step(p, batch), model.losses(p, batch)))(params)
  assert {k: (v.shape, v.dtype.name) for k, v in result['outputs'].items()} == {
    'intent': ((16,), 'int32'),
    'slots': ((16, 8), 'int32'),
    'topics': ((16, 3), 'bool'),
    'score': ((16,), 'float32'),
  }
  weights = np.array([1, 0.5, 1, 1])
  np.testing.assert_allclose(weights * result['loss_sum'] / result['loss_count'], losses, rtol=1e-5)


@pytest.mark.parametrize('encoder', ['bilstm', 'transformer'])
def test_padding_changes_nothing(encoder):
  """A longer bucket gives the same losses: no padding leaks into states, pools or losses."""
  model, batch = models.model(encoder), models.shared_batch()
  params = models.init(model, longer(batch))
  both = jax.jit(lambda p: [model.losses(p, given) for given in (longer(batch), batch)])
  np.testing.assert_allclose(*both(params), rtol=1e-5)


def longer(batch, by=3):
  def pad(x, value=0):
    return np.pad(x, [(0, 0), (0, by)] + [(0, 0)] * (x.ndim - 2), constant_values=value)

  inputs = {name: pad(x) for name, x in batch['inputs'].items()}
  slots = np.where(batch['inputs']['mask'], batch['targets']['slots'], -1).astype(np.int32)
  batch['targets']['slots'] = slots
  return {
    'inputs': inputs,
    'targets': batch['targets'] | {'slots': pad(slots, -1)},
    'mask': batch['mask'],
  }


@pytest.mark.parametrize('how', heads.POOLINGS)
def test_pooling_reads_real_tokens_only(how):
  features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
  mask = jnp.array([[True, True, False], [True, False, False]])
  pool = heads.Pool(how)
  params = pool.init(jax.random.key(0), features, {'mask': mask})
  pooled = pool.apply(params, features, {'mask': mask})
  changed = pool.apply(params, features.at[:, 2].set(99.0), {'mask': mask})
  np.testing.assert_array_equal(pooled, changed)
  np.testing.assert_allclose(pooled[1], features[1, 0], rtol=1e-6)
  nothing = pool.apply(params, features, {'mask': jnp.zeros((2, 3), bool)})
  assert np.abs(nothing).max() < 10
  if how == 'mean':
    np.testing.assert_allclose(pooled[0], features[0, :2].mean(0), rtol=1e-6)


def test_pooling_unknown():
  with pytest.raises(ValueError, match="no 'median'"):
    heads.Pool('median').init(jax.random.key(0), jnp.ones((1, 2, 3)), {})


@pytest.mark.parametrize('kind', heads.HEADS)
def test_a_hidden_layer_of_a_head(kind):
  """Linear, ReLU, linear; without one, the same parameters as ever."""
  features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
  inputs = {'mask': jnp.ones((2, 3), bool)}
  classes = {} if kind == 'regression' else {'num_classes': 3}
  head = heads.get(kind, hidden=5, **classes)
  params = head.init(jax.random.key(1), features, inputs)['params']
  outputs = head.apply({'params': params}, features, inputs)
  exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x = np.asarray(features, np.float64)
  x = x if kind == 'tagging' else x.mean(1)
  x = np.maximum(x @ exact['hidden']['kernel'] + exact['hidden']['bias'], 0)
  x = x @ exact['outputs']['kernel'] + exact['outputs']['bias']
  np.testing.assert_allclose(outputs, x[:, 0] if kind == 'regression' else x, rtol=1e-5, atol=1e-6)
  plain = heads.get(kind, **classes).init(jax.random.key(1), features, inputs)['params']
  assert not set(plain) & set(params)  # so that a run with one never gives values to one without
  dropping = heads.get(kind, hidden=5, dropout=0.5, **classes)
  between = []
  for train in (False, True):  # dropout comes after the hidden layer
    _, found = dropping.apply(
      {'params': params},
      features,
      inputs,
      train,
      rngs={'dropout': jax.random.key(2)},
      capture_intermediates=True,
    )
    between.append(found['intermediates'])
  np.testing.assert_array_equal(*(found['hidden']['__call__'][0] for found in between))
  assert np.any(between[0]['outputs']['__call__'][0] != between[1]['outputs']['__call__'][0])


def test_names_are_checked_with_hints():
  with pytest.raises(ValueError, match="did you mean 'transformer'"):
    encoders.get('transfomer')
  with pytest.raises(ValueError, match="did you mean 'tagging'"):
    heads.get('taging')
  with pytest.raises(ValueError, match="did you mean 'hard'"):
    mtl_jax.sharing.get('harder')


def test_a_sequence_longer_than_the_positions_is_refused():
  encoder = encoders.Transformer(encoders.Embedding(50, 16), features=16, max_length=4)
  with pytest.raises(ValueError, match='longer than max_length=4'):
    encoder.init(jax.random.key(0), models.inputs())


def test_models_are_checked():
  head = heads.Classification(2)
  with pytest.raises(ValueError, match='different names'):
    mtl_jax.sharing.hard(encoders.MLP(), [mtl_jax.Task('a', head), mtl_jax.Task('a', head)])
  with pytest.raises(ValueError, match='modules for'):
    mtl_jax.MultiTaskModel(encoders.MLP(), (mtl_jax.Task('a', head),), {'b': head})
  model = mtl_jax.sharing.hard(encoders.MLP(), [mtl_jax.Task('a', head), mtl_jax.Task('b', head)])
  batch = {'inputs': np.zeros((2, 3), np.float32), 'targets': {'a': np.zeros(2, np.int32)}}
  with pytest.raises(ValueError, match=r"lacks \['b'\]"):
    model.init(jax.random.key(0), batch)


def test_running_statistics_are_refused_where_sharing_does_not_carry_them():
  class Normalized(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
      return nn.BatchNorm(use_running_average=not train)(inputs)

  batch = {'inputs': np.zeros((2, 3), np.float32), 'targets': {'a': np.zeros(2, np.int32)}}
  for share in (mtl_jax.sharing.mmoe, mtl_jax.sharing.separate):
    model = share(Normalized(), [mtl_jax.Task('a', heads.Classification(2))])
    with pytest.raises(ValueError, match='running statistics'):
      model.init(jax.random.key(0), batch)


def test_dropout_is_off_without_a_key():
  model, batch = models.model('mlp', dropout=0.5), models.shared_batch('mlp')
  params = models.init(model, batch)
  plain = models.losses(model, params, batch)
  np.testing.assert_array_equal(plain, models.losses(model, params, batch))
  assert not np.allclose(plain, models.losses(model, params, batch, jax.random.key(0)))


def test_a_model_of_ones_own_without_flax():
  """`gradients.TwoHalves` is a protocol: a plain object trains through the same step."""

  class Linear:
    task_names = ('a', 'b')

    def encode(self, shared, inputs, key):
      return inputs @ shared

    def task_loss(self, name, task_params, features, example, key):
      error = features @ task_params - example['targets']
      return jnp.mean(error**2), jnp.asarray(error.size, jnp.float32)

  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(32, 4)), jnp.float32)
  params = {
    'shared': jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
    'tasks': {'a': jnp.array([1.0, 0.0, 1.0]), 'b': jnp.array([0.0, 1.0, -1.0])},
  }
  batch = {'inputs': x, 'targets': {'a': x[:, 0], 'b': x[:, 1]}}
  model, balance, optimizer = Linear(), mtl_jax.optim.pcgrad(), optax.adam(3e-2)
  state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(0), params=params)
  step = mtl_jax.make_train_step(model, balance, optimizer)
  state, first = step(state, batch)
  for _ in range(200):
    state, metrics = step(state, batch)
  assert (metrics['loss'] < 0.2 * first['loss']).all()
