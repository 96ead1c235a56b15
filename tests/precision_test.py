"""On a GPU, a float32 product without a precision is one of TF32: none of J or G may be.

Read off the jaxprs: tests run on CPUs, which have no TF32; `benchmarks/device.sh` measures it on a
GPU. The models here have no product of their own, so that every one found is ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core

import mtl_jax
from mtl_jax import optim
from tests.optim.contract_test import CASES, LOSSES, PARAMS, T, stacked

# Solvers of a GPU's libraries, whose inner products take no precision.
DECOMPOSITIONS = ('cholesky', 'eigh', 'geqrf', 'householder_product', 'lu', 'qr', 'svd')
DECOMPOSITIONS += ('schur', 'triangular_solve')
HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
WRAPPED = {
  'every_k': lambda: optim.every_k(optim.mgda(), 2, num_tasks=T),
  'ema_weights': lambda: optim.ema_weights(optim.upgrad(), 0.5, num_tasks=T),
  'ema_gramian': lambda: optim.ema_gramian(optim.cagrad(), 0.5, num_tasks=T),
  'with_warmup': lambda: optim.with_warmup(optim.graddrop(), 3),
  'clip_conflict': lambda: optim.clip_conflict(optim.sum_tasks(), 0.5),
  'by_group': lambda: optim.by_group(optim.imtl_g(), 'matrix'),
  'compose': lambda: optim.compose(optim.gradnorm(num_tasks=T), optim.pcgrad()),
}


def equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in core.jaxprs_in_params(equation.params):
      yield from equations(inner)


def inexact(function, *args):
  """The products and decompositions that a GPU would round further than float32, as text."""
  found = []
  for equation in equations(jax.make_jaxpr(function)(*args).jaxpr):
    name, operands = equation.primitive.name, [v.aval.dtype for v in equation.invars]
    if name == 'dot_general':
      narrow = jnp.float32 in operands and equation.params['precision'] != HIGHEST
      # Products of bfloat16 are exact in float32, unless they are added up in bfloat16.
      rounded = equation.outvars[0].aval.dtype == jnp.bfloat16
    else:
      narrow, rounded = name in DECOMPOSITIONS and jnp.float64 not in operands, False
    if narrow or rounded:
      found.append(f'{name} of {[str(v.aval) for v in equation.invars]}')
  return found


def losses_at(params):
  """`[T]`, smooth, without a product."""
  shifted = [jnp.sum((leaf - 1.0) ** 2) for leaf in jax.tree.leaves(params)]
  return LOSSES * sum(shifted) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', [*CASES, *WRAPPED])
def test_a_method_multiplies_in_full_precision(name, dtype):
  tx = WRAPPED[name]() if name in WRAPPED else optim.get(name, **CASES[name])
  grads = jax.tree.map(lambda leaf: leaf.astype(dtype), stacked())
  told = {'losses': LOSSES, 'loss_fn': losses_at, 'validation_fn': losses_at}
  update = lambda grads, state: tx.update(grads, state, PARAMS, **told)  # noqa: E731
  assert not inexact(update, grads, tx.init(PARAMS))


class Elementwise:
  """Two halves without a product: features are the inputs, scaled."""

  task_names = ('a', 'b', 'c')

  def encode(self, shared, inputs, key):
    return jnp.tanh(inputs * shared['scale'] + shared['shift'])

  def task_loss(self, name, task_params, features, example, key):
    error = jnp.sum(features * task_params['scale'], axis=1) - example['targets']
    return jnp.mean(error**2), jnp.full((), error.shape[0], jnp.float32)


@pytest.mark.parametrize('own', [False, True], ids=['shared inputs', 'own inputs'])
@pytest.mark.parametrize(
  ('balance', 'options'),
  [
    (optim.uncertainty, {'unit_task_weights': True, 'monitor': True}),
    (optim.pcgrad, {'monitor': True}),
    (optim.upgrad, {'jacobian': 'sequential'}),
    (optim.nash_mtl, {'jacobian': 'matrix_free', 'monitor': True}),
    (optim.aligned_mtl, {'at': 'representation', 'monitor': True}),
    (optim.sdmgrad, {'monitor': True}),
    (optim.graddrop, {'monitor': True}),
    (optim.auto_lambda, {'monitor': True}),
  ],
)
def test_a_step_multiplies_in_full_precision(balance, options, own):
  rng = np.random.default_rng(0)
  model = Elementwise()
  inputs = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)
  targets = {name: jnp.asarray(rng.normal(size=8), jnp.float32) for name in model.task_names}
  batch = {'inputs': inputs, 'targets': targets}
  if own:
    batch = {name: {'inputs': inputs, 'targets': targets[name]} for name in targets}
  params = {
    'shared': {'scale': jnp.ones((1, 5)), 'shift': jnp.zeros((1, 5))},
    'tasks': {name: {'scale': jnp.ones((1, 5))} for name in model.task_names},
  }
  method, optimizer = balance(), optax.sgd(0.1)
  state = mtl_jax.init_train_state(
    model, method, optimizer, jax.random.key(0), batch, params=params
  )
  step = mtl_jax.make_train_step(model, method, optimizer, jit=False, **options)
  assert not inexact(step, state, batch)


def test_what_is_looked_for_is_found():
  """Inside loops and branches too, and in none of the forms that are full."""
  x = jnp.ones((3, 3))
  half = x.astype(jnp.bfloat16)
  loop = lambda x: jax.lax.fori_loop(0, 2, lambda _, y: y @ x, x)  # noqa: E731
  branch = lambda x: jax.lax.cond(x[0, 0] > 0, lambda: jnp.einsum('ij,jk', x, x), lambda: x)  # noqa: E731
  for function in (lambda x: x @ x, loop, branch, jax.jit(loop), jnp.linalg.eigh):
    assert inexact(function, x)
  assert inexact(lambda h: h @ h, half)
  assert not inexact(lambda x: jnp.dot(x, x, precision='highest'), x)
  assert not inexact(lambda h: jnp.dot(h, h, preferred_element_type=jnp.float32), half)
