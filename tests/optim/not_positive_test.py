"""Losses of 0 and below, where a method has a logarithm or a ratio of losses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import optim
from mtl_jax.optim import _base
from tests.optim import oracles_losses as oracles
from tests.optim.contract_test import CASES, PARAMS, close, stacked, update_of
from tests.optim.losses_test import single, weigher

EVERYONE, OTHERS = jnp.ones(3, bool), jnp.array([True, True, False])


@pytest.mark.parametrize(
  ('name', 'loss'),
  list(itertools.product(('geometric_mean', 'famo', 'db_mtl', 'go4align'), (0.0, -1.0, -1e30)))
  + [('moco', -1.0), ('moco', -1e30)],  # at 0 its gradient has the length 0
)
def test_left_out_like_an_absent_task(name, loss):
  """Direction and state, on a first step and on a later one, and what comes after."""
  tx = optim.get(name, **CASES[name])
  update = jax.jit(lambda g, s, x, p: tx.update(g, s, PARAMS, losses=x, present=p))
  bad, good = jnp.array([1.0, 2.0, loss]), jnp.array([1.0, 2.0, 0.5])
  for first in (bad, good):
    state = absent = tx.init(PARAMS)
    if first is good:
      _, state = update(stacked(0), state, good, EVERYONE)
      absent = state
    direction, state = update(stacked(1), state, bad, EVERYONE)
    expected, absent = update(stacked(1), absent, bad, OTHERS)
    close((direction, state), (expected, absent))
    close(update(stacked(2), state, good, EVERYONE), update(stacked(2), absent, good, EVERYONE))


@pytest.mark.parametrize('name', [name for name in CASES if name != 'normalize_task_gradients'])
def test_no_weight_and_no_step_explodes(name):
  """Against losses of ½: a loss of 0 or −1 makes no direction 100 times as long."""
  tx, update = optim.get(name, **CASES[name]), update_of(name)

  def longest(loss):
    state, lengths = tx.init(PARAMS), []
    for seed in range(3):
      losses = jnp.array([1.0, 2.0, loss])
      found, state = update(stacked(seed), state, losses, EVERYONE)
      lengths.append(float(optax.tree.norm(found)))
    return max(lengths)

  usual = longest(0.5)
  assert max(longest(0.0), longest(-1.0)) <= 100 * usual


def test_famo_leaves_out_what_is_not_above_its_bound():
  tx, pair = (optim.famo(num_tasks=n, min_losses=[-2.0, 0.5, 1.0][:n]) for n in (3, 2))
  weigh, weigh_pair = weigher(tx), weigher(pair)
  weights, state = weigh(tx.init({}), single([-1.0, 2.0, 1.0]))
  expected, _ = weigh_pair(pair.init({}), single([-1.0, 2.0]), EVERYONE[:2])
  np.testing.assert_allclose(weights, [*expected, 0.0], rtol=1e-6)
  np.testing.assert_allclose(expected, [1.5 / 2.5, 1.0 / 2.5], rtol=1e-6)  # ∝ 1/(L − b)
  assert np.isnan(state.losses[2])
  after = single([-1.5, 1.0, 0.5])
  seen = {'losses': single([-1.0, 2.0, 3.0]), 'new_losses': after, 'present': EVERYONE}
  state = tx.weighting.follow(tx.init({}), **seen)  # fell below its bound: nothing to learn from
  alone = pair.weighting.follow(pair.init({}), **{k: v[:2] for k, v in seen.items()})
  np.testing.assert_allclose(state.logits, [*alone.logits, 0.0], atol=1e-7)
  assert np.ptp(alone.logits) > 0


@pytest.mark.parametrize(('name', 'start'), [('uncertainty', 0.5), ('imtl_l', 1.0)])
@pytest.mark.parametrize('loss', [0.0, -1.0])
def test_learned_scales_stand_still(name, start, loss):
  """In 2000 steps of 0.1 the weight would be infinite; then it learns as from the start."""
  tx = optim.get(name, num_tasks=3, learning_rate=0.1)
  weighting = tx.weighting

  def steps(count, state, losses):
    def step(state, _):
      weights, state = _base.weigh(weighting, state, losses=losses, present=EVERYONE)
      return state, weights

    return jax.lax.scan(step, state, length=count)

  state, weights = jax.jit(steps, static_argnums=0)(2000, tx.init({}), single([2.0, 0.5, loss]))
  np.testing.assert_allclose(weights[-1], [start / 2.0, start / 0.5, start], rtol=1e-3)
  np.testing.assert_array_equal(weights[:, 2], start)
  _, moved = steps(2, state, single([2.0, 0.5, 3.0]))
  assert moved[1][2] != start


def test_dwa_where_means_are_not_positive():
  """Against the softmax of: 1 where there is no rate, 0 for a mean below 0."""
  tx = optim.dwa(num_tasks=4, temperature=2.0)
  weigh, state = weigher(tx), tx.init({})
  here = jnp.ones(4, bool)
  for losses in ([-1.0, 1e-9, 2.0, 0.0], [-2.0, -1.0, 1.0, 3.0]):
    _, state = weigh(state, single(losses), here)
  weights, _ = weigh(state, single([1.0] * 4), here)
  expected = 4 * oracles.softmax(np.array([1.0, 0.0, 0.5, 1.0]) / 2)
  np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_gradnorm_counts_a_loss_below_zero_as_zero_and_waits_for_a_first_above():
  tx = optim.gradnorm(num_tasks=3, learning_rate=0.1)
  update = jax.jit(tx.update)
  states = []
  for third in (-5.0, 0.0):
    _, state = update(stacked(0), tx.init(PARAMS), losses=jnp.array([1.0, 2.0, third]))
    assert np.isnan(state.first_losses[2])
    _, state = update(stacked(1), state, losses=jnp.array([0.5, 1.5, 4.0]))
    assert float(state.first_losses[2]) == 4.0
    _, state = update(stacked(2), state, losses=jnp.array([0.5, 1.5, third]))
    states.append(state)
  close(*states)
