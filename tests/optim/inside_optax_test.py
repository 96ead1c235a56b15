"""Balancers among optax's own wrappers: what works, and what is refused before it goes wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import optim

PARAMS = {'trunk': jnp.array([1.0, -2.0]), 'frozen': jnp.array([0.5])}
MASK = {'trunk': True, 'frozen': False}


def losses(params, x):
  out = x @ params['trunk'] + params['frozen']
  return jnp.stack([jnp.mean(out**2), jnp.mean((out - 3.0) ** 2)])


def train(tx, steps=4):
  """Parameters after some steps, whose updates have the parameters' shapes."""
  params, state = PARAMS, tx.init(PARAMS)
  for step in range(steps):
    x = np.random.default_rng(step).normal(size=(5, 2)).astype(np.float32)
    values, grads = mtl_jax.task_gradients(losses, params, x)
    updates, state = tx.update(grads, state, params, losses=values)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    params = optax.apply_updates(params, updates)
  return params


AROUND = {
  'masked': lambda tx: optax.masked(tx, MASK),
  'partition': lambda tx: optax.partition(
    {'train': tx, 'hold': optax.set_to_zero()}, {'trunk': 'train', 'frozen': 'hold'}
  ),
}


@pytest.mark.parametrize('wrapper', AROUND)
@pytest.mark.parametrize('balancer', [optim.pcgrad, optim.graddrop, optim.sum_tasks])
def test_a_masked_tree_is_refused(wrapper, balancer):
  tx = AROUND[wrapper](optax.chain(balancer(), optax.sgd(0.1)))
  with pytest.raises(ValueError, match='balance first, then mask'):
    tx.init(PARAMS)


@pytest.mark.parametrize('wrapper', AROUND)
def test_balance_then_mask(wrapper):
  """The frozen part stays, and the rest takes the step that it takes without a wrapper."""
  hold = {} if wrapper == 'partition' else {'frozen': False, 'trunk': True}
  after = AROUND[wrapper](optax.sgd(0.1))
  if hold:  # what a mask leaves out passes unchanged
    after = optax.chain(after, optax.masked(optax.set_to_zero(), {'trunk': False, 'frozen': True}))
  found = train(optax.chain(optim.upgrad(), after), steps=1)
  plain = train(optax.chain(optim.upgrad(), optax.sgd(0.1)), steps=1)
  np.testing.assert_array_equal(found['frozen'], PARAMS['frozen'])
  np.testing.assert_array_equal(found['trunk'], plain['trunk'])


def test_accumulation_goes_after_the_balancer():
  """`MultiSteps` takes the mean of balanced directions; around the chain it is an error."""
  steps = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
  with jax.numpy_dtype_promotion('standard'):  # optax counts on it
    found = train(optax.chain(optim.pcgrad(order='index'), steps), steps=2)
  params, directions = PARAMS, []
  for step in range(2):
    x = np.random.default_rng(step).normal(size=(5, 2)).astype(np.float32)
    _, grads = mtl_jax.task_gradients(losses, params, x)
    tx = optim.pcgrad(order='index')
    directions.append(tx.update(grads, tx.init(params), params)[0])
  mean = jax.tree.map(lambda *d: sum(d) / 2, *directions)
  jax.tree.map(
    lambda f, p, d: np.testing.assert_allclose(f, p - 0.1 * d, rtol=1e-5), found, PARAMS, mean
  )
  around = optax.MultiSteps(optax.chain(optim.pcgrad(), optax.sgd(0.1)), 2)
  error = pytest.raises(ValueError, match=r'optax\.MultiSteps, goes after the balancer')
  with error, jax.numpy_dtype_promotion('standard'):
    train(around)


def test_a_step_that_is_not_finite_is_left_out():
  """`apply_if_finite` around what follows the balancer."""
  tx = optax.chain(optim.sum_tasks(), optax.apply_if_finite(optax.sgd(0.1), 3))
  grads = jax.tree.map(lambda p: jnp.full((2, *p.shape), jnp.nan), PARAMS)
  updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS, losses=jnp.ones(2))
  jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0.0), updates)
