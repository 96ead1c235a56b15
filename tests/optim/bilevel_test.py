"""The validation-driven methods: trajectories on quadratics as in the oracles, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import optim
from mtl_jax.optim.forum import _multipliers
from tests.optim import oracles_bilevel
from tests.optim.methods_test import jacobians
from tests.optim.oracles_bilevel import AutoLambda, Forum, Quadratics

SIZE, TASKS = 12, 3
TRAIN, VALIDATION = Quadratics(0, TASKS, SIZE), Quadratics(1, TASKS, SIZE)
THETA = np.random.default_rng(2).normal(size=SIZE)
METHODS = ('auto_lambda', 'moml', 'forum')


def functions(train=TRAIN, validation=VALIDATION, mask=None):
  """The quadratics as functions of parameters with task-specific ones among them."""

  def of(problem):
    matrices = jnp.asarray(problem.matrices, jnp.float32)
    targets = jnp.asarray(problem.targets, jnp.float32)

    def losses(params):
      theta = jnp.concatenate([params['shared'], params['tasks']['a'].ravel()])
      rest = jnp.einsum('tij,j->ti', matrices, theta, precision='highest') - targets
      values = 0.5 * jnp.sum(rest**2, axis=1)
      return values if mask is None else values * mask

    return losses

  return {'loss_fn': of(train), 'validation_fn': of(validation)}


def tree(theta):
  theta = jnp.asarray(theta, jnp.float32)
  return {'shared': theta[:5], 'tasks': {'a': theta[5:, None]}}


def flat(params):
  return np.concatenate([params['shared'], params['tasks']['a'][:, 0]]).astype(np.float64)


def trajectory(tx, oracle, rate=0.1, tolerance=1e-5, **given):
  """Six steps of θ ← θ − rate·d from the same θ; each direction as in the oracle."""
  update = jax.jit(lambda s, p: tx.update(None, s, p, **functions(**given)))
  params, theta = tree(THETA), THETA
  state = tx.init(params)
  for _ in range(6):
    direction, state = update(state, params)
    expected = oracle.step(theta)
    assert np.linalg.norm(flat(direction) - expected) <= tolerance * np.linalg.norm(expected)
    theta = theta - rate * expected
    params = tree(theta)
  return state


@pytest.mark.parametrize('primary', [None, [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
def test_auto_lambda_six_steps(primary):
  options = {'virtual_learning_rate': 0.3, 'learning_rate': 0.02}
  tx = optim.auto_lambda(num_tasks=TASKS, primary=primary, **options)
  counts = np.ones(TASKS) if primary is None else np.array(primary)
  oracle = AutoLambda(TRAIN, VALIDATION, counts, 0.3, 0.02)
  state = trajectory(tx, oracle)
  np.testing.assert_allclose(state.weights, oracle.weights, rtol=1e-5)
  assert not np.allclose(oracle.weights, 0.1, atol=0.05)


@pytest.mark.parametrize('seed', [1, 4])
def test_moml_six_steps(seed):
  validation = Quadratics(seed, TASKS, SIZE)
  tx = optim.moml(num_tasks=TASKS, virtual_learning_rate=0.3, learning_rate=0.05)
  oracle = oracles_bilevel.MOML(TRAIN, validation, TASKS, 0.3, 0.05)
  state = trajectory(tx, oracle, validation=validation)
  np.testing.assert_allclose(state.logits, oracle.logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('normalize', [True, False])
@pytest.mark.parametrize('rho', [0.1, 1.0])
def test_forum_six_steps(rho, normalize):
  options = {'rho': rho, 'beta': 0.8, 'learning_rate': 0.05, 'normalize': normalize}
  tx = optim.forum(TASKS, inner_learning_rate=0.2, inner_steps=4, **options)
  oracle = Forum(TRAIN, VALIDATION, TASKS, eta=0.2, steps=4, **options)
  oracle.shares = np.full(TASKS, 1 / TASKS)
  state = trajectory(tx, oracle)
  np.testing.assert_allclose(state.logits, oracle.logits, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(state.multipliers, oracle.shares, rtol=1e-4, atol=1e-5)


def test_forum_meets_its_constraint():
  """Without smoothing, q falls by ρ‖∇q‖² at least, and d moves no validation loss up more."""
  tx = optim.forum(TASKS, rho=2.0, normalize=False)
  direction, _ = tx.update(None, tx.init(tree(THETA)), tree(THETA), **functions())
  oracle = Forum(TRAIN, VALIDATION, TASKS, 2.0, 0.1, 5, 1.0, 1e-3, False)
  expected = oracle.step(THETA)
  np.testing.assert_allclose(flat(direction), expected, rtol=1e-4, atol=1e-5)
  assert oracle.force > 0


@pytest.mark.parametrize('tasks', [2, 5, 12, 40])
@pytest.mark.parametrize('kind', ['random', 'conflicting', 'parallel', 'scaled'])
def test_forum_solves_its_dual(kind, tasks):
  """The conditions of optimality, on rows of all kinds."""
  rows = jacobians(tasks + 1, 60, kind, seed=tasks).astype(np.float64)
  rows, slope, rho = rows[:-1], rows[-1] / np.linalg.norm(rows[-1]), 0.5
  unit = rows / np.linalg.norm(rows, axis=1)[:, None]
  gram, cross = np.float32(unit @ unit.T), np.float32(unit @ slope)
  solve = jax.jit(_multipliers)
  shares = np.float64(solve(gram, cross, np.float32(slope @ slope), np.ones(tasks, bool), rho))
  force = max(shares @ (rho - unit @ slope), 0)
  direction = shares @ unit + force * slope
  falls = unit @ direction
  np.testing.assert_allclose(shares.sum(), 1, rtol=1e-6)
  assert (shares >= 0).all()
  # vᵢ·d + (multiplier of the sum) ≥ 0 with equality where λᵢ > 0.
  assert shares @ falls - falls.min() <= 2e-6


@pytest.mark.parametrize('name', METHODS)
def test_an_absent_task_has_no_weight_and_keeps_its_state(name):
  tx = optim.get(name, num_tasks=TASKS)
  state = tx.init(tree(THETA))
  update = jax.jit(lambda s, here: tx.update(None, s, tree(THETA), **functions(), present=here))
  _, state = update(state, jnp.ones(TASKS, bool))
  direction, new = update(state, jnp.array([True, True, False]))
  # index 0: what is learned
  np.testing.assert_array_equal(new[0][2], state[0][2])
  np.testing.assert_array_equal(new.opt_state[0].mu[2], state.opt_state[0].mu[2])
  assert not np.allclose(new[0][:2], state[0][:2], rtol=1e-6)
  if name == 'auto_lambda':
    weights = np.asarray(new.weights, np.float64) * [1, 1, 0]
  if name == 'moml':
    weights = np.append(oracles_bilevel.softmax(np.asarray(new.logits[:2], np.float64)), 0)
  if name != 'forum':
    np.testing.assert_allclose(flat(direction), TRAIN.gradients(THETA).T @ weights, atol=1e-5)


@pytest.mark.parametrize('which', ['loss_fn', 'validation_fn'])
@pytest.mark.parametrize('name', METHODS)
def test_a_step_that_is_not_finite_leaves_a_finite_state(name, which):
  tx = optim.get(name, num_tasks=TASKS)
  state = tx.init(tree(THETA))
  both = functions()
  broken = both | {which: lambda params: both[which](params) * jnp.array([jnp.nan, 1.0, 1.0])}
  update = jax.jit(lambda s: tx.update(None, s, tree(THETA), **broken))
  _, state = update(state)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
  direction, _ = tx.update(None, state, tree(THETA), **both)
  assert np.isfinite(flat(direction)).all()


@pytest.mark.parametrize('name', METHODS)
def test_zero_losses_and_no_tasks_stay_finite(name):
  tx = optim.get(name, num_tasks=TASKS)
  state = tx.init(tree(THETA))
  zero = functions(mask=jnp.zeros(TASKS))
  for present in (jnp.ones(TASKS, bool), jnp.zeros(TASKS, bool)):
    direction, state = tx.update(None, state, tree(THETA), **zero, present=present)
    np.testing.assert_array_equal(flat(direction), 0)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize('name', METHODS)
def test_errors(name):
  tx = optim.get(name, num_tasks=TASKS)
  state, params = tx.init(tree(THETA)), tree(THETA)
  for missing in ('loss_fn', 'validation_fn'):
    given = {k: v for k, v in functions().items() if k != missing}
    with pytest.raises(ValueError, match=f'{name} needs loss_fn=, validation_fn= and params'):
      tx.update(None, state, params, **given)
  with pytest.raises(ValueError, match='and params'):
    tx.update(None, state, **functions())
  with pytest.raises(ValueError, match=r'gave losses \(2,\), not \[3\]'):
    tx.update(None, state, params, **functions(train=Quadratics(0, 2, SIZE)))
  with pytest.raises(ValueError, match='of 3 tasks was given gradients of 2'):
    tx.update(jnp.ones((2, 4)), state, params, **functions())
  with pytest.raises(ValueError, match=f'{name} needs num_tasks'):
    optim.get(name).init(params)


def test_errors_of_options():
  with pytest.raises(ValueError, match='primary is for 2 tasks; there are 3'):
    optim.auto_lambda(num_tasks=3, primary=[1.0, 0.0]).init({})
  with pytest.raises(ValueError, match='inner_steps must be'):
    optim.forum(inner_steps=0)
