"""An example of weight k is the example k times: losses, gradients, steps and evaluation."""

import jax
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import gradients, optim
from tests import models

NAMES = ('intent', 'topics', 'score')
WEIGHTS = {
  name: np.random.default_rng(i).integers(0, 4, models.B).astype(np.float32)
  for i, name in enumerate(NAMES)
}


def batches(regime):
  """A batch with weights, and the batch in which each example stands as often as it weighs."""
  batch = models.shared_batch('mlp')
  own = {
    name: {'inputs': batch['inputs'], 'targets': batch['targets'][name]}
    | ({'mask': batch['mask'][name]} if name in batch['mask'] else {})
    for name in NAMES
  }
  times = {name: np.repeat(np.arange(models.B), WEIGHTS[name].astype(int)) for name in NAMES}
  repeated = {
    name: jax.tree.map(lambda leaf, rows=times[name]: leaf[rows], example)
    for name, example in own.items()
  }
  if regime == 'shared':
    return batch | {'weight': WEIGHTS}, repeated
  return {name: example | {'weight': WEIGHTS[name]} for name, example in own.items()}, repeated


def test_gradients_and_evaluation():
  model = models.model('mlp')
  repeated = batches('own')[1]
  params = models.init(model, repeated)
  find = jax.jit(lambda p, batch: gradients.losses_and_gradients(model, p, batch))
  step = mtl_jax.make_eval_step(model)
  expected, evaluated = find(params, repeated), step(params, repeated)
  for regime in ('shared', 'own'):
    weighted = batches(regime)[0]
    actual = find(params, weighted)
    models.assert_trees_close(actual, expected)
    models.assert_trees_close(actual[2], models.loss_by_loss(model, params, weighted)[1], 1e-5)
    result = step(params, weighted)
    for key in ('loss_sum', 'loss_count'):
      np.testing.assert_allclose(result[key], evaluated[key], rtol=1e-5)
    assert result['outputs']['intent'].shape == (models.B,)


@pytest.mark.parametrize('name', ['sum_tasks', 'pcgrad'])
def test_steps(name):
  balance = optim.get(name, **({'order': 'index'} if name == 'pcgrad' else {}))
  model, optimizer = models.model('mlp'), optax.sgd(0.1)
  shared, repeated = batches('shared')
  params = models.init(model, shared)
  step = mtl_jax.make_train_step(model, balance, optimizer)
  results = []
  for batch in (repeated, shared, batches('own')[0]):
    state = mtl_jax.init_train_state(
      model, balance, optimizer, jax.random.key(1), batch, params=params
    )
    state, metrics = step(state, batch)
    results.append((state.params, metrics['loss'], metrics['weight']))
  for result in results[1:]:
    models.assert_trees_close(result, results[0])


def test_a_task_without_weight_in_a_batch_is_absent():
  batch = batches('shared')[0]
  batch['weight'] = batch['weight'] | {'topics': np.zeros(models.B, np.float32)}
  model = models.model('mlp')
  state = mtl_jax.init_train_state(model, optim.pcgrad(), optax.sgd(1.0), jax.random.key(1), batch)
  before = jax.tree.map(np.asarray, state.params['tasks'])
  state, metrics = mtl_jax.make_train_step(model, optim.pcgrad(), optax.sgd(1.0))(state, batch)
  assert metrics['present'].tolist() == [True, False, True]
  assert np.isnan(metrics['loss'][1])
  jax.tree.map(np.testing.assert_array_equal, state.params['tasks']['topics'], before['topics'])


def test_a_step_without_weights_is_the_same_program():
  """Some tasks may have weights; those that have none do what they did."""
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  params = models.init(model, batch)

  def count(batch):
    program = jax.jit(lambda p, b: mtl_jax.task_gradients(model, p, b)).lower(params, batch)
    return program.compile().as_text().count('\n')

  assert count(batch) == count(batch | {'weight': {}})
  assert count(batch) < count(batch | {'weight': WEIGHTS})
