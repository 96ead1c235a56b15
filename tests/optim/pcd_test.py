"""PCD against the exact solution on the gradients, TorchJD's numbers, and what it promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import optim
from tests.optim.methods_test import flat, jacobians, tree
from tests.optim.oracles_solvers import PCD

TAUS = (0.0, 0.02, 0.5, 1.0)


@functools.cache
def update_of(tasks, tau, **options):
  tx = optim.pcd(tasks, tau, **options)
  return tx, jax.jit(tx.update)


def first_step(rows, tau=0.02, present=None, **options):
  tx, update = update_of(len(rows), tau, **options)
  rows = np.asarray(rows, np.float32)
  present = jnp.ones(len(rows), bool) if present is None else jnp.asarray(present)
  direction, state = update(jnp.asarray(rows), tx.init({}), present=present)
  return np.asarray(direction, np.float64), state


@pytest.mark.parametrize('tau', TAUS)
@pytest.mark.parametrize('kind', ['random', 'conflicting', 'parallel', 'scaled'])
@pytest.mark.parametrize(('tasks', 'size'), [(2, 30), (3, 30), (5, 30), (8, 5)])
def test_four_steps(tasks, size, kind, tau):
  tx, update = update_of(tasks, tau, beta=0.9)
  oracle, state = PCD(tasks, tau, 0.9, 1e-8), tx.init({})
  for seed in range(4):
    rows = jacobians(tasks, size, 'random' if kind == 'conflicting' else kind, seed)
    if kind == 'conflicting':  # and no nearer to a sum of 0 than a float32 Gramian can tell
      rows = rows - 0.9 * rows.mean(0)
    direction, state = update(tree(rows), state)
    expected = oracle.step(rows.astype(np.float64))
    error = np.linalg.norm(flat(direction) - expected) / np.linalg.norm(rows[0])
    assert error < 2e-5, (seed, error)


def test_numbers_of_torchjd():
  """TorchJD 0.18 in float64 on three steps, τ = 0.3 and β = 0.9."""
  steps = [
    ([[2, 0, 1], [-1, 1, 0], [0, -3, 1]], [-0.98576602015, -0.03772688729, 2.00669928876]),
    ([[1, 2, -1], [-2, 0.5, 0.5], [1, 1, 4]], [-0.15932077898, 2.43362302425, 0.22824518659]),
    ([[1, 0, 0], [-1, 0.5, 0], [-1, -0.5, 0]], [-0.84576923640, 0.53354887196, 0.0]),
  ]
  tx, update = update_of(3, 0.3, beta=0.9)
  state = tx.init({})
  for rows, expected in steps:
    direction, state = update(jnp.array(rows, jnp.float32), state)
    np.testing.assert_allclose(direction, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('tau', TAUS)
def test_every_secondary_task_gets_its_fraction(tau):
  for seed in range(20):
    rows = jacobians(4, 12, 'random', seed).astype(np.float64)
    direction, _ = first_step(rows, tau)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    weights = np.linalg.lstsq(units.T, direction, rcond=None)[0]
    d = direction / weights[0]  # where the primary unit gradient has weight 1
    assert (units[1:] @ d >= tau - 1e-5).all()
    np.testing.assert_allclose(np.linalg.norm(direction), np.linalg.norm(rows[0]), rtol=1e-5)
    active = weights[1:] > 1e-5 * weights[0]
    np.testing.assert_allclose((units[1:] @ d)[active], tau, atol=1e-5)


def test_where_nothing_is_asked_for_it_is_the_primary_gradient():
  rows = np.array([[3.0, 4.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 9.0]])
  np.testing.assert_allclose(first_step(rows, 0.02)[0], rows[0], rtol=1e-6)


def test_scale_of_a_secondary_task_does_not_matter():
  rows = jacobians(3, 12, 'random')
  expected, _ = first_step(rows, 0.5)
  for factor in (1e-2, 1e4):
    scaled = rows * np.array([[1.0], [factor], [1.0]], np.float32)
    np.testing.assert_allclose(first_step(scaled, 0.5)[0], expected, rtol=1e-4, atol=1e-5)
  longer, _ = first_step(rows * np.array([[7.0], [1.0], [1.0]], np.float32), 0.5)
  np.testing.assert_allclose(longer, 7 * expected, rtol=1e-4, atol=1e-5)


def test_primary_elsewhere_and_a_fraction_for_each():
  rows = jacobians(3, 12, 'random', seed=1)
  fractions = np.array([0.1, 0.9, 0.4])
  expected, _ = first_step(rows, tuple(fractions))
  order = [2, 0, 1]
  moved, _ = first_step(rows[order], tuple(fractions[order]), primary=1)
  np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)
  same, _ = first_step(rows, (1.0, 0.9, 0.4))  # the primary's own is not read
  np.testing.assert_allclose(same, expected, rtol=1e-6)
  with pytest.raises(ValueError, match=r'pcd: tau has shape \(2,\), and there are 3 tasks'):
    first_step(rows, (0.1, 0.2))


def test_constraints_that_no_direction_meets_are_dropped():
  for tau in (0.02, 1.0):
    against = [[1.0, 2.0, 0.5], [0.3, 1.0, -1.0], [-0.3, -1.0, 1.0]]
    np.testing.assert_allclose(first_step(against, tau)[0], against[0], rtol=1e-6)


def test_no_direction_where_nothing_is_left():
  """Two tasks straight against each other at τ = 0; a primary gradient of zero; none at all."""
  np.testing.assert_array_equal(first_step([[1.0, 2.0], [-2.0, -4.0]], 0.0)[0], 0.0)
  np.testing.assert_array_equal(first_step([[0.0, 0.0], [-2.0, -4.0]], 0.5)[0], 0.0)
  rows = jacobians(3, 5, 'random')
  direction, state = first_step(rows, present=[False, True, True])
  np.testing.assert_array_equal(direction, 0.0)
  assert state.steps.tolist() == [0, 1, 1]


def test_absent_and_zero_secondary_tasks_have_no_part():
  rows = jacobians(3, 12, 'random', seed=1)
  expected, _ = first_step(rows[:2], 0.8)
  direction, state = first_step(rows, 0.8, present=[True, True, False])
  np.testing.assert_allclose(direction, expected, rtol=1e-5, atol=1e-6)
  assert state.steps.tolist() == [1, 1, 0]
  assert state.squares[2] == 0
  rows[2] = 0
  np.testing.assert_allclose(first_step(rows, 0.8)[0], expected, rtol=1e-5, atol=1e-6)


def test_mean_of_the_squares_is_without_bias():
  tx, update = update_of(2, 0.02, beta=0.5)
  state = tx.init({})
  for length in (1.0, 3.0, 2.0):
    _, state = update(jnp.array([[length, 0.0], [0.0, 2 * length]]), state)
  mean = (4 * 4 + 2 * 9 + 1 * 1) / 7
  np.testing.assert_allclose(state.squares, [mean, 4 * mean], rtol=1e-6)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'tau': -0.1}, 'pcd: tau must be between 0 and 1, not -0.1'),
    ({'tau': [0.0, 1.1]}, 'pcd: tau must be between 0 and 1'),
    ({'beta': 1.0}, r'pcd: beta must be in \[0, 1\)'),
    ({'eps': -1e-8}, 'pcd: eps must be 0 or more'),
  ],
)
def test_options_out_of_range(options, message):
  with pytest.raises(ValueError, match=message):
    optim.pcd(**options)


def test_state_of_known_size():
  with pytest.raises(ValueError, match='pcd: primary=2 is the place of none of 2 tasks'):
    optim.pcd(2, primary=2).init({})
  with pytest.raises(ValueError, match='pcd needs num_tasks'):
    optim.pcd().init({})
  tx = optim.pcd(3)
  with pytest.raises(ValueError, match='pcd of 3 tasks was given gradients of 2'):
    tx.update(jnp.eye(2), tx.init({}))
