"""Advantages for several rewards, against NumPy written group by group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import optim

T, PROMPTS, ROLLOUTS = 3, 4, 5


def relative(values, eps=1e-4, scale=True):
  """(x − mean)/(std + ε) of a plain list of numbers, the deviation that of a sample."""
  values = np.asarray(values, np.float64)
  deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
  return (values - values.mean()) / (deviation + eps if scale else 1.0)


def grpo(rewards, weights, mask, scale=True):
  """By prompt, and in it rollout by rollout."""
  advantages = np.zeros(rewards.shape[1:])
  for prompt in range(rewards.shape[1]):
    there = [r for r in range(rewards.shape[2]) if mask[:, prompt, r].any()]
    if not there:
      continue
    sums = [
      sum(weights[i] * rewards[i, prompt, r] for i in range(len(weights)) if mask[i, prompt, r])
      for r in there
    ]
    advantages[prompt, there] = relative(sums, scale=scale)
  return advantages


def gdpo(rewards, weights, mask, scale=True, whiten=True):
  advantages = np.zeros(rewards.shape[1:])
  for task in range(len(rewards)):
    for prompt in range(rewards.shape[1]):
      there = np.flatnonzero(mask[task, prompt])
      if len(there):
        own = relative(rewards[task, prompt, there], scale=scale)
        advantages[prompt, there] += weights[task] * own
  there = mask.any(axis=0)
  if whiten and there.any():
    advantages[there] = relative(advantages[there])
  return advantages


def drawn(seed=0, share=1.0):
  rng = np.random.default_rng(seed)
  rewards = rng.normal(size=(T, PROMPTS, ROLLOUTS)) * np.array([1.0, 10.0, 0.1])[:, None, None]
  mask = rng.random((T, PROMPTS, ROLLOUTS)) < share
  return rewards, rng.uniform(0.2, 2.0, T), mask


@pytest.mark.parametrize('share', [1.0, 0.6, 0.2])
@pytest.mark.parametrize('scale', [True, False])
def test_sum_then_normalize(share, scale):
  rewards, weights, mask = drawn(1, share)
  given = np.where(mask, rewards, np.nan)  # what is masked may be anything
  found = jax.jit(lambda r, m: optim.sum_then_normalize(r, weights, m, scale=scale))(given, mask)
  np.testing.assert_allclose(found, grpo(rewards, weights, mask, scale), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('share', [1.0, 0.6, 0.2])
@pytest.mark.parametrize('whiten', [True, False])
@pytest.mark.parametrize('scale', [True, False])
def test_normalize_then_sum(share, scale, whiten):
  rewards, weights, mask = drawn(1, share)
  given = np.where(mask, rewards, np.nan)
  options = {'scale': scale, 'whiten': whiten}
  found = jax.jit(lambda r, m: optim.normalize_then_sum(r, weights, m, **options))(given, mask)
  expected = gdpo(rewards, weights, mask, **options)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('method', [optim.sum_then_normalize, optim.normalize_then_sum])
def test_the_group_may_stand_on_any_axis_but_the_first(method):
  rewards, _, mask = drawn(2, 0.7)
  expected = method(jnp.asarray(rewards), mask=jnp.asarray(mask))
  turned = method(jnp.swapaxes(rewards, 1, 2), mask=jnp.swapaxes(mask, 1, 2), axis=1)
  np.testing.assert_allclose(turned.T, expected, rtol=1e-5, atol=1e-6)
  one = method(jnp.asarray(rewards)[:, 0])
  assert one.shape == (ROLLOUTS,)


def test_what_the_two_tell_apart():
  """The paper's case: of two binary rewards, (0, 1), (0, 2) and (1, 1) met."""
  met = jnp.array([[[0.0, 1.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]])  # [T, prompts, rollouts]
  np.testing.assert_allclose(optim.sum_then_normalize(met), [[-0.7071, 0.7071]] * 2, rtol=1e-3)
  apart = optim.normalize_then_sum(met, whiten=False)
  np.testing.assert_allclose(apart, [[-0.7071, 0.7071], [-1.4142, 1.4142]], rtol=1e-3)


def test_scale_of_a_reward_does_not_matter_once_it_is_normalized():
  rewards, weights, _ = drawn(3)
  scaled = rewards * np.array([100.0, 1.0, 1.0])[:, None, None]
  first, second = (optim.normalize_then_sum(jnp.asarray(r), weights) for r in (rewards, scaled))
  np.testing.assert_allclose(first, second, rtol=5e-3, atol=1e-3)  # but for ε
  first, second = (optim.sum_then_normalize(jnp.asarray(r), weights) for r in (rewards, scaled))
  assert not np.allclose(first, second, atol=0.1)


@pytest.mark.parametrize('method', [optim.sum_then_normalize, optim.normalize_then_sum])
def test_groups_that_say_nothing(method):
  np.testing.assert_array_equal(method(jnp.ones((2, 3, 4))), 0.0)
  np.testing.assert_array_equal(method(jnp.arange(6.0).reshape(2, 3, 1)), 0.0)
  np.testing.assert_array_equal(method(jnp.full((2, 3, 4), jnp.nan), mask=jnp.array(False)), 0.0)
  slope = jax.grad(lambda r: jnp.sum(method(r) ** 2))(jnp.arange(8.0).reshape(2, 4))
  np.testing.assert_array_equal(slope, 0.0)


@pytest.mark.parametrize('method', [optim.sum_then_normalize, optim.normalize_then_sum])
@pytest.mark.parametrize(
  ('shape', 'options', 'message'),
  [
    ((3,), {}, r'axis=-1 is none of shape \(3,\)'),
    ((2, 3), {'axis': 0}, 'axis=0 is none'),
    ((2, 3), {'axis': 2}, 'axis=2 is none'),
    ((2, 3), {'axis': -2}, 'axis=-2 is none'),
    ((2, 3), {'weights': [1.0]}, r'weights have shape \(1,\), and there are 2 rewards'),
    ((2, 3), {'mask': np.ones((3, 2), bool)}, r'mask of shape \(3, 2\) does not broadcast'),
  ],
)
def test_errors(method, shape, options, message):
  with pytest.raises(ValueError, match=message):
    method(jnp.ones(shape), **options)
