"""Encoders in float64 NumPy from the papers' formulas, one sentence or image at a time, unpadded.

Parameters are named as Flax names them. GELU is the tanh form (Hendrycks & Gimpel 2016, eq. 2).
"""

import math

import numpy as np


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def relu(x):
  return np.maximum(x, 0)


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def dense(p, x):
  return x @ p['kernel'] + p['bias']


def layer_norm(p, x):
  centred = x - x.mean(axis=-1, keepdims=True)
  return (
    centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * p['scale'] + p['bias']
  )


def windows(p, x):
  """Convolution over the tokens `[S, E]`, zeros around them."""
  kernel = p['kernel']  # [width, E, F]
  width, before = len(kernel), (len(kernel) - 1) // 2
  padded = np.pad(x, [(before, width - 1 - before), (0, 0)])
  return np.stack(
    [np.einsum('we,wef->f', padded[s : s + width], kernel) + p['bias'] for s in range(len(x))]
  )


def embed(p, tokens, pieces=None):
  x = p['Embed_0']['embedding'][tokens]  # [S, E]
  if pieces is None:
    return x
  words = []
  for row in pieces:
    states = relu(windows(p['Conv_0'], p['Embed_1']['embedding'][row]))
    words.append(np.where((row > 0)[:, None], states, 0).max(axis=0))
  return np.concatenate([x, np.stack(words)], axis=-1)


def cnn(p, x, widths=(3, 4, 5), pool=True):
  states = np.concatenate([relu(windows(p[f'Conv_{i}'], x)) for i in range(len(widths))], axis=-1)
  return states.max(axis=0) if pool else states


def lstm_layer(p, x):
  units = p['hi']['bias'].shape[0]
  c, h, states = np.zeros(units), np.zeros(units), []
  for token in x:

    def gate(name, f, token=token, h=h):
      return f(
        token @ p[f'i{name}']['kernel'] + h @ p[f'h{name}']['kernel'] + p[f'h{name}']['bias']
      )

    c = gate('f', sigmoid) * c + gate('i', sigmoid) * gate('g', np.tanh)
    h = gate('o', sigmoid) * np.tanh(c)
    states.append(h)
  return np.stack(states)


def lstm(p, x, layers):
  for i in range(layers):
    x = lstm_layer(p[f'OptimizedLSTMCell_{i}'], x)
  return x


def bilstm(p, x, layers):
  for i in range(layers):
    forward = lstm_layer(p[f'OptimizedLSTMCell_{2 * i}'], x)
    backward = lstm_layer(p[f'OptimizedLSTMCell_{2 * i + 1}'], x[::-1])[::-1]
    x = np.concatenate([forward, backward], axis=-1)
  return x


def rotary(x):
  """`[S, H, d]`: pair i of position s as a complex number, times exp(1j s 10000^(-2i/d))."""
  pairs = x[..., 0::2] + 1j * x[..., 1::2]
  rates = 10000.0 ** (-2 * np.arange(pairs.shape[-1]) / x.shape[-1])
  turned = pairs * np.exp(1j * np.arange(len(x))[:, None, None] * rates)
  return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def attention(p, x, position='learned'):
  q, k, v = (
    np.einsum('sd,dhe->she', x, p[name]['kernel']) + p[name]['bias']
    for name in ('query', 'key', 'value')
  )
  if position == 'rotary':
    q, k = rotary(q), rotary(k)
  weights = softmax(np.einsum('qhe,khe->hqk', q, k) / math.sqrt(q.shape[-1]))
  read = np.einsum('hqk,khe->qhe', weights, v)
  return np.einsum('qhe,hed->qd', read, p['out']['kernel']) + p['out']['bias']


def block(p, x, norm='pre', position='learned'):
  def attend(x):
    return attention(p['MultiHeadDotProductAttention_0'], x, position)

  def feed_forward(x):
    return dense(p['Dense_1'], gelu(dense(p['Dense_0'], x)))

  if norm == 'pre':
    x = x + attend(layer_norm(p['LayerNorm_0'], x))
    return x + feed_forward(layer_norm(p['LayerNorm_1'], x))
  x = layer_norm(p['LayerNorm_0'], x + attend(x))
  return layer_norm(p['LayerNorm_1'], x + feed_forward(x))


def transformer(p, x, layers, norm='pre', position='learned'):
  if 'Dense_0' in p:
    x = dense(p['Dense_0'], x)
  features = x.shape[-1]
  if position == 'learned':
    x = x + p['positions'][: len(x)]
  if position == 'sinusoidal':
    waves = np.zeros(x.shape)
    for s in range(len(x)):
      for i in range(features):
        angle = s / 10000 ** ((i - i % 2) / features)
        waves[s, i] = math.cos(angle) if i % 2 else math.sin(angle)
    x = math.sqrt(features) * x + waves
  for i in range(layers):
    x = block(p[f'_Block_{i}'], x, norm, position)
  return layer_norm(p['LayerNorm_0'], x) if norm == 'pre' else x


def conv(p, x, stride=1, padding=0):
  """`[H, W, C]` -> `[H', W', F]`."""
  kernel = p['kernel']  # [k, k, C, F]
  k = len(kernel)
  x = np.pad(x, [(padding, padding), (padding, padding), (0, 0)])
  seen = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(0, 1))[::stride, ::stride]
  return np.einsum('hwcij,ijcf->hwf', seen, kernel) + p.get('bias', 0)


def max_pool(x, size, stride, padding=0):
  around = [(padding, padding), (padding, padding), (0, 0)]
  x = np.pad(x, around, constant_values=-np.inf)
  seen = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(0, 1))
  return seen[::stride, ::stride].max(axis=(-2, -1))


def group_norm(p, x, groups):
  parts = x.reshape(*x.shape[:2], groups, -1)
  centred = parts - parts.mean(axis=(0, 1, 3), keepdims=True)
  variance = (centred**2).mean(axis=(0, 1, 3), keepdims=True)
  return (centred / np.sqrt(variance + 1e-5)).reshape(x.shape) * p['scale'] + p['bias']


def lenet(p, x):
  for name in ('Conv_0', 'Conv_1'):
    x = relu(max_pool(conv(p[name], x), 2, 2))
  return relu(dense(p['Dense_0'], x.reshape(-1)))


def _norm(p, s, i, x, groups):
  """The i-th normalization of groups, or with statistics `s` of a batch that was seen before."""
  if s is None:
    return group_norm(p[f'GroupNorm_{i}'], x, groups)
  scale = p[f'BatchNorm_{i}']['scale'] / np.sqrt(s[f'BatchNorm_{i}']['var'] + 1e-5)
  return (x - s[f'BatchNorm_{i}']['mean']) * scale + p[f'BatchNorm_{i}']['bias']


def residual(p, x, stride, groups, s=None):
  y = relu(_norm(p, s, 0, conv(p['Conv_0'], x, stride, 1), groups))
  y = _norm(p, s, 1, conv(p['Conv_1'], y, 1, 1), groups)
  if 'Conv_2' in p:
    x = _norm(p, s, 2, conv(p['Conv_2'], x, stride), groups)
  return relu(x + y)


def resnet(p, x, blocks, groups, small_images, s=None):
  x = conv(p['Conv_0'], x, 1, 1) if small_images else conv(p['Conv_0'], x, 2, 3)
  x = relu(_norm(p, s, 0, x, groups))
  x = x if small_images else max_pool(x, 3, 2, 1)
  strides = [2 if stage and not i else 1 for stage, n in enumerate(blocks) for i in range(n)]
  for i, stride in enumerate(strides):
    inside = None if s is None else s[f'_Residual_{i}']
    x = residual(p[f'_Residual_{i}'], x, stride, groups, inside)
  return x.mean(axis=(0, 1))


def vit(p, x, patch, layers):
  x = conv(p['Conv_0'], x, stride=patch)
  x = np.concatenate([p['class_token'][0], x.reshape(-1, x.shape[-1])]) + p['positions'][0]
  for i in range(layers):
    x = block(p[f'Block_{i}'], x)
  return layer_norm(p['LayerNorm_0'], x)[0]
