"""The methods that need losses only, each against its oracle in float64 NumPy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import optim
from mtl_jax.optim import _base
from tests.optim import oracles_losses as oracles

STEPS = 6
ALL = jnp.ones(3, bool)


def weigher(tx):
  """One jitted step of a method's weighting: (state, losses, present) -> (weights, state)."""
  return jax.jit(
    lambda state, losses, present=ALL, **extra: _base.weigh(
      tx.weighting, state, losses=losses, present=present, **extra
    )
  )


def adam_of(state):
  def is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)

  return next(s for s in jax.tree.leaves(state.opt_state, is_leaf=is_adam) if is_adam(s))


def single(x):
  return jnp.asarray(x, jnp.float32)


def weights_of(tx, losses, present=None):
  losses = single(losses)
  present = jnp.ones(losses.shape, bool) if present is None else jnp.asarray(present)
  tasks = losses.shape[0]
  return _base.weigh(tx.weighting, tx.weighting.init(tasks), losses=losses, present=present)[0]


def test_static():
  np.testing.assert_array_equal(weights_of(optim.static(), [1.0, 2.0]), [1, 1])
  np.testing.assert_array_equal(weights_of(optim.static([3, 0.5]), [1.0, 2.0]), [3, 0.5])
  with pytest.raises(ValueError, match=r'static: weights has shape \(2,\), and there are 3 tasks'):
    weights_of(optim.static([3, 0.5]), [1.0, 2.0, 3.0])


@pytest.mark.parametrize('distribution', ['normal', 'uniform', 'dirichlet', 'bernoulli', 'one_hot'])
def test_rlw_distributions(distribution):
  """Σ w = 1 and mean 1/T over the tasks present; second moments tell the distributions apart."""
  tx = optim.rlw(distribution=distribution)
  present = jnp.array([True, True, False, True])

  def draw(key):
    return _base.weigh(tx.weighting, (), losses=jnp.ones(4), present=present, key=key)[0]

  weights = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 20_000)))
  assert (weights[:, 2] == 0).all()
  assert (weights >= 0).all()
  np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-6)
  here = weights[:, [0, 1, 3]]
  np.testing.assert_allclose(here.mean(0), 1 / 3, atol=0.015)
  rng = np.random.default_rng(0)
  subsets = np.array([[i >> k & 1 for k in range(3)] for i in range(1, 8)])
  expected = {
    'normal': lambda: np.mean([oracles.softmax(x)[0] ** 2 for x in rng.normal(size=(20_000, 3))]),
    'uniform': lambda: np.mean([oracles.softmax(x)[0] ** 2 for x in rng.random((20_000, 3))]),
    'dirichlet': lambda: 1 / 6,  # α(α + 1)/(α₀(α₀ + 1))
    'bernoulli': lambda: np.mean((subsets / subsets.sum(1, keepdims=True)) ** 2),
    'one_hot': lambda: 1 / 3,
  }[distribution]()
  np.testing.assert_allclose(np.mean(here**2), expected, rtol=0.03)
  nobody = _base.weigh(tx.weighting, tx.init({}), losses=jnp.ones(4), present=present & False)[0]
  np.testing.assert_array_equal(nobody, 0.0)


def test_rlw_draws_from_its_state_or_from_the_key():
  tx = optim.rlw(seed=3)
  weigh = weigher(tx)
  first, state = weigh(tx.init({}), jnp.ones(3))
  second, _ = weigh(state, jnp.ones(3))
  np.testing.assert_array_equal(weigh(tx.init({}), jnp.ones(3))[0], first)
  assert not np.allclose(first, second)
  assert not np.allclose(weigh(optim.rlw(seed=4).init({}), jnp.ones(3))[0], first)
  given, untouched = weigh(state, jnp.ones(3), key=jax.random.key(0))
  np.testing.assert_array_equal(weigh(tx.init({}), jnp.ones(3), key=jax.random.key(0))[0], given)
  assert untouched.key == state.key
  with pytest.raises(ValueError, match='distribution must be one of'):
    optim.rlw(distribution='cauchy')


@pytest.mark.parametrize(
  ('name', 'objective', 'field'),
  [('uncertainty', oracles.kendall, 'log_variances'), ('imtl_l', oracles.imtl, 'log_scales')],
)
def test_learned_scales_six_steps(name, objective, field):
  tx = optim.get(name, num_tasks=3, learning_rate=0.1)
  problem, oracle = oracles.Quadratics(), oracles.Learned(objective, 3, 0.1)
  state, weigh = tx.init({}), weigher(tx)
  for _ in range(STEPS):
    weights, state = weigh(state, single(problem.losses()))
    expected = oracle.step(problem.losses())
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    np.testing.assert_allclose(getattr(state, field), oracle.s, rtol=1e-4, atol=1e-6)
    problem.step(expected)


@pytest.mark.parametrize('name', ['uncertainty', 'imtl_l', 'famo'])
def test_an_absent_task_stands_still(name):
  """Momentum from steps with the task must not move it, and the others move as if alone."""
  tx = optim.get(name, num_tasks=3)
  weigh = weigher(tx)
  losses = jnp.array([2.0, 0.5, 3.0])
  state = tx.init({})
  for scale in (1.0, 0.5, 0.4):
    _, state = weigh(state, losses * single([scale, scale, scale**2]))
  weights, moved = weigh(state, losses.at[2].set(jnp.nan), jnp.array([True, True, False]))
  assert weights[2] == 0
  after, before = adam_of(moved), adam_of(state)
  assert before.mu[2] != 0
  assert after.mu[2] == before.mu[2]
  assert after.nu[2] == before.nu[2]
  assert moved[0][2] == state[0][2]
  assert (np.asarray(moved[0][:2]) != np.asarray(state[0][:2])).all()
  _, nobody = weigh(state, losses, ~ALL)
  np.testing.assert_array_equal(nobody[0], state[0])


@pytest.mark.parametrize('period', [1, 2])
def test_dwa_six_steps(period):
  tx = optim.dwa(num_tasks=3, temperature=0.7, period=period)
  problem, history = oracles.Quadratics(), []
  state, weigh = tx.init({}), weigher(tx)
  for _ in range(STEPS):
    weights, state = weigh(state, single(problem.losses()))
    expected = oracles.dwa(history, 0.7, period) if history else np.ones(3)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    history.append(problem.losses())
    problem.step(expected, 0.05)
  assert np.ptp(weights) > 0.01
  np.testing.assert_allclose(state.last, np.mean(history[-period:], axis=0), rtol=1e-6)
  before = np.mean(history[-2 * period : -period], axis=0)
  np.testing.assert_allclose(state.before_last, before, rtol=1e-6)
  assert int(state.steps) == 0


def test_dwa_with_tasks_that_come_and_go():
  """Task 2 misses a step of an epoch, then a whole one; the others' weights sum to their number."""
  tx = optim.dwa(num_tasks=3, period=2)
  state, weigh = tx.init({}), weigher(tx)
  two = jnp.array([True, True, False])
  for losses, present in [([4, 4, 4], ALL), ([2, 4, 9], two), ([1, 2, 6], ALL), ([1, 2, 6], ALL)]:
    _, state = weigh(state, single(losses), present)
  np.testing.assert_allclose(state.before_last, [3, 4, 4])
  np.testing.assert_allclose(state.last, [1, 2, 6])
  for _ in range(2):
    weights, state = weigh(state, single([1, 1, 9]), two)
    expected = 2 * oracles.softmax(np.array([1 / 3, 2 / 4]) / 2)
    np.testing.assert_allclose(weights, [*expected, 0], rtol=1e-6)
  np.testing.assert_allclose(state.last, [1, 1, 6])
  np.testing.assert_allclose(state.before_last, [1, 2, 4])
  weights, _ = weigh(state, single([1, 1, 9]))
  expected = 3 * oracles.softmax(np.array([1, 1 / 2, 6 / 4]) / 2)
  np.testing.assert_allclose(weights, expected, rtol=1e-6)


def famo_states_agree(state, oracle):
  np.testing.assert_allclose(state.logits, oracle.logits, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(adam_of(state).mu, oracle.adam.m, rtol=1e-4, atol=1e-7)
  assert int(adam_of(state).count) == oracle.adam.t


BOUNDS = [0.05, 0.0, 0.02]


def test_famo_in_a_chain_six_steps():
  """Nobody calls follow: each step's losses finish the step before."""
  tx = optim.famo(num_tasks=3, weight_decay=0.01, min_losses=BOUNDS)
  problem, oracle = oracles.Quadratics(), oracles.FAMO(3, 0.025, 0.01, np.array(BOUNDS))
  state, weigh = tx.init({}), weigher(tx)
  previous = None
  for _ in range(STEPS):
    losses = problem.losses()
    if previous is not None:
      oracle.learn(previous, losses)
    weights, state = weigh(state, single(losses))
    expected = oracle.weights(losses)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-6)
    famo_states_agree(state, oracle)
    np.testing.assert_allclose(state.losses, losses, rtol=1e-6)
    problem.step(expected, 0.05)
    previous = losses


def test_famo_with_follow_six_steps():
  """Two batches in turn: the losses that finish a step are those of its own batch."""
  tx = optim.famo(num_tasks=3, weight_decay=0.01, min_losses=BOUNDS)
  oracle = oracles.FAMO(3, 0.025, 0.01, np.array(BOUNDS))
  batches = [oracles.Quadratics(seed=0), oracles.Quadratics(seed=1)]
  state, weigh, follow = tx.init({}), weigher(tx), jax.jit(tx.weighting.follow)
  params = batches[0].params
  for step in range(STEPS):
    batch = batches[step % 2]
    batch.params = params
    losses = batch.losses()
    weights, state = weigh(state, single(losses))
    expected = oracle.weights(losses)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    batch.step(expected, 0.05)
    params = batch.params
    oracle.learn(losses, batch.losses())
    state = follow(state, losses=single(losses), new_losses=single(batch.losses()), present=ALL)
    famo_states_agree(state, oracle)
    assert np.isnan(state.losses).all()


def test_famo_learns_from_tasks_present_before_and_after():
  tx, pair = optim.famo(num_tasks=3), optim.famo(num_tasks=2)
  two = jnp.array([True, True, False])
  weigh, weigh_pair = weigher(tx), weigher(pair)
  weights, state = weigh(tx.init({}), single([1, 2, 5]), two)
  expected, pair_state = weigh_pair(pair.init({}), single([1, 2]), ALL[:2])
  np.testing.assert_allclose(weights[:2], expected, rtol=1e-6)
  assert np.isnan(state.losses[2])
  _, state = weigh(state, single([0.5, 1.5, 4]), ALL)
  _, pair_state = weigh_pair(pair_state, single([0.5, 1.5]), ALL[:2])
  np.testing.assert_allclose(state.logits, [*pair_state.logits, 0], rtol=1e-6)
  bad = tx.weighting.follow(
    state, losses=single([0.5, 1.5, 4]), new_losses=jnp.array([jnp.nan, 1.0, 1.0]), present=ALL
  )
  assert np.isfinite(bad.logits).all()
  assert bad.logits[0] == state.logits[0]
  assert bad.logits[1] != state.logits[1]


def test_famo_after_an_empty_step_has_nothing_pending():
  tx = optim.famo(num_tasks=3)
  weigh = weigher(tx)
  _, state = weigh(tx.init({}), single([1, 2, 3]))
  _, state = weigh(state, single([1, 1, 3]), ~ALL)
  np.testing.assert_array_equal(state.logits, 0)
  _, state = weigh(state, single([1, 1, 3]))
  np.testing.assert_array_equal(state.logits, 0)
  assert int(adam_of(state).count) == 0


@pytest.mark.parametrize('gamma', [0.0, 2.0])
def test_dtp_six_steps(gamma):
  tx = optim.dtp(num_tasks=3, gamma=gamma, decay=0.6)
  for given in (False, True):
    problem, oracle = oracles.Quadratics(), oracles.DTP(gamma, 0.6)
    state, weigh = tx.init({}), weigher(tx)
    for _ in range(STEPS):
      losses = problem.losses()
      kpis = 1 / (1 + losses) if given else np.exp(-losses)
      weights, state = weigh(state, single(losses), kpis=single(kpis) if given else None)
      expected = oracle.step(np.maximum(kpis, 1e-6))
      np.testing.assert_allclose(weights, expected, rtol=1e-5)
      np.testing.assert_allclose(state.kpis, oracle.kpi, rtol=1e-5)
      problem.step(expected, 0.01)


def test_dtp_indicators_without_news_and_at_the_ends():
  tx = optim.dtp(num_tasks=3, decay=0.5)
  weigh = weigher(tx)
  kpis = jnp.array([1.0, 0.0, jnp.nan])
  weights, state = weigh(tx.init({}), single([1, 1, 2]), kpis=kpis)
  np.testing.assert_allclose(state.kpis, [1, 1e-6, np.exp(-2)], rtol=1e-6)
  np.testing.assert_allclose(weights[:2], [0, -np.log(1e-6)], rtol=1e-5)
  _, state = weigh(state, single([1, 1, 9]), kpis=jnp.array([0.5, 0.5, jnp.nan]))
  np.testing.assert_allclose(state.kpis, [0.75, 0.25, np.exp(-2)], rtol=1e-5)
  _, still = weigh(state, single([1, 1, 9]), jnp.array([True, True, False]))
  assert still.kpis[2] == state.kpis[2]
  np.testing.assert_array_equal(weigh(tx.init({}), single([-1, -1, 0]))[0], 0)


PREFERENCES = [None, [0.2, 0.5, 0.1, 0.2], [1.0, 1.0, 5.0, 3.0]]


def scalarizations(p, ideal):
  return {
    'geometric_mean': (optim.geometric_mean(), oracles.geometric_mean),
    'chebyshev': (optim.chebyshev(p, ideal), lambda x, p, z: oracles.chebyshev(x, p, z)),
    'stch': (optim.stch(0.3, p, ideal), lambda x, p, z: oracles.stch(x, p, z, 0.3)),
    'cosmos': (optim.cosmos(4.0, p), lambda x, p, z: oracles.cosmos(x, p, 4.0)),
    'pbi': (optim.pbi(preference=p, reference=ideal), lambda x, p, z: oracles.pbi(x, p, z, 5.0)),
  }


@pytest.mark.parametrize('preference', PREFERENCES)
@pytest.mark.parametrize('name', ['geometric_mean', 'chebyshev', 'stch', 'cosmos', 'pbi'])
def test_scalarizations_are_gradients(name, preference):
  rng = np.random.default_rng(0)
  ideal = None if preference is None else [0.1, 0.0, 0.2, 0.05]
  tx, objective = scalarizations(preference, ideal)[name]
  for scale in (1.0, 30.0):
    losses = single(rng.uniform(0.3, 2.0, 4) * scale)
    p = np.ones(4) if preference is None else np.array(preference)
    args = () if name == 'geometric_mean' else (p / p.sum(), np.array(ideal or np.zeros(4)))
    expected = oracles.gradient(
      lambda x, args=args: objective(x, *args), np.asarray(losses, np.float64), 1e-4 * scale
    )
    error = np.linalg.norm(weights_of(tx, losses) - expected) / np.linalg.norm(expected)
    assert error < 1e-6


@pytest.mark.parametrize('name', ['geometric_mean', 'chebyshev', 'stch', 'cosmos', 'pbi'])
def test_scalarizations_leave_absent_tasks_out(name):
  p, ideal = [0.2, 0.5, 0.1], [0.1, 0.0, 0.2]
  tx, alone = scalarizations([*p, 0.7], [*ideal, 0.3])[name][0], scalarizations(p, ideal)[name][0]
  losses = np.array([2.0, 1.0, 0.5, 40.0])
  weights = weights_of(tx, losses, [True, True, True, False])
  np.testing.assert_allclose(weights, [*weights_of(alone, losses[:3]), 0], rtol=1e-6)
  np.testing.assert_array_equal(weights_of(tx, losses, [False] * 4), 0)
  np.testing.assert_allclose(weights_of(scalarizations(None, None)[name][0], [3.0]), 1, rtol=1e-6)


def test_scalarizations_where_they_have_a_kink():
  np.testing.assert_allclose(weights_of(optim.chebyshev(), [2.0, 1.0, 2.0]), [1 / 6, 0, 1 / 6])
  ray = np.full(3, 3**-0.5)
  for size in (0.0, 1e-3, 0.7, 1e4):
    np.testing.assert_allclose(weights_of(optim.pbi(), [size] * 3), ray, rtol=1e-6)
  p = [0.1, 0.3, 0.6]
  on_ray = weights_of(optim.pbi(preference=p), 1.7 * np.array(p))
  np.testing.assert_allclose(on_ray, p / np.linalg.norm(p), rtol=1e-6)
  np.testing.assert_allclose(weights_of(optim.cosmos(preference=p), [0.0] * 3), p, rtol=1e-6)
  some = weights_of(optim.geometric_mean(), [0.0, 4.0, 1.0, -2.0])
  np.testing.assert_allclose(some, [0, 0.25, 1, 0], rtol=1e-6)


@pytest.mark.parametrize('name', ['geometric_mean', 'chebyshev', 'stch', 'cosmos', 'pbi'])
def test_scalarizations_stay_finite(name):
  tx = scalarizations(None, None)[name][0]
  for losses in ([2e-38, 1e38, 1e38], [-1e30, 1e-30, 0.0], [1e30, 1e30, -1e30], [0.0, 0.0, 0.0]):
    assert np.isfinite(weights_of(tx, losses)).all(), losses


def test_stch_between_chebyshev_and_linear():
  losses, p = [3.0, 1.0, 2.0], [0.5, 0.2, 0.3]
  hard = weights_of(optim.chebyshev(p), losses)
  np.testing.assert_allclose(weights_of(optim.stch(1e-3, p), losses), hard, atol=1e-6)
  np.testing.assert_allclose(weights_of(optim.stch(1e6, p), losses), np.array(p) / 3, rtol=1e-5)


@pytest.mark.parametrize(
  ('name', 'wrong', 'message'),
  [
    ('stch', {'mu': 0}, 'stch: mu must be > 0, not 0'),
    ('cosmos', {'coefficient': -1}, 'cosmos: coefficient must be ≥ 0, not -1'),
    ('pbi', {'theta': -1.0}, 'pbi: theta must be ≥ 0, not -1.0'),
    ('dwa', {'temperature': 0.0}, 'dwa: temperature must be > 0'),
    ('dwa', {'period': 0}, 'dwa: period must be at least 1'),
    ('dtp', {'gamma': -1}, 'dtp: gamma must be ≥ 0'),
    ('dtp', {'decay': 1.0}, r'dtp: decay must be in \[0, 1\)'),
  ],
)
def test_options_out_of_range(name, wrong, message):
  with pytest.raises(ValueError, match=message):
    optim.get(name, **wrong)


@pytest.mark.parametrize('name', ['uncertainty', 'imtl_l', 'famo', 'dwa', 'dtp'])
def test_state_of_known_size(name):
  tx = optim.get(name, num_tasks=3)
  with pytest.raises(ValueError, match=f'{name} needs the losses'):
    tx.update(jnp.eye(3), tx.init({}))
  with pytest.raises(ValueError, match=rf'{name} of 3 tasks was given losses \(2,\)'):
    tx.update(jnp.eye(2), tx.init({}), losses=jnp.ones(2))
  with pytest.raises(ValueError, match='num_tasks'):
    optim.get(name).init({})


def test_options_of_another_length():
  for tx, option in [
    (optim.chebyshev(reference=[0.0]), 'chebyshev: reference'),
    (optim.stch(preference=[1.0]), 'stch: preference'),
    (optim.famo(num_tasks=3, min_losses=[0.0]), 'famo: min_losses'),
  ]:
    with pytest.raises(ValueError, match=rf'{option} has shape \(1,\), and there are 3 tasks'):
      weights_of(tx, [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
  ('name', 'options', 'static'),
  [
    ('famo', {'num_tasks': 3}, ('num_tasks', 'min_losses', 'optimizer')),
    ('dwa', {'num_tasks': 3}, ('num_tasks',)),
    ('dtp', {'num_tasks': 3}, ('num_tasks',)),
    ('pbi', {}, ('preference', 'reference')),
  ],
)
def test_inject_hyperparams(name, options, static):
  """Numbers as traced arrays give what they give as Python numbers."""
  losses = jnp.array([3.0, 1.0, 2.0])
  plain = optim.get(name, **options)
  with jax.numpy_dtype_promotion('standard'):
    tx = optax.inject_hyperparams(optim.METHODS[name], static_args=static)(**options)
    state, expected = tx.init(losses), plain.init(losses)
    for scale in (1.0, 0.5, 0.4):
      weighted, state = jax.jit(tx.update)(jnp.eye(3), state, losses=losses**scale)
      weights, expected = plain.update(jnp.eye(3), expected, losses=losses**scale)
  np.testing.assert_allclose(weighted, weights, rtol=1e-5)


PREFERRED = [
  name
  for name, method in optim.METHODS.items()
  if 'preference' in inspect.signature(method).parameters
]


def test_who_has_a_preference():
  assert len(PREFERRED) == 11


@pytest.mark.parametrize('name', PREFERRED)
def test_a_preference_is_positive(name):
  """At once, and as anything that holds numbers; a traced one cannot be checked."""
  for wrong in ([-1, 1, 1], [0, 0, 0], (0.0, 1.0, 1.0), np.array([1.0, -1e-9]), jnp.array([-1.0])):
    with pytest.raises(ValueError, match=rf'^{name}: preference must be positive for every task'):
      optim.get(name, preference=wrong)
  for wrong in ([1.0, np.nan], [np.inf, 1.0], [[1.0, 2.0]], 3.0):
    with pytest.raises(ValueError, match=rf'^{name}: preference must be one finite number a task'):
      optim.get(name, preference=wrong)
  optim.get(name, preference=[1e-3, 1])
  jax.eval_shape(lambda p: optim.get(name, preference=p) and p, jnp.ones(3))


@pytest.mark.parametrize(
  ('name', 'wrong', 'message'),
  [
    ('auto_lambda', {'primary': [0, 0]}, 'primary must be 0 or more for every task, and not 0'),
    ('auto_lambda', {'primary': [1, -1]}, 'primary must be 0 or more for every task'),
    ('static', {'weights': [1.0, np.nan]}, 'weights must be one finite number a task'),
    ('famo', {'min_losses': [-np.inf, 0.0]}, 'min_losses must be one finite number a task'),
    ('stch', {'reference': [np.nan, 0.0]}, 'reference must be one finite number a task'),
    ('pbi', {'reference': [[0.0, 0.0]]}, 'reference must be one finite number a task'),
  ],
)
def test_other_options_with_a_number_a_task(name, wrong, message):
  with pytest.raises(ValueError, match=f'^{name}: {message}'):
    optim.get(name, **wrong)
  optim.auto_lambda(primary=[1, 0])
  optim.static([-1.0, 0.0])
