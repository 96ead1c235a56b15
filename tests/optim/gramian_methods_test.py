"""IMTL-G, Aligned-MTL, ConFIG, Krum, PCGrad, GradVac, SDMGrad and MoDo against float64 NumPy.

Directions are held to 1e-5. What a float32 Gramian cannot tell is not asked for: where eigenvalues
are near its rounding, the method's own equations are held to 1e-6 instead.
"""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies

from mtl_jax import gradients, optim
from mtl_jax.optim.sdmgrad import project_to_simplex
from tests.optim import oracles_gramian as oracles
from tests.optim.methods_test import flat, jacobians, tree
from tests.optim.oracles import pcgrad

SHAPES = [(tasks, size) for tasks in (2, 3, 5, 11) for size in (3, 10, 200)]
COLUMNS = 200
EPS = oracles.EPS


def equal(tasks):
  return np.full(tasks, 1 / tasks)


def rows_of(kind, tasks, size, seed=0):
  rows = jacobians(tasks, size, kind, seed)
  if kind == 'equal':
    rows[:] = rows[0]
  if kind == 'two equal':
    rows[-1] = rows[0]
  if kind == 'zero':
    rows[1] = 0
  return rows


def byzantine(tasks):
  return max(tasks - 4, 0) // 2


def methods(tasks):
  """Name -> (transformation, oracle)."""
  one_order = np.tile(np.arange(tasks), (tasks, 1))
  table = {
    'imtl_g': (optim.imtl_g(), oracles.imtl_g),
    'config': (optim.config(), lambda rows: oracles.config(rows, equal(tasks))),
    'gradvac': (
      optim.gradvac(num_tasks=tasks, order='index'),
      lambda rows: oracles.GradVac(tasks, 0.01).step(rows, one_order),
    ),
    'pcgrad': (optim.pcgrad(order='index'), lambda rows: pcgrad(rows, one_order)),
  }
  for mode in ('min', 'median', 'rmse'):
    table[f'aligned_{mode}'] = (
      optim.aligned_mtl(scale_mode=mode),
      lambda rows, mode=mode: oracles.aligned_mtl(rows, equal(tasks), mode),
    )
  if tasks > 2:
    table['krum'] = (
      optim.krum(byzantine(tasks), num_selected=2),
      lambda rows: oracles.krum(rows, byzantine(tasks), 2),
    )
  return table


@functools.cache
def solutions(tasks):
  """Direction and weights of all methods, in one compilation for each number of tasks."""

  def solve(grads):
    found, present = {}, jnp.ones(tasks, bool)
    for name, (tx, _) in methods(tasks).items():
      state, gram = tx.init({}), gradients.gramian(grads)
      weights, _ = tx.weighting.update(state, present=present, gramian=gram)
      found[name] = tx.update(grads, state)[0], weights
    return found

  return jax.jit(solve)


def solve(kind, tasks, size):
  """Yields name, direction, weights and rows; zeros between the rows' numbers make up 200."""
  places = np.linspace(0, COLUMNS - 1, size).astype(int)
  for seed in range(3):
    rows = rows_of(kind, tasks, size, seed)
    full = np.zeros((tasks, COLUMNS), np.float32)
    full[:, places] = rows
    for name, (direction, weights) in solutions(tasks)(tree(full)).items():
      direction = flat(direction).astype(np.float64)[places]
      yield name, direction, np.asarray(weights, np.float64), rows.astype(np.float64)


def compare(kind, tasks, size):
  """Yields name, direction, expected and the rows."""
  for name, direction, _, rows in solve(kind, tasks, size):
    yield name, direction, methods(tasks)[name][1](rows), rows


@pytest.mark.parametrize('kind', ['random', 'scaled', 'equal', 'two equal', 'zero'])
@pytest.mark.parametrize(('tasks', 'size'), SHAPES)
def test_direction(tasks, size, kind):
  """To 1e-5, but for T ≥ D, where eigenvalues may be small by chance: then to ε·λmax/λmin."""
  for name, direction, expected, rows in compare(kind, tasks, size):
    bound = 1e-5
    if name not in ('pcgrad', 'gradvac', 'krum') and tasks >= size:
      bound = max(bound, EPS * oracles.condition(rows))
    error = np.linalg.norm(direction - expected)
    assert error <= bound * np.linalg.norm(expected), (name, error / np.linalg.norm(expected))


@pytest.mark.parametrize(('tasks', 'size'), SHAPES)
def test_direction_of_rows_that_nearly_cancel(tasks, size):
  """The rows are up to a hundred times as long as the direction, so their rounding shows in it."""
  for name, direction, expected, rows in compare('conflicting', tasks, size):
    error = np.linalg.norm(direction - expected)
    longest = np.linalg.norm(rows, axis=1).max()
    if name in ('aligned_median', 'aligned_rmse'):
      # They stretch the smallest components, which are known to ε·λmax/λ.
      singular = np.linalg.svd(rows, compute_uv=False)
      kept = singular[singular**2 > tasks * EPS * singular[0] ** 2]
      assert error <= 2 * EPS * (kept[0] / kept[-1]) ** 2 * longest, name
    elif name not in ('imtl_g', 'config') or tasks <= size:
      assert error <= max(1e-5 * np.linalg.norm(expected), 1e-6 * longest), name
    # Else hardly any of 1 is in the range of J, and d is made of that part: see test_equations.


@pytest.mark.parametrize(
  'kind', ['random', 'scaled', 'equal', 'two equal', 'zero', 'conflicting', 'parallel']
)
@pytest.mark.parametrize(('tasks', 'size'), SHAPES)
def test_equations(tasks, size, kind):
  """To 1e-6 of their terms, as the oracles say of which, whatever the condition.

  IMTL-G on nearly parallel rows with T > D is held by its objective, in the next test.
  """
  for name, _, weights, rows in solve(kind, tasks, size):
    if name == 'imtl_g':
      assert abs(np.sum(weights) - 1) <= 1e-6 * np.sum(np.abs(weights))
      if kind != 'parallel' or tasks <= size:
        assert oracles.imtl_g_residual(rows, weights) <= 1e-6
    if name == 'config':
      cosines, length = oracles.config_residuals(rows, weights)
      assert cosines <= 1e-6
      assert length <= 1e-6
    if name.startswith('aligned'):
      mode = name.removeprefix('aligned_')
      assert oracles.aligned_residual(rows, weights, equal(tasks), mode) <= 1e-6, name


@pytest.mark.parametrize(('tasks', 'size'), SHAPES)
def test_nearly_parallel_rows(tasks, size):
  """Their smallest eigenvalues drown in the rounding of G, and with them the sides of d."""
  for name, direction, expected, rows in compare('parallel', tasks, size):
    error = np.linalg.norm(direction - expected) / np.linalg.norm(expected)
    if name in ('imtl_g', 'config'):
      projections = oracles.units(rows) @ direction
      spread = np.max(np.abs(projections / projections.mean() - 1))
      # With T > D they cannot be equal; what least squares minimize is the square.
      assert spread <= 1e-6 if tasks <= size else spread**2 <= 1e-10, (name, spread)
      assert error <= 3e-2 or tasks > size, (name, error)
    if name in ('gradvac', 'pcgrad'):
      assert error <= 1e-6, name
    if name == 'aligned_rmse':  # an eigenvalue at the tolerance may count or not
      exact = [oracles.aligned_mtl(rows, equal(tasks), 'rmse', slack) for slack in (-1, 0, 1)]
      errors = [np.linalg.norm(direction - d) / np.linalg.norm(d) for d in exact]
      assert min(errors) <= 1e-4


def test_imtl_g_is_the_closed_form_of_the_paper():
  rows = jacobians(4, 20, 'random') * np.array([[1.0], [30.0], [0.1], [2.0]], np.float32)
  direction, _ = jax.jit(optim.imtl_g().update)(tree(rows), ())
  expected = oracles.imtl_g_closed_form(rows.astype(np.float64))
  np.testing.assert_allclose(flat(direction), expected, rtol=1e-5, atol=1e-7)


def test_no_direction_is_zero():
  """Opposite gradients have no equal positive projections."""
  rows = np.array([[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0]], np.float32)
  for tx in (optim.imtl_g(), optim.config()):
    direction, _ = jax.jit(tx.update)(tree(rows), ())
    assert not flat(direction).any()


def test_preferences():
  """Against the oracles; ConFIG's cosines are in the proportion of p."""
  rows, p = jacobians(4, 20, 'random'), np.array([1.0, 2.0, 3.0, 4.0])
  exact = rows.astype(np.float64)
  direction, _ = optim.config(preference=p.tolist()).update(tree(rows), ())
  np.testing.assert_allclose(flat(direction), oracles.config(exact, p), rtol=1e-5, atol=1e-6)
  projections = exact @ flat(direction) / np.linalg.norm(exact, axis=1)
  np.testing.assert_allclose(projections / projections[0], p, rtol=1e-5)
  direction, _ = optim.aligned_mtl(preference=p.tolist()).update(tree(rows), ())
  expected = oracles.aligned_mtl(exact, p / 10, 'min')
  np.testing.assert_allclose(flat(direction), expected, rtol=1e-5, atol=1e-6)


def test_krum_resists_an_outlier():
  rows = jacobians(7, 20, 'parallel')
  rows[2] *= -100
  rows[5] += 50
  for selected in (1, 3):
    tx = optim.krum(2, num_selected=selected)
    direction, _ = jax.jit(tx.update)(tree(rows), ())
    np.testing.assert_allclose(flat(direction), rows[0], atol=0.02)
    weights, _ = tx.weighting.update((), gramian=gradients.gramian(rows), present=jnp.ones(7, bool))
    assert sorted(weights.tolist())[-selected:] == pytest.approx([1 / selected] * selected)
    assert float(weights[2]) == float(weights[5]) == 0


@pytest.mark.parametrize('beta', [0.1, 1.0])
def test_gradvac_six_steps(beta):
  tx, oracle = optim.gradvac(num_tasks=4, beta=beta, order='index'), oracles.GradVac(4, beta)
  state, update = tx.init({}), jax.jit(tx.update)
  orders = np.tile(np.arange(4), (4, 1))
  for seed in range(6):
    rows = jacobians(4, 20, 'random', seed)
    rows[1] += 0.7 * rows[0]  # so that there are targets well above 0 and below
    rows[3] -= 0.7 * rows[2]
    direction, state = update(tree(rows), state)
    expected = oracle.step(rows.astype(np.float64), orders)
    assert np.linalg.norm(flat(direction) - expected) <= 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(state.targets, oracle.targets, rtol=1e-5, atol=1e-6)
  assert (oracle.targets > 0).any()
  assert (oracle.targets < 0).any()


def test_gradvac_draws_its_orders():
  """The same key gives the same step, and a chain's steps draw new orders."""
  rows = tree(jacobians(5, 6, 'conflicting'))
  tx = optim.gradvac(num_tasks=5)
  update, fresh = jax.jit(tx.update), tx.init({})
  first, state = update(rows, fresh)
  again, _ = update(rows, tx.init({}))
  np.testing.assert_array_equal(flat(first), flat(again))
  other, _ = update(rows, fresh._replace(key=state.key))
  assert not np.allclose(flat(first), flat(other), rtol=1e-3)
  given, kept = update(rows, fresh, key=jax.random.key(3))
  assert not np.allclose(flat(given), flat(first), rtol=1e-3)
  assert kept.key == fresh.key
  mean, _ = optim.gradvac(num_tasks=5, reduction='mean').update(rows, fresh)
  np.testing.assert_allclose(flat(mean), flat(first) / 5, rtol=1e-5, atol=1e-6)


def quadratics(theta, noise):
  """Three tasks' gradients at θ on one batch: Aᵢ(θ − cᵢ) + noise."""
  curvatures = np.array([[1.0, 2.0, 0.5, 1.0], [0.3, 1.0, 2.0, 1.0], [1.5, 0.2, 1.0, 0.7]])
  centers = np.array([[1.0, 0.0, 2.0, -1.0], [-1.0, 1.0, 0.0, 0.5], [0.0, -2.0, 1.0, 1.0]])
  return curvatures * (theta - centers) + noise


@pytest.mark.parametrize(
  ('tx', 'oracle'),
  [
    (
      optim.sdmgrad(num_tasks=3, preference=(1.0, 2.0, 3.0)),
      oracles.SDMGrad((1.0, 2.0, 3.0), 0.3, 20, 10.0, 0.5),
    ),
    (
      optim.sdmgrad(num_tasks=3, lam=1.0, steps=5, learning_rate=0.3, momentum=0.9),
      oracles.SDMGrad((1.0, 1.0, 1.0), 1.0, 5, 0.3, 0.9),
    ),
    (optim.modo(num_tasks=3, gamma=0.05), oracles.MoDo(3, 0.05, 0.1)),
    (optim.modo(num_tasks=3, gamma=0.2, rho=0.0), oracles.MoDo(3, 0.2, 0.0)),
  ],
  ids=['sdmgrad', 'sdmgrad_options', 'modo', 'modo_options'],
)
def test_double_sampling_on_quadratics(tx, oracle):
  """Six steps with three batches each: weights, directions and θ."""
  assert tx.weighting.batches == 3
  rng, state, theta, exact = (
    np.random.default_rng(0),
    tx.weighting.init(3),
    np.zeros(4),
    np.zeros(4),
  )
  update = jax.jit(functools.partial(tx.weighting.update, present=jnp.ones(3, bool)))
  for _ in range(6):
    noise = 0.3 * rng.normal(size=(3, 3, 4))
    first, second, third = (quadratics(theta, n).astype(np.float32) for n in noise)
    weights, state = update(state, gramian=jnp.asarray(first @ second.T))
    theta = theta - 0.2 * np.asarray(weights) @ third
    exact = exact - 0.2 * oracle.step(*(quadratics(exact, n) for n in noise))
    np.testing.assert_allclose(state.weights, oracle.weights, atol=2e-6)
    np.testing.assert_allclose(theta, exact, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-6)
  assert not np.allclose(oracle.weights, 1 / 3, atol=0.02)


def test_sdmgrad_without_regularization_finds_the_min_norm_point():
  rows = jacobians(3, 10, 'random') * np.array([[1.0], [2.0], [0.7]], np.float32)
  tx = optim.sdmgrad(num_tasks=3, lam=0.0, learning_rate=0.5, steps=2000)
  direction, _ = tx.update(tree(rows), tx.init({}))
  products = rows @ flat(direction)
  np.testing.assert_allclose(products, products.min(), rtol=1e-4)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
  strategies.lists(strategies.floats(-1e6, 1e6), min_size=5, max_size=5),
  strategies.lists(strategies.booleans(), min_size=5, max_size=5),
)
def test_projection_to_the_simplex_of_those_present(point, present):
  hypothesis.assume(any(present))
  point, present = np.array(point), np.array(present)
  with jax.enable_x64(True):
    actual = np.asarray(project_to_simplex(jnp.asarray(point), jnp.asarray(present)))
  expected = np.zeros(5)
  expected[present] = oracles.project_to_simplex(point[present])
  np.testing.assert_allclose(actual, expected, atol=1e-9)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_projection_to_the_simplex_at_any_scale(dtype):
  """From 1e-30 to 1e37, with gaps far above and below 1; float32 has 6e-8 of the gaps below 1."""
  rng, present = np.random.default_rng(0), np.array([True, True, False, True, True])
  project = jax.jit(project_to_simplex)
  for scale in 10.0 ** np.arange(-30, 38):
    for offset in (0.0, 1.0, -1.0):
      for points in (rng.normal(size=5) + offset, offset + rng.normal(size=5) / scale):
        point = (scale * points).astype(dtype)
        with jax.enable_x64(dtype == np.float64):
          actual = np.asarray(project(jnp.asarray(point), jnp.asarray(present)))
        assert actual.dtype == dtype
        expected = np.zeros(5)
        expected[present] = oracles.project_to_simplex_exactly(point[present])
        np.testing.assert_allclose(actual, expected, atol=2e-7 if dtype == np.float32 else 1e-15)


@pytest.mark.parametrize('exponent', [-12, -3, 0, 4, 6, 9, 10, 12, 15, 18])
def test_modo_and_moco_on_the_simplex_at_any_scale_of_the_gradients(exponent):
  """Against the projection in fractions; at the ends γG is far below and far above 1."""
  rows = (10.0**exponent * np.array([[1.0, 0.0], [0.3, 1.1]])).astype(np.float32)
  exact = rows.astype(np.float64)
  tx = optim.modo(num_tasks=2, gamma=0.1, rho=0.0)
  _, state = tx.update(jnp.asarray(rows), tx.init({}))
  expected = oracles.project_to_simplex_exactly(0.5 - 0.1 * exact @ exact.T @ [0.5, 0.5])
  np.testing.assert_allclose(state.weights, expected, atol=1e-6)
  if exponent >= 4:
    np.testing.assert_array_equal(state.weights, [1.0, 0.0])
  tx = optim.moco(num_tasks=2, beta=1.0, gamma=0.1, normalize=False, projection='simplex')
  direction, state = tx.update(jnp.asarray(rows), tx.init(jnp.zeros(2)))
  np.testing.assert_allclose(state.weights, expected, atol=1e-6)
  np.testing.assert_allclose(direction, expected @ exact, rtol=1e-5)


STATELESS = {
  'imtl_g': optim.imtl_g,
  'config': optim.config,
  'aligned_mtl': optim.aligned_mtl,
  'krum': lambda: optim.krum(0),
}
STATEFUL = {
  'gradvac': lambda tasks: optim.gradvac(num_tasks=tasks, order='index', beta=0.3),
  'sdmgrad': lambda tasks: optim.sdmgrad(num_tasks=tasks, learning_rate=0.3),
  'modo': lambda tasks: optim.modo(num_tasks=tasks, gamma=0.02),
}
ALL = {name: lambda tasks, make=make: make() for name, make in STATELESS.items()} | STATEFUL


@pytest.mark.parametrize('name', ALL)
def test_an_absent_task_takes_no_part(name):
  """The others do as if they were alone; its part of the state stays."""
  here = np.array([True, False, True, True])
  four, three = ALL[name](4).weighting, ALL[name](3).weighting
  state, small_state = four.init(4), three.init(3)
  if name == 'gradvac':
    state = state._replace(targets=jnp.full((4, 4), 0.2))
    small_state = small_state._replace(targets=jnp.full((3, 3), 0.2))
  for seed in range(2):
    rows = jacobians(4, 20, 'random', seed)
    rows[~here] = 0
    weights, new = four.update(state, gramian=gradients.gramian(rows), present=jnp.asarray(here))
    expected, small_state = three.update(
      small_state, gramian=gradients.gramian(rows[here]), present=jnp.ones(3, bool)
    )
    np.testing.assert_allclose(weights[here], expected, rtol=1e-5, atol=1e-6)
    if name in ('sdmgrad', 'modo'):
      assert float(new.weights[1]) == 0.25
      np.testing.assert_allclose(new.weights[here], 0.75 * small_state.weights, rtol=1e-5)
    if name == 'gradvac':
      np.testing.assert_array_equal(new.targets[1], jnp.float32(0.2))
      np.testing.assert_array_equal(new.targets[:, 1], jnp.float32(0.2))
      np.testing.assert_allclose(new.targets[here][:, here], small_state.targets, rtol=1e-5)
    state = new


@pytest.mark.parametrize('name', ALL)
def test_nothing_is_finite(name):
  """No task present, all gradients zero, and weights that were all with an absent task."""
  weighting = ALL[name](3).weighting
  for present in (jnp.zeros(3, bool), jnp.array([True, False, True]), jnp.ones(3, bool)):
    state = weighting.init(3)
    if name in ('sdmgrad', 'modo'):
      state = state._replace(weights=jnp.array([0.0, 1.0, 0.0]))
    weights, state = weighting.update(state, gramian=jnp.zeros((3, 3)), present=present)
    leaves = [weights] + [x for x in jax.tree.leaves(state) if x.dtype == jnp.float32]
    assert all(bool(jnp.isfinite(x).all()) for x in leaves)


@functools.cache
def compiled(name):
  tx = ALL[name](4)
  return jax.jit(lambda grads: tx.update(grads, tx.init({}))[0])


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
  strategies.sampled_from(sorted(set(ALL) - {'gradvac'})),
  strategies.permutations(range(4)),
  strategies.integers(0, 100),
)
def test_the_order_of_tasks_does_not_matter(name, permutation, seed):
  """GradVac is left out: in index order, it does."""
  rows = jacobians(4, 12, 'random', seed)
  actual, expected = (flat(compiled(name)(tree(r))) for r in (rows[list(permutation)], rows))
  np.testing.assert_allclose(actual, expected, atol=2e-5 * np.linalg.norm(expected))


@pytest.mark.parametrize('name', ALL)
def test_many_tasks_and_many_problems_at_once(name):
  tx = ALL[name](64)
  batch = np.stack([jacobians(64, 100, 'random', seed) for seed in range(2)])
  state = tx.init({})
  many = jax.jit(jax.vmap(lambda g: tx.update(g, state)[0]))(jnp.asarray(batch))
  assert bool(jnp.isfinite(many).all())
  rows = batch[1].astype(np.float64)
  if name in ('imtl_g', 'config'):
    expected = {'imtl_g': oracles.imtl_g, 'config': lambda r: oracles.config(r, equal(64))}
    np.testing.assert_allclose(many[1], expected[name](rows), rtol=1e-4, atol=1e-5)
  else:
    alone, _ = jax.jit(tx.update)(jnp.asarray(batch[1]), state)
    np.testing.assert_allclose(many[1], alone, rtol=1e-4, atol=1e-5)


def test_hyperparameters_may_be_injected():
  rows = jnp.asarray(jacobians(3, 20, 'random'))
  for make, kwargs, static in [
    (optim.gradvac, {'beta': 0.3, 'order': 'index'}, ('seed', 'order', 'reduction')),
    (optim.sdmgrad, {'lam': 0.2, 'learning_rate': 1.0, 'momentum': 0.1}, ('steps',)),
    (optim.modo, {'gamma': 0.2, 'rho': 0.3}, ()),
  ]:
    plain = make(num_tasks=3, **kwargs)
    expected, _ = plain.update(rows, plain.init(rows[0]))
    with jax.numpy_dtype_promotion('standard'):
      tx = optax.inject_hyperparams(make, static_args=('num_tasks', *static))(num_tasks=3, **kwargs)
      actual, _ = jax.jit(tx.update)(rows, tx.init(rows[0]))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: optim.aligned_mtl(scale_mode='max'), 'scale_mode must be'),
    (lambda: optim.krum(-1), 'num_byzantine must be'),
    (lambda: optim.krum(0, num_selected=0), 'num_selected must be'),
    (lambda: optim.gradvac(order='sorted'), 'gradvac: order must be'),
    (lambda: optim.gradvac(reduction='max'), 'gradvac: reduction must be'),
    (lambda: optim.gradvac(beta=1.5), 'beta must be'),
    (lambda: optim.sdmgrad(lam=-1.0), 'lam must be'),
    (lambda: optim.sdmgrad(momentum=1.0), 'momentum must be'),
    (lambda: optim.modo(gamma=-1.0), 'gamma must be'),
    (lambda: optim.modo().init({}), 'modo needs num_tasks'),
    (lambda: run(optim.krum(1), 3), 'num_byzantine=1 needs 4 tasks, not 3'),
    (lambda: run(optim.krum(0, num_selected=4), 3), 'num_selected=4 of 3 tasks'),
    (lambda: run(optim.gradvac(num_tasks=4), 3), 'gradvac of 4 tasks'),
    (lambda: run(optim.sdmgrad(num_tasks=4), 3), 'sdmgrad of 4 tasks'),
    (lambda: run(optim.modo(num_tasks=4), 3), 'modo of 4 tasks'),
    (lambda: run(optim.config(preference=[1.0, 2.0]), 3), 'preference has shape'),
  ],
)
def test_errors(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def run(tx, tasks):
  return tx.update(tree(jacobians(tasks, 9, 'random')), tx.init({}))
