"""Shared and private encoders: what heads read, and both terms of the loss, against the paper."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import mtl_jax
from mtl_jax import Task, encoders, heads, optim, sharing
from mtl_jax.gradients import halves
from mtl_jax.sharing.shared_private import orthogonality_loss
from tests import models
from tests.encoders import oracles

SIZES, B, T = (6, 4), 8, 3
NAMES = ('intent', 'topics', 'score')
KEY = jax.random.key(3)


class Linear(nn.Module):
  """Two features."""

  @nn.compact
  def __call__(self, inputs, train=False):
    return nn.Dense(2, name='linear')(inputs)


def model_of(**options):
  return sharing.shared_private(encoders.MLP(SIZES), models.tasks(text=False), **options)


def own_batch():
  """Vectors of its own for each task; 'topics' has no label."""
  labels = models.targets(batch=B)
  labels['topics'] = np.full((B, 3), -1, np.int32)
  rng = np.random.default_rng(1)
  return {
    name: {'inputs': rng.normal(size=(B, 5)).astype(np.float32), 'targets': labels[name]}
    for name in NAMES
  }


@functools.cache
def drawn(**options):
  model = model_of(**options)
  params = models.drawn(model, own_batch())
  return model, params, jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def mlp(params, x):
  for layer in sorted(params):
    x = oracles.relu(oracles.dense(params[layer], x))
  return x


def adversarial_loss(discriminator, s, task):
  """CE(D(s), task), in plain jax.numpy, without a reversal."""
  logits = s @ discriminator['kernel'] + discriminator['bias'][None]
  return -jnp.mean(jnp.log(jnp.exp(logits[:, task]) / jnp.exp(logits).sum(-1)))


def unit(x):
  norms = np.linalg.norm(x, axis=-1, keepdims=True)
  return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)  # ReLU may leave zeros


@pytest.mark.parametrize('private', [True, False])
def test_a_head_reads_both_features(private):
  model, params, exact = drawn(private=private)
  assert bool(jax.tree.leaves(params['tasks']['score']['encoder'])) == private
  batch = own_batch()
  own, x = exact['tasks']['score'], batch['score']['inputs'].astype(np.float64)
  parts = [mlp(exact['shared']['encoder'], x)] + ([mlp(own['encoder'], x)] if private else [])
  expected = oracles.dense(own['head']['head']['Dense_0'], np.concatenate(parts, -1))[:, 0]
  actual = jax.jit(model.outputs)(params, batch)['score']
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_losses_in_training_have_both_terms():
  """And without a key they are the tasks' alone."""
  model, params, exact = drawn(adversarial=0.7, orthogonality=0.4)
  batch = own_batch()
  plain = models.losses(model, params, batch)
  actual = models.losses(model, params, batch, KEY)
  assert plain[1] == 0
  for i, name in enumerate(NAMES):
    x = batch[name]['inputs'].astype(np.float64)
    s, p = mlp(exact['shared']['encoder'], x), mlp(exact['tasks'][name]['encoder'], x)
    probabilities = oracles.softmax(oracles.dense(exact['shared']['discriminator'], s))
    entropy = -np.log(probabilities[:, i]).mean()
    apart = np.linalg.norm(unit(s).T @ unit(p) / B) ** 2
    np.testing.assert_allclose(actual[i] - plain[i], 0.7 * entropy + 0.4 * apart, rtol=1e-4)


def test_orthogonality_lies_between_its_ends():
  x = jax.random.normal(KEY, (5, 4))
  rows = jnp.array([True, True, False, True, True])
  same, zero = jnp.broadcast_to(x[:1], x.shape), jnp.zeros_like(x)
  np.testing.assert_allclose(orthogonality_loss(same, 3.0 * same, rows), 1.0, rtol=1e-5)
  one, two = (jnp.eye(4)[:1].repeat(5, 0) * sign for sign in (1.0, -1.0))
  mixed = jnp.where(jnp.arange(5)[:, None] < 2, one, two)  # two rows and two: their mean is zero
  assert orthogonality_loss(one, mixed, rows) == 0
  slope = jax.grad(orthogonality_loss)(zero, x, rows)
  assert jnp.isfinite(slope).all()
  only = jax.grad(orthogonality_loss)(x, same, rows)
  assert only[:2].any()
  assert not only[2].any()


@pytest.mark.parametrize('regime', ['own', 'shared'])
def test_the_encoder_climbs_what_the_discriminator_descends(regime):
  """Gradients of λ·CE in plain jax.numpy: as they are for D, and for the encoder negative."""
  model, params, _ = drawn(adversarial=0.7, orthogonality=0.0)
  without = model_of(adversarial=0.0, orthogonality=0.0)
  batch = own_batch()
  if regime == 'shared':
    x = batch['score']['inputs']
    batch = {'inputs': x, 'targets': {name: batch[name]['targets'] for name in NAMES}}

  @jax.jit
  def terms(params):
    plain = {**params, 'shared': {'encoder': params['shared']['encoder']}}
    _, both = mtl_jax.task_gradients(model, params, batch, key=KEY)
    _, alone = mtl_jax.task_gradients(without, plain, batch, key=KEY)

    def loss(shared, i):
      x = batch['inputs'] if regime == 'shared' else batch[NAMES[i]]['inputs']
      for layer in sorted(shared['encoder']):
        dense = shared['encoder'][layer]
        x = jnp.maximum(x @ dense['kernel'] + dense['bias'][None], 0.0)
      return 0.7 * adversarial_loss(shared['discriminator'], x, i)

    expected = [jax.grad(loss)(params['shared'], i) for i in range(T)]
    return both, alone, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected)

  both, alone, expected = terms(params)
  models.assert_trees_close(both['shared']['discriminator'], expected['discriminator'])
  difference = jax.tree.map(jnp.subtract, both['shared']['encoder'], alone['shared']['encoder'])
  models.assert_trees_close(difference, jax.tree.map(jnp.negative, expected['encoder']))
  models.assert_trees_close(both['tasks'], alone['tasks'])  # private encoders are not adversaries


def test_a_task_without_labels_still_trains_the_encoders():
  batch, topics = own_batch(), NAMES.index('topics')
  for options, present in (
    ({'adversarial': 0.7, 'orthogonality': 0.0}, True),
    ({'adversarial': 0.0, 'orthogonality': 0.4}, True),
    ({'adversarial': 0.0, 'orthogonality': 0.0}, False),
  ):
    model, params, _ = drawn(**options)

    def topics_loss(params, model=model):
      losses, seen, _ = halves.counted_losses(model, params, batch, KEY)
      return losses[topics], seen

    slope, seen = jax.jit(jax.grad(topics_loss, has_aux=True))(params)
    assert (seen > 0).tolist() == [True, present, True]
    some = jax.tree.map(jnp.any, slope)
    assert any(jax.tree.leaves(some['shared']['encoder'])) == present
    assert any(jax.tree.leaves(some['tasks']['topics'])) == (options['orthogonality'] > 0)
    assert not any(jax.tree.leaves(some['tasks']['topics']['head']))


def test_text_is_pooled_and_padding_left_out():
  """Examples of padding alone, and what padding holds, change no loss."""
  inputs = models.inputs(batch=6)
  embedding = encoders.Embedding(50, 6, pieces_vocab_size=20, dropout=0.0)
  encoder = encoders.get('bilstm', embedding=embedding, features=3, dropout=0.0)
  task = Task('intent', heads.get('classification', num_classes=5, pooling='mean'))
  model = sharing.shared_private(encoder, [task], adversarial=0.7, orthogonality=0.4)
  labels = np.array([0, 1, -1, 2, -1, -1], np.int32)
  inputs['mask'][4:], inputs['tokens'][4:] = False, 0
  params = models.drawn(model, {'intent': {'inputs': inputs, 'targets': labels}})
  assert 'embedding' not in params['tasks']['intent']['encoder']
  assert 'embedding' in params['shared']['encoder']
  losses = jax.jit(model.losses)

  def loss(inputs):
    return losses(params, {'intent': {'inputs': inputs, 'targets': labels}}, KEY)

  first = loss(inputs)
  tokens = np.where(inputs['mask'], inputs['tokens'], 7).astype(np.int32)
  np.testing.assert_allclose(loss({**inputs, 'tokens': tokens}), first, rtol=1e-5)
  few = {'inputs': jax.tree.map(lambda x: x[:4], inputs), 'targets': labels[:4]}
  np.testing.assert_allclose(losses(params, {'intent': few}, KEY), first, rtol=1e-5)


def test_the_adversary_takes_the_task_out_of_the_shared_features():
  """The tasks' inputs differ by a shift that no label depends on; λ of 0 leaves it in s."""
  names, rng = ('a', 'b'), np.random.default_rng(0)
  tasks = [Task(name, heads.get('regression', pooling='mean'), kind='regression') for name in names]
  model = sharing.shared_private(Linear(), tasks, private=False)
  batch = {}
  for name, shift in zip(names, (-2.0, 2.0), strict=True):
    x = rng.normal(size=(64, 2)).astype(np.float32)
    y = x[:, 0]
    x[:, 1] += shift
    batch[name] = {'inputs': x, 'targets': y}
  balance, optimizer = optim.mean_tasks(), optax.sgd(0.05)

  def train(strength):
    strong = dataclasses.replace(model, adversarial=strength)
    step = mtl_jax.make_train_step(strong, balance, optimizer, jit=False)
    state = mtl_jax.init_train_state(strong, balance, optimizer, KEY, batch)
    return jax.lax.scan(lambda s, _: (step(s, batch)[0], None), state, None, length=500)[0].params

  params = jax.jit(jax.vmap(train))(jnp.array([0.0, 1.0]))
  told_apart = []
  for row in range(2):
    one = jax.tree.map(lambda leaf, row=row: np.asarray(leaf[row]), params)
    a, b = (oracles.dense(one['shared']['encoder']['linear'], batch[n]['inputs']) for n in names)
    spread = np.sqrt(a.var(0).sum() + b.var(0).sum())
    told_apart.append(np.linalg.norm(a.mean(0) - b.mean(0)) / spread)
    assert (model.losses(one, batch) < 0.01).all()
  assert told_apart[1] < 0.1 * told_apart[0]


def test_options_that_cannot_be():
  for options, match in (
    ({'adversarial': -0.1}, 'shared_private.adversarial: need 0 or more'),
    ({'orthogonality': float('nan')}, 'shared_private.orthogonality: need 0 or more'),
    ({'common': '('}, r'shared_private\.common'),
  ):
    with pytest.raises(ValueError, match=match):
      model_of(**options)
