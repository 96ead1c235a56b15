"""Each method against its oracle in float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import optim
from tests.optim import oracles


def jacobians(tasks, size, kind, seed=0):
  """Random, conflicting (rows that nearly cancel), nearly parallel, badly scaled."""
  rng = np.random.default_rng(seed)
  rows = rng.normal(size=(tasks, size))
  if kind == 'conflicting':
    rows = rows - rows.mean(0) * 0.99
  if kind == 'parallel':
    rows = rows[:1] + 1e-3 * rows
  if kind == 'scaled':
    rows *= np.logspace(-4, 4, tasks)[:, None]
  return rows.astype(np.float32)


def tree(rows):
  """Splits the columns over two leaves, so that a per-leaf mistake shows."""
  cut = rows.shape[1] // 3
  return {'a': jnp.asarray(rows[:, :cut]), 'b': jnp.asarray(rows[:, cut:])[..., None]}


def flat(updates):
  return np.concatenate([np.asarray(updates['a']), np.asarray(updates['b'])[:, 0]])


@pytest.mark.parametrize('kind', ['random', 'conflicting', 'parallel', 'scaled'])
@pytest.mark.parametrize('tasks', [2, 3, 5, 11])
def test_pcgrad_in_index_order(tasks, kind):
  rows = jacobians(tasks, 30, kind)
  tx = optim.pcgrad(order='index')
  direction, _ = jax.jit(tx.update)(tree(rows), tx.init({}))
  expected = oracles.pcgrad(rows.astype(np.float64), np.tile(np.arange(tasks), (tasks, 1)))
  scale = np.linalg.norm(rows, axis=1).max() if kind == 'conflicting' else np.linalg.norm(expected)
  assert np.linalg.norm(flat(direction) - expected) <= 2e-6 * scale


def test_pcgrad_draws_an_order_for_each_task_at_each_step():
  """Every direction is that of some pair of orders, and all of them come up."""
  rows = jacobians(3, 3, 'conflicting', seed=3)
  tx = optim.pcgrad(seed=1)
  state, seen = tx.init({}), set()
  choices = []
  for first, second, third in itertools.product(
    [(1, 2), (2, 1)], [(0, 2), (2, 0)], [(0, 1), (1, 0)]
  ):
    choices.append(oracles.pcgrad(rows.astype(np.float64), np.array([first, second, third])))
  distinct = {tuple(np.round(c, 4)) for c in choices}
  update = jax.jit(tx.update)
  for _ in range(60):
    direction, state = update(tree(rows), state)
    distances = [np.linalg.norm(flat(direction) - c) for c in choices]
    assert min(distances) < 1e-5
    seen.add(tuple(np.round(choices[int(np.argmin(distances))], 4)))
  assert seen == distinct
  assert len(distinct) > 2


def test_pcgrad_options():
  rows = jacobians(4, 10, 'random')
  total, _ = optim.pcgrad(order='index').update(tree(rows), optim.pcgrad().init({}))
  mean, _ = optim.pcgrad(order='index', reduction='mean').update(
    tree(rows), optim.pcgrad().init({})
  )
  np.testing.assert_allclose(flat(mean), flat(total) / 4, rtol=1e-6)
  for wrong in ({'order': 'sorted'}, {'reduction': 'max'}):
    with pytest.raises(ValueError, match='must be'):
      optim.pcgrad(**wrong)


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.5])
def test_gradnorm_six_steps(alpha):
  tx = optim.gradnorm(num_tasks=3, alpha=alpha, learning_rate=0.05)
  oracle = oracles.GradNorm(3, alpha, 0.05)
  state, rng = tx.init({}), np.random.default_rng(0)
  for step in range(6):
    rows = jacobians(3, 20, 'random', seed=step) * np.array([[0.1], [1.0], [7.0]], np.float32)
    losses = rng.uniform(0.5, 2.0, 3).astype(np.float32)
    scaled, state = jax.jit(tx.update)(tree(rows), state, losses=jnp.asarray(losses))
    used = oracle.step(rows.astype(np.float64), losses.astype(np.float64))
    np.testing.assert_allclose(np.asarray(scaled['a']), rows[:, :6] * used[:, None], rtol=1e-4)
    np.testing.assert_allclose(state.weights, oracle.weights, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(state.weights), 3.0, rtol=1e-6)


def test_gradnorm_leaves_an_absent_task_out():
  """With task 2 absent, the others move as if they were alone, and its first loss waits."""
  rows = jacobians(3, 20, 'random')
  rows[2] = 0
  losses = jnp.array([1.0, 2.0, 0.0])
  present = jnp.array([True, True, False])
  tx, pair = optim.gradnorm(num_tasks=3), optim.gradnorm(num_tasks=2)
  _, state = tx.update(tree(rows), tx.init({}), losses=losses, present=present)
  _, two = pair.update(tree(rows[:2]), pair.init({}), losses=losses[:2])
  assert np.isnan(state.first_losses[2])
  ratio = state.weights[0] / state.weights[1]
  np.testing.assert_allclose(ratio, two.weights[0] / two.weights[1], rtol=1e-6)


def test_gradnorm_keeps_an_absent_task_in_proportion_after_it_was_present():
  """Momentum from steps with the task must not move it in steps without; only Σ w = T rescales."""
  rows = jacobians(3, 20, 'random') * np.array([[1.0], [3.0], [0.2]], np.float32)
  tx = optim.gradnorm(num_tasks=3)
  state = tx.init({})
  for _ in range(3):
    _, state = tx.update(tree(rows), state, losses=jnp.ones(3))
  assert not np.allclose(state.weights, 1.0)
  _, still = tx.weighting.update(
    state, losses=jnp.zeros(3), gramian=jnp.zeros((3, 3)), present=jnp.zeros(3, bool)
  )
  np.testing.assert_allclose(still.weights, state.weights, rtol=1e-6)
  first_two = jnp.array([True, True, False])
  gram = jnp.diag(jnp.array([1.0, 9.0, 0.0]))
  _, moved = tx.weighting.update(state, losses=jnp.ones(3), gramian=gram, present=first_two)
  assert not np.allclose(moved.weights[:2], state.weights[:2])
  third = state.opt_state[0].mu[2]
  assert float(third) != 0
  np.testing.assert_array_equal(moved.opt_state[0].mu[2], third)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_gradnorm_survives_a_step_that_is_not_finite(bad):
  rows = jacobians(3, 20, 'random')
  tx = optim.gradnorm(num_tasks=3)
  broken = rows.copy()
  broken[0] = bad
  _, state = tx.update(tree(broken), tx.init({}), losses=jnp.array([bad, 1.0, 1.0]))
  assert np.isfinite(state.weights).all()
  assert np.isnan(state.first_losses[0])
  _, state = tx.update(tree(rows), state, losses=jnp.ones(3))
  assert np.isfinite(state.weights).all()
  assert float(state.first_losses[0]) == 1.0


def test_gradnorm_errors():
  tx = optim.gradnorm(num_tasks=3)
  with pytest.raises(ValueError, match='losses='):
    tx.update(tree(jacobians(3, 9, 'random')), tx.init({}))
  with pytest.raises(ValueError, match='num_tasks'):
    optim.gradnorm().init({})
  with pytest.raises(ValueError, match='was given 2 tasks'):
    tx.weighting.init(2)


@pytest.mark.parametrize('kind', ['l2', 'loss', 'loss+'])
def test_normalize(kind):
  rows, losses = jacobians(5, 30, 'scaled'), np.linspace(0.1, 3, 5).astype(np.float32)
  tx = optim.normalize_task_gradients(kind)
  scaled, _ = tx.update(tree(rows), tx.init({}), losses=jnp.asarray(losses))
  expected = oracles.normalize(rows.astype(np.float64), losses.astype(np.float64), kind)
  np.testing.assert_allclose(oracles.jacobian_of(scaled), expected, rtol=2e-6)


def test_normalize_needs_losses_only_where_it_divides_by_them():
  grads = tree(jacobians(2, 9, 'random'))
  optim.normalize_task_gradients('l2').update(grads, ())
  with pytest.raises(ValueError, match='losses='):
    optim.normalize_task_gradients('loss').update(grads, ())
  with pytest.raises(ValueError, match='unknown kind'):
    optim.normalize_task_gradients('l1')


def test_sum_and_mean():
  rows = jacobians(4, 12, 'random')
  total, _ = optim.sum_tasks().update(tree(rows), ())
  np.testing.assert_allclose(flat(total), rows.astype(np.float64).sum(0), rtol=1e-5, atol=1e-6)
  present = jnp.array([True, True, True, False])
  rows[3] = 0
  mean, _ = optim.mean_tasks().update(tree(rows), (), present=present)
  np.testing.assert_allclose(flat(mean), rows.astype(np.float64).sum(0) / 3, rtol=1e-5, atol=1e-6)
