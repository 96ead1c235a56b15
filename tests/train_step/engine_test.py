"""The ways from a batch to a direction: they agree with each other and with the definition."""

import logging

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import gradients, optim, sharding
from mtl_jax.train_step import _path
from tests import models


def own_batch(sizes=(16, 16, 16)):
  """Inputs of each task's own, for the small model; equal sizes give equal shapes."""
  batches = [models.shared_batch('mlp', seed) for seed in range(3)]
  return {
    name: {'inputs': batch['inputs'][:size], 'targets': batch['targets'][name][:size]}
    for batch, size, name in zip(batches, sizes, ('intent', 'topics', 'score'), strict=True)
  }


REGIMES = {
  'shared': lambda: models.shared_batch('mlp'),
  'own': own_batch,
  'own, unequal': lambda: own_batch((16, 12, 16)),
}


def train(balance, batch, model=None, steps=1, rate=0.1, **options):
  model = model or models.model('mlp')
  params = models.drawn(model, batch)
  state = mtl_jax.init_train_state(
    model, balance, optax.sgd(rate), jax.random.key(1), batch, params=params
  )
  step = mtl_jax.make_train_step(model, balance, optax.sgd(rate), **options)
  for _ in range(steps):
    state, metrics = step(state, batch)
  return state, metrics


@pytest.mark.parametrize('regime', REGIMES)
def test_every_way_to_the_gramian_gives_the_same_step(regime):
  batch = REGIMES[regime]()
  balance = optim.compose(optim.normalize_task_gradients(), optim.pcgrad(order='index'))
  expected, known = train(balance, batch, jacobian='stacked')
  for way in ('sequential', 'matrix_free'):
    state, metrics = train(balance, batch, jacobian=way)
    models.assert_trees_close(state.params, expected.params)
    for name in ('weight', 'gradient_norm', 'cosine'):
      np.testing.assert_allclose(metrics[name], known[name], rtol=1e-3, atol=1e-4)


def test_matrix_free_through_a_transformer():
  """Features with a mask, tasks of every kind, missing labels."""
  batch, model = models.shared_batch(), models.model('transformer')
  balance = optim.mgda()
  expected, known = train(balance, batch, model)
  state, metrics = train(balance, batch, model, jacobian='matrix_free')
  models.assert_trees_close(state.params, expected.params, 1e-3)
  np.testing.assert_allclose(metrics['weight'], known['weight'], atol=1e-3)


def quadratics(params, batch):
  """Losses [4] of two leaves; also in the split form of parameters."""
  tree = params.get('shared', params)
  x = jnp.concatenate([tree['a'], tree['b'].reshape(-1)])
  scale = params['tasks']['own'] if 'tasks' in params else 1.0
  return 0.5 * jnp.sum((batch * x[None]) ** 2, axis=1) * scale + batch @ x


@pytest.mark.parametrize('split', [False, True])
def test_functions_of_any_parameters_go_every_way(split):
  rng = np.random.default_rng(0)
  batch = jnp.asarray(rng.normal(size=(4, 7)), jnp.float32)
  params = {'a': jnp.ones(3), 'b': jnp.ones((2, 2))}
  if split:
    params = {'shared': params, 'tasks': {'own': jnp.ones(())}}
  functions = [lambda p, b, _, i=i: quadratics(p, b)[i] for i in range(4)]
  results = []
  for model in (lambda p, b, _: quadratics(p, b), functions):
    for way in ('stacked', 'matrix_free'):
      state = mtl_jax.init_train_state(
        model, optim.pcgrad(order='index'), optax.sgd(0.1), jax.random.key(0), batch, params=params
      )
      step = mtl_jax.make_train_step(
        model, optim.pcgrad(order='index'), optax.sgd(0.1), jacobian=way
      )
      results.append(step(state, batch)[0].params)
  for other in results[1:]:
    models.assert_trees_close(other, results[0])


def test_instance_wise_losses_are_tasks_like_any():
  """One loss an example: B tasks, no B copies of the parameters when matrix-free."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(12, 5)).astype(np.float32), rng.normal(size=12).astype(np.float32)

  def losses(params, batch, key):
    del key
    return (batch[0] @ params - batch[1]) ** 2

  params = jnp.zeros(5)
  rows = 2 * (x @ np.zeros(5) - y)[:, None] * x
  state = mtl_jax.init_train_state(
    losses, optim.mean_tasks(), optax.sgd(1.0), jax.random.key(0), (x, y), params=params
  )
  for way in ('stacked', 'matrix_free'):
    step = mtl_jax.make_train_step(
      losses, optim.dualproj(reg_eps=1e-6), optax.sgd(1.0), jacobian=way, jit=False
    )
    new, metrics = jax.jit(step)(state, (x, y))
    direction = -np.asarray(new.params)
    assert metrics['weight'].shape == (12,)
    assert (rows @ direction > -1e-3 * np.abs(rows @ rows.T).max()).all()


def test_representation_balances_the_gradients_of_the_features():
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  state = mtl_jax.init_train_state(
    model, optim.mgda(), optax.sgd(0.1), jax.random.key(1), batch, params=models.first_params('mlp')
  )
  before = jax.tree.map(jnp.copy, state.params)
  features = model.encode(before['shared'], batch['inputs'])

  def loss(features, name):
    example = {'inputs': batch['inputs'], 'targets': batch['targets'][name]}
    example |= {'mask': batch['mask'][name]} if name in batch['mask'] else {}
    return model.task_loss(name, before['tasks'][name], features, example)[0]

  rows = np.stack(
    [np.asarray(jax.grad(loss)(features, name)).reshape(-1) for name in model.task_names]
  )
  weights, _ = optim.mgda().weighting.update(
    (), gramian=jnp.asarray(rows @ rows.T), present=jnp.ones(3, bool)
  )
  _, grads = mtl_jax.task_gradients(model, before, batch)
  step = mtl_jax.make_train_step(model, optim.mgda(), optax.sgd(0.1), at='representation')
  new, metrics = step(state, batch)
  np.testing.assert_allclose(metrics['weight'], weights, atol=1e-5)
  expected = {'shared': gradients.combine(weights, grads['shared']), 'tasks': grads['tasks']}
  models.assert_trees_close(new.params, jax.tree.map(lambda p, g: p - 0.1 * g, before, expected))


def test_representation_with_own_inputs_has_orthogonal_rows():
  _, metrics = train(optim.mgda(), own_batch(), at='representation')
  norms = np.asarray(metrics['gradient_norm'], np.float64)
  np.testing.assert_allclose(metrics['weight'], norms**-2 / np.sum(norms**-2), rtol=1e-4)
  np.testing.assert_allclose(metrics['cosine'], np.eye(3), atol=1e-6)


def test_graddrop_works_at_the_representation_and_state_of_other_shapes_is_refused():
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  _, metrics = train(optim.graddrop(), batch, model, at='representation')
  assert metrics['finite'].all()
  with pytest.raises(ValueError, match="at='parameters' only"):
    train(optim.moco(), batch, model, at='representation')
  with pytest.raises(ValueError, match='needs shared inputs'):
    train(optim.graddrop(), own_batch(), at='representation')


@pytest.mark.parametrize('regime', ['shared', 'own'])
def test_unit_task_weights_leave_the_heads_plain(regime):
  batch = REGIMES[regime]()
  weighted, _ = train(optim.mean_tasks(), batch)
  plain, _ = train(optim.mean_tasks(), batch, unit_task_weights=True)
  total, _ = train(optim.sum_tasks(), batch)
  models.assert_trees_close(plain.params['shared'], weighted.params['shared'])
  models.assert_trees_close(plain.params['tasks'], total.params['tasks'])


@pytest.mark.parametrize('regime', ['shared', 'own'])
def test_monitoring_changes_no_update_and_adds_what_it_says(regime):
  batch = REGIMES[regime]()
  balances = [optim.mean_tasks(), optim.pcgrad(order='index'), optim.graddrop(seed=1)]
  for balance in balances if regime == 'shared' else balances[:1]:
    quiet, few = train(balance, batch)
    watched, metrics = train(balance, batch, monitor=True)
    if balance.needs == 'losses':
      _, free = train(balance, batch, monitor=True, jacobian='matrix_free')
      np.testing.assert_allclose(free['cosine'], metrics['cosine'], atol=1e-4)
      assert free['improved'] == metrics['improved']
    models.assert_trees_close(watched.params, quiet.params)
    assert not {'conflict', 'improved'} & set(few)
    cosine, off = np.asarray(metrics['cosine']), ~np.eye(3, dtype=bool)
    assert metrics['conflict'] == pytest.approx((cosine[off] < 0).mean())
    assert 0 <= metrics['improved'] <= 1
    assert metrics['gradient_norm'].shape == (3,)


def test_improved_counts_the_losses_that_fall():
  rows = jnp.array([[1.0, 0.0], [-3.0, 1.0]])
  model = lambda p, b, k: b @ p  # noqa: E731
  state = mtl_jax.init_train_state(
    model, optim.sum_tasks(), optax.sgd(0.1), jax.random.key(0), rows, params=jnp.zeros(2)
  )
  step = mtl_jax.make_train_step(model, optim.sum_tasks(), optax.sgd(0.1), monitor=True)
  assert float(step(state, rows)[1]['improved']) == 0.5
  state = mtl_jax.init_train_state(
    model, optim.upgrad(), optax.sgd(0.1), jax.random.key(0), rows, params=jnp.zeros(2)
  )
  step = mtl_jax.make_train_step(model, optim.upgrad(), optax.sgd(0.1), monitor=True)
  metrics = step(state, rows)[1]
  assert float(metrics['improved']) == 1.0
  assert float(metrics['conflict']) == 1.0


def test_a_second_forward_follows_the_update():
  """FAMO sees the losses of the same batch before and after the parameters moved."""
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  state, metrics = train(optim.famo(), batch, model)
  fresh = optim.famo().weighting.init(3)
  before = metrics['loss']
  after = models.losses(model, state.params, batch)
  weighting = optim.famo().weighting
  _, pending = weighting.update(fresh, losses=before, present=jnp.ones(3, bool))
  expected = weighting.follow(pending, losses=before, new_losses=after, present=jnp.ones(3, bool))
  np.testing.assert_allclose(state.balance_state.logits, expected.logits, atol=1e-5)


@pytest.mark.parametrize('way', ['stacked', 'matrix_free'])
def test_independent_batches_are_every_third_example(way):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(9, 4)).astype(np.float32)
  seen = {}

  def update(state, *, present, gramian, **extra):
    del extra
    seen['gramian'] = gramian
    return jnp.array([1.0, 2.0]), state

  weighting = optim.Weighting(lambda tasks: (), update, 'gramian', batches=3)

  def model(params, batch, key):
    del key
    return jnp.stack([jnp.mean(batch @ params), jnp.mean((batch @ params + 1.0) ** 2)])

  def rows(part):
    return np.stack([part.mean(0), 2 * part.mean(0)])  # at params 0

  from mtl_jax.optim import _base

  balance = _base.balancer(weighting)
  state = mtl_jax.init_train_state(
    model, balance, optax.sgd(1.0), jax.random.key(0), x, params=jnp.zeros(4)
  )
  step = mtl_jax.make_train_step(model, balance, optax.sgd(1.0), jacobian=way, jit=False)
  new, _ = step(state, x)
  np.testing.assert_allclose(seen['gramian'], rows(x[0::3]) @ rows(x[1::3]).T, atol=1e-5)
  np.testing.assert_allclose(new.params, -np.array([1.0, 2.0]) @ rows(x[2::3]), atol=1e-5)
  with pytest.raises(ValueError, match='into 3 independent'):
    step(state, x[:2])


@pytest.mark.parametrize('name', ['auto_lambda', 'moml', 'forum'])
def test_validation_driven_methods_train_a_model(name):
  """Half of the batch is held out, unless a validation batch is given."""
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  balance = optim.get(name)
  state = mtl_jax.init_train_state(
    model, balance, optax.sgd(0.1), jax.random.key(1), batch, params=models.first_params('mlp')
  )
  step = jax.jit(mtl_jax.make_train_step(model, balance, optax.sgd(0.1), jit=False))
  half = jax.tree.map(lambda leaf: leaf[::2], batch)
  held = jax.tree.map(lambda leaf: leaf[1::2], batch)
  split, metrics = step(state, batch)
  given, _ = step(state, half, held)
  models.assert_trees_close(split.params, given.params)
  assert metrics['finite'].all()
  chex.assert_tree_all_finite(split.params)
  chex.assert_trees_all_equal_shapes_and_dtypes(split.params, state.params)
  first = models.losses(model, state.params, half)
  for _ in range(10):
    split, _ = step(split, half, held)
  assert np.sum(models.losses(model, split.params, half)) < np.sum(first)


def test_validation_driven_methods_train_plain_functions():
  """No model class: functions of any parameters, with the key they take in training."""

  def model(params, batch, key):
    del key
    return jnp.stack([jnp.mean((batch @ params - 1) ** 2), jnp.mean((batch @ params + 1) ** 2)])

  batch = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
  for name in ('auto_lambda', 'moml', 'forum'):
    balance = optim.get(name)
    state = mtl_jax.init_train_state(
      model, balance, optax.sgd(0.1), jax.random.key(0), batch, params=jnp.ones(3)
    )
    state, metrics = mtl_jax.make_train_step(model, balance, optax.sgd(0.1))(state, batch)
    assert metrics['finite'].all()
    assert metrics['weight'].shape == (2,)


def test_matrix_free_norms_of_a_task_at_its_optimum_are_numbers():
  rng = np.random.default_rng(0)
  for seed in range(6):
    x = jnp.asarray(rng.normal(size=(64, 8)), jnp.float32)
    best = jnp.asarray(rng.normal(size=8), jnp.float32)

    def model(params, batch, key, best=best):
      del key
      return jnp.stack([jnp.mean((batch @ (params - best)) ** 2), jnp.mean(batch @ params)])

    state = mtl_jax.init_train_state(
      model, optim.mgda(), optax.sgd(0.1), jax.random.key(seed), x, params=best + 1e-7
    )
    step = mtl_jax.make_train_step(model, optim.mgda(), optax.sgd(0.1), jacobian='matrix_free')
    assert step(state, x)[1]['finite'].all()


def test_heads_see_the_whole_batch_of_a_method_on_several():
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  del batch['mask']
  batch = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf, leaf])[:15], batch)
  batch['targets']['intent'] = np.abs(batch['targets']['intent'])
  state, _ = train(optim.modo(), batch, model)
  plain, _ = train(optim.sum_tasks(), batch, model)
  models.assert_trees_close(state.params['tasks'], plain.params['tasks'], 1e-4)


def test_any_chain_balances_the_representation():
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  links = [optim.normalize_task_gradients(), optim.pcgrad(order='index')]
  with jax.numpy_dtype_promotion('standard'):
    chained, _ = train(optax.chain(*links), batch, model, at='representation')
  composed, _ = train(optim.compose(*links), batch, model, at='representation')
  models.assert_trees_close(chained.params, composed.params)


def test_held_weights_of_a_method_that_reads_named_parameters():
  balance = optim.compose(optim.gradnorm(parameters='Dense_0/.*'), optim.pcgrad())
  _, metrics = train(optim.every_k(balance, 2), models.shared_batch('mlp'), models.model('mlp'), 3)
  assert metrics['finite'].all()


@pytest.mark.parametrize('regime', ['shared', 'own'])
def test_held_weights_need_no_gramian(regime):
  """Between two sets of weights: the same weights, one backward, plain gradients of the heads."""
  batch = REGIMES[regime]()
  model = models.model('mlp')
  balance = optim.every_k(optim.pcgrad(order='index'), 3)
  state = mtl_jax.init_train_state(
    model, balance, optax.sgd(0.1), jax.random.key(1), batch, params=models.first_params('mlp')
  )
  step = jax.jit(mtl_jax.make_train_step(model, balance, optax.sgd(0.1), jit=False))
  grads = jax.jit(lambda params: mtl_jax.task_gradients(model, params, batch)[1])
  kept = None
  for index in range(4):
    before, (state, metrics) = state, step(state, batch)
    if index % 3 == 0:
      assert np.isfinite(metrics['cosine']).all()
      kept = metrics['weight']
    else:
      assert np.isnan(metrics['cosine']).all()
      np.testing.assert_array_equal(metrics['weight'], kept)
    rows = grads(before.params)
    expected = {'shared': gradients.combine(kept, rows['shared']), 'tasks': rows['tasks']}
    models.assert_trees_close(
      state.params, jax.tree.map(lambda p, g: p - 0.1 * g, before.params, expected)
    )
    assert metrics['finite'].all()


def test_the_choice_is_logged_once_with_its_memory(caplog, monkeypatch):
  def ours():  # other libraries' threads, downloads for one, may log at any time
    return [record.message for record in caplog.records if record.name.startswith('mtl_jax')]

  batch = models.shared_batch('mlp')
  model = models.model('mlp')
  with caplog.at_level(logging.INFO, logger='mtl_jax'):
    train(optim.pcgrad(), batch, model, steps=2)
  (message,) = ours()
  assert "jacobian='stacked'" in message
  assert 'MiB for 3 gradients of tasks' in message
  caplog.clear()
  monkeypatch.setattr(_path, '_device_memory', lambda: 1000)
  with caplog.at_level(logging.INFO, logger='mtl_jax'):
    train(optim.pcgrad(), batch, model)
    train(optim.graddrop(), batch, model)
  matrix_free, sequential = ours()
  assert "jacobian='matrix_free'" in matrix_free
  assert "jacobian='sequential'" in sequential


def test_matrix_free_memory_does_not_grow_with_the_tasks():
  """A linear model wide enough that copies of θ would dominate the temporary memory."""
  size = 200_000

  def planned(tasks, way):
    def model(params, batch, key):
      del key
      return jnp.tanh(batch[:, 0] * jnp.sum(params * params))

    batch = jnp.ones((tasks, 4))
    state = mtl_jax.init_train_state(
      model, optim.pcgrad(), optax.sgd(0.1), jax.random.key(0), batch, params=jnp.ones(size)
    )
    step = mtl_jax.make_train_step(model, optim.pcgrad(), optax.sgd(0.1), jacobian=way)
    return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes / (4 * size)

  free = [planned(tasks, 'matrix_free') for tasks in (2, 16)]
  assert free[1] <= free[0] + 0.5
  assert planned(16, 'stacked') >= 15


def test_options_that_cannot_be_followed():
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  with pytest.raises(ValueError, match="at='head' is none of"):
    train(optim.pcgrad(), batch, model, at='head')
  with pytest.raises(ValueError, match="jacobian='dense' is none of"):
    train(optim.pcgrad(), batch, model, jacobian='dense')
  with pytest.raises(ValueError, match='matrix_free'):
    train(optim.graddrop(), batch, model, jacobian='matrix_free')
  with pytest.raises(ValueError, match='model of two halves'):
    mtl_jax.make_train_step([lambda p, b: p], optim.pcgrad(), optax.sgd(0.1), at='representation')
  with pytest.raises(ValueError, match='independent batches'):
    mtl_jax.make_train_step(model, optim.modo(), optax.sgd(0.1), at='representation')


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('mgda', {'at': 'representation'}),
    ('mgda', {'jacobian': 'matrix_free'}),
    ('graddrop', {'monitor': True}),
    ('auto_lambda', {}),
  ],
)
def test_every_way_is_the_same_on_a_mesh(name, options):
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  expected, known = train(optim.get(name), batch, model, **options)
  mesh = sharding.make_mesh(2, 4)
  balance = optim.get(name)
  params = models.drawn(model, batch)
  state = mtl_jax.init_train_state(
    model, balance, optax.sgd(0.1), jax.random.key(1), batch, params=params, mesh=mesh
  )
  step = mtl_jax.make_train_step(model, balance, optax.sgd(0.1), mesh=mesh, **options)
  state, metrics = step(state, sharding.shard_batch(batch, mesh))
  models.assert_trees_close(state.params, expected.params, 1e-4)
  for key in set(known) - {'cosine'}:
    np.testing.assert_allclose(metrics[key], known[key], rtol=1e-3, atol=1e-5)
