"""Per-task gradients of every regime against one backward pass a task, and what they cost."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_jax
from mtl_jax import gradients
from mtl_jax.gradients import halves, two_halves
from tests import models


def everything(model, params, batch):
  return jax.jit(lambda p, b: gradients.losses_and_gradients(model, p, b))(params, batch)


@pytest.mark.parametrize('encoder', ['transformer', 'bilstm', 'mlp'])
def test_shared_inputs(encoder):
  model, batch = models.model(encoder), models.shared_batch(encoder)
  params = models.init(model, batch)
  (losses, grads), (plain, expected) = models.both_ways(model, params, batch)
  np.testing.assert_allclose(losses, plain, rtol=1e-6)
  models.assert_trees_close(grads, expected)


@pytest.mark.parametrize('lengths', [(8, 8, 8, 8), (8, 4, 8, 8)])
def test_own_inputs(lengths):
  """Equal shapes take one mapped pass; unequal ones are grouped and put back in order."""
  model, batch = models.model('lstm'), models.own_batch(lengths)
  params = models.init(model, batch)
  (losses, grads), (plain, expected) = models.both_ways(model, params, batch)
  np.testing.assert_allclose(losses, plain, rtol=1e-6)
  models.assert_trees_close(grads, expected)


@pytest.mark.parametrize('regime', ['shared', 'own'])
def test_dropout_draws_the_same_masks_on_every_path(regime):
  encoder, key = 'transformer' if regime == 'own' else 'mlp', jax.random.key(7)
  model = models.model(encoder, dropout=0.3)
  batch = models.own_batch() if regime == 'own' else models.shared_batch(encoder)
  params = models.init(model, batch)
  (losses, grads), (plain, expected) = models.both_ways(model, params, batch, key)
  np.testing.assert_allclose(losses, plain, rtol=1e-6)
  assert not np.allclose(losses, models.losses(model, params, batch))
  models.assert_trees_close(grads, expected)


@pytest.mark.parametrize('regime', ['shared', 'own'])
def test_absent_task_has_zero_rows_and_the_rest_is_unchanged(regime):
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  if regime == 'own':
    batch = {n: {'inputs': batch['inputs'], 'targets': y} for n, y in batch['targets'].items()}
  params = models.init(model, batch)
  whole = everything(model, params, batch)
  del (batch['targets'] if regime == 'shared' else batch)['topics']
  losses, present, grads = everything(model, params, batch)
  assert present.tolist() == [True, False, True]
  assert float(losses[1]) == 0
  keep = np.array([0, 2])
  assert all(not np.asarray(leaf)[1].any() for leaf in jax.tree.leaves(grads['shared']))
  assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads['tasks']['topics']))
  models.assert_trees_close(
    jax.tree.map(lambda x: x[keep], grads['shared']),
    jax.tree.map(lambda x: x[keep], whole[2]['shared']),
  )


def test_masked_labels_carry_no_loss_and_a_fully_masked_task_is_absent():
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  params = models.init(model, batch)
  reference = models.losses(model, params, batch)
  poisoned = jax.tree.map(np.copy, batch)
  poisoned['targets']['score'][models.B // 2 :] = 1e6
  np.testing.assert_array_equal(models.losses(model, params, poisoned), reference)
  poisoned['mask']['score'][:] = False
  _, present, grads = everything(model, params, poisoned)
  assert present.tolist() == [True, True, False]
  assert not np.asarray(gradients.gramian(grads['shared']))[2].any()


@pytest.mark.parametrize('at_once', [1, 2, 4])
def test_tasks_pulled_back_in_passes(at_once):
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  params = models.init(model, batch)
  (_, grads), (_, expected) = models.both_ways(model, params, batch, tasks_at_once=at_once)
  models.assert_trees_close(grads, expected)
  with pytest.raises(ValueError, match='1 or more'):
    mtl_jax.task_gradients(model, params, batch, tasks_at_once=0)


def test_a_masked_nan_target_leaves_the_gradients_finite():
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  params = models.init(model, batch)
  batch['targets']['score'][models.B // 2 :] = np.nan
  _, _, grads = everything(model, params, batch)
  chex.assert_tree_all_finite(grads)


def test_wrong_shapes_and_masks_are_refused_by_name():
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  params = models.init(model, batch)
  wrong = batch | {'targets': batch['targets'] | {'score': np.zeros((models.B, 1), np.float32)}}
  with pytest.raises(ValueError, match=r"Task 'score' \(regression\): targets of shape \(16, 1\)"):
    model.losses(params, wrong)
  with pytest.raises(ValueError, match='a mask is'):
    model.losses(params, batch | {'mask': {'score': np.ones((models.B, 2), bool)}})
  with pytest.raises(ValueError, match=r"masks or weights for \['scores'\]"):
    model.losses(params, batch | {'mask': {'scores': np.ones(models.B, bool)}})


def _functions():
  def first(params, batch):
    return jnp.sum((batch @ params['shared'] - params['tasks']['a']) ** 2)

  def second(params, batch):
    return jnp.sum(jnp.tanh(batch @ params['shared']) * params['tasks']['b'])

  rng = np.random.default_rng(0)
  params = {
    'shared': jnp.asarray(rng.normal(size=3), jnp.float32),
    'tasks': {'a': jnp.array(0.5), 'b': jnp.array(2.0)},
  }
  return {'a': first, 'b': second}, params, jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)


@pytest.mark.parametrize('form', ['mapping', 'sequence', 'one function'])
def test_plain_functions(form):
  functions, params, batch = _functions()
  given = {
    'mapping': functions,
    'sequence': list(functions.values()),
    'one function': lambda p, x: jnp.stack([f(p, x) for f in functions.values()]),
  }[form]
  losses, grads = mtl_jax.task_gradients(given, params, batch)
  for i, (name, function) in enumerate(functions.items()):
    value, expected = jax.value_and_grad(function)(params, batch)
    np.testing.assert_allclose(losses[i], value, rtol=1e-6)
    np.testing.assert_allclose(grads['shared'][i], expected['shared'], rtol=1e-6)
    np.testing.assert_allclose(grads['tasks'][name], expected['tasks'][name], rtol=1e-6)
  everything, _ = mtl_jax.task_gradients(lambda w, x: (x @ w)[:2], params['shared'], batch)
  assert everything.shape == (2,)


def test_the_loss_function_must_return_a_vector():
  with pytest.raises(ValueError, match=r'losses \[T\] .* not an array of shape \(\)'):
    mtl_jax.task_gradients(lambda w, x: jnp.sum(w * x), jnp.ones(2), jnp.ones(2))


def test_a_batch_for_unknown_tasks_is_refused():
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  params = models.init(model, batch)
  batch['targets']['sentiment'] = batch['targets']['intent']
  with pytest.raises(ValueError, match=r"for \['sentiment'\]"):
    model.losses(params, batch)
  with pytest.raises(ValueError, match='holds none of the tasks'):
    model.losses(params, {})


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_gramian_combine_and_cosines(dtype):
  rng = np.random.default_rng(0)
  stacked = {
    'a': jnp.asarray(rng.normal(size=(4, 1000)), dtype),
    'b': jnp.asarray(rng.normal(size=(4, 30, 5)), dtype),
  }
  rows = np.concatenate([np.asarray(x, np.float64).reshape(4, -1) for x in stacked.values()], 1)
  gram = gradients.gramian(stacked)
  assert gram.dtype == jnp.float32
  np.testing.assert_allclose(gram, rows @ rows.T, rtol=1e-5, atol=1e-2 * 0.05)
  norms = np.linalg.norm(rows, axis=1)
  np.testing.assert_allclose(
    gradients.cosines(gram), rows @ rows.T / np.outer(norms, norms), atol=1e-5
  )
  weights = np.array([0.5, -1.0, 2.0, 0.0], np.float32)
  direction = gradients.combine(jnp.asarray(weights), stacked)
  assert direction['a'].dtype == dtype
  flat = np.concatenate([np.asarray(x, np.float64).ravel() for x in direction.values()])
  np.testing.assert_allclose(flat, weights @ rows, atol=1e-5 if dtype == jnp.float32 else 5e-2)


def test_gramian_of_a_leaf_in_blocks():
  """More columns than are multiplied at once, and some left over."""
  rng = np.random.default_rng(0)
  rows, other = rng.normal(size=(2, 3, 2 * 65536 + 77)).astype(np.float32)
  for right in (None, other):
    expected = rows.astype(np.float64) @ (rows if right is None else right).astype(np.float64).T
    second = None if right is None else {'x': jnp.asarray(right)}
    actual = gradients.gramian({'x': jnp.asarray(rows)}, second, sharded=False)
    np.testing.assert_allclose(actual, expected, atol=1e-6 * np.sum(rows**2))
  norms = gradients.norms({'x': jnp.asarray(rows)})
  np.testing.assert_allclose(norms, np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-6)


def _flops(function, *args):
  return jax.jit(function).lower(*args).compile().cost_analysis()['flops']


def test_cost_in_flops():
  """Own inputs cost one backward whatever T is; shared inputs one forward and T backwards."""
  model = models.model('mlp')
  wide = mtl_jax.encoders.MLP((256, 256, 256))
  model = mtl_jax.sharing.hard(wide, model.tasks)
  shared = models.shared_batch('mlp')
  params = models.init(model, shared)
  plain = _flops(jax.grad(lambda p: model.losses(p, shared).sum()), params)
  stacked = _flops(lambda p: gradients.task_gradients(model, p, shared), params)
  assert stacked < plain * (1 + 2 * 3) / 3 * 1.1
  own = {
    name: {'inputs': shared['inputs'], 'targets': shared['targets'][name]}
    for name in model.task_names
  }
  plain = _flops(jax.grad(lambda p: model.losses(p, own).sum()), params)
  stacked = _flops(lambda p: gradients.task_gradients(model, p, own), params)
  assert stacked < plain * 1.1


def test_own_inputs_keep_no_copy_of_the_weights_a_task():
  """Among the arrays saved for the backward there is none of T times a weight's shape."""
  wide = mtl_jax.encoders.MLP((64, 96))
  model = mtl_jax.sharing.hard(wide, models.model('mlp').tasks)
  shared = models.shared_batch('mlp')
  params = models.init(model, shared)
  own = {task: {'inputs': shared['inputs'], 'targets': y} for task, y in shared['targets'].items()}
  (group,) = halves.groups(model, params, own)
  saved = []

  def probe(shared_params):
    _, pull, _ = two_halves.mapped_vjp(model, shared_params, group)
    held = [cell.cell_contents for cell in pull.__closure__]
    saved.extend(leaf.shape for leaf in jax.tree.leaves(held) if hasattr(leaf, 'shape'))
    return 0.0

  jax.eval_shape(probe, params['shared'])
  assert (3, 16, 96) in saved or (3, 16, 64) in saved
  assert (3, 64, 96) not in saved
