"""What the tests of encoders share: random parameters, every mode of a call, steps of a run."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax.build import program as program_lib


def params(module, inputs, seed=0):
  """Random parameters of a module's shapes: no bias is zero, no scale one."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)['params']
  return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)


def exact(tree):
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def two_steps(run, data):
  """The parameters before and after two steps of a run, compiled once."""
  program = program_lib.program(run, data, 2)
  state = program.init(0)
  before = jax.tree.map(np.asarray, state.params)
  for _ in range(2):
    state, metrics = program.step(state, data.example_batch())
    assert np.isfinite(metrics['loss']).all()
  assert program.compilations() == 1
  return before, jax.tree.map(np.asarray, state.params)


def check_modes(make, inputs):
  """Dropout in training only, gradients that are finite and reach every parameter, bfloat16.

  Args:
    make: dropout, dtype -> module.
    inputs: of the module.
  """
  values = params(make(0.5, jnp.float32), inputs)

  def everything(values):
    def train(values, seed, dropout=0.5):
      rngs = {'dropout': jax.random.key(seed)}
      module = make(dropout, jnp.float32)
      return module.apply({'params': values}, inputs, train=True, rngs=rngs)

    def loss(values):
      states = train(values, 0, dropout=0.0)
      return jnp.sum(states**2), states

    (_, without), grads = jax.value_and_grad(loss, has_aux=True)(values)
    one, other = jax.vmap(lambda seed: train(values, seed))(jnp.arange(2))
    evaluated = make(0.5, jnp.float32).apply({'params': values}, inputs)
    with jax.numpy_dtype_promotion('standard'):  # Flax's normalizations and cells count on it
      low = make(0.0, jnp.bfloat16).apply({'params': values}, inputs)
    return {
      'evaluated': evaluated,
      'without': without,
      'one': one,
      'other': other,
      'low': low,
      'grads': grads,
    }

  got = jax.jit(everything)(values)
  np.testing.assert_allclose(got['evaluated'], got['without'], rtol=1e-4, atol=1e-5)
  assert got['low'].dtype == jnp.bfloat16
  scale = np.abs(got['evaluated']).max()
  np.testing.assert_allclose(got['low'].astype(np.float32), got['evaluated'], atol=0.1 * scale)
  for path, leaf in jax.tree_util.tree_leaves_with_path(got['grads']):
    assert np.isfinite(leaf).all(), path
    assert np.any(leaf), path
  return got


def assert_same_by_products(loss, params, monkeypatch, replaced='conv_general_dilated'):
  """Values and gradients; only a CPU's program is without what the expression `replaced` finds."""

  def measured():
    traced_anew = lambda params: loss(params)  # noqa: E731
    compiled = jax.jit(jax.value_and_grad(traced_anew))
    return str(jax.make_jaxpr(traced_anew)(params)), compiled(params)

  products = measured()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  convolutions = measured()
  assert [bool(re.search(replaced, found[0])) for found in (products, convolutions)] == [0, 1]
  for a, b in zip(jax.tree.leaves(products[1]), jax.tree.leaves(convolutions[1]), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
