"""Nash-MTL over steps: weights that are held, the clip that is not, and the released code's scale.

That its weights are the exact solution is in `solvers_test`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import gradients, optim
from mtl_jax.optim import _base
from tests import models
from tests.optim import oracles_solvers as oracles
from tests.train_step.engine_test import REGIMES

J = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32)


def clipped(direction, max_norm):
  return direction * min(1.0, max_norm / np.linalg.norm(direction))


def run(tx, steps, present=None):
  """Directions in a chain, one for each J."""
  state, found = tx.init(jnp.zeros(20)), []
  update = jax.jit(lambda rows, state, here: tx.update(rows, state, present=here))
  for step, rows in enumerate(steps):
    here = jnp.ones(3, bool) if present is None else jnp.array(present[step])
    direction, state = update(jnp.asarray(rows), state, here)
    found.append(np.asarray(direction, np.float64))
  return found


@pytest.mark.parametrize('max_norm', [1.0, 0.3])
def test_held_weights_are_clipped_on_the_steps_own_gradients(max_norm):
  """The same w on each J; the clip is that step's, from w before any clip."""
  scales = [1.0, 50.0, 0.01, 1e12]
  found = run(optim.nash_mtl(3, max_norm, update_every=4), [s * J for s in scales])
  free = oracles.fair(J.astype(np.float64)) @ J
  for scale, direction in zip(scales, found, strict=True):
    expected = clipped(scale * free, max_norm)
    assert np.linalg.norm(direction - expected) <= 1e-5 * np.linalg.norm(expected), scale
  (_, longer) = run(optim.nash_mtl(3, max_norm=0.0, update_every=2), [J, 50 * J])
  assert np.linalg.norm(longer - 50 * free) <= 1e-5 * np.linalg.norm(50 * free)  # 0: no clip


def test_a_task_that_comes_between_updates_has_the_others_mean_weight():
  rows = 1e3 * J
  here = [[True, True, False], [True, True, True]]
  first, second = run(optim.nash_mtl(3, update_every=2), [rows, rows], here)
  pair = oracles.fair(rows[:2].astype(np.float64))
  np.testing.assert_allclose(first, clipped(pair @ rows[:2], 1.0), atol=1e-5)
  np.testing.assert_allclose(second, clipped(np.append(pair, pair.mean()) @ rows, 1.0), atol=1e-5)
  (_, free) = run(optim.nash_mtl(3, max_norm=0.0, update_every=2), [rows, rows], here)
  np.testing.assert_allclose(free, np.append(pair, pair.mean()) @ rows, atol=1e-5)


@pytest.mark.parametrize('max_norm', [0.0, 0.5])
@pytest.mark.parametrize('scale', [1e-8, 1e-3, 1.0, 1e3])
def test_the_released_codes_form_shrinks_with_the_gradients(scale, max_norm):
  """‖d‖ = min(max_norm, √(T‖G‖_F)), and the equation for G/‖G‖_F, in float64."""
  rows = (scale * J).astype(np.float64)
  gram = rows @ rows.T
  size = np.linalg.norm(gram)
  expected = oracles.fair(rows / np.sqrt(size)) @ rows
  np.testing.assert_allclose(np.linalg.norm(expected), np.sqrt(3 * size), rtol=1e-9)
  if max_norm:
    expected = clipped(expected, max_norm)
  tx = optim.nash_mtl(max_norm=max_norm, normalization='frobenius')
  (found,) = run(tx, [rows.astype(np.float32)])
  assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
  (plain,) = run(optim.nash_mtl(max_norm=max_norm), [rows.astype(np.float32)])
  np.testing.assert_allclose(np.linalg.norm(plain), max_norm or np.sqrt(3), rtol=1e-5)


def test_the_released_codes_form_of_zero_gradients_is_zero():
  (found,) = run(optim.nash_mtl(normalization='frobenius'), [0 * J])
  np.testing.assert_array_equal(found, 0.0)
  with pytest.raises(ValueError, match=r"^nash_mtl: normalization must be one of .*, not 'l2'"):
    optim.nash_mtl(normalization='l2')


@pytest.mark.parametrize(
  ('wrap', 'regime'),
  [*(('own', regime) for regime in REGIMES), ('every_k', 'shared'), ('smoothed', 'shared')],
)
def test_the_train_step_clips_like_the_chain(wrap, regime):
  """Five steps on losses that grow: directions of both forms agree, and none is too long."""
  make = {
    'own': lambda: optim.nash_mtl(3, 0.1, update_every=3),
    'every_k': lambda: optim.every_k(optim.nash_mtl(max_norm=0.1), 3, num_tasks=3),
    'smoothed': lambda: optim.every_k(optim.ema_weights(optim.nash_mtl(max_norm=0.1)), 3, 3),
  }[wrap]
  balance, batch, model = make(), REGIMES[regime](), models.model('mlp')
  state = mtl_jax.init_train_state(model, balance, optax.sgd(1.0), jax.random.key(1), batch)
  step = jax.jit(mtl_jax.make_train_step(model, balance, optax.sgd(1.0), jit=False))
  rows_of = jax.jit(lambda params: mtl_jax.task_gradients(model, params, batch)[1]['shared'])
  chain_state, update = balance.init(state.params['shared']), jax.jit(balance.update)
  for index in range(5):
    params = jax.tree.map(lambda p: 1.5 * p, state.params)
    rows = rows_of(params)
    expected, chain_state = update(rows, chain_state)
    state, metrics = step(state.replace(params=params), batch)
    moved = jax.tree.map(lambda a, b: a - b, params['shared'], state.params['shared'])
    models.assert_trees_close(moved, expected, 1e-4)
    assert optax.tree.norm(expected) <= 0.1 * (1 + 1e-6)
    models.assert_trees_close(gradients.combine(metrics['weight'], rows), expected)
    assert bool(np.isnan(metrics['cosine']).all()) == (index % 3 != 0)  # held: no Gramian


@pytest.mark.parametrize(('options', 'length'), [({}, 0.1), ({'at': 'representation'}, 0.1)])
def test_every_way_of_the_train_step_bounds_the_shared_gradient(options, length):
  balance, batch, model = optim.nash_mtl(max_norm=length), REGIMES['shared'](), models.model('mlp')
  state = mtl_jax.init_train_state(model, balance, optax.sgd(1.0), jax.random.key(1), batch)
  before = jax.tree.map(jnp.copy, state.params)
  state, _ = mtl_jax.make_train_step(model, balance, optax.sgd(1.0), **options)(state, batch)
  moved = jax.tree.map(lambda a, b: a - b, before['shared'], state.params['shared'])
  np.testing.assert_allclose(optax.tree.norm(moved), length, rtol=1e-4)


@pytest.mark.parametrize('scale', [1e-30, 1.0, 1e15, 1e25])
def test_bounded_at_any_float32_scale(scale):
  """Where the square of the norm is no float32 too."""
  weighting = _base.Weighting(tuple, tuple, 'gramian', max_norm=lambda state: jnp.float32(2.0))
  direction = {'a': jnp.full(3, scale, jnp.float32), 'b': jnp.full((), -scale, jnp.float32)}
  found, weights = _base.bounded(weighting, (), direction, jnp.ones(2))
  factor = min(1.0, 2.0 / (2.0 * scale))
  np.testing.assert_allclose(found['a'], scale * factor, rtol=1e-6)
  np.testing.assert_allclose(found['b'], -scale * factor, rtol=1e-6)
  np.testing.assert_allclose(weights, factor, rtol=1e-6)
