"""The methods that look inside J, against their oracles and with tasks missing or not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import optim
from tests.optim import oracles, oracles_jacobian
from tests.optim.methods_test import flat, jacobians, tree

LEAK = [0.0, 0.3, 1.0, 0.5]
STATEFUL = {
  'moco': {'num_tasks': 3},
  'db_mtl': {'num_tasks': 3},
  'excess_mtl': {'num_tasks': 3, 'robust_step_size': 0.5},
}


def draws(seed, rows):
  """The uniform numbers of a step with this key: one a coordinate, leaf by leaf."""
  leaves = jax.tree.leaves(tree(rows))
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  parts = [jax.random.uniform(k, x.shape[1:]) for k, x in zip(keys, leaves, strict=True)]
  return np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])


def agree(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize('leak', [None, LEAK])
@pytest.mark.parametrize('kind', ['random', 'conflicting', 'scaled'])
def test_graddrop(kind, leak):
  rows = jacobians(4, 300, kind)
  rows[:, 7] = 0
  tx = optim.graddrop(leak=leak)
  direction, _ = jax.jit(tx.update)(tree(rows), tx.init({}), key=jax.random.key(5))
  leak = np.zeros(4) if leak is None else np.array(leak)
  agree(flat(direction), oracles_jacobian.graddrop(rows.astype(np.float64), draws(5, rows), leak))
  assert flat(direction)[7] == 0


def test_graddrop_draws_anew_at_each_step_and_is_right_on_average():
  rows = jacobians(3, 6, 'random')
  tx = optim.graddrop(seed=1)

  def step(state, _):
    direction, state = tx.update(tree(rows), state)
    return state, direction

  _, steps = jax.jit(lambda s: jax.lax.scan(step, s, length=4000))(tx.init({}))
  seen = np.concatenate([np.asarray(steps['a']), np.asarray(steps['b'])[:, :, 0]], axis=1)
  up, down = np.maximum(rows, 0).sum(0), np.minimum(rows, 0).sum(0)
  np.testing.assert_allclose(np.minimum(abs(seen - up), abs(seen - down)), 0, atol=1e-5)
  deviation = np.sqrt(-up * down / 4000)  # of a mean of 4000 draws of up or down
  assert (abs(seen.mean(0) - rows.sum(0)) <= 4 * deviation + 1e-4).all()
  assert (deviation > 0).any()


def test_graddrop_errors():
  with pytest.raises(ValueError, match='between 0 and 1'):
    optim.graddrop(leak=[0.5, 1.5])
  tx = optim.graddrop(leak=[0.5, 0.5])
  with pytest.raises(ValueError, match='leak is for 2 tasks; there are 3'):
    tx.update(tree(jacobians(3, 9, 'random')), tx.init({}))


@pytest.mark.parametrize(('tasks', 'trim'), [(3, 0), (3, 1), (5, 2), (11, 1), (11, 3)])
@pytest.mark.parametrize('kind', ['random', 'conflicting', 'ties'])
def test_trimmed_mean(tasks, trim, kind):
  rows = jacobians(tasks, 60, 'random' if kind == 'ties' else kind)
  rows = np.round(rows) if kind == 'ties' else rows
  tx = optim.trimmed_mean(trim)
  direction, _ = tx.update(tree(rows), tx.init({}))
  agree(flat(direction), oracles_jacobian.trimmed_mean(rows.astype(np.float64), trim))


def test_trimmed_mean_loses_no_digits_to_outliers():
  rows = jacobians(6, 30, 'random')
  tx = optim.trimmed_mean()
  rows[2], rows[4] = 1e30, -np.inf
  direction, _ = tx.update(tree(rows), tx.init({}))
  agree(flat(direction), rows[[0, 1, 3, 5]].astype(np.float64).mean(0))


@pytest.mark.parametrize('here', [(0, 1, 2, 3), (1, 3, 4), (0, 4), (2,), ()])
def test_trimmed_mean_of_the_tasks_present(here):
  """Down to the median of what is there."""
  rows = jacobians(5, 30, 'random')
  present = np.isin(np.arange(5), here)
  tx = optim.trimmed_mean(trim=1)
  direction, _ = tx.update(tree(rows), tx.init({}), present=jnp.asarray(present))
  trim = 1 if len(here) > 2 else 0
  expected = oracles_jacobian.trimmed_mean(rows[list(here)], trim) if here else np.zeros(30)
  np.testing.assert_allclose(flat(direction), expected, atol=1e-6)


def test_trimmed_mean_errors():
  for wrong in (-1, 0.1, True):
    with pytest.raises(ValueError, match='trim must be an integer'):
      optim.trimmed_mean(wrong)
  with pytest.raises(ValueError, match='below T/2, not 2 with T = 4'):
    optim.trimmed_mean(2).update(tree(jacobians(4, 9, 'random')), ())


def trajectory(tx, step, rtol, steps=6):
  """`steps` steps on rows of unlike sizes, each as in the oracle."""
  rng, update = np.random.default_rng(0), jax.jit(tx.update)
  state = tx.init(jax.tree.map(lambda x: x[0], tree(jacobians(3, 20, 'random'))))
  for seed in range(steps):
    rows = jacobians(3, 20, 'random', seed) * np.array([[0.1], [1.0], [7.0]], np.float32)
    losses = rng.uniform(0.5, 2.0, 3).astype(np.float32)
    direction, state = update(tree(rows), state, losses=jnp.asarray(losses))
    agree(flat(direction), step(rows.astype(np.float64), losses.astype(np.float64)), rtol)
  return state


@pytest.mark.parametrize('projection', ['softmax', 'simplex'])
@pytest.mark.parametrize('normalize', [True, False])
def test_moco_six_steps(normalize, projection):
  gamma = 3.0 if normalize else 0.02
  options = {'beta': 0.6, 'beta_sigma': 0.3, 'gamma': gamma, 'gamma_sigma': 0.7, 'rho': 0.1}
  options |= {'normalize': normalize, 'projection': projection}
  oracle = oracles_jacobian.MoCo(3, 20, **options)
  state = trajectory(optim.moco(num_tasks=3, **options), oracle.step, 5e-6)
  np.testing.assert_allclose(state.weights, oracle.weights, rtol=5e-6, atol=1e-7)
  assert not np.allclose(oracle.weights, 1 / 3, atol=0.01)


def test_moco_without_normalization_needs_no_losses():
  rows = tree(jacobians(3, 20, 'random'))
  params = jax.tree.map(lambda x: x[0], rows)
  free, bound = optim.moco(num_tasks=3, normalize=False), optim.moco(num_tasks=3)
  free.update(rows, free.init(params))
  with pytest.raises(ValueError, match='losses='):
    bound.update(rows, bound.init(params))
  with pytest.raises(ValueError, match='projection must be'):
    optim.moco(projection='none')


@pytest.mark.parametrize('beta_sigma', [0.0, 0.5])
def test_db_mtl_six_steps(beta_sigma):
  oracle = oracles_jacobian.DBMTL(3, 20, 0.7, beta_sigma)
  trajectory(optim.db_mtl(num_tasks=3, beta=0.7, beta_sigma=beta_sigma), oracle.step, 2e-6)


def test_excess_mtl_six_steps():
  oracle = oracles_jacobian.ExcessMTL(3, 20, 0.4)
  tx = optim.excess_mtl(num_tasks=3, robust_step_size=0.4)
  state = trajectory(tx, lambda rows, losses: oracle.step(rows), 2e-6)
  np.testing.assert_allclose(state.weights, oracle.weights, rtol=2e-6)


def split(rows):
  return jax.tree.map(lambda x: x[0], tree(rows))


@pytest.mark.parametrize('name', STATEFUL)
def test_an_absent_task_takes_no_part_and_keeps_its_state(name):
  """Two steps with all three, then one without the last: it goes as with two tasks alone."""
  tx, pair = (optim.get(name, **STATEFUL[name] | {'num_tasks': tasks}) for tasks in (3, 2))
  losses, present = jnp.array([1.0, 2.0, 0.7]), jnp.array([True, True, False])
  rows = [jacobians(3, 20, 'random', seed) for seed in range(3)]
  state = tx.init(split(rows[0]))
  for each in rows[:2]:
    _, state = tx.update(tree(each), state, losses=losses)
  # The same two tasks' state, at their share of the common weight.
  two = jax.tree.map(lambda x: x[:2], state)
  if name != 'db_mtl':
    two = two._replace(weights=two.weights / two.weights.sum() * (1 if name == 'moco' else 2))
  direction, new = tx.update(tree(rows[2]), state, losses=losses, present=present)
  expected, new_two = pair.update(tree(rows[2][:2]), two, losses=losses[:2])
  agree(flat(direction), flat(expected))
  if name != 'db_mtl':
    np.testing.assert_allclose(new.weights.sum(), state.weights.sum(), rtol=1e-6)
  leaves = (map(np.asarray, jax.tree.leaves(each)) for each in (state, new, new_two))
  for old, kept, alone in zip(*leaves, strict=True):
    np.testing.assert_array_equal(kept[2], old[2])
    ratio = np.sum(kept[:2]) / np.sum(alone) if kept.ndim == 1 else 1.0
    np.testing.assert_allclose(kept[:2], ratio * alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('name', ['graddrop', *STATEFUL])
def test_a_row_that_is_not_finite_spoils_nothing_else(name, bad):
  tx = optim.get(name, **STATEFUL.get(name, {}))
  losses, key = jnp.array([1.0, 2.0, 0.7]), jax.random.key(0)
  rows = jacobians(3, 20, 'random')
  broken = rows.copy()
  broken[0, 4] = bad
  state = tx.init(split(rows))
  _, state = tx.update(tree(rows), state, losses=losses, key=key)
  direction, after = tx.update(tree(broken), state, losses=losses, key=key)
  present = jnp.array([False, True, True])
  expected, clean = tx.update(tree(rows), state, losses=losses, key=key, present=present)
  if name == 'graddrop':  # each coordinate for itself
    expected, _ = tx.update(tree(rows), state, losses=losses, key=key)
  others = np.arange(20) != 4
  np.testing.assert_allclose(flat(direction)[others], flat(expected)[others], rtol=1e-6)
  if name != 'graddrop':
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after, clean)


@pytest.mark.parametrize('name', STATEFUL)
def test_all_tasks_absent(name):
  tx = optim.get(name, **STATEFUL[name])
  rows = jacobians(3, 20, 'random')
  state = tx.init(split(rows))
  direction, new = tx.update(tree(rows), state, losses=jnp.ones(3), present=jnp.zeros(3, bool))
  np.testing.assert_array_equal(flat(direction), 0)
  jax.tree.map(np.testing.assert_array_equal, state, new)


@pytest.mark.parametrize('name', STATEFUL)
def test_the_state_needs_the_number_of_tasks(name):
  with pytest.raises(ValueError, match=f'{name} needs num_tasks'):
    optim.get(name).init({'w': jnp.zeros(3)})


@pytest.mark.parametrize('kind', ['mean', 'max', 'min'])
def test_normalize_to_a_common_norm(kind):
  rows = jacobians(5, 30, 'scaled')
  tx = optim.normalize_task_gradients(kind)
  scaled, _ = tx.update(tree(rows), ())
  expected = oracles_jacobian.to_common_norm(rows.astype(np.float64), kind)
  np.testing.assert_allclose(oracles.jacobian_of(scaled), expected, rtol=2e-6)
  # A zero gradient and an absent task set no norm.
  rows[1] = 0
  present = jnp.array([True, True, True, False, True])
  scaled, _ = tx.update(tree(rows), (), present=present)
  some = [0, 2, 4]
  expected = oracles_jacobian.to_common_norm(rows[some].astype(np.float64), kind)
  np.testing.assert_allclose(oracles.jacobian_of(scaled)[some], expected, rtol=2e-6)
  np.testing.assert_array_equal(oracles.jacobian_of(scaled)[1], 0)
