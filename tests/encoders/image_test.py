"""Image encoders against float64 NumPy, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import Task, encoders, heads, sharing
from tests.encoders import modules, oracles

CASES = {
  'lenet': (encoders.LeNet(features=(3, 4), dense=5), (18, 16, 1), oracles.lenet),
  'lenet of Pareto MTL': (
    encoders.LeNet(features=(2, 3), kernels=(9, 5), dense=5),
    (24, 24, 2),
    oracles.lenet,
  ),
  'resnet for small images': (
    encoders.ResNet(blocks=(1, 2), features=4, groups=2),
    (6, 8, 3),
    lambda p, x: oracles.resnet(p, x, (1, 2), 2, small_images=True),
  ),
  'resnet for large images': (
    encoders.ResNet(blocks=(1, 1), features=4, groups=3, small_images=False),
    (17, 16, 3),
    lambda p, x: oracles.resnet(p, x, (1, 1), 1, small_images=False),
  ),
  'vit': (
    encoders.ViT(patch=4, features=8, layers=2, heads=2, mlp_features=10),
    (8, 12, 3),
    lambda p, x: oracles.vit(p, x, patch=4, layers=2),
  ),
}


def images(shape, dtype=np.float32):
  return np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(dtype)


@pytest.mark.parametrize('case', CASES)
def test_forward(case):
  """Bytes are read as shares of 255."""
  module, shape, oracle = CASES[case]
  x = images(shape, np.uint8)
  params = modules.params(module, x)
  got = jax.jit(module.apply)({'params': params}, x)
  p = modules.exact(params)
  expected = np.stack([oracle(p, image / 255) for image in x])
  np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)


def test_a_resnet_with_batch_norm_reads_running_statistics():
  module, x = encoders.ResNet((1, 2), 4, norm='batch'), images((6, 8, 3), np.uint8)
  params = modules.params(module, x)
  rng = np.random.default_rng(1)
  stats = jax.tree.map(
    lambda leaf: rng.random(leaf.shape).astype(np.float32) + 0.5,
    jax.eval_shape(module.init, jax.random.key(0), x)['batch_stats'],
  )
  got = jax.jit(module.apply)({'params': params, 'batch_stats': stats}, x)
  p, s = modules.exact(params), modules.exact(stats)
  expected = [oracles.resnet(p, image / 255, (1, 2), 0, small_images=True, s=s) for image in x]
  np.testing.assert_allclose(got, np.stack(expected), rtol=2e-4, atol=2e-5)
  with pytest.raises(ValueError, match="norm: 'bach'; did you mean 'batch'"):
    encoders.ResNet(norm='bach')


MAKE = {
  'lenet': lambda dropout, dtype: encoders.LeNet((3, 4), dense=5, dropout=dropout, dtype=dtype),
  'resnet': lambda dropout, dtype: encoders.ResNet((1, 1), 4, 2, dtype=dtype),
  'vit': lambda dropout, dtype: encoders.ViT(4, 8, 1, 2, 10, dropout=dropout, dtype=dtype),
}


@pytest.mark.parametrize('name', encoders.IMAGES)
def test_modes(name):
  got = modules.check_modes(MAKE[name], images((16, 16, 3)) / np.float32(255))
  if name != 'resnet':  # which has no dropout
    assert not np.allclose(got['one'], got['without'])
    assert not np.allclose(got['one'], got['other'])


def test_dropout_takes_whole_channels_of_lenet():
  """As Kurin et al. have it: whatever the key, a channel is zero everywhere or nowhere."""
  module = encoders.LeNet((3, 4), dense=5, dropout=0.5)
  x = images((16, 16, 1)) / np.float32(255)
  _, state = module.apply(
    {'params': modules.params(module, x)},
    x,
    train=True,
    rngs={'dropout': jax.random.key(0)},
    capture_intermediates=True,
  )
  (dropped,) = state['intermediates']['Dropout_0']['__call__']
  zeros = (dropped == 0).mean(axis=(1, 2))
  assert set(np.unique(zeros)) == {0.0, 1.0}


def test_rematerialization_changes_no_number():
  x = images((8, 8, 1)) / np.float32(255)
  plain, remat = (encoders.ViT(4, 8, 1, 2, 10, remat=remat) for remat in (False, True))
  params = {'params': modules.params(plain, x)}

  def grads(module):
    return jax.jit(jax.grad(lambda p: jnp.sum(module.apply(p, x) ** 2)))(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grads(plain), grads(remat)
  )


def test_two_tasks_share_lenet():
  tasks = [Task(name, heads.get('classification', num_classes=10)) for name in ('left', 'right')]
  model = sharing.hard(encoders.get('lenet'), tasks)
  labels = {name: np.zeros(2, np.int32) for name in ('left', 'right')}
  batch = {'inputs': images((28, 28, 1), np.uint8), 'targets': labels}
  params = jax.eval_shape(model.init, jax.random.key(0), batch)
  kernels = {name: layer['kernel'].shape for name, layer in params['shared'].items()}
  assert kernels == {'Conv_0': (5, 5, 1, 10), 'Conv_1': (5, 5, 10, 20), 'Dense_0': (320, 50)}
  losses = jax.eval_shape(model.losses, params, batch)
  assert losses.shape == (2,)


def test_the_default_resnet_is_resnet_18():
  """11.2 million parameters, as torchvision's without its last layer, but for the 3 x 3 stem."""
  shapes = jax.eval_shape(encoders.ResNet().init, jax.random.key(0), images((32, 32, 3)))
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == 11_176_512 - (7 * 7 - 3 * 3) * 3 * 64


@pytest.mark.parametrize(
  ('module', 'x', 'message'),
  [
    (encoders.LeNet(), np.zeros((2, 28, 28)), r'\[B, H, W, C\].*add the channels'),
    (encoders.ResNet(), np.zeros((2, 8)), r'\[B, H, W, C\], not the shape \(2, 8\)'),
    (encoders.ViT(), np.zeros((2, 8, 8, 1), np.int32), 'float or uint8'),
    (encoders.LeNet(), np.zeros((2, 12, 12, 1)), 'too small for LeNet with kernels'),
    (encoders.ViT(patch=4), np.zeros((2, 8, 10, 1)), 'Patches of 4 × 4 do not fit'),
  ],
)
def test_inputs_that_are_refused(module, x, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(module.init, jax.random.key(0), x)


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match='3 heads do not divide 8 features'):
    encoders.ViT(features=8, heads=3)


def test_lenet_is_the_same_by_products_and_by_convolutions(monkeypatch):
  """A CPU has the former."""
  module, shape, _ = CASES['lenet of Pareto MTL']
  x = images(shape) / 255
  params = modules.params(module, x)
  modules.assert_same_by_products(
    lambda params: (module.apply({'params': params}, x) ** 2).sum(), params, monkeypatch
  )
