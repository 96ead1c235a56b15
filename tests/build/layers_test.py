"""Layers and weight decay of every encoder under every architecture, and of a user's own encoder.

The order of layers is held against the traced forward pass, the decay against shapes.
"""

import functools
import re

import jax
import numpy as np
import pytest
from flax import linen as nn

from mtl_jax import encoders, heads, sharding, sharing
from mtl_jax.build import layers as layers_lib
from mtl_jax.encoders import protocol
from mtl_jax.model import MultiTaskModel, layout_of
from mtl_jax.tasks import Task
from tests.build import forward

TOKENS = {
  'tokens': np.ones((2, 3), np.int32),
  'mask': np.ones((2, 3), bool),
  'pieces': np.ones((2, 3, 2), np.int32),
}
IMAGES = np.zeros((2, 8, 8, 1), np.float32)


def embedding():
  return encoders.Embedding(9, 4, pieces_vocab_size=5, pieces_features=4)


# The encoder, what it reads, and how many layers it has, the embedding among them.
ENCODERS = {
  'cnn': (encoders.CNN(embedding(), 4, (2, 3), pool=False), TOKENS, 3),
  'lstm': (encoders.LSTM(embedding(), 4, layers=2), TOKENS, 3),
  'bilstm': (encoders.BiLSTM(embedding(), 4, layers=2), TOKENS, 5),
  'transformer': (encoders.Transformer(embedding(), 8, 2, 2, 8), TOKENS, 3),
  'projected': (encoders.Transformer(embedding(), 4, 2, 2, 8, position='rotary'), TOKENS, 4),
  'bert': (
    encoders.Bert(9, features=8, layers=2, heads=2, mlp_features=8, positions=6),
    TOKENS,
    3,
  ),
  'mlp': (encoders.MLP((3, 4)), IMAGES, 2),
  'lenet': (encoders.LeNet((2, 3), (3, 2), 4), IMAGES, 3),
  'resnet': (encoders.ResNet((1, 2), 4, 2), IMAGES, 4),
  'vit': (encoders.ViT(4, 8, 2, 2, 8), IMAGES, 3),
}
# Where a trunk has no attention, adapters are put on its last layer.
LAST = {
  'cnn': 'Conv_1',
  'lstm': 'RNN_1',
  'bilstm': 'Bidirectional_1',
  'mlp': 'Dense_1',
  'lenet': 'Dense_0',
  'resnet': '_Residual_2',
}
ADAPTED = ('adapters', 'lora', 'mtl_lora', 'pals', 'hyper_adapters')
# To an architecture the same as 'bilstm', 'transformer' and 'cnn'.
LIKE_ANOTHER = ('lstm', 'projected', 'bert', 'lenet')
# No linear layer to update; images where a PAL reads tokens.
IMPOSSIBLE = {(a, b) for a in ('lora', 'mtl_lora') for b in ('cnn', 'lstm', 'bilstm', 'resnet')} | {
  ('pals', 'resnet')
}
MIXING = {
  'cross_stitch': r'shared/stitches/.*',
  'mtl_lora': r'.*/transform',
  'ltb': r'shared/parents|tasks/\w/parent',
  'dselect_k': r'.*/gate/(codes|shares)',
}


def test_every_encoder_is_here():
  kinds = {type(encoder) for encoder, _, _ in ENCODERS.values()}
  assert kinds == {*encoders.ENCODERS.values(), encoders.Bert}


def share(architecture, name):
  """A model of two tasks."""
  options = {}
  if architecture in ADAPTED and name in LAST:
    options['layers'] = LAST[name]
  if architecture == 'pals':
    options['features'] = 4
  if name == 'cnn' and architecture in ('ple', 'ltb', 'hierarchical', 'mtan'):
    options['layers'] = 'Conv_1'  # of those side by side
    options |= {'levels': 1} if architecture == 'ple' else {}
  elif architecture == 'hierarchical':
    options |= {'depths': ('a=1',), 'after': ('b<a',)}
  encoder, inputs, _ = ENCODERS[name]
  tasks = [Task(task, heads.Classification(2)) for task in 'ab']
  batch = {'inputs': inputs, 'targets': dict.fromkeys('ab')}
  return sharing.get(architecture)(encoder, tasks, **options), batch


def shapes_of(tree):
  return {
    sharding.path_of(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def is_bias(path, shapes):
  """Whether a parameter has the shape of the kernel beside it, but for what that reads."""
  kernel = shapes.get(f'{path.rpartition("/")[0]}/kernel', ())
  return any(
    shapes[path] == kernel[:axis] + kernel[axis + 1 :] and not path.endswith('kernel')
    for axis in range(len(kernel))
  )


@functools.cache
def alone(name):
  """Path -> shape of an encoder's parameters."""
  encoder, inputs, _ = ENCODERS[name]
  return shapes_of(jax.eval_shape(encoder.init, jax.random.key(0), inputs)['params'])


@pytest.mark.parametrize('architecture', sharing.SHARING)
def test_layers_and_decay(architecture):
  for name, (_, inputs, count) in ENCODERS.items():
    if (architecture, name) in IMPOSSIBLE:
      continue
    if name in LIKE_ANOTHER and architecture not in ('hard', 'separate', 'adapters'):
      continue
    model, batch = share(architecture, name)
    params = jax.eval_shape(model.init, jax.random.key(0), batch)
    shapes, where = shapes_of(params), f'{architecture} of {name}: '
    one = alone(name)
    layers = layers_lib.layers_of(model, params, batch)
    assert layers.keys() == shapes.keys()
    assert set(layers.values()) == {*range(count + 1)}, where

    # What has the path of an encoder's parameter at its end, and its shape, stacked or not, is one.
    inner = {}
    for path, shape in shapes.items():
      ends = [end for end in one if f'/{path}'.endswith(f'/{end}')]
      if ends and '/heads/' not in path and '/head/' not in path:
        longest = max(ends, key=len)
        if one[longest] in (shape, shape[1:]):
          inner[path] = longest
    tops = {path for path in shapes if layers[path] == count}
    if architecture in ADAPTED:  # a task's own embedding is no encoder's
      inner = {path: end for path, end in inner.items() if not path.startswith('tasks/')}
    assert tops == shapes.keys() - inner.keys(), where
    assert set(inner.values()) == set(one), where
    by_end = {end: layers[path] for path, end in inner.items()}
    assert all(layers[path] == by_end[end] for path, end in inner.items()), where
    assert {layer for end, layer in by_end.items() if end.startswith('embedding/')} <= {0}, where

    # A layer begins after the one below it has begun.
    order = forward.meetings(lambda p, x: model.outputs(p, {'inputs': x}), params, inputs)  # noqa: B023
    begins = [min(order.index(p) for p in order if layers[p] == i) for i in range(count)]
    assert begins == sorted(begins), f'{where}{order}'

    spared = layers_lib.undecayed(model, params, batch)
    for path in shapes:
      mixes = re.fullmatch(MIXING.get(architecture, '(?!)'), path)
      end, around = (inner[path], one) if path in inner else (path, shapes)
      matrix = len(around[end]) > 1 and not is_bias(end, around)
      assert (path in spared) == (not matrix or bool(mixes)), where + path


@pytest.mark.parametrize('name', ENCODERS)
def test_what_an_encoder_says_is_what_a_forward_pass_meets(name):
  """So that one of ours would have the same layers if it said nothing."""
  encoder, inputs, count = ENCODERS[name]
  params = alone(name)

  def parts(layers):
    found = [
      {p for start in layer.params for p in params if p.startswith(start)} for layer in layers
    ]
    return [part for part in found if part]

  said = parts(protocol.layers(encoder, inputs))
  assert len(said) == count
  assert parts(protocol.layers_met(encoder, inputs)) == said


class Own(nn.Module):
  """A user's encoder: layers of several kinds, a gain of its own, and one of ours within."""

  @nn.compact
  def __call__(self, inputs, train=False):
    x = nn.Embed(9, 4, name='words')(inputs['tokens'])
    x = x + self.param('places', nn.initializers.zeros, (3, 4))[None]
    for _ in range(2):
      x = nn.LayerNorm()(nn.Dense(6)(nn.Conv(4, (2,))(x)))
    inner = encoders.MLP((3, 2), name='inner')
    return inner(x) * self.param('gain', nn.initializers.ones, (1, 1))


def own(encoder=None):
  encoder = encoder or Own()
  model = sharing.soft(encoder, [Task(task, heads.Classification(2)) for task in 'ab'])
  batch = {'inputs': TOKENS, 'targets': dict.fromkeys('ab')}
  return model, jax.eval_shape(model.init, jax.random.key(0), batch), batch


def of_starts(layers):
  """First part of the path in an encoder -> its layers."""
  found = {}
  for path, layer in layers.items():
    if path.startswith('shared/columns/'):
      found.setdefault('/'.join(path.split('/')[2:-1]) or path.split('/')[-1], set()).add(layer)
  return {start: layer for start, (layer,) in found.items()}


def test_an_encoder_that_says_nothing():
  model, params, batch = own()
  found = layers_lib.layers_of(model, params, batch)
  assert of_starts(found) == {
    'words': 0,
    'places': 0,
    'Conv_0': 1,
    'Dense_0': 2,
    'LayerNorm_0': 2,
    'Conv_1': 3,
    'Dense_1': 4,
    'LayerNorm_1': 4,
    'inner/Dense_0': 5,
    'inner/Dense_1': 6,
    'gain': 6,
  }
  assert max(found.values()) == 7
  order = forward.meetings(lambda p, x: Own().apply({'params': p}, x), _first(params), TOKENS)
  met = list(dict.fromkeys(of_starts(found)[p.rpartition('/')[0] or p] for p in order))
  assert met == [0, 1, 2, 3, 4, 5, 6]
  # Stacked by the two columns, a gain and a normalization still are what they are.
  spared = layers_lib.undecayed(model, params, batch)
  columns = {path.removeprefix('shared/columns/') for path in spared if path.startswith('shared')}
  vectors = ('LayerNorm_0/scale', 'LayerNorm_1/scale')
  assert columns == {*(p for p in _first(params, True) if p.endswith('bias')), *vectors}


def _first(params, paths=False):
  one = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params['shared']['columns']
  )
  return shapes_of(one) if paths else one


def test_layers_by_a_pattern():
  """Numbers count within a path, and paths as they are met; what has none follows a layer."""
  model, params, batch = own()
  pattern = r'(?:^|/)(?:Conv|Dense)_(\d+)(?:/|$)'
  assert of_starts(layers_lib.layers_of(model, params, batch, pattern)) == {
    'words': 0,
    'places': 0,
    'Conv_0': 1,
    'Conv_1': 2,
    'Dense_0': 3,
    'LayerNorm_0': 3,
    'Dense_1': 4,
    'LayerNorm_1': 4,
    'inner/Dense_0': 5,
    'inner/Dense_1': 6,
    'gain': 6,
  }
  few = layers_lib.layers_of(model, params, batch, r'inner/Dense_(\d+)/')
  assert {start: layer for start, layer in of_starts(few).items() if layer} == {
    'inner/Dense_0': 1,
    'inner/Dense_1': 2,
    'gain': 2,
  }


@pytest.mark.parametrize('name', ENCODERS)
def test_the_pattern_that_was_the_default(name):
  """Runs that have it in their config keep their rates."""
  model, batch = share('hard', name)
  params = jax.eval_shape(model.init, jax.random.key(0), batch)
  pattern = r'(?:^|/)_?(?:Block|Residual|OptimizedLSTMCell|Conv|Dense)_(\d+)(?:/|$)'
  expected = layers_lib.layers_of(model, params, batch)
  assert layers_lib.layers_of(model, params, batch, pattern) == expected


class Saying(nn.Module):
  """An encoder that says which layers it has, and that a table is not to be decayed."""

  layers: tuple

  @nn.compact
  def __call__(self, inputs, train=False):
    table = self.param('table', nn.initializers.ones, (3, 4))
    return nn.Dense(2)(nn.Dense(3)(nn.one_hot(inputs['tokens'], 4) * table[None]))

  def layers_from_below(self):
    return [protocol.Layer(names) for names in self.layers]

  def undecayed(self):
    return ['tab.*']


def test_an_encoder_that_says_what_it_has():
  model, params, batch = own(Saying((('Dense_0', 'table'), ('Dense_1',))))
  parts = layers_lib.parts_of(model, batch)
  assert of_starts(parts.layers) == {'table': 0, 'Dense_0': 0, 'Dense_1': 1}
  assert 'shared/columns/table' in parts.undecayed
  model, params, batch = own(Saying((('Dense_0',), ('Dense_1',))))
  with pytest.raises(ValueError, match=r"Saying.layers_from_below\(\) names no layer .* 'table'"):
    layers_lib.layers_of(model, params, batch)


def test_an_architecture_that_says_nothing():
  """A Flax module alone is one encoder; anything else has to say where its encoders are."""
  tasks = [Task('a', heads.Classification(2))]
  assert layout_of(MultiTaskModel(encoders.MLP((2,)), tasks)).places == ('shared',)
  with pytest.raises(ValueError, match=r'object is no Flax module: say where'):
    layout_of(MultiTaskModel(object(), tasks))


def test_layers_of_a_foreign_encoder_are_shared_by():
  """Cross-stitch takes what reads floats; adapters are told where by a pattern only."""
  tasks = [Task(task, heads.Classification(2)) for task in 'ab']
  batch = {'inputs': TOKENS, 'targets': dict.fromkeys('ab')}
  model = sharing.cross_stitch(Own(), tasks)
  stitches = jax.eval_shape(model.init, jax.random.key(0), batch)['shared']['stitches']
  assert set(stitches) == {
    'Conv_0', 'Dense_0', 'Conv_1', 'Dense_1', 'inner.Dense_0', 'inner.Dense_1',
  }  # fmt: skip
  with pytest.raises(ValueError, match=r'adapters.layers: the encoder does not say which'):
    jax.eval_shape(sharing.adapters(Own(), tasks).init, jax.random.key(0), batch)


def test_frozen_vectors_are_held():
  vectors = encoders.Vectors(np.ones((9, 4), np.float32), np.ones(9, bool))
  inside = encoders.Embedding(9, 4, vectors=vectors, freeze_vectors=True)
  model, _, batch = own(encoders.LSTM(inside, 3))
  table = f'shared/columns/embedding/{encoders.FROZEN}/embedding'
  assert layers_lib.parts_of(model, batch).held == (table,)
