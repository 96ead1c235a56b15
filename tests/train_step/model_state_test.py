"""What functions return beside their losses, and state that a step changes without a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import mtl_jax
from mtl_jax import Task, heads, optim, sharding, sharing
from tests import models

MOMENTUM = 0.8
WAYS = {
  'losses': (optim.sum_tasks, {}),
  'unit weights': (optim.sum_tasks, {'unit_task_weights': True}),
  'gramian': (optim.mgda, {}),
  'matrix-free': (optim.mgda, {'jacobian': 'matrix_free'}),
  'jacobian': (optim.graddrop, {}),
  'functions': (lambda: optim.auto_lambda(num_tasks=2, virtual_learning_rate=0.1), {}),
  'representation': (optim.mgda, {'at': 'representation'}),
}


def losses(params, state, batch, key=None):
  """A running mean of x, by which the second loss is shifted; the first one is told by name."""
  out = batch @ params['w']
  mean = MOMENTUM * state['mean'] + (1 - MOMENTUM) * jnp.mean(batch, axis=0)
  new = {'mean': mean, 'count': state['count'] + 1}
  found = {'square': jnp.mean(out**2), 'absolute': jnp.mean(jnp.abs(out - state['mean'].sum()))}
  return found, (new, {'out': out, 'trained': key is not None})


PARAMS = {'w': jnp.array([0.5, -1.0])}
STATE = {'mean': jnp.zeros(2), 'count': jnp.int32(0)}
X = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)


@pytest.mark.parametrize('way', [way for way in WAYS if way != 'representation'])
def test_a_state_of_functions_is_changed_once_a_step(way):
  make, options = WAYS[way]
  state = mtl_jax.init_train_state(
    losses, make(), optax.sgd(0.1), jax.random.key(0), X, params=PARAMS, model_state=STATE
  )
  step = mtl_jax.make_train_step(losses, make(), optax.sgd(0.1), has_aux=True, **options)
  mean = np.zeros(2)
  seen = X[::2] if way == 'functions' else X  # every second example is for validation
  for _ in range(2):
    state, metrics = step(state, X)
    mean = MOMENTUM * mean + (1 - MOMENTUM) * seen.mean(axis=0)
  np.testing.assert_allclose(state.model_state['mean'], mean, rtol=1e-5)
  assert state.model_state['count'] == 2
  assert metrics['aux']['out'].shape == (len(seen),)
  assert set(metrics['loss']) == {'square', 'absolute'}
  assert set(metrics['finite']) == {'square', 'absolute'}
  if 'cosine' in metrics:
    np.testing.assert_allclose(metrics['cosine']['square']['square'], 1.0, rtol=1e-5)
  evaluated = mtl_jax.make_eval_step(losses, has_aux=True)(state.params, X, state.model_state)
  assert set(evaluated) == {'loss', 'aux'}
  assert evaluated['loss']['square'].shape == ()


def test_a_state_goes_from_one_micro_batch_to_the_next():
  state = mtl_jax.init_train_state(
    losses, optim.mgda(), optax.sgd(0.1), jax.random.key(0), X, params=PARAMS, model_state=STATE
  )
  step = mtl_jax.make_train_step(losses, optim.mgda(), optax.sgd(0.1), has_aux=True, accumulate=2)
  state, metrics = step(state, X)
  mean = np.zeros(2)
  for part in (X[::2], X[1::2]):
    mean = MOMENTUM * mean + (1 - MOMENTUM) * part.mean(axis=0)
  np.testing.assert_allclose(state.model_state['mean'], mean, rtol=1e-5)
  assert state.model_state['count'] == 2
  assert metrics['aux']['out'].shape == (2, 4)


def step_once(function, model_state=STATE, **options):
  state = mtl_jax.init_train_state(
    function, optim.sum_tasks(), optax.sgd(0.1), jax.random.key(0), X,
    params=PARAMS, model_state=model_state,
  )  # fmt: skip
  return mtl_jax.make_train_step(function, optim.sum_tasks(), optax.sgd(0.1), **options)(state, X)


def test_a_state_that_would_be_lost_is_an_error():
  def frozen(params, state, batch):
    return losses(params, state, batch)[0], state

  def other_shape(params, state, batch):
    return losses(params, state, batch)[0], state | {'mean': jnp.zeros(3)}

  def other_keys(params, state, batch):
    return losses(params, state, batch)[0], {'mean': state['mean']}

  for function, text in (
    (frozen, 'returns the model state as it came'),
    (other_shape, r"state 'mean' of shape \(2,\), float32, became \(3,\)"),
    (other_keys, 'in the form in which it came'),
    (losses, 'in the form in which it came'),
  ):
    with pytest.raises(ValueError, match=text):
      step_once(function)
  with pytest.raises(ValueError, match='goes through one function'):
    step_once([frozen, frozen])
  with pytest.raises(
    ValueError, match=r'a pair \(losses, \(model_state, aux\)\)|\(model_state, aux\)'
  ):
    step_once(frozen, has_aux=True)
  model, batch, balance = models.model('mlp'), models.shared_batch('mlp'), optim.sum_tasks()
  state = mtl_jax.init_train_state(model, balance, optax.sgd(0.1), jax.random.key(0), batch)
  step = mtl_jax.make_train_step(model, balance, optax.sgd(0.1), has_aux=True)
  with pytest.raises(ValueError, match='has_aux is for loss functions'):
    step(state, batch)


def test_a_function_without_a_key_is_called_without():
  def of_batch(params, batch):
    return jnp.stack([jnp.mean((batch @ params['w']) ** 2), jnp.sum(params['w'] ** 2)])

  def with_key(params, batch, key):
    del key
    return of_batch(params, batch)

  found = [step_once(function, None)[0].params['w'] for function in (of_batch, with_key)]
  np.testing.assert_array_equal(*found)
  with pytest.raises(ValueError, match=r'cannot be called with 2 arguments \(params, batch, key\)'):
    step_once(lambda params: of_batch(params, X), None)


class Trunk(nn.Module):
  """A layer with BatchNorm and dropout."""

  dropout: float = 0.0

  @nn.compact
  def __call__(self, inputs, train=False):
    x = nn.Dense(5)(inputs)
    x = nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)(x)
    return nn.relu(nn.Dropout(self.dropout, deterministic=not train)(x))


class Head(nn.Module):
  """A head with BatchNorm."""

  @nn.compact
  def __call__(self, features, inputs, train=False):
    del inputs
    return nn.Dense(1)(nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)(features))[
      :, 0
    ]


def model_with_norms():
  tasks = [
    Task('a', Head(), kind='regression'),
    Task('b', heads.get('regression'), kind='regression'),
  ]
  return sharing.hard(Trunk(), tasks)


def batch_of(regime):
  rng = np.random.default_rng(2)
  x = rng.normal(size=(2, 16, 3)).astype(np.float32)
  y = rng.normal(size=(2, 16)).astype(np.float32)
  if regime == 'shared':
    return {'inputs': x[0], 'targets': {'a': y[0], 'b': y[1]}}
  return {name: {'inputs': x[i], 'targets': y[i]} for i, name in enumerate('ab')}


def running(params, inputs):
  """The trunk's running statistics after one step from zeros and ones, by NumPy in float64."""
  kernel, bias = (np.asarray(params['Dense_0'][k], np.float64) for k in ('kernel', 'bias'))
  out = [x.astype(np.float64) @ kernel + bias for x in inputs]
  mean = np.mean([o.mean(axis=0) for o in out], axis=0)
  var = np.mean([o.var(axis=0) for o in out], axis=0)
  return (1 - MOMENTUM) * mean, MOMENTUM + (1 - MOMENTUM) * var


@pytest.mark.parametrize('regime', ['shared', 'own'])
@pytest.mark.parametrize('way', WAYS)
def test_batch_norm_in_trunk_and_head(way, regime):
  make, options = WAYS[way]
  model, batch, optimizer = model_with_norms(), batch_of(regime), optax.sgd(0.1)
  state = mtl_jax.init_train_state(model, make(), optimizer, jax.random.key(0), batch)
  before = jax.device_get(state)
  new, metrics = mtl_jax.make_train_step(model, make(), optimizer, **options)(state, batch)
  shared = batch if regime == 'shared' else None
  inputs = [batch['inputs']] if shared else [batch[name]['inputs'] for name in 'ab']
  if way == 'functions':
    inputs = [x[::2] for x in inputs]
  stats = new.model_state['shared']['batch_stats']['BatchNorm_0']
  mean, var = running(before.params['shared'], inputs)
  np.testing.assert_allclose(stats['mean'], mean, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(stats['var'], var, rtol=1e-4)
  head = new.model_state['tasks']['a']['batch_stats']['BatchNorm_0']['mean']
  assert not np.array_equal(
    head, before.model_state['tasks']['a']['batch_stats']['BatchNorm_0']['mean']
  )
  assert new.model_state['tasks']['b'] == {}
  if way == 'gramian' and regime == 'shared':  # the losses and rows are those of plain Flax
    rows, values = plain(model, before, batch)
    np.testing.assert_allclose(metrics['loss'], values, rtol=1e-5)
    gram = np.array([[np.vdot(a, b) for b in rows] for a in rows])
    np.testing.assert_allclose(metrics['gradient_norm'], np.sqrt(np.diag(gram)), rtol=1e-4)
  result = mtl_jax.make_eval_step(model)(new.params, batch, new.model_state)
  assert np.isfinite(result['loss_sum']).all()
  with pytest.raises(ValueError, match=r'not bound to them: model\.with_state'):
    mtl_jax.make_eval_step(model)(new.params, batch)


def plain(model, state, batch):
  """Rows `[2, D]` of θ and losses `[2]`, by Flax's own `apply` of the modules."""

  def losses(shared):
    variables = {'params': shared, **state.model_state['shared']}
    features, _ = Trunk().apply(variables, batch['inputs'], train=True, mutable=['batch_stats'])
    a, _ = Head().apply(
      {'params': state.params['tasks']['a'], **state.model_state['tasks']['a']},
      features,
      None,
      train=True,
      mutable=['batch_stats'],
    )
    b = heads.get('regression').apply({'params': state.params['tasks']['b']}, features, None)
    return jnp.stack([jnp.mean((o - batch['targets'][n]) ** 2) for n, o in (('a', a), ('b', b))])

  rows = jax.jacrev(losses)(state.params['shared'])
  flat = [np.concatenate([np.ravel(leaf[i]) for leaf in jax.tree.leaves(rows)]) for i in (0, 1)]
  return flat, losses(state.params['shared'])


def test_an_absent_task_keeps_its_state_and_training_goes_on_a_mesh():
  model, batch = model_with_norms(), batch_of('own')
  optimizer, balance = optax.sgd(0.1), optim.mgda()
  only = {'b': batch['b']}
  found = []
  for mesh in (None, sharding.make_mesh(4, 2)):
    state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(0), batch, mesh=mesh)
    step = mtl_jax.make_train_step(model, balance, optimizer, mesh=mesh)
    for part in (batch, only):
      before = jax.device_get(state.model_state)
      state, _ = step(state, part if mesh is None else sharding.shard_batch(part, mesh))
    jax.tree.map(
      np.testing.assert_array_equal,
      before['tasks']['a'],
      jax.device_get(state.model_state['tasks']['a']),
    )
    found.append(jax.device_get((state.params, state.model_state)))
  models.assert_trees_close(found[1], found[0])


def test_given_parameters_come_without_a_state_unless_it_is_given_too():
  """With them a batch may leave tasks out, and nothing else is initialized."""
  model, batch = model_with_norms(), batch_of('own')
  params, first = model.init_with_state(jax.random.key(0), batch)
  step = mtl_jax.make_train_step(model, optim.sum_tasks(), optax.sgd(0.1))
  part = {'b': batch['b']}
  for given, text in ((None, r'model_state=model\.init_state\(batch\)'), (first, '')):
    state = mtl_jax.init_train_state(
      model, optim.sum_tasks(), optax.sgd(0.1), jax.random.key(0), part, params=params,
      model_state=given,
    )  # fmt: skip
    if text:
      with pytest.raises(ValueError, match=text):
        step(state, part)
    else:
      assert step(state, part)[0].model_state is not None


def test_heads_that_are_not_finite_are_named_with_aux_too():
  """Of its task where a function a task says whose they are, else of all."""
  params = {'shared': jnp.ones(2), 'tasks': {'a': jnp.ones(()), 'b': jnp.zeros(())}}

  def loss(name):
    def of(params, x):
      own = params['tasks'][name]
      return jnp.mean((x @ params['shared']) ** 2) + jnp.sqrt(own), own

    return of

  functions = {name: loss(name) for name in 'ab'}
  balance, optimizer = optim.mgda(), optax.sgd(0.1)
  state = mtl_jax.init_train_state(
    functions, balance, optimizer, jax.random.key(0), X, params=params
  )
  _, metrics = mtl_jax.make_train_step(functions, balance, optimizer, has_aux=True)(state, X)
  assert {name: bool(found) for name, found in metrics['finite'].items()} == {'a': True, 'b': False}
  assert set(metrics['aux']) == {'a', 'b'}

  def together(params, x):
    return {name: function(params, x)[0] for name, function in functions.items()}

  state = mtl_jax.init_train_state(
    together, balance, optimizer, jax.random.key(0), X, params=params
  )
  _, metrics = mtl_jax.make_train_step(together, balance, optimizer)(state, X)
  assert not any(metrics['finite'].values())  # which of them it is, one function does not tell
