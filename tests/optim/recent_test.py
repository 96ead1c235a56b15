"""IMGrad, NTKMTL, AdaTask and GO4Align, each against float64 NumPy or another's code."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import optim
from tests.optim import oracles_solvers
from tests.optim.losses_test import ALL, single, weigher
from tests.optim.methods_test import flat, jacobians, tree

TWO = jnp.array([True, True, False])


def imgrad(jacobian, c, rescale=True):
  """By CAGrad's oracle, at the radius that its objective has over the factor of its first term."""
  mean, shortest = jacobian.mean(0), oracles_solvers.shortest_in_hull(jacobian)
  cosine = mean @ shortest / np.linalg.norm(mean) / np.linalg.norm(shortest)
  radius = c * cosine / (1.5 - cosine)
  along = oracles_solvers.cagrad(jacobian, radius) - mean  # radius · ‖g₀‖ g_w/‖g_w‖
  return (mean + c / radius * along) / (1 + c**2 if rescale else 1)


@pytest.mark.parametrize('kind', ['random', 'conflicting', 'parallel', 'imbalanced'])
@pytest.mark.parametrize('tasks', [2, 3, 5])
def test_imgrad(tasks, kind):
  for seed in range(5):
    rows = jacobians(tasks, 30, 'random' if kind in ('conflicting', 'imbalanced') else kind, seed)
    if kind == 'conflicting':
      rows = rows - 0.7 * rows.mean(0)
    if kind == 'imbalanced':
      rows = rows * 10.0 ** np.linspace(-1, 1, tasks, dtype=np.float32)[:, None]
    for c in (0.3, 0.8):
      tx = optim.imgrad(c)
      direction, _ = tx.update(tree(rows), ())
      expected = imgrad(rows.astype(np.float64), c)
      assert np.linalg.norm(flat(direction) - expected) <= 1e-5 * np.linalg.norm(expected)


def test_imgrad_minimizes_its_objective():
  """No weights drawn at random do better."""
  rows = jacobians(3, 12, 'random', seed=2).astype(np.float64) * [[1.0], [3.0], [0.5]]
  gram, mean, c = rows @ rows.T, rows.mean(0), 0.8
  shortest = oracles_solvers.shortest_in_hull(rows)
  cosine = mean @ shortest / np.linalg.norm(mean) / np.linalg.norm(shortest)

  def objective(w):
    mixed = w @ rows
    return (1.5 - cosine) * mixed @ mean + cosine * c * np.linalg.norm(mean) * np.linalg.norm(mixed)

  direction, _ = optim.imgrad(c, rescale='none').update(jnp.asarray(rows, jnp.float32), ())
  weights = np.linalg.solve(gram, rows @ (np.asarray(direction, np.float64) - mean))
  weights = weights / weights.sum()
  assert (weights > -1e-5).all()
  others = np.random.default_rng(0).dirichlet(np.ones(3), 20_000)
  assert objective(weights) <= min(map(objective, others)) + 1e-6


def test_imgrad_where_no_direction_moves_all_tasks_down():
  rows = np.array([[1.0, 2.0], [-2.0, -4.0]])
  direction, _ = optim.imgrad(0.8).update(jnp.asarray(rows, jnp.float32), ())
  expected = (rows.mean(0) + 0.8 * np.linalg.norm(rows.mean(0)) * rows[0] / 5**0.5) / 1.64
  np.testing.assert_allclose(direction, expected, rtol=1e-4)
  balanced, _ = optim.imgrad().update(jnp.array([[1.0, 2.0], [-1.0, -2.0]]), ())
  np.testing.assert_array_equal(balanced, 0.0)
  direction, _ = optim.imgrad().update(jnp.array([[1.0, 2.0], [0.0, 0.0]]), ())
  assert np.isfinite(direction).all()


@pytest.mark.parametrize('exponent', [0.0, 0.5, 0.75])
def test_ntkmtl(exponent):
  rows = jacobians(5, 30, 'scaled')
  direction, _ = optim.ntkmtl(exponent).update(tree(rows), ())
  kernels = np.sum(rows.astype(np.float64) ** 2, axis=1)
  expected = (kernels.sum() / kernels) ** exponent @ rows.astype(np.float64)
  assert np.linalg.norm(flat(direction) - expected) <= 1e-5 * np.linalg.norm(expected)


def test_ntkmtl_leaves_absent_tasks_and_zero_gradients_out():
  rows = jacobians(3, 12, 'random')
  pair, _ = optim.ntkmtl().update(tree(rows[:2]), ())
  absent, _ = optim.ntkmtl().update(tree(rows), (), present=TWO)
  np.testing.assert_allclose(flat(absent), flat(pair), rtol=1e-5, atol=1e-6)
  rows[2] = 0
  zero, _ = optim.ntkmtl().update(tree(rows), ())
  np.testing.assert_allclose(flat(zero), flat(pair), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('b1', 'b2'), [(0.9, 0.999), (0.0, 0.9)])
def test_adatask_is_the_sum_of_adams(b1, b2):
  """optax's Adam, one for each task."""
  tx, adam = optim.adatask(num_tasks=3, b1=b1, b2=b2), optax.scale_by_adam(b1, b2)
  params = jax.tree.map(lambda x: x[0], tree(jacobians(3, 20, 'random')))
  state, adams = tx.init(params), [adam.init(params)] * 3
  update = jax.jit(tx.update)
  for seed in range(5):
    grads = tree(jacobians(3, 20, 'random', seed) * np.array([[0.1], [1.0], [70.0]], np.float32))
    direction, state = update(grads, state)
    steps = []
    for i in range(3):
      with jax.numpy_dtype_promotion('standard'):
        step, adams[i] = adam.update(jax.tree.map(lambda g, i=i: g[i], grads), adams[i])
      steps.append(flat(step))
    np.testing.assert_allclose(flat(direction), sum(steps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_adatask_keeps_the_moments_of_an_absent_task(bad):
  """And of one whose gradient is not finite; the others step as if alone."""
  rows = [jacobians(3, 20, 'random', seed) for seed in range(3)]
  tx, pair = optim.adatask(num_tasks=3), optim.adatask(num_tasks=2)
  like = jax.tree.map(lambda x: x[0], tree(rows[0]))
  _, state = tx.update(tree(rows[0]), tx.init(like))
  _, alone = pair.update(tree(rows[0][:2]), pair.init(like))
  expected, _ = pair.update(tree(rows[1][:2]), alone)
  direction, absent = tx.update(tree(rows[1]), state, present=TWO)
  np.testing.assert_allclose(flat(direction), flat(expected), rtol=1e-5, atol=1e-6)
  for kept, before in zip(absent[:2], state[:2], strict=True):
    np.testing.assert_array_equal(kept['a'][2], before['a'][2])
  assert absent.steps.tolist() == [2, 2, 1]
  rows[1][2, 0] = bad
  direction, broken = tx.update(tree(rows[1]), state)
  assert not np.isfinite(flat(direction)[0])
  np.testing.assert_allclose(flat(direction)[1:], flat(expected)[1:], rtol=1e-5, atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, broken, absent)


class GO4Align:
  """The authors' formulas; of all ways to put tasks in groups, the one with the least squares."""

  def __init__(self, tasks, groups, step_size):
    self.p, self.groups, self.step_size = np.full(tasks, 1 / tasks), groups, step_size

  def step(self, losses):
    self.p = self.p * np.exp(-self.step_size * losses)
    self.p /= self.p.sum()
    u = losses.sum() / losses * self.p
    best, least = u, np.inf
    for labels in itertools.product(range(self.groups), repeat=len(u)):
      means = np.array([u[np.equal(labels, label)].mean() for label in labels])
      if np.sum((u - means) ** 2) < least:
        best, least = means, np.sum((u - means) ** 2)
    return best


@pytest.mark.parametrize('groups', [1, 2, 3, 7])
@pytest.mark.parametrize('tasks', [3, 5])
def test_go4align_six_steps(tasks, groups):
  tx = optim.go4align(num_tasks=tasks, num_groups=groups, robust_step_size=0.1)
  oracle = GO4Align(tasks, min(groups, tasks), 0.1)
  rng, state, weigh = np.random.default_rng(0), tx.init({}), weigher(tx)
  for _ in range(6):
    losses = rng.uniform(0.2, 3.0, tasks)
    weights, state = weigh(state, single(losses), jnp.ones(tasks, bool))
    np.testing.assert_allclose(weights, oracle.step(losses), rtol=1e-5)
    assert len(np.unique(np.round(weights, 5))) == min(groups, tasks)
    np.testing.assert_allclose(state.indicators, oracle.p, rtol=1e-5)


def test_go4align_with_tasks_that_come_and_go():
  tx, pair = (optim.go4align(num_tasks=n, robust_step_size=0.5) for n in (3, 2))
  _, state = weigher(tx)(tx.init({}), single([1.0, 2.0, 3.0]))
  weights, after = weigher(tx)(state, single([2.0, 0.5, np.nan]), TWO)
  share = np.asarray(state.indicators[:2]) / np.sum(state.indicators[:2])
  expected, moved = weigher(pair)(optim.GO4AlignState(single(share)), single([2.0, 0.5]), ALL[:2])
  np.testing.assert_allclose(weights, [*expected, 0.0], rtol=1e-5)
  np.testing.assert_allclose(after.indicators[2], state.indicators[2])
  both = np.asarray(after.indicators[:2]) / np.sum(after.indicators[:2])
  np.testing.assert_allclose(both, moved.indicators, rtol=1e-5)
  np.testing.assert_allclose(np.sum(after.indicators), 1.0, rtol=1e-6)


def test_go4align_with_equal_losses_is_the_plain_sum():
  tx = optim.go4align(num_tasks=3)
  weights, _ = weigher(tx)(tx.init({}), single([0.3, 0.3, 0.3]))
  np.testing.assert_allclose(weights, 1.0, rtol=1e-6)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: optim.imgrad(0.0), 'imgrad: c must be positive'),
    (lambda: optim.imgrad(rescale='2'), 'imgrad: rescale must be one of'),
    (lambda: optim.ntkmtl(-1.0), 'ntkmtl: exponent must be 0 or more'),
    (lambda: optim.adatask(b1=1.0), r'adatask: b1 must be in \[0, 1\)'),
    (lambda: optim.adatask(b2=-0.1), r'adatask: b2 must be in \[0, 1\)'),
    (lambda: optim.adatask().init({}), 'adatask needs num_tasks'),
    (lambda: optim.go4align(num_groups=0), 'go4align: num_groups must be 1 or more'),
    (lambda: optim.go4align().init({}), 'go4align needs num_tasks'),
  ],
)
def test_errors(make, message):
  with pytest.raises(ValueError, match=message):
    make()
