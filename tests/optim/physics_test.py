"""SoftAdapt, ReLoBRaLo, learning rate annealing and NTK weights, each against its oracle."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import optim
from tests.optim import oracles_losses, oracles_physics
from tests.optim.losses_test import ALL, single, weigher, weights_of
from tests.optim.methods_test import flat, jacobians, tree

STEPS = 6
TWO = jnp.array([True, True, False])


@pytest.mark.parametrize('variant', ['original', 'loss_weighted', 'normalized'])
@pytest.mark.parametrize('period', [1, 2])
def test_soft_adapt_six_steps(period, variant):
  tx = optim.soft_adapt(num_tasks=3, beta=0.7, period=period, variant=variant)
  problem, history = oracles_losses.Quadratics(), []
  state, weigh = tx.init({}), weigher(tx)
  for _ in range(STEPS):
    weights, state = weigh(state, single(problem.losses()))
    history.append(problem.losses())
    expected = oracles_physics.soft_adapt(history, 0.7, period, variant)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    problem.step(expected, 0.05)
  assert np.ptp(weights) > 0.01


# The README of the authors' code: losses of five epochs, and the weights it prints for β = 0.1.
PUBLISHED_LOSSES = np.array([[1, 2, 3, 4, 5], [150, 100, 50, 10, 0.1], [1500, 1000, 500, 100, 1]])
# The module is hidden by its function's name.
soft_adapt_weights = importlib.import_module('mtl_jax.optim.soft_adapt').weigh
FOURTH_ORDER = np.array([-25 / 12, 4, -3, 4 / 3, -1 / 4])  # its slope: at the first of five points


@pytest.mark.parametrize(
  ('variant', 'published'),
  [
    ('original', [9.9343e-01, 6.5666e-03, 3.8908e-22]),
    ('loss_weighted', [8.7978e-01, 1.2022e-01, 7.1234e-20]),
  ],
)
def test_soft_adapt_published_weights(variant, published):
  slopes = single(PUBLISHED_LOSSES @ FOURTH_ORDER)
  means = single(PUBLISHED_LOSSES.mean(axis=1))
  weights = soft_adapt_weights(variant, slopes, means, ALL, 0.1)
  np.testing.assert_allclose(weights, published, rtol=1e-3)


def test_soft_adapt_normalized_favours_what_falls_least():
  """As in the paper; the authors' later code turns this round, for a negative sum of slopes."""
  slopes = single(PUBLISHED_LOSSES @ FOURTH_ORDER)
  weights = soft_adapt_weights('normalized', slopes, slopes, ALL, 1.0)
  expected = oracles_losses.softmax(np.asarray(slopes) / np.abs(slopes).sum())
  np.testing.assert_allclose(weights, expected, rtol=1e-5)
  assert weights[0] > weights[1] > weights[2]


def test_soft_adapt_with_tasks_that_come_and_go():
  tx = optim.soft_adapt(num_tasks=3, beta=1.0, variant='loss_weighted')
  weigh = weigher(tx)
  weights, state = weigh(tx.init({}), single([1, 3, np.nan]), TWO)
  np.testing.assert_allclose(weights, [0.25, 0.75, 0])
  weights, state = weigh(state, single([2, 3, 4]))
  products = np.array([1.5 * np.e, 3.0, 4.0])  # slopes 1, 0 and none yet
  np.testing.assert_allclose(weights, products / products.sum(), rtol=1e-6)
  weights, _ = weigh(state, single([2, 3, 9]), TWO)
  products = np.array([2.0, 3.0])
  np.testing.assert_allclose(weights, [*products / products.sum(), 0], rtol=1e-6)


def test_soft_adapt_where_losses_are_not_positive():
  tx = optim.soft_adapt(num_tasks=3, variant='loss_weighted')
  np.testing.assert_allclose(weights_of(tx, [-1.0, 0.0, 2.0]), [0, 0, 1])
  np.testing.assert_allclose(weights_of(tx, [-1.0, 0.0, -2.0]), 1 / 3)
  for variant in ('original', 'loss_weighted', 'normalized'):
    tx = optim.soft_adapt(num_tasks=3, variant=variant)
    _, state = weigher(tx)(tx.init({}), single([3e38, -3e38, 1.0]))
    weights, _ = weigher(tx)(state, single([-3e38, 3e38, 1.0]))
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)


def draws_of(seed, rho, count):
  """What `relobralo` draws in a chain."""
  key, drawn = jax.random.key(seed), []
  for _ in range(count):
    now, key = jax.random.split(key)
    drawn.append(int(jax.random.bernoulli(now, rho)))
  return drawn


def test_relobralo_six_steps():
  tx = optim.relobralo(num_tasks=3, alpha=0.8, rho=0.5, temperature=0.3, seed=3)
  draws = draws_of(3, 0.5, STEPS)
  assert {*draws[1:]} == {0, 1}  # the first is between equal weights
  problem, oracle = oracles_losses.Quadratics(), oracles_physics.ReLoBRaLo(3, 0.8, 0.3)
  state, weigh = tx.init({}), weigher(tx)
  for draw in draws:
    weights, state = weigh(state, single(problem.losses()))
    expected = oracle.step(problem.losses(), draw)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(weights), 3.0, rtol=1e-6)
    problem.step(expected, 0.05)
  assert np.ptp(weights) > 0.01


def test_relobralo_looks_back_as_often_as_rho_says():
  tx = optim.relobralo(num_tasks=2, alpha=1.0, rho=0.8)

  def step(state, key):
    known = {'present': TWO[:2], 'losses': jnp.array([1.0, 2.0])}
    weights, state = tx.weighting.update(state, key=key, **known)
    return state, weights[0]

  start = tx.init({})._replace(weights=jnp.array([1.9, 0.1]), first=jnp.array([1.0, 2.0]))
  alone = jax.vmap(lambda key: step(start, key)[1])(jax.random.split(jax.random.key(0), 4000))
  np.testing.assert_allclose(jnp.mean(alone > 1.5), 0.8, atol=0.03)
  np.testing.assert_allclose(alone[alone < 1.5], 1.0, rtol=1e-6)
  same = step(start, jax.random.key(1))[0]
  assert same.key == start.key  # the step's own key was given


def test_relobralo_with_tasks_that_come_and_go():
  """The others move as if alone, and an absent task keeps λ and its losses."""
  options = {'alpha': 0.5, 'rho': 1.0, 'temperature': 0.5}
  tx, pair = (optim.relobralo(num_tasks=n, **options) for n in (3, 2))
  weigh, weigh_pair = weigher(tx), weigher(pair)
  state, alone = tx.init({}), pair.init({})
  for losses in ([4.0, 2.0, np.nan], [3.0, 2.0, np.nan], [1.0, 2.5, np.nan]):
    weights, state = weigh(state, single(losses), TWO)
    expected, alone = weigh_pair(alone, single(losses[:2]), ALL[:2])
    np.testing.assert_allclose(weights, [*expected, 0.0], rtol=1e-6)
  assert state.weights[2] == 1.0
  assert np.isnan(state.last[2])
  np.testing.assert_allclose(jnp.sum(state.weights), 3.0, rtol=1e-6)


def test_relobralo_where_losses_are_not_positive():
  tx = optim.relobralo(num_tasks=3, alpha=0.0, temperature=1.0)
  _, state = weigher(tx)(tx.init({}), single([0.0, -1.0, 2.0]))
  assert np.isnan(state.first[:2]).all()
  weights, state = weigher(tx)(state, single([5.0, 1.0, -1.0]))
  expected = 3 * oracles_losses.softmax(np.array([1.0, 1.0, 0.0]))
  np.testing.assert_allclose(weights, expected, rtol=1e-6)
  np.testing.assert_allclose(state.first, [5, 1, 2])


@pytest.mark.parametrize(('form', 'residual'), [('max_mean', 0), ('max_mean', 2), ('norm', 0)])
def test_lr_annealing_six_steps(form, residual):
  tx = optim.lr_annealing(num_tasks=3, decay=0.7, form=form, residual=residual)
  oracle = oracles_physics.Annealing(3, 0.7, form, residual)
  state, update = tx.init({}), jax.jit(tx.update)
  for seed in range(STEPS):
    rows = jacobians(3, 20, 'random', seed) * np.array([[0.1], [1.0], [7.0]], np.float32)
    direction, state = update(tree(rows), state)
    expected = oracle.step(rows.astype(np.float64))
    assert np.linalg.norm(flat(direction) - expected) <= 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(state.weights, oracle.weights, rtol=1e-5)


def test_lr_annealing_by_norm_makes_all_gradients_alike():
  """Each as long as all of them together, without the average over steps."""
  rows = jacobians(4, 20, 'scaled')
  tx = optim.lr_annealing(num_tasks=4, decay=0.0, form='norm')
  assert tx.needs == 'gramian'
  _, state = tx.update(tree(rows), tx.init({}))
  lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
  np.testing.assert_allclose(np.asarray(state.weights) * lengths, lengths.sum(), rtol=1e-5)


@pytest.mark.parametrize('form', ['max_mean', 'norm'])
def test_lr_annealing_leaves_alone_what_it_cannot_weigh(form):
  """An absent task, a zero gradient, one that is not finite; without the residual, all tasks."""
  rows = jacobians(3, 20, 'random')
  tx = optim.lr_annealing(num_tasks=3, form=form)
  start = optim.LRAnnealingState(jnp.array([1.0, 2.0, 3.0]))
  _, moved = tx.update(tree(rows), start, present=TWO)
  assert moved.weights[2] == 3.0
  assert moved.weights[1] != 2.0
  for bad in (0.0, np.nan, np.inf):
    broken = rows.copy()
    broken[2] = bad
    _, state = tx.update(tree(broken), start)
    np.testing.assert_allclose(state.weights, moved.weights, rtol=1e-6)
  if form == 'max_mean':
    broken = rows.copy()
    broken[0] = np.nan
    _, state = tx.update(tree(broken), start)
    np.testing.assert_array_equal(state.weights, start.weights)


def two_losses(params):
  """Residuals of a network at 7 and at 5 points, of unlike scale."""
  points = jnp.linspace(-1.0, 1.0, 12)[:, None]
  hidden = jnp.tanh(points * params['w'][None] + params['b'][None])
  values = hidden @ params['out']
  return values[:7], {'right': 3 * jnp.sin(values[7:])}


def network():
  keys = jax.random.split(jax.random.key(0), 3)
  return {
    name: jax.random.normal(key, (6,)) for name, key in zip(('w', 'b', 'out'), keys, strict=True)
  }


def dense_kernel(index):
  """K from central differences in float64, of the network written out in NumPy."""
  params = {name: np.asarray(value, np.float64) for name, value in network().items()}
  flat_params = np.concatenate([params['w'], params['b'], params['out']])

  def residuals(x):
    w, b, out = np.split(x, 3)
    values = np.tanh(np.linspace(-1, 1, 12)[:, None] * w + b) @ out
    return values[:7] if index == 0 else 3 * np.sin(values[7:])

  bumps = np.eye(len(flat_params)) * 1e-6
  jacobian = (
    np.stack([residuals(flat_params + e) - residuals(flat_params - e) for e in bumps]) / 2e-6
  )
  return jacobian.T @ jacobian


@pytest.mark.parametrize('index', [0, 1])
@pytest.mark.parametrize('batch_size', [None, 3])
def test_ntk_trace_is_that_of_the_dense_kernel(index, batch_size):
  trace = jax.jit(
    lambda params: optim.ntk_trace(lambda p: two_losses(p)[index], params, batch_size=batch_size)
  )(network())
  np.testing.assert_allclose(trace, np.trace(dense_kernel(index)), rtol=1e-5)


def test_ntk_trace_by_probes_is_right_on_average():
  kernel = dense_kernel(0)

  def estimate(key):
    return optim.ntk_trace(lambda p: two_losses(p)[0], network(), probes=4, key=key)

  seen = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 2000))
  variance = 2 * (np.sum(kernel**2) - np.sum(np.diag(kernel) ** 2)) / 4
  np.testing.assert_allclose(np.var(seen), variance, rtol=0.15)
  assert abs(np.mean(seen) - np.trace(kernel)) < 4 * np.sqrt(variance / 2000)


def test_ntk_weights_bring_the_rates_together():
  """After the renewal each weighted kernel has the trace of all; in a train step of one's own."""

  def model(params, batch, key):
    left, right = two_losses(params)
    return jnp.stack([jnp.sum(left**2), jnp.sum(right['right'] ** 2)])

  balance, optimizer = optim.ntk_weights(num_tasks=2), optax.sgd(1e-3)
  state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(0), params=network())
  step = mtl_jax.make_train_step(model, balance, optimizer)
  state, metrics = step(state, None)
  np.testing.assert_array_equal(metrics['weight'], 1.0)
  traces = jnp.stack([optim.ntk_trace(lambda p, i=i: two_losses(p)[i], network()) for i in (0, 1)])
  state = state.replace(balance_state=optim.renew_ntk_weights(state.balance_state, traces))
  expected = [np.trace(dense_kernel(i)) for i in (0, 1)]
  for _ in range(2):
    state, metrics = step(state, None)
    np.testing.assert_allclose(metrics['weight'], np.sum(expected) / expected, rtol=1e-5)


def test_renew_ntk_weights():
  start = optim.NTKWeightsState(jnp.array([1.0, 2.0, 3.0]))
  state = optim.renew_ntk_weights(start, jnp.array([1.0, 4.0, np.nan]), decay=0.75)
  np.testing.assert_allclose(state.weights, [0.75 + 0.25 * 5, 1.5 + 0.25 * 1.25, 3.0])
  state = optim.renew_ntk_weights(start, jnp.zeros(3))
  np.testing.assert_array_equal(state.weights, start.weights)
  with pytest.raises(ValueError, match=r'traces have shape \(2,\), and there are 3 tasks'):
    optim.renew_ntk_weights(start, jnp.ones(2))


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: optim.soft_adapt(variant='soft'), 'soft_adapt: variant must be one of'),
    (lambda: optim.soft_adapt(period=0), 'soft_adapt: period must be at least 1'),
    (lambda: optim.relobralo(alpha=1.1), 'relobralo: alpha must be between 0 and 1'),
    (lambda: optim.relobralo(rho=-1), 'relobralo: rho must be between 0 and 1'),
    (lambda: optim.relobralo(temperature=0.0), 'relobralo: temperature must be > 0'),
    (lambda: optim.lr_annealing(form='max'), 'lr_annealing: form must be one of'),
    (lambda: optim.lr_annealing(decay=1.0), r'lr_annealing: decay must be in \[0, 1\)'),
    (
      lambda: optim.lr_annealing(num_tasks=2, residual=2).init({}),
      'residual=2 is the place of none',
    ),
    (lambda: optim.ntk_trace(jnp.sin, 0.0, probes=1), 'probes are drawn from a key'),
    (lambda: optim.ntk_trace(jnp.sin, 0.0, probes=-1), 'probes must be 0 or more'),
    (
      lambda: optim.renew_ntk_weights(optim.NTKWeightsState(jnp.ones(1)), jnp.ones(1), 1.0),
      r'renew_ntk_weights: decay must be in \[0, 1\)',
    ),
  ],
)
def test_options_out_of_range(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize('name', ['soft_adapt', 'relobralo', 'lr_annealing', 'ntk_weights'])
def test_state_of_known_size(name):
  method = getattr(optim, name)
  tx = method(num_tasks=3)
  with pytest.raises(ValueError, match=f'{name} of 3 tasks was given'):
    tx.update(jnp.eye(2), tx.init({}), losses=jnp.ones(2))
  with pytest.raises(ValueError, match=f'{name} needs num_tasks'):
    method().init({})
