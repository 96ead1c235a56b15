"""Convolutions as products, against XLA's own; columns of any encoder have them on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mtl_jax import Task, encoders, heads, sharing
from mtl_jax.encoders import _products
from tests.encoders import modules

# Axes between batch and channels, kernel, strides, padding.
CASES = {
  'one axis': ((11,), (4,), (1,), 'SAME'),
  'strides': ((8, 9), (3, 3), (2, 2), [(1, 1), (1, 1)]),
  'an even image': ((8, 8), (3, 3), (2, 2), 'SAME'),
  'no padding': ((9, 7), (5, 3), (1, 2), 'VALID'),
  'one-sided padding': ((6, 6), (2, 3), (1, 1), [(2, 0), (0, 1)]),
  'a kernel as large as the image': ((3, 4), (3, 4), (1, 2), 'VALID'),
  'three axes': ((5, 4, 3), (2, 2, 2), (1, 1, 1), 'SAME'),
}
NUMBERS = {1: ('NHC', 'HIO', 'NHC'), 2: ('NHWC', 'HWIO', 'NHWC'), 3: ('NDHWC', 'DHWIO', 'NDHWC')}


def arrays(*shapes):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients(case):
  size, kernel, strides, padding = CASES[case]
  x, w = arrays((2, *size, 3), (*kernel, 3, 4))
  numbers = NUMBERS[len(size)]

  def measured(convolve):
    def loss(x, w):
      return jnp.sum(convolve(x, w, strides, padding, dimension_numbers=numbers) ** 3)

    return jax.value_and_grad(loss, (0, 1))(x, w)

  products, convolutions = map(measured, (_products.convolve, jax.lax.conv_general_dilated))
  for a, b in zip(jax.tree.leaves(products), jax.tree.leaves(convolutions), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
  ('kernel', 'options'),
  [((3, 3), {'rhs_dilation': (2, 2)}), ((3, 3), {'feature_group_count': 3}), ((3, 10), {})],
)
def test_what_stays_a_convolution(kernel, options):
  """Dilations, groups, and a kernel that the image has no room for."""
  x, w = arrays((2, 8, 8, 3), (*kernel, 3 // options.get('feature_group_count', 1), 6))
  options |= {'dimension_numbers': NUMBERS[2]}
  np.testing.assert_array_equal(
    _products.convolve(x, w, (1, 1), 'VALID', **options),
    jax.lax.conv_general_dilated(x, w, (1, 1), 'VALID', **options),
  )


def test_a_linearized_product_can_be_transposed():
  """Which matrix-free Jacobians need, in spite of the windows that are cut out again."""
  x, w, tangent, cotangent = arrays((2, 8, 8, 3), (3, 3, 3, 4), (3, 3, 3, 4), (2, 8, 8, 4))

  def convolved(w):
    return _products.convolve(x, w, (1, 1), 'SAME')

  _, push = jax.linearize(convolved, w)
  (pulled,) = jax.linear_transpose(push, w)(cotangent)
  np.testing.assert_allclose(pulled, jax.vjp(convolved, w)[1](cotangent)[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(push(tangent), convolved(tangent), rtol=1e-5, atol=1e-5)


def test_bfloat16():
  x, w = (array.astype(jnp.bfloat16) for array in arrays((2, 8, 8, 3), (3, 3, 3, 4)))
  products = _products.convolve(x, w, (1, 1), 'SAME')
  assert products.dtype == jnp.bfloat16
  exact = jax.lax.conv_general_dilated(
    x.astype(jnp.float32), w.astype(jnp.float32), (1, 1), 'SAME', dimension_numbers=NUMBERS[2]
  )
  np.testing.assert_allclose(products.astype(jnp.float32), exact, rtol=1e-2, atol=5e-2)


STACKED = ('separate', 'soft', 'cross_stitch', 'mmoe', 'ltb', 'ple', 'shared_private')


class Own(nn.Module):
  """A user's encoder, whose convolutions have biases; the second one is rematerialized."""

  @nn.compact
  def __call__(self, inputs, train=False):
    x = nn.relu(nn.Conv(4, (3, 3), strides=2)(inputs))
    x = nn.relu(nn.remat(nn.Conv)(4, (3, 3), padding='CIRCULAR', name='Conv_1')(x))
    return nn.relu(nn.Dense(3)(x.mean(axis=(1, 2))))


@pytest.mark.parametrize(
  ('name', 'encoder'),
  [(name, Own()) for name in STACKED] + [('cross_stitch', encoders.ResNet((1, 1), 4))],
)
def test_columns_are_the_same_by_products_and_by_convolutions(name, encoder, monkeypatch):
  """No grouped convolution is left of stacked kernels. Hooks on layers still apply."""
  options = {}
  if isinstance(encoder, Own) and name in ('cross_stitch', 'ltb', 'ple'):
    options = {'layers': 'Conv_0|Dense_0'}
  model = sharing.get(name)(
    encoder, [Task(task, heads.Classification(3)) for task in ('a', 'b')], **options
  )
  (x,) = arrays((2, 8, 8, 1))
  labels = jnp.array([0, 2], jnp.int32)
  batch = {'inputs': x, 'targets': {'a': labels, 'b': labels}}
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
  params = jax.tree.unflatten(
    jax.tree.structure(shapes), arrays(*(leaf.shape for leaf in jax.tree.leaves(shapes)))
  )

  modules.assert_same_by_products(
    lambda params: model.losses(params, batch).sum(),
    params,
    monkeypatch,
    'feature_group_count=[2-9]',
  )
