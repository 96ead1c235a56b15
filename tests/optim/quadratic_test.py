"""Six steps of the methods with a state on quadratic losses, where each direction moves the next.

Both sides are on their own from the start: the package in float32 on a pytree, with gradients by
JAX, the oracle in float64. Here are the methods whose other tests give them random gradients;
those on losses, SDMGrad, MoDo and those on a validation batch move along quadratics there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import optim
from tests.optim import oracles
from tests.optim import oracles_quadratic as exact

RATE, STEPS, T = 0.1, 6, 3
PROBLEM = exact.Quadratics()
# Fast enough that signs in GradNorm's slope change; no norm comes within 1% of its target. Faster
# still, Adam's 1 − 0.999^t, which float32 knows to 1e-5, would show.
GRADNORM = {'alpha': 1.5, 'learning_rate': 0.1}
MOCO = {'beta': 0.6, 'beta_sigma': 0.3, 'gamma': 1.0, 'gamma_sigma': 0.7, 'rho': 0.1}
MOCO_PAPER = MOCO | {'gamma': 0.1, 'normalize': False, 'projection': 'simplex'}
MOCO |= {'normalize': True, 'projection': 'softmax'}
SDMGRAD = {'lam': 0.3, 'steps': 20, 'learning_rate': 0.5, 'momentum': 0.5}


def gradnorm(**options):
  return optim.gradnorm(num_tasks=T, **GRADNORM, **options)


def gradvac():
  return optim.gradvac(num_tasks=T, beta=0.5, order='index')


def by_index():
  return optim.pcgrad(order='index')


CASES = {
  'gradnorm': (
    lambda: optax.chain(gradnorm(), optim.sum_tasks()),
    lambda: exact.gradnorm(**GRADNORM),
  ),
  'gradnorm composed': (
    lambda: optim.compose(gradnorm(), optim.sum_tasks()),
    lambda: exact.gradnorm(**GRADNORM),
  ),
  'gradnorm of one leaf': (
    lambda: optim.compose(gradnorm(parameters='b'), optim.sum_tasks()),
    lambda: exact.gradnorm(**GRADNORM, columns=slice(2, 5)),
  ),
  'gradnorm, then pcgrad': (
    lambda: optim.compose(gradnorm(), by_index()),
    lambda: exact.gradnorm(**GRADNORM, balance=lambda rows: oracles.pcgrad(rows, exact.ORDERS)),
  ),
  'gradvac': (gradvac, lambda: exact.gradvac(0.5)),
  'moco': (lambda: optim.moco(num_tasks=T, **MOCO), lambda: exact.moco(**MOCO)),
  'moco of the paper': (
    lambda: optim.moco(num_tasks=T, **MOCO_PAPER),
    lambda: exact.moco(**MOCO_PAPER),
  ),
  'db_mtl': (
    lambda: optim.db_mtl(num_tasks=T, beta=0.7, beta_sigma=0.5),
    lambda: exact.db_mtl(0.7, 0.5),
  ),
  'excess_mtl': (
    lambda: optim.excess_mtl(num_tasks=T, robust_step_size=0.4),
    lambda: exact.excess_mtl(0.4),
  ),
  'nash_mtl every 2': (
    lambda: optim.nash_mtl(num_tasks=T, update_every=2),
    lambda: exact.every_k(exact.nash, 2, max_norm=1.0),
  ),
  'gradvac every 3': (
    lambda: optim.every_k(gradvac(), 3, num_tasks=T),
    lambda: exact.every_k(exact.gradvac(0.5), 3),
  ),
  'cr_mogm of mgda': (
    lambda: optim.cr_mogm('mgda', 0.7, num_tasks=T),
    lambda: exact.ema_weights(exact.mgda, 0.7),
  ),
  'cr_mogm of sdmgrad': (
    lambda: optim.cr_mogm('sdmgrad', 0.7, T, {'num_tasks': T, **SDMGRAD}),
    lambda: exact.ema_weights(exact.sdmgrad(**SDMGRAD), 0.7),
  ),
  'ema_gramian of mgda': (
    lambda: optim.ema_gramian(optim.mgda(), 0.6, num_tasks=T),
    lambda: exact.ema_gramian(exact.mgda, 0.6),
  ),
  'ema_gramian of pcgrad': (
    lambda: optim.ema_gramian(by_index(), 0.6, num_tasks=T),
    lambda: exact.ema_gramian(exact.pcgrad, 0.6),
  ),
  'gradnorm warmed up': (
    lambda: optim.with_warmup(optim.compose(gradnorm(), optim.sum_tasks()), 2),
    lambda: exact.with_warmup(exact.gradnorm(**GRADNORM), 2),
  ),
  'moco warmed up': (
    lambda: optim.with_warmup(optim.moco(num_tasks=T, **MOCO), 2),
    lambda: exact.with_warmup(exact.moco(**MOCO), 2),
  ),
  'famo warmed up': (
    lambda: optim.with_warmup(optim.famo(num_tasks=T), 2),
    lambda: exact.with_warmup(exact.famo(0.025, 1e-3), 2),
  ),
}


def losses_of(params):
  rest = jnp.concatenate([params['a'], params['b']])[None] - single(PROBLEM.centers)
  return 0.5 * jnp.einsum('ti,tij,tj->t', rest, single(PROBLEM.matrices), rest, precision='highest')


def single(x):
  return jnp.asarray(x, jnp.float32)


def descend(tx):
  """Parameters and states after each step."""

  def step(carry, _):
    params, state = carry
    losses, grads = losses_of(params), jax.jacrev(losses_of)(params)
    direction, state = tx.update(grads, state, params, losses=losses)
    params = jax.tree.map(lambda x, d: x - RATE * d, params, direction)
    return (params, state), (params, state)

  params = {'a': single(PROBLEM.start[:2]), 'b': single(PROBLEM.start[2:])}
  return jax.jit(lambda start: jax.lax.scan(step, start, length=STEPS)[1])(
    (params, tx.init(params))
  )


def at(state, path):
  """What lies at a path such as 'inner.0.weights'; a pytree as one array."""
  for name in path.split('.'):
    state = state[int(name)] if name.isdigit() else getattr(state, name)
  return flat(state) if isinstance(state, dict) else state


def flat(tree):
  return np.concatenate([tree['a'], tree['b']], axis=-1)


@pytest.mark.parametrize('name', CASES)
def test_six_steps(name):
  make, oracle = CASES[name]
  params, states = descend(make())
  for t, (x, numbers) in enumerate(exact.descend(PROBLEM, oracle(), RATE, STEPS)):
    error = np.linalg.norm(flat(params)[t] - x)
    assert error <= 1e-5 * np.linalg.norm(x), t
    for path, expected in numbers.items():
      actual = at(states, path)[t]
      np.testing.assert_allclose(actual, expected, 1e-5, 1e-6, err_msg=f'{path}, step {t}')
