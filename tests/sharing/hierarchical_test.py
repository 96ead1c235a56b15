"""Tasks at depths of an encoder and in a graph, against NumPy; what each loss reaches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import mtl_jax
from mtl_jax import Task, encoders, heads, optim, sharing
from tests import models

GRAPH = {'layers': r'Dense_\d', 'depths': ('topics=1', 'slots=-2'), 'label_features': 3}
GRAPH |= {'after': ('slots<topics', 'intent < slots + topics'), 'shortcuts': True}
NAMES = ('intent', 'slots', 'topics')


class Words(nn.Module):
  """An encoder small enough to be written again in NumPy: a state a token, or their mean."""

  pool: bool = False

  @nn.compact
  def __call__(self, inputs, train=False):
    x = nn.Embed(50, 6, name='embedding')(inputs['tokens'])
    for _ in range(2):
      x = nn.relu(nn.Dense(8)(x))
    return mean(x, inputs, jnp) if self.pool else x


def mean(x, inputs, np=np):
  mask = inputs['mask'][..., None].astype(x.dtype)
  return np.sum(mask * x, axis=1) / np.sum(mask, axis=1)


def highest(x, inputs):
  return np.max(np.where(inputs['mask'][..., None], x, -np.inf), axis=1)


def tasks():
  return [
    Task('intent', heads.get('classification', num_classes=5, pooling='max')),
    Task('slots', heads.get('tagging', num_classes=7), kind='tagging'),
    Task('topics', heads.get('multilabel', num_classes=4), kind='multilabel'),
  ]


def batch():
  labels = models.targets()
  labels['topics'] = np.eye(4, dtype=np.int32)[labels['intent'] % 4]
  return {'inputs': models.inputs(), 'targets': {name: labels[name] for name in NAMES}}


def drawn(model, data, seed=0):
  """Parameters at random, without compiling their initialization."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(model.init, jax.random.key(0), data)
  return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype), shapes)


def made(pool=False, **options):
  model = sharing.hierarchical(Words(pool), tasks(), **(GRAPH | options))
  return model, drawn(model, batch())


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def dense(x, layer):
  return x @ layer['kernel'] + layer['bias']


@pytest.mark.parametrize('pool', [False, True])
def test_heads_read_states_embedding_and_labels(pool):
  """A multilabel task below a tagging one (repeated), both below a classification (averaged)."""
  model, params = made(pool)
  inputs = batch()['inputs']
  actual = jax.jit(model.outputs)(params, {'inputs': inputs})
  exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  encoder, below = exact['shared']['encoder'], exact['shared']['heads']
  e = encoder['embedding']['embedding'][inputs['tokens']]
  first = np.maximum(dense(e, encoder['Dense_0']), 0)
  last = np.maximum(dense(first, encoder['Dense_1']), 0)

  topics = dense(mean(np.concatenate([first, e], -1), inputs), below['topics']['head']['Dense_0'])
  sigmoid = 1 / (1 + np.exp(-topics))
  labels = (sigmoid @ below['slots']['labels_topics'])[:, None] + np.zeros((1, models.S, 1))
  read = np.concatenate([first, e, labels], -1)
  slots = dense(read, below['slots']['head']['Dense_0'])
  own = exact['tasks']['intent']
  states = [mean(x, inputs) if pool else highest(x, inputs) for x in (last, e)]
  labels = mean(softmax(slots) @ own['labels_slots'], inputs), sigmoid @ own['labels_topics']
  intent = dense(np.concatenate([*states, *labels], -1), own['head']['Dense_0'])
  for name, expected in (('topics', topics), ('slots', slots), ('intent', intent)):
    np.testing.assert_allclose(actual[name], expected, rtol=1e-4, atol=1e-5)
  assert exact['tasks']['topics'] == exact['tasks']['slots'] == {}


@pytest.mark.parametrize('stop', [False, True])
def test_what_each_loss_reaches(stop):
  """θ's rows, part by part; exact zeros above a task's depth, and at heads behind a stop."""
  model, params = made(stop_gradient=stop)
  data = batch()
  (_, grads), (_, expected) = models.both_ways(model, params, data)
  if not stop:
    models.assert_trees_close(grads['shared'], expected['shared'])

  def reached(tree):
    return [
      name for i, name in enumerate(NAMES) if any(np.any(leaf[i]) for leaf in jax.tree.leaves(tree))
    ]

  shared = grads['shared']
  assert reached(shared['encoder']['Dense_0']) == list(NAMES)
  assert reached(shared['encoder']['Dense_1']) == ['intent']
  assert reached(shared['heads']['topics']) == (['topics'] if stop else list(NAMES))
  assert reached(shared['heads']['slots']) == (['slots'] if stop else ['intent', 'slots'])


def test_a_task_without_parameters_of_its_own_is_trained():
  """Own inputs, methods on the parameters and on the features, dropout, labels missing."""
  model, params = made()
  data = {
    name: {'inputs': models.inputs(i), 'targets': batch()['targets'][name]}
    for i, name in enumerate(NAMES)
  }
  optimizer, key = optax.sgd(0.1), jax.random.key(0)
  state = mtl_jax.init_train_state(model, optim.pcgrad(), optimizer, key, data, params=params)
  step = mtl_jax.make_train_step(model, optim.pcgrad(), optimizer, jit=False)
  state, metrics = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, data), s, None, length=5))(
    state
  )
  assert (metrics['loss'][-1] < metrics['loss'][0]).all()


def test_nothing_asked_for_is_hard_sharing():
  plain, data = sharing.hard(Words(), tasks()), batch()
  model = sharing.hierarchical(Words(), tasks(), layers=r'Dense_\d')
  params = drawn(plain, data)
  own = {name: {'head': head} for name, head in params['tasks'].items()}
  same = {'shared': {'encoder': params['shared'], 'heads': {}}, 'tasks': own}
  shapes = jax.eval_shape(model.init, jax.random.key(0), data)
  assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, shapes)
  expected = jax.jit(plain.outputs)(params, data)
  models.assert_trees_close(jax.jit(model.outputs)(same, data), expected)


def vision(name, **options):
  return sharing.hierarchical(
    encoders.get(name, **options), models.tasks(text=False), depths=('score=-2',)
  )


@pytest.mark.parametrize(
  ('name', 'options', 'width'),
  [
    ('vit', {'layers': 3, 'features': 8, 'heads': 2}, 8),
    ('resnet', {'blocks': (1, 1), 'features': 4}, 4),
  ],
)
def test_images_are_read_as_means(name, options, width):
  model, image = vision(name, **options), jnp.zeros((2, 8, 8, 3))
  data = {'inputs': image, 'targets': dict.fromkeys(model.task_names)}
  params = jax.eval_shape(model.init, jax.random.key(0), data)
  features = jax.eval_shape(model.encode, params['shared'], image)
  assert features['states']['-2'].shape == (2, width)


def test_layers_that_are_computed_again_can_be_read():
  """`remat` hides a layer's values from outside; the depth's are those that Flax captures."""
  data = models.shared_batch()
  options = {'features': 8, 'heads': 2, 'layers': 2, 'remat': True, 'dropout': 0.0}
  embedding = encoders.Embedding(50, 8, dropout=0.0)
  encoder = encoders.get('transformer', embedding=embedding, **options)
  model = sharing.hierarchical(encoder, models.tasks(), depths=('slots=1',))
  params = drawn(model, data)

  @jax.jit
  def both(params):
    gradient = jax.grad(lambda p: model.losses(p, data)[1])(params)
    return gradient['shared']['encoder'], model.encode(params['shared'], data['inputs'])['states']

  gradient, states = both(params)
  reached = {name for name in gradient if any(map(np.any, jax.tree.leaves(gradient[name])))}
  assert reached == {'embedding', 'positions', '_Block_0'}
  plain, variables = encoder.clone(remat=False), {'params': params['shared']['encoder']}
  last, seen = jax.jit(lambda v: plain.apply(v, data['inputs'], capture_intermediates=True))(
    variables
  )
  expected = seen['intermediates']['_Block_0']['__call__'][0]
  np.testing.assert_allclose(states['1'], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(states['-1'], last, rtol=1e-5, atol=1e-6)


def test_successive_keeps_what_lower_tasks_use():
  """Value and slope in NumPy: all that 'slots' depends on, by way of 'topics' too. In training."""
  model, anchor = made()
  data = batch()
  balance, optimizer, key = optim.sum_tasks(), optax.sgd(0.02), jax.random.key(0)
  state = mtl_jax.init_train_state(model, balance, optimizer, key, data, params=anchor)
  held = sharing.successive(model, state.params, data, ['slots'], 2.0)
  before = jax.tree.map(np.asarray, anchor)
  params = drawn(model, data, seed=1)

  def difference(params):
    return jax.tree.map(lambda new, old: np.asarray(new) - old, params['shared'], before['shared'])

  def norm(apart):
    used = [v for part in apart.values() for k, v in part.items() if k != 'Dense_1']
    return 2.0 * sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(used))

  value, slope = jax.jit(jax.value_and_grad(held.penalty))(params)
  np.testing.assert_allclose(value, norm(difference(params)), rtol=1e-5)
  expected = jax.tree.map(lambda leaf: 4.0 * leaf, difference(params))
  expected['encoder']['Dense_1'] = jax.tree.map(np.zeros_like, expected['encoder']['Dense_1'])
  models.assert_trees_close(slope['shared'], expected)
  assert not any(map(np.any, jax.tree.leaves(slope['tasks'])))

  step = mtl_jax.make_train_step(held, balance, optimizer)  # donates what was the anchor
  state, metrics = step(state, data)
  assert metrics['penalty'] == 0
  expected = norm(difference(state.params))
  state, metrics = step(state, data)
  np.testing.assert_allclose(metrics['penalty'], expected, rtol=1e-4)
  np.testing.assert_allclose(held.penalty(state.params), norm(difference(state.params)), rtol=1e-4)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'depths': ('slot=1',)}, "unknown task 'slot'; did you mean 'slots'"),
    ({'depths': ('slots=0',)}, "from -1 downwards, not 'slots=0'"),
    ({'depths': ('slots',)}, "need 'task=depth'"),
    ({'depths': ('slots=1', 'slots=2')}, "'slots' is named twice"),
    ({'depths': ('slots=3',)}, 'slots=3, but the encoder has 2 layers: Dense_0, Dense_1'),
    ({'after': ('slots',)}, "need 'task<lower1\\+lower2', not 'slots'"),
    ({'after': ('slots<topic',)}, "did you mean 'topics'"),
    ({'after': ('slots<topics', 'slots<intent')}, 'named twice'),
    ({'after': ('slots<slots',)}, 'slots < slots'),
    ({'after': ('slots<intent', 'intent<topics', 'topics<slots')}, '(\\w+) < .+ < .+ < \\1:'),
    ({'after': ('topics<slots',)}, "'topics' at depth 1 reads 'slots' at depth 2"),
    ({'layers': 'Block'}, 'there are embedding, Dense_0'),
    ({'layers': '('}, 'no regular expression'),
    ({'label_features': 0}, 'hierarchical.label_features: need 1 or more'),
  ],
)
def test_options_that_cannot_be(options, message):
  given = {'layers': r'Dense_\d', 'depths': ('topics=1',), **options}
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(sharing.hierarchical(Words(), tasks(), **given).init, jax.random.key(0), batch())


def test_what_has_no_labels_or_no_embedding():
  data, mlp = models.shared_batch('mlp'), encoders.MLP((4, 4))
  for options, message in (
    ({'after': ('topics<score',)}, "'score' is a regression"),
    ({'shortcuts': True}, "no submodule 'embedding'"),
  ):
    model = sharing.hierarchical(mlp, models.tasks(text=False), layers=r'Dense_\d', **options)
    image = data | {'inputs': data['inputs'].reshape(-1, 2, 3, 1)}
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(model.init, jax.random.key(0), image)


def test_successive_with_what_cannot_be():
  model, anchor = made()
  for options, message in (
    ((['slot'],), "did you mean 'slots'"),
    (([],), 'need tasks'),
    ((['slots'], -1.0), 'not -1.0'),
  ):
    with pytest.raises(ValueError, match=message):
      sharing.successive(model, anchor, batch(), *options)
  twice = sharing.successive(
    dataclasses.replace(model, penalty=lambda p: jnp.float32(3.0)), anchor, batch(), ['slots']
  )
  assert twice.penalty(anchor) == 3.0
