"""Attention along the layers against NumPy: vectors, tokens, and images that shrink on the way."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mtl_jax import Task, encoders, heads, sharing
from tests import models
from tests.sharing import hierarchical_test

IMAGE = (7, 6)


class Trunk(nn.Module):
  """Two convolutions; the second halves the image and has more channels. Then the mean."""

  @nn.compact
  def __call__(self, inputs, train=False):
    x = nn.relu(nn.Conv(3, (3, 3))(inputs))
    return nn.relu(nn.Conv(5, (3, 3), strides=2)(x)).mean(axis=(1, 2))


def outputs(model, inputs):
  """Those of 'score', its own parameters and the encoder's as float64."""
  data = {'inputs': inputs, 'targets': dict.fromkeys(model.task_names)}
  params = hierarchical_test.drawn(model, data)
  actual = jax.jit(model.outputs)(params, {'inputs': inputs})['score']
  exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  return actual, exact['tasks']['score'], exact['shared']


def dense(x, layer):
  return x @ layer['kernel'] + layer['bias']


def relu(x):
  return np.maximum(x, 0)


def normalized(x, norm):
  centred = x - x.mean(-1, keepdims=True)
  x = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-6)
  return x * norm['scale'] + norm['bias']


def conv(x, layer, stride=1):
  """3 × 3, zeros around, which is 'SAME' for odd sizes too."""
  height, width = x.shape[1:3]
  pads = [(0, 0), *(same(size, stride) for size in (height, width)), (0, 0)]
  padded, rows, columns = np.pad(x, pads), -(-height // stride), -(-width // stride)
  total = np.zeros((x.shape[0], rows, columns, layer['bias'].shape[0])) + layer['bias']
  for i in range(3):
    for j in range(3):
      window = padded[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
      total = total + window[:, :rows, :columns] @ layer['kernel'][i, j]
  return total


def same(size, stride):
  total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
  return total // 2, total - total // 2


def attend(own, layers, convolve, fit=lambda hidden, p: hidden):
  """â_L, from the equations."""
  masked = None
  for j, (u, p) in enumerate(itertools.pairwise(layers)):
    if j:
      carried = relu(normalized(convolve(masked, own[f'f_{j}']), own[f'f_norm_{j}']))
      u = np.concatenate([u, carried], -1)
    hidden = fit(relu(normalized(dense(u, own[f'g_{j}']), own[f'g_norm_{j}'])), p)
    masked = p / (1 + np.exp(-dense(hidden, own[f'h_{j}'])))
  return masked


def check(actual, features, own):
  expected = dense(features, own['head']['Dense_0'])[:, 0]
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_vectors():
  model = sharing.mtan(encoders.MLP((5, 4)), models.tasks(text=False), layers=r'Dense_\d')
  x = models.shared_batch('mlp')['inputs']
  actual, own, shared = outputs(model, x)
  layers = [x.astype(np.float64)]
  for name in ('Dense_0', 'Dense_1'):
    layers.append(relu(dense(layers[-1], shared[name])))
  check(actual, attend(own, layers, dense), own)


def test_tokens():
  inputs, encoder = models.inputs(), hierarchical_test.Words()
  task = Task('score', heads.get('regression'), 'regression')
  actual, own, shared = outputs(sharing.mtan(encoder, [task], layers=r'Dense_\d'), inputs)
  layers = [shared['embedding']['embedding'][inputs['tokens']]]
  for name in ('Dense_0', 'Dense_1'):
    layers.append(relu(dense(layers[-1], shared[name])))
  check(actual, hierarchical_test.mean(attend(own, layers, dense), inputs), own)


def test_images():
  """The head reads the mean of the masked last layer, before the encoder's own mean."""
  x = np.random.default_rng(0).normal(size=(3, *IMAGE, 2)).astype(np.float32)
  task = Task('score', heads.get('regression'), 'regression')
  actual, own, shared = outputs(sharing.mtan(Trunk(), [task], layers=r'Conv_\d'), x)
  x = x.astype(np.float64)
  first = relu(conv(x, shared['Conv_0']))
  last = conv(first, shared['Conv_1'], stride=2)
  assert last.shape[1:] == (4, 3, 5)

  def fit(hidden, p):
    windows = {7: [(0, 2), (1, 4), (3, 6), (5, 7)], 6: [(0, 2), (2, 4), (4, 6)]}
    if hidden.shape[:3] == p.shape[:3]:
      return hidden
    rows = [hidden[:, a:b].mean(1) for a, b in windows[hidden.shape[1]]]
    hidden = np.stack(rows, 1)
    return np.stack([hidden[:, :, a:b].mean(2) for a, b in windows[hidden.shape[2]]], 2)

  check(actual, attend(own, [x, first, last], conv, fit).mean((1, 2)), own)


@pytest.mark.parametrize(
  ('name', 'options', 'layers'),
  [
    ('vit', {'layers': 2, 'features': 8, 'heads': 2, 'remat': True}, None),
    ('resnet', {'blocks': (1, 1), 'features': 4}, None),
    ('lenet', {'kernels': (3, 3)}, r'Conv_\d'),
    ('lenet', {'kernels': (3, 3)}, r'(Conv|Dense)_\d'),
  ],
)
def test_encoders_of_images(name, options, layers):
  """Widths of f, g, h follow the layers; the head reads as many features as the encoder has."""
  encoder, image = encoders.get(name, **options), jnp.zeros((2, 16, 16, 3))
  task = Task('score', heads.get('regression'), 'regression')
  model = sharing.mtan(encoder, [task], **({'layers': layers} if layers else {}))
  data = {'inputs': image, 'targets': {'score': None}}
  params = jax.eval_shape(model.init, jax.random.key(0), data)
  wide = jax.eval_shape(encoder.apply, {'params': params['shared']}, image).shape[-1]
  assert params['tasks']['score']['head']['Dense_0']['kernel'].shape == (wide, 1)
  assert jax.eval_shape(model.outputs, params, {'inputs': image})['score'].shape == (2,)


@pytest.mark.parametrize(
  ('encoder', 'layers', 'message'),
  [
    (encoders.MLP((4,)), 'Block', "matches 'Block'; there are Dense_0"),
    (encoders.MLP((4,)), '(', 'no regular expression'),
    (encoders.ViT(features=8, heads=2, layers=1), r'(Conv|Block)_\d', r'from .*8, 8.* to .*5, 8'),
  ],
)
def test_options_that_cannot_be(encoder, layers, message):
  task = Task('score', heads.get('regression'), 'regression')
  data = {'inputs': jnp.zeros((2, 8, 8, 3)), 'targets': {'score': None}}
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(sharing.mtan(encoder, [task], layers=layers).init, jax.random.key(0), data)
