"""Extraction levels against float64 NumPy: what experts read, what gates read, who reaches them."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from mtl_jax import Task, encoders, heads, sharing
from tests import models
from tests.encoders import oracles

V, S, LENGTHS = 7, 5, (5, 3, 1)
ORDER = ('shared', 'shared', 'a', 'b', 'c')  # whose the experts are


class Tokens(nn.Module):
  """An embedding and three layers, token by token."""

  embedding: nn.Module

  @nn.compact
  def __call__(self, inputs, train=False):
    x = self.embedding(inputs, train=train)
    for width in (4, 5, 6):
      x = nn.tanh(nn.Dense(width)(x))
    return x


def tasks():
  return [Task(name, heads.get('regression'), kind='regression') for name in 'abc']


def model(name='ple', **options):
  return sharing.get(name)(Tokens(encoders.Embedding(V, 3, dropout=0.0)), tasks(), **options)


def batch():
  tokens = np.random.default_rng(0).integers(0, V, (3, S)).astype(np.int32)
  inputs = {'tokens': tokens, 'mask': np.arange(S) < np.array(LENGTHS)[:, None]}
  return {'inputs': inputs, 'targets': dict.fromkeys('abc', np.ones(3, np.float32))}


def reference(params, x, ends):
  """One unpadded sentence `[S, 3]` -> the number of every task; mixtures after layers `ends`."""
  experts, groups = params['shared']['experts'], ('shared', *'abc')
  states = [x] * len(ORDER)
  z = dict.fromkeys(groups, x.mean(0))
  seen = {g: [e for e, owner in enumerate(ORDER) if owner in ('shared', g)] for g in groups}
  seen['shared'] = list(range(len(ORDER)))
  for layer in ('Dense_0', 'Dense_1', 'Dense_2'):
    linear = [
      states[e] @ experts[layer]['kernel'][e] + experts[layer]['bias'][e] for e in range(len(ORDER))
    ]
    if layer in ends:
      gates, mixture = params['shared']['gates'][layer], {}
      for place, g in enumerate(groups):
        gate = gates['shared']
        if g != 'shared':
          gate = {k: v[place - 1] for k, v in gates['tasks'].items()}
        weights = oracles.softmax(oracles.dense(gate, z[g]))
        mixture[g] = sum(w * linear[e] for w, e in zip(weights, seen[g], strict=True))
      z = {g: mixture[g].mean(0) for g in groups}
      linear = [mixture[owner] for owner in ORDER]
    states = [np.tanh(y) for y in linear]
  outputs = {}
  for task in 'abc':
    own = params['tasks'][task]
    weights = oracles.softmax(oracles.dense(own['gate'], z[task]))
    mixed = sum(w * states[e] for w, e in zip(weights, seen[task], strict=True))
    outputs[task] = oracles.dense(own['head']['Dense_0'], mixed.mean(0))[0]
  return outputs


@pytest.mark.parametrize(('levels', 'ends'), [(2, ('Dense_1',)), (3, ('Dense_0', 'Dense_1'))])
def test_levels_of_a_padded_batch(levels, ends):
  made = model(levels=levels)
  params = models.drawn(made, batch())
  assert set(params['shared']['gates']) == set(ends)
  outputs = jax.jit(made.outputs)(params, batch())
  exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  table = exact['shared']['experts']['embedding']['Embed_0']['embedding']
  for row, length in enumerate(LENGTHS):
    x = table[batch()['inputs']['tokens'][row, :length]]
    for task, expected in reference(exact, x, ends).items():
      np.testing.assert_allclose(outputs[task][row], expected, atol=2e-5)


def test_which_loss_reaches_what():
  """Own experts of the last level, and the gate before it, are reached by their task alone."""
  made = model(levels=3)
  params = models.drawn(made, batch())
  slopes = jax.jit(jax.jacrev(lambda p: made.losses(p, batch())))(params)['shared']
  alone, all_of_them = np.eye(3, dtype=bool), np.ones((3, 3), bool)
  for layer, expected in (('Dense_0', all_of_them), ('Dense_1', all_of_them), ('Dense_2', alone)):
    reached = np.asarray(slopes['experts'][layer]['kernel']).any(axis=(2, 3))  # [losses, experts]
    assert reached[:, :2].all()
    np.testing.assert_array_equal(reached[:, 2:], expected)
  for layer, expected in (('Dense_0', all_of_them), ('Dense_1', alone)):
    gates = jax.tree.map(np.asarray, slopes['gates'][layer])
    assert gates['shared']['kernel'].any(axis=(1, 2)).all()
    np.testing.assert_array_equal(gates['tasks']['kernel'].any(axis=(2, 3)), expected)


def test_one_level_is_customized_gate_control():
  params = models.drawn(model('cgc'), batch())
  expected = jax.jit(model('cgc').outputs)(params, batch())
  params['shared']['gates'] = {}
  models.assert_trees_close(jax.jit(model(levels=1).outputs)(params, batch()), expected)


def test_gates_read_an_image_then_the_mean_of_its_states():
  made = sharing.ple(encoders.LeNet(), tasks(), shared_experts=1, levels=3)
  images = np.zeros((3, 28, 28, 1), np.float32)
  params = jax.eval_shape(
    made.init, jax.random.key(0), {'inputs': images, 'targets': batch()['targets']}
  )
  gates = params['shared']['gates'].values()
  channels = params['shared']['experts']['Conv_0']['kernel'].shape[-1]
  assert sorted(g['shared']['kernel'].shape for g in gates) == [(channels, 4), (28 * 28, 4)]
  assert sorted(g['tasks']['kernel'].shape for g in gates) == [(3, channels, 2), (3, 28 * 28, 2)]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'shared_experts': 0}, 'ple.shared_experts: need 1 or more'),
    ({'task_experts': 0}, 'ple.task_experts: need 1 or more'),
    ({'levels': 0}, 'ple.levels: need 1 or more'),
    ({'layers': '('}, 'no regular expression'),
    ({'levels': 4}, 'levels=4, but layers=.* finds 3 in the encoder: Dense_0, Dense_1, Dense_2'),
    ({'layers': 'Block'}, "matches 'Block'; there are embedding"),
  ],
)
def test_options_that_cannot_be(options, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model(**options).init, jax.random.key(0), batch())


def test_layers_inside_remat_are_refused():
  """What their gates read cannot leave them; a level less needs nothing from inside."""
  encoder = encoders.Transformer(encoders.Embedding(9, 8), 8, 2, 2, 8, remat=True)
  batch = models.shared_batch('transformer')
  with pytest.raises(ValueError, match="ple: '_Block_0' is rematerialized"):
    jax.jit(sharing.ple(encoder, models.tasks(text=True)).init)(jax.random.key(0), batch)
  jax.eval_shape(
    sharing.ple(encoder, models.tasks(text=True), levels=1).init, jax.random.key(0), batch
  )
