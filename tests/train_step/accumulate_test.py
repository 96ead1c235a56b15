"""A step of micro-batches is the step of the whole batch, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import encoders, gradients, optim, sharding, sharing
from mtl_jax.gradients import accumulated
from tests import models
from tests.train_step.engine_test import own_batch

ROWS = 24


def shared_batch():
  """Labels are missing unequally: of 'score' from every second example, so from whole parts."""
  rng = np.random.default_rng(0)
  return {
    'inputs': rng.normal(size=(ROWS, 6)).astype(np.float32),
    'targets': {
      'intent': rng.integers(-1, 5, ROWS).astype(np.int32),
      'topics': rng.integers(-1, 2, (ROWS, 3)).astype(np.int32),
      'score': rng.normal(size=ROWS).astype(np.float32),
    },
    'mask': {'score': np.arange(ROWS) % 2 == 0, 'intent': np.arange(ROWS) < ROWS // 3},
  }


def weighted_batch():
  weight = np.random.default_rng(1).uniform(0, 3, ROWS).astype(np.float32)
  return shared_batch() | {'weight': {'topics': weight, 'score': weight * (np.arange(ROWS) > 8)}}


def absent_batch():
  batch = own_batch((16, 12, 16))
  return {name: batch[name] for name in ('intent', 'score')}


REGIMES = {
  'shared': shared_batch,
  'weights': weighted_batch,
  'own': own_batch,
  'own, unequal': lambda: own_batch((16, 12, 8)),
  'own, absent': absent_batch,
}
WAYS = {
  'sum_tasks': (optim.sum_tasks, {}),
  'sum_tasks, unit': (optim.mean_tasks, {'unit_task_weights': True}),
  'famo': (optim.famo, {'monitor': True}),  # looks at the losses after the update
  'pcgrad': (lambda: optim.pcgrad(order='index'), {'jacobian': 'stacked'}),
  'pcgrad, sequential': (lambda: optim.pcgrad(order='index'), {'jacobian': 'sequential'}),
  'pcgrad, free': (lambda: optim.pcgrad(order='index'), {'jacobian': 'matrix_free'}),
  'nash_mtl': (lambda: optim.nash_mtl(update_every=2), {}),  # holds weights
  'chain': (
    lambda: optax.chain(optim.normalize_task_gradients(), optim.pcgrad(order='index')),
    {'monitor': True},
  ),
}


def train(balance, batch, accumulate, model=None, steps=2, mesh=None, start=None, **options):
  model = model or models.model('mlp')
  params = models.drawn(model, start or batch)
  state = mtl_jax.init_train_state(
    model, balance, optax.sgd(0.1), jax.random.key(1), start or batch, params=params, mesh=mesh
  )
  step = mtl_jax.make_train_step(
    model, balance, optax.sgd(0.1), accumulate=accumulate, mesh=mesh, **options
  )
  for _ in range(steps):
    state, metrics = step(state, batch)
  return state.params, metrics


def check_same(way, batch, count, tolerance=2e-5, **options):
  make, chosen = WAYS[way]
  (expected, known), (params, metrics) = (
    train(make(), batch, k, **chosen, **options) for k in (1, count)
  )
  models.assert_trees_close(params, expected, tolerance)
  assert set(metrics) == set(known)
  for name in known:
    np.testing.assert_allclose(metrics[name], known[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
  ('way', 'regime'),
  [*((way, 'shared') for way in WAYS), ('pcgrad', 'own')],
)
def test_every_way_gives_the_step_of_the_whole_batch(way, regime):
  check_same(way, REGIMES[regime](), 2)


@pytest.mark.parametrize(
  ('way', 'regime'),
  [('pcgrad', 'weights'), ('pcgrad', 'own, unequal'), ('sum_tasks', 'own, absent')],
)
def test_every_batch(way, regime):
  check_same(way, REGIMES[regime](), 4, start=own_batch() if 'own' in regime else None)


def test_the_gradients_are_those_of_each_whole_loss():
  """By a backward pass of one loss after the other: the independent way."""
  model, batch = models.model('mlp'), weighted_batch()
  params = models.init(model, batch)
  losses, expected = models.loss_by_loss(model, params, batch)
  found = jax.jit(
    lambda p: (j := accumulated.linearize(model, p, batch, None, 3, stacked=True))._replace(
      rows=j.rows(None), pull=j.pull(jnp.arange(3.0)), push=None, labels=j.labels()
    )
  )(params)
  models.assert_trees_close({'shared': found.rows, 'tasks': found.tasks}, expected)
  models.assert_trees_close(found.pull, gradients.combine(jnp.arange(3.0), expected['shared']))
  np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
  weight = batch['weight']['topics']
  count = np.sum(batch['targets']['topics'] >= 0, axis=1)
  np.testing.assert_allclose(found.labels[1], np.sum(weight * count), rtol=1e-5)


def test_tokens_of_a_transformer():
  batch = models.shared_batch()
  check_same('sum_tasks', batch, 4, 1e-4, steps=1, model=models.model('transformer'))


def test_eight_devices():
  mesh, batch = sharding.make_mesh(2, 4), shared_batch()
  make, options = WAYS['pcgrad']
  batch = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[:8]]), batch)
  expected, _ = train(make(), batch, 1, **options)
  sharded = sharding.shard_batch(batch, mesh)
  params, _ = train(make(), sharded, 4, mesh=mesh, **options)
  models.assert_trees_close(params, expected, 1e-4)


@pytest.mark.parametrize('name', ['auto_lambda', 'sdmgrad'])
def test_methods_on_several_batches(name):
  """Each of their batches is taken in parts."""
  balance = optim.get(name, **({'learning_rate': 0.1} if name == 'auto_lambda' else {}))
  batch = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), shared_batch())
  (expected, _), (params, _) = (train(balance, batch, k) for k in (1, 2))
  models.assert_trees_close(params, expected, 1e-4)


def test_functions_are_means():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(12, 5)).astype(np.float32), rng.normal(size=(12, 2)).astype(np.float32)

  def losses(params, batch, key):
    del key
    outputs = jnp.tanh(batch[0] @ params['shared']) * params['tasks']['scale']
    return jnp.mean((outputs - batch[1]) ** 2, axis=0)

  params = {'shared': jnp.ones((5, 2)) / 5, 'tasks': {'scale': jnp.ones(())}}
  for model in (losses, [lambda p, b, k, i=i: losses(p, b, k)[i] for i in range(2)]):
    found = []
    for count in (1, 3):
      balance = optim.pcgrad(order='index')
      state = mtl_jax.init_train_state(
        model, balance, optax.sgd(0.1), jax.random.key(0), (x, y), params=params
      )
      step = mtl_jax.make_train_step(model, balance, optax.sgd(0.1), accumulate=count)
      found.append(step(state, (x, y))[0].params)
    models.assert_trees_close(found[1], found[0])


def test_dropout_differs_by_micro_batch():
  """On two equal micro-batches the losses would be those of one, were their keys the same."""
  model = models.model('mlp', dropout=0.5)
  half = models.shared_batch('mlp')
  params = models.init(model, half)
  twice = jax.tree.map(lambda leaf: np.repeat(leaf, 2, axis=0), half)
  parts = accumulated.micro_batches(twice, 2)
  jax.tree.map(lambda part, leaf: np.testing.assert_array_equal(part[1], leaf), parts, half)
  for key, same in ((None, True), (jax.random.key(3), False)):
    one, *_ = accumulated.losses(model, params, half, key, 1)
    two, *_ = accumulated.losses(model, params, twice, key, 2)
    assert np.allclose(one, two, rtol=1e-5) == same
    again, *_ = accumulated.losses(model, params, twice, key, 2)
    np.testing.assert_array_equal(two, again)


@pytest.mark.parametrize('way', ['sum_tasks', 'pcgrad'])
def test_the_memory_is_that_of_a_micro_batch(way):
  """Activations of 4,096 examples, which outweigh the gradients of the tasks by far."""
  make, options = WAYS[way]
  model = sharing.hard(encoders.MLP((64,) * 4), models.tasks(text=False))
  batch = jax.tree.map(lambda leaf: np.tile(leaf, (256, *[1] * (leaf.ndim - 1))),
                       models.shared_batch('mlp'))  # fmt: skip
  state = mtl_jax.init_train_state(model, make(), optax.sgd(0.1), jax.random.key(0), batch)
  held = []
  for count in (1, 8):
    step = mtl_jax.make_train_step(model, make(), optax.sgd(0.1), accumulate=count, **options)
    held.append(step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes)
  assert held[1] < held[0] / 3, held


def test_what_cannot_be_accumulated():
  def make(balance=None, model=None, **options):
    model = model or models.model('mlp')
    return mtl_jax.make_train_step(model, balance or optim.pcgrad(), optax.sgd(0.1), **options)

  with pytest.raises(ValueError, match='accumulate=0: need 1 or more'):
    make(accumulate=0)
  with pytest.raises(ValueError, match=r"accumulate=2: at='representation' balances"):
    make(at='representation', accumulate=2)
  tasks = models.tasks(text=False)
  private = sharing.shared_private(encoders.MLP((6, 4)), tasks)
  with pytest.raises(ValueError, match='losses that are no means over labels'):
    make(model=private, accumulate=2)
  make(model=private)
  make(
    model=sharing.shared_private(encoders.MLP((6, 4)), tasks, adversarial=0.0, orthogonality=0.0),
    accumulate=2,
  )
  batch = models.shared_batch('mlp')
  state = mtl_jax.init_train_state(
    models.model('mlp'), optim.pcgrad(), optax.sgd(0.1), jax.random.key(0), batch
  )
  with pytest.raises(ValueError, match=r'accumulate=3: .* the shape \(16,'):
    make(accumulate=3)(state, batch)
