"""Sharpness-aware steps on quadratic losses, whose gradients have a closed form, and in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import config as config_lib
from mtl_jax import gradients, optim
from mtl_jax.build import balance as balance_lib
from tests import models
from tests.config.config_test import _config
from tests.optim import oracles
from tests.optim.oracles_quadratic import ORDERS, Quadratics
from tests.optim.oracles_solvers import shortest_in_hull

RHO, T = 0.3, 3
PROBLEM = Quadratics()
METHODS = {
  'sum_tasks': (optim.sum_tasks, lambda rows: rows.sum(0)),
  'mgda': (optim.mgda, shortest_in_hull),
  'pcgrad': (lambda: optim.pcgrad(order='index'), lambda rows: oracles.pcgrad(rows, ORDERS)),
}


def split(x):
  return {'a': x[..., :2], 'b': x[..., 2:]}


def flat(tree):
  return np.concatenate([np.asarray(tree['a'], np.float64), np.asarray(tree['b'], np.float64)])


def loss_fn(params):
  rest = jnp.concatenate([params['a'], params['b']])[None]
  rest = rest - jnp.asarray(PROBLEM.centers, jnp.float32)
  matrices = jnp.asarray(PROBLEM.matrices, jnp.float32)
  return 0.5 * jnp.einsum('td,tde,te->t', rest, matrices, rest)


def update(tx, state=None, **known):
  start = split(jnp.asarray(PROBLEM.start, jnp.float32))
  state = tx.init_tasks(start, T) if state is None else state
  return tx.update(None, state, start, loss_fn=loss_fn, **known)


def uphill(rows, rho=RHO):
  """The jacobian where each task is a step along its row away."""
  steps = rho * rows / np.linalg.norm(rows, axis=1)[:, None]
  return np.stack([PROBLEM.jacobian(PROBLEM.start + s)[i] for i, s in enumerate(steps)])


@pytest.mark.parametrize('method', METHODS)
def test_f_mtl_balances_the_gradients_and_what_the_step_adds(method):
  make, oracle = METHODS[method]
  direction, state = jax.jit(lambda: update(optim.sharpness_aware(make(), RHO)))()
  rows = PROBLEM.jacobian(PROBLEM.start)
  expected = oracle(rows) + oracle(uphill(rows) - rows)
  np.testing.assert_allclose(flat(direction), expected, rtol=1e-4, atol=1e-5)
  assert jax.tree.structure(state.inner) == jax.tree.structure(state.flat)


@pytest.mark.parametrize('method', METHODS)
def test_sam_goes_up_the_mean_for_all(method):
  make, oracle = METHODS[method]
  direction, _ = jax.jit(lambda: update(optim.sharpness_aware(make(), RHO, 'sam')))()
  mean = PROBLEM.jacobian(PROBLEM.start).mean(0)
  expected = oracle(uphill(np.tile(mean, (T, 1))))
  np.testing.assert_allclose(flat(direction), expected, rtol=1e-4, atol=1e-5)
  same, _ = update(optim.sharpness_aware(make(), RHO, 'samo', local=0.0))
  np.testing.assert_allclose(flat(same), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('local', [0.4, 1.0])
def test_samo_mixes_in_a_direction_that_is_uphill_for_the_task(local):
  key = jax.random.key(7)
  tx = optim.sharpness_aware(optim.sum_tasks(), RHO, 'samo', local=local)
  direction, _ = jax.jit(lambda: update(tx, key=key))()
  rows = PROBLEM.jacobian(PROBLEM.start)
  mean, mixed = rows.mean(0), []
  for i in range(T):
    keys = jax.random.split(jax.random.fold_in(key, i), 2)
    noise = [np.asarray(jax.random.normal(keys[n - 2], (n,)), np.float64) for n in (2, 3)]
    up = np.sign(rows[i] @ np.concatenate(noise))
    parts = [
      np.linalg.norm(g) * up * z / np.linalg.norm(z)
      for g, z in zip((mean[:2], mean[2:]), noise, strict=True)
    ]
    mixed.append((1 - local) * mean + local * np.concatenate(parts))
  expected = uphill(np.array(mixed)).sum(0)
  np.testing.assert_allclose(flat(direction), expected, rtol=1e-4, atol=1e-5)


def test_samo_draws_anew_at_each_step():
  tx = optim.sharpness_aware(optim.sum_tasks(), RHO, 'samo')
  first, state = update(tx)
  second, _ = update(tx, state)
  again, _ = update(tx)
  np.testing.assert_array_equal(flat(again), flat(first))
  assert not np.allclose(flat(first), flat(second), atol=1e-4)


def test_an_absent_task_and_a_stationary_one():
  tx = optim.sharpness_aware(optim.sum_tasks(), RHO)
  start = split(jnp.asarray(PROBLEM.centers[1], jnp.float32))  # where the second loss is lowest
  present = jnp.array([True, True, False])

  def losses(params):
    return jnp.where(present, loss_fn(params), 0.0)

  direction, _ = tx.update(None, tx.init(start), start, loss_fn=losses, present=present)
  x = PROBLEM.centers[1]
  own = PROBLEM.jacobian(x)[0]
  expected = PROBLEM.jacobian(x + RHO * own / np.linalg.norm(own))[0]
  np.testing.assert_allclose(flat(direction), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['f_mtl', 'sam'])
def test_in_a_train_step_on_the_whole_batch(kind):
  """Both halves, each a step of its own length uphill; no example is held out."""
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  balance, optimizer = optim.sharpness_aware(optim.sum_tasks(), RHO, kind), optax.sgd(1.0)
  state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(1), batch)
  params = jax.tree.map(jnp.array, state.params)
  step = mtl_jax.make_train_step(model, balance, optimizer, jit=False)
  moved, metrics = step(state, batch)

  def losses(params):
    return gradients.losses_and_gradients(model, params, batch, None)[0]

  def loss(i):
    return lambda p: losses(p)[i]

  def up(tree, slope):
    factor = RHO / jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(slope)))
    return jax.tree.map(lambda p, g: p + factor * g, tree, slope)

  total = jax.tree.map(jnp.zeros_like, params)
  mean = jax.grad(lambda p: jnp.mean(losses(p)))(params)
  for i, name in enumerate(model.task_names):
    towards = mean if kind == 'sam' else jax.grad(loss(i))(params)
    tasks = params['tasks'] | {name: up(params['tasks'][name], towards['tasks'][name])}
    point = {'shared': up(params['shared'], towards['shared']), 'tasks': tasks}
    total = jax.tree.map(jnp.add, total, jax.grad(loss(i))(point))
  expected = jax.tree.map(jnp.subtract, params, total)
  models.assert_trees_close(moved.params, expected, 2e-4)
  np.testing.assert_allclose(metrics['loss'], losses(params), rtol=1e-5)


def test_from_a_config():
  (run,) = config_lib.resolve(_config(**{'balance.name': 'pcgrad', 'balance.sharpness': 0.1}))
  balance = balance_lib.build_balance(run)
  assert balance.needs == 'functions'
  assert not balance.validates
  (plain,) = config_lib.resolve(_config(**{'balance.name': 'pcgrad'}))
  assert 'sharpness' not in plain['balance']  # runs begun before it go on
  assert balance_lib.build_balance(plain).needs == 'gramian'


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: optim.sharpness_aware(optim.moml(), 0.1), 'takes a balancer of gradients'),
    (lambda: optim.sharpness_aware(optim.gradnorm(), 0.1), 'takes a balancer of gradients'),
    (lambda: optim.sharpness_aware(optim.modo(), 0.1), 'independent batches'),
    (lambda: optim.sharpness_aware(optim.mgda(), 0.0), 'rho must be positive'),
    (lambda: optim.sharpness_aware(optim.mgda(), 0.1, 'asam'), 'kind must be one of'),
    (lambda: optim.sharpness_aware(optim.mgda(), 0.1, 'samo', local=2), 'local must be between'),
    (lambda: optim.sharpness_aware(optim.mgda(), 0.1).update(None, None, 1.0), 'needs loss_fn='),
  ],
)
def test_errors(make, message):
  with pytest.raises(ValueError, match=message):
    make()
