"""What a train step says and does of a task that is absent, or off: with every method."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import encoders, gradients, optim, sharing
from tests import models
from tests.optim.contract_test import CASES
from tests.train_step.engine_test import own_batch

ABSENT = 1  # 'topics', of 'intent', 'topics', 'score'
HERE = np.array([True, False, True])
BALANCES = [name for name in CASES if isinstance(optim.get(name, **CASES[name]), optim.Balancer)]
# d is of other batches than the metrics, of averages, or no sum of the tasks' gradients.
NOT_A_SUM = ('sdmgrad', 'modo', 'moco', 'forum')


def without(regime):
  """A batch without a label for 'topics'."""
  if regime == 'own':
    batch = own_batch()
    del batch['topics']
    return batch
  batch = models.shared_batch('mlp')
  batch['targets']['topics'] = np.full_like(batch['targets']['topics'], -1)
  return batch


def full(regime):
  return own_batch() if regime == 'own' else models.shared_batch('mlp')


def off_model(model):
  """The same model with 'topics' switched off."""
  tasks = [
    dataclasses.replace(task, weight=0.0) if task.name == 'topics' else task for task in model.tasks
  ]
  return dataclasses.replace(model, tasks=tuple(tasks))


def step_of(balance, model, batch, start=None, steps=1):
  """Metrics and states of some steps of plain SGD at rate 1."""
  start = full('own') if start is None else start
  params = models.drawn(model, start)
  state = mtl_jax.init_train_state(
    model, balance, optax.sgd(1.0), jax.random.key(1), start, params=params
  )
  step = jax.jit(mtl_jax.make_train_step(model, balance, optax.sgd(1.0), jit=False))
  states = [state]
  for _ in range(steps):
    state, metrics = step(state, batch)
    states.append(state)
  return metrics, states


@jax.jit
def rows_of(params, batch):
  return mtl_jax.task_gradients(models.model('mlp'), params, batch)[1]['shared']


@pytest.mark.parametrize('name', BALANCES)
def test_metrics_of_an_absent_task(name):
  """No loss, which is no loss of 0; no weight; and the weights are those of the direction."""
  model, batch = models.model('mlp'), without('own')
  metrics, (before, after) = step_of(optim.get(name, **CASES[name]), model, batch)
  np.testing.assert_array_equal(metrics['present'], HERE)
  np.testing.assert_array_equal(np.isnan(metrics['loss']), ~HERE)
  assert metrics['finite'].all()
  if 'weight' not in metrics:
    assert name in ('graddrop', 'trimmed_mean', 'db_mtl', 'adatask')
    return
  assert metrics['weight'][ABSENT] == 0.0
  assert np.asarray(metrics['weight'])[HERE].any()
  if name not in NOT_A_SUM:
    if name in ('auto_lambda', 'moml'):  # every second example is for validation
      batch = jax.tree.map(lambda x: x[0::2], batch)
    rows = rows_of(before.params, batch)
    moved = jax.tree.map(lambda a, b: a - b, before.params['shared'], after.params['shared'])
    models.assert_trees_close(moved, gradients.combine(metrics['weight'], rows), 1e-4)


@pytest.mark.parametrize('name', ['moco', 'excess_mtl', 'auto_lambda', 'moml', 'forum'])
def test_weights_of_those_present_sum_to_what_they_do_without_the_others(name):
  """For four steps, in which the state moves off equal weights."""
  total = {'excess_mtl': 2.0, 'auto_lambda': None}.get(name, 1.0)
  model = models.model('mlp')
  options = {'robust_step_size': 0.5} if name == 'excess_mtl' else {}
  options |= {} if name in ('moco', 'excess_mtl') else {'learning_rate': 0.1}
  balance = optim.get(name, **CASES[name], **options)
  metrics, states = step_of(balance, model, without('own'), steps=4)
  weights = np.asarray(metrics['weight'])
  assert weights[ABSENT] == 0.0
  held = np.asarray(states[-1].balance_state.weights)
  np.testing.assert_allclose(weights[0] / weights[2], held[0] / held[2], rtol=1e-5)
  if total is None:
    np.testing.assert_allclose(weights[HERE], held[HERE], rtol=1e-6)
  else:
    np.testing.assert_allclose(weights.sum(), total, rtol=1e-5)


@pytest.mark.parametrize(
  ('name', 'regime'),
  [
    *((name, 'shared') for name in ('mgda', 'famo', 'pcgrad', 'uncertainty', 'moco')),
    *((name, 'own') for name in ('mgda', 'famo')),
  ],
)
def test_weight_zero_is_an_absent_task(name, regime):
  """Three steps with the task off are those on batches without its labels; the others move."""
  model = models.model('mlp')
  options = CASES[name] | ({'order': 'index'} if name == 'pcgrad' else {})
  on, expected = step_of(optim.get(name, **options), model, without(regime), full(regime), 3)
  off, states = step_of(optim.get(name, **options), off_model(model), full(regime), steps=3)
  np.testing.assert_array_equal(off['present'], HERE)
  np.testing.assert_array_equal(np.isnan(off['loss']), ~HERE)
  for actual, wanted in zip(states, expected, strict=True):
    models.assert_trees_close(actual.params, wanted.params, 1e-5)
  for key in set(on) & {'loss', 'weight', 'gradient_norm'}:
    np.testing.assert_allclose(off[key], on[key], rtol=1e-4, atol=1e-6)
  shared = jax.tree.map(lambda a, b: a - b, states[0].params['shared'], states[-1].params['shared'])
  assert float(optax.tree.norm(shared)) > 1e-4
  own = jax.tree.map(lambda a, b: a - b, states[0].params['tasks'], states[-1].params['tasks'])
  assert float(optax.tree.norm(own['topics'])) == 0.0
  assert float(optax.tree.norm(own['intent'])) > 0.0


@pytest.mark.parametrize('regime', ['shared', 'own'])
def test_a_task_that_is_off_is_evaluated(regime):
  model, batch = models.model('mlp'), full(regime)
  params = models.init(model, batch)
  expected, actual = (mtl_jax.make_eval_step(m)(params, batch) for m in (model, off_model(model)))
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  assert float(actual['loss_count'][ABSENT]) > 0


def test_a_task_that_is_off_trains_no_discriminator():
  """Shared and private encoders learn from tasks without labels, but not from one that is off."""
  model = sharing.shared_private(encoders.MLP((6, 4)), models.tasks(text=False))
  off, batch = off_model(model), own_batch()
  params = models.init(model, batch)
  key = jax.random.key(0)
  losses, present, grads = jax.jit(lambda p: gradients.losses_and_gradients(off, p, batch, key))(
    params
  )
  np.testing.assert_array_equal(present, HERE)
  assert float(losses[ABSENT]) == 0.0
  rows = jax.tree.map(lambda leaf: leaf[ABSENT], grads['shared'])
  assert float(optax.tree.norm((rows, grads['tasks']['topics']))) == 0.0
  unlabelled = batch | {'topics': batch['topics'] | {'targets': -1 * jnp.ones((16, 3), jnp.int32)}}
  assert jax.jit(lambda: gradients.losses_and_gradients(model, params, unlabelled, key)[1])().all()


def test_every_task_off_moves_nothing():
  model = models.model('mlp')
  tasks = tuple(dataclasses.replace(task, weight=0.0) for task in model.tasks)
  for name in ('mgda', 'famo'):
    metrics, (before, after) = step_of(
      optim.get(name, **CASES[name]), dataclasses.replace(model, tasks=tasks), full('shared')
    )
    assert not metrics['present'].any()
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
