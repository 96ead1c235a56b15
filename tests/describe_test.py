"""The numbers of a model before it is trained, and the command that prints them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import Task, describe, encoders, heads, sharing
from mtl_jax.build import flops
from tests import models


def test_operations_of_products_convolutions_and_loops():
  x, w = jnp.ones((5, 7)), jnp.ones((7, 3))
  assert flops.count(jnp.matmul, x, w) == 2 * 5 * 7 * 3
  assert flops.count(jax.jit(lambda x: jax.vmap(lambda row: row @ w)(x)), x) == 2 * 5 * 7 * 3
  image, kernel = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 3, 10))
  convolve = lambda i, k: jax.lax.conv_general_dilated(  # noqa: E731
    i, k, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=2
  )
  assert flops.count(convolve, image, kernel) == 2 * (2 * 8 * 8 * 10) * (3 * 3 * 3)
  square = jnp.ones((4, 4))
  scan = lambda s: jax.lax.scan(lambda c, _: (c @ s, None), s, None, length=9)[0]  # noqa: E731
  assert flops.count(scan, square) == 9 * 2 * 4**3
  choose = lambda s: jax.lax.cond(s[0, 0] > 0, lambda s: s @ s @ s, lambda s: s @ s, s)  # noqa: E731
  assert flops.count(choose, square) == 2 * 2 * 4**3


@pytest.mark.parametrize('name', sharing.SHARING)
def test_sizes_of_every_architecture(name):
  options = {'adapters': {'layers': r'Dense_\d', 'features': 3}, 'lora': {'layers': r'Dense_\d'}}
  options['mtl_lora'] = options['lora']
  options['hyper_adapters'] = {**options['adapters'], 'embedding': 5, 'hidden': 7}
  options |= {'pals': {'layers': 'Dense_1'}, 'hierarchical': {'layers': r'Dense_\d'}}
  options['mtan'] = options['hierarchical']
  model = sharing.get(name)(encoders.MLP((16, 16)), models.tasks(False), **options.get(name, {}))
  batch = models.shared_batch('mlp')
  size = describe.measure(model, batch)
  params = jax.eval_shape(model.init, jax.random.key(0), batch)
  assert size.shared == sum(np.size(leaf) for leaf in jax.tree.leaves(params['shared']))
  assert size.parameters == sum(np.size(leaf) for leaf in jax.tree.leaves(params))
  column, trunk = 6 * 16 + 16 + 16 * 16 + 16, 2 * (6 * 16 + 16 * 16)
  first = 2 * 6 * 16
  heads = {'intent': 2 * 16 * 5, 'topics': 2 * 16 * 3, 'score': 2 * 16}
  assert describe.separate(model, encoders.MLP((16, 16)), batch).operations == 3 * trunk + sum(
    heads.values()
  )
  expected = {
    'hard': (column, trunk),
    'separate': (0, 3 * trunk),
    'soft': (3 * column, 3 * trunk),
    'cross_stitch': (3 * column + 2 * 9 * 16, 3 * trunk + 2 * 2 * 9 * 16),
    'mmoe': (4 * column, 4 * trunk),
    'cgc': (5 * column, 5 * trunk),
    # The first layer reads what all tasks share, and is computed once.
    'adapters': (column, first + 3 * (trunk - first + 2 * 4 * 16 * 3)),
    'lora': (column, first + 3 * (trunk - first + 2 * 8 * (6 + 16 + 16 + 16))),
  }
  low, ups = 8 * (16 + 16 + 16), 3 * 8 * (16 + 16)  # the ups are weighed once a batch of 16
  expected['mtl_lora'] = (
    column + 8 * (6 + 16) + ups,
    first + 2 * 8 * 6 + 3 * (trunk - first + 2 * (low + 2 * 8 * 8 + ups / 16)),
  )
  generated = 5 * (2 * 16 * 3 + 2 * 16)
  hyper = 2 * (15 * 7 + 7 * 5 + generated)  # operations a layer and a batch of 16
  expected['hyper_adapters'] = (
    column + 15 * 7 + 7 * 5 + generated + 3 * 5,
    first + 3 * (trunk - first + 2 * 4 * 16 * 3 + 2 * hyper / 16),
  )
  expected['ltb'] = (4 * column + 4 * 4, 4 * trunk + 2 * 4 * 4 * 16)
  expected['shared_private'] = (column + 16 * 3 + 3, 4 * trunk + 2 * 16 * 3)
  if name in expected:
    assert (size.shared, size.encoder_operations) == expected[name]
    mixed = 2 * 16  # to weigh one expert's features
    gates = {'mmoe': 4 * (2 * 6 + mixed), 'cgc': 3 * (2 * 6 + mixed), 'ltb': 4 * mixed}.get(name, 0)
    read = 2 if name == 'shared_private' else 1  # two encoders' features
    assert size.task_operations == {task: read * work + gates for task, work in heads.items()}


def test_a_model_with_a_state_has_sizes():
  """As many parameters as with GroupNorm: running means are none."""
  batch = {'inputs': np.zeros((2, 8, 8, 1), np.float32), 'targets': {'a': np.zeros(2, np.int32)}}
  tasks = [Task('a', heads.get('classification', num_classes=2))]
  found = []
  for norm in ('batch', 'group'):
    encoder = encoders.ResNet((1,), 4, norm=norm)
    model = sharing.hard(encoder, tasks)
    size = describe.measure(model, batch)
    assert describe.separate(model, encoder, batch).parameters == size.parameters
    found.append(size.parameters)
  assert found[0] == found[1]


def test_the_command(capsys):
  command = ['describe', '--config=configs/quickstart.py', '--variants=sum']
  assert describe.main(command) == 0
  shown = capsys.readouterr().out
  assert 'sharing hard' in shown
  assert 'separate models' in shown
  assert describe.main(['describe', '--help']) == 0
  assert '--workdir' not in capsys.readouterr().out.split('flags:')[1]
  assert describe.main([*command, '--config.sharing.name=sof']) == 2
  assert "did you mean 'soft'" in capsys.readouterr().err
  assert describe.main(['describe', '--config=none.py']) == 2
