"""Learning to branch: the forward pass for given choices, how choices are drawn, and the tree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import mtl_jax
from mtl_jax import Task, encoders, heads, optim, sharing
from mtl_jax.gradients import halves
from mtl_jax.model import MultiTaskModel
from mtl_jax.sharing import experts
from mtl_jax.sharing.ltb import Choice, Leaf, Tree, branches, parse_tree
from tests import models
from tests.encoders import oracles

SIZES, C = (7, 5, 5), 3


class Bottleneck(nn.Module):
  """A layer of four units and one of one."""

  @nn.compact
  def __call__(self, inputs, train=False):
    return nn.Dense(1)(nn.Dense(4)(inputs))


def soft(logits, key):
  """Given choices in place of samples."""
  del key
  return jax.nn.softmax(logits)


def model_of(choice):
  tasks = models.tasks(text=False)
  shared = Tree(experts.Experts(encoders.MLP(SIZES), C, '(?!)', gated=False), r'Dense_\d', choice)
  return MultiTaskModel(shared, tasks, {t.name: Leaf(C, choice, t.head) for t in tasks})


@functools.cache
def drawn():
  """Parameters away from their start, as float32 and float64, and a batch."""
  batch = models.shared_batch('mlp')
  params = models.drawn(sharing.ltb(encoders.MLP(SIZES), models.tasks(False), children=C), batch)
  return params, jax.tree.map(lambda x: np.asarray(x, np.float64), params), batch


def forward(params, x, choose):
  """The outputs of 'score' in NumPy, layer by layer and child by child."""
  shared, own = params['shared'], params['tasks']['score']
  entered = [x] * C
  for layer in range(len(SIZES)):
    weights = shared['columns'][f'Dense_{layer}']
    copies = [oracles.dense({k: v[j] for k, v in weights.items()}, entered[j]) for j in range(C)]
    if layer < len(SIZES) - 1:
      chosen = [choose(shared['parents'][layer, j]) for j in range(C)]
      entered = [oracles.relu(sum(d[i] * copies[i] for i in range(C))) for d in chosen]
  d = choose(own['parent'])
  return oracles.dense(
    own['head']['Dense_0'], sum(d[i] * oracles.relu(copies[i]) for i in range(C))
  )[:, 0]


def one_hot(logits):
  return np.eye(C)[np.argmax(logits)]


@pytest.mark.parametrize('given', [True, False])
def test_a_child_reads_its_parents(given):
  params, exact, batch = drawn()
  model = model_of(soft if given else Choice(1.0, True))
  actual = jax.jit(model.outputs)(params, batch)['score']
  expected = forward(exact, batch['inputs'], oracles.softmax if given else one_hot)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_tree_is_what_evaluation_computes():
  """Only the copies on the task's path count."""
  params, exact, batch = drawn()
  tree = branches(params)
  assert set(tree) == {'intent', 'topics', 'score'}
  assert all(len(path) == len(SIZES) for path in tree.values())
  x = batch['inputs'].astype(np.float64)
  for layer, copy in enumerate(tree['score']):
    weights = exact['shared']['columns'][f'Dense_{layer}']
    x = oracles.relu(oracles.dense({k: v[copy] for k, v in weights.items()}, x))
  expected = oracles.dense(exact['tasks']['score']['head']['Dense_0'], x)[:, 0]
  actual = jax.jit(model_of(Choice(1.0, True)).outputs)(params, batch)['score']
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_tree_of_one_by_hand():
  choices = jnp.array([[1, 2, 0], [2, 2, 1]])  # the parents of children 0, 1, 2
  shared = {'parents': jax.nn.one_hot(choices, C)}
  tasks = {name: {'parent': jax.nn.one_hot(i, C)} for name, i in (('a', 0), ('b', 1), ('c', 2))}
  tree = branches({'shared': shared, 'tasks': tasks})
  assert tree == {'a': (0, 2, 0), 'b': (0, 2, 1), 'c': (2, 1, 2)}  # a and b part at the top
  assert branches({'shared': {}, 'tasks': tasks}) == {'a': (0,), 'b': (1,), 'c': (2,)}


def test_samples_are_one_hot_and_as_often_as_their_probability():
  """The Gumbel-max property; the gradient is that of the soft choice."""
  logits, keys = jnp.array([1.0, 0.0, -1.0]), jax.random.split(jax.random.key(0), 4000)

  def sample(choice):
    return jax.vmap(lambda key: choice(logits, key))(keys)

  hard, soft = sample(Choice(0.5, True)), sample(Choice(0.5, False))
  assert set(np.unique(hard)) == {0.0, 1.0}
  np.testing.assert_allclose(hard.sum(-1), 1)
  np.testing.assert_allclose(hard.mean(0), oracles.softmax(np.asarray(logits)), atol=0.03)
  noise = jax.vmap(lambda key: jax.random.gumbel(key, (C,)))(keys)
  expected = oracles.softmax((np.asarray(logits)[None] + np.asarray(noise, np.float64)) / 0.5)
  np.testing.assert_allclose(soft, expected, rtol=1e-4, atol=1e-6)
  values = jnp.array([1.0, 2.0, 4.0])
  slopes = [
    jax.grad(lambda x, c=c: c(x, keys[0]) @ values)(logits)
    for c in (Choice(0.5, True), Choice(0.5, False))
  ]
  np.testing.assert_array_equal(*slopes)
  d = expected[0]
  np.testing.assert_allclose(slopes[0], d * (values - d @ values) / 0.5, rtol=1e-4)


def test_tasks_that_need_it_part():
  """Two targets cannot pass a bottleneck of one unit: the tree learns to give each its own."""
  tasks = [
    Task(name, heads.get('regression', pooling='mean'), kind='regression') for name in ('a', 'b')
  ]
  model = sharing.ltb(Bottleneck(), tasks, children=2)
  x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
  batch = {'inputs': x, 'targets': {'a': x[:, 0], 'b': x[:, 1]}}
  balance, optimizer = optim.mean_tasks(), optax.adam(2e-2)
  step = mtl_jax.make_train_step(model, balance, optimizer, jit=False)

  def train(key):
    state = mtl_jax.init_train_state(model, balance, optimizer, key, batch)
    return jax.lax.scan(lambda s, _: (step(s, batch)[0], None), state, None, length=300)[0].params

  keys = jax.random.split(jax.random.key(1), 4)
  params = jax.jit(jax.vmap(train))(keys)
  losses = jax.vmap(lambda p: model.losses(p, batch))(params)
  together = np.linalg.eigvalsh(x.T.astype(np.float64) @ x / len(x))[0]  # the least they could have
  assert (losses.sum(-1) < 0.1 * together).all()
  for seed in range(4):
    tree = branches(halves.take_row(params, seed))
    assert tree['a'][-1] != tree['b'][-1]


def test_options_that_cannot_be():
  with pytest.raises(ValueError, match=r'ltb\.children: need 1 or more'):
    sharing.ltb(encoders.MLP(SIZES), models.tasks(False), children=0)
  with pytest.raises(ValueError, match=r'ltb\.temperature: need more than 0'):
    sharing.ltb(encoders.MLP(SIZES), models.tasks(False), temperature=0.0)
  model = sharing.ltb(encoders.MLP(SIZES), models.tasks(False), layers='Block')
  with pytest.raises(ValueError, match=r"ltb\.layers: no submodule .* 'Block'"):
    jax.eval_shape(model.init, jax.random.key(0), models.shared_batch('mlp'))


def test_a_found_tree_is_trained_as_it_is():
  """Without the copies that no task reads, numbered anew; the forward pass is that of the paths."""
  tree = ('intent=2/0/1', 'topics=2/0/0', 'score=2/2/2')
  names = ('intent', 'topics', 'score')
  assert parse_tree(tree, names) == {'intent': (0, 0, 0), 'topics': (0, 0, 1), 'score': (0, 1, 2)}
  model = sharing.ltb(encoders.MLP(SIZES), models.tasks(False), children=9, tree=tree)
  batch = models.shared_batch('mlp')
  params = models.drawn(model, batch)
  assert set(params['shared']) == {'columns'}
  x = batch['inputs'].astype(np.float64)
  for layer, copy in enumerate((0, 1, 2)):
    weights = params['shared']['columns'][f'Dense_{layer}']
    assert weights['kernel'].shape[0] == 3
    own = {k: np.asarray(v[copy], np.float64) for k, v in weights.items()}
    x = oracles.relu(oracles.dense(own, x))
  head = jax.tree.map(
    lambda v: np.asarray(v, np.float64), params['tasks']['score']['head']['Dense_0']
  )
  actual = jax.jit(model.outputs)(params, batch)['score']
  np.testing.assert_allclose(actual, oracles.dense(head, x)[:, 0], rtol=1e-4, atol=1e-5)
  _, grads = jax.jit(functools.partial(mtl_jax.task_gradients, model))(params, batch)
  second = grads['shared']['columns']['Dense_1']['kernel']  # [T, C, ...]
  used = np.abs(second).sum((2, 3)) > 0
  np.testing.assert_array_equal(
    used, [[True, False, False], [True, False, False], [False, True, False]]
  )


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    (('a=0',), 'b is missing'),
    (('a=0', 'b=0/1'), 'paths of one length'),
    (('a=0', 'a=1'), "not 'a=1'"),
    (('a=0', 'b=x'), "not 'b=x'"),
    (('a=0/1', 'b=1/1'), 'copy 1 of layer 1 has two parents'),
  ],
)
def test_what_is_no_tree_is_named(tree, message):
  with pytest.raises(ValueError, match=message):
    parse_tree(tree, ('a', 'b'))


def test_a_tree_of_another_depth_is_named():
  tree = tuple(f'{task.name}=0/0' for task in models.tasks(False))
  model = sharing.ltb(encoders.MLP(SIZES), models.tasks(False), tree=tree)
  with pytest.raises(ValueError, match=r'paths of 2 layers.*finds 3'):
    model.init(jax.random.key(0), models.shared_batch('mlp'))


@pytest.mark.parametrize(
  ('own', 'temperatures'), [(False, {0: 4.0, 2: 1.0, 9: 0.25}), (True, {2: 1.0})]
)
def test_the_temperature_falls_over_the_steps(own, temperatures):
  """A step equals that of a model with the temperature that then holds."""
  options = {'temperature': 4.0, 'straight_through': False}
  encoder, tasks = encoders.MLP((5, 5)), models.tasks(False)
  falling = sharing.ltb(encoder, tasks, **options, final_temperature=0.25, temperature_steps=4)
  batch = models.shared_batch('mlp')
  if own:
    x, targets = batch['inputs'], batch['targets']
    batch = {name: {'inputs': x, 'targets': y} for name, y in targets.items()}
  balance, optimizer = optim.upgrad(), optax.sgd(0.1)
  start = mtl_jax.init_train_state(falling, balance, optimizer, jax.random.key(0), batch)
  step = mtl_jax.make_train_step(falling, balance, optimizer, jit=False)
  compiled = jax.jit(step)
  for steps, temperature in temperatures.items():
    constant = sharing.ltb(encoder, tasks, **options | {'temperature': temperature})
    state = start.replace(step=jnp.int32(steps))
    expected = mtl_jax.make_train_step(constant, balance, optimizer)(
      jax.tree.map(jnp.copy, state), batch
    )
    actual = compiled(state, batch)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
      actual[0].params,
      expected[0].params,
    )
