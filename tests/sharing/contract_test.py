"""What holds for every architecture: the two halves, the regimes, the ways of the step, a mesh."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import encoders, optim, protocols, sharding, sharing
from tests import models

OPTIONS = {'lora': {'rank': 2}, 'adapters': {'features': 3, 'scale': 0.1}}
OPTIONS['hyper_adapters'] = {'features': 3, 'embedding': 5, 'hidden': 7}
OPTIONS['mtl_lora'] = {'rank': 2}
MLP_LAYERS = dict.fromkeys(OPTIONS, r'Dense_\d')
OPTIONS['pals'], MLP_LAYERS['pals'] = {'features': 4, 'heads': 2}, 'Dense_1'
OPTIONS['ple'] = {'layers': r'_Block_0/MultiHeadDotProductAttention_0|(_Block|Dense)_\d'}
OPTIONS['dselect_k'] = {'experts': 3}
BOTH_LAYERS = r'Dense_\d|_Block_\d'  # two in either encoder
OPTIONS['hierarchical'] = {'layers': BOTH_LAYERS, 'depths': ('score=1',), 'shortcuts': True}
OPTIONS['mtan'] = {'layers': BOTH_LAYERS}
OPTIONS['ltb'] = {'children': 3}
OPTIONS['shared_private'] = {'adversarial': 0.5, 'orthogonality': 0.5}
REGIMES = ('shared', 'own')
BY_WAY = ('hard', 'soft', 'mmoe', 'pals')  # encoded once, by task, by experts, with tokens' mask
KEY, RATE = jax.random.key(1), 0.1
TEXT_TASKS = ('slots', 'score')


def share(name, **more):
  return functools.partial(sharing.get(name), **OPTIONS.get(name, {}), **more)


def mlp(name):
  more = {'layers': MLP_LAYERS[name]} if name in MLP_LAYERS else {}
  return models.model('mlp', share=share(name, **more))


def transformer(name):
  encoder = encoders.Transformer(encoders.Embedding(50, 16, dropout=0.0), 16, 1, 2, 16, dropout=0.0)
  return share(name)(encoder, [task for task in models.tasks() if task.name in TEXT_TASKS])


def text_batch(regime):
  own = models.own_batch()
  if regime == 'own':
    return {name: own[name] for name in TEXT_TASKS}
  targets = {name: own[name]['targets'] for name in TEXT_TASKS}
  return {'inputs': own['slots']['inputs'], 'targets': targets}


def mlp_batch(regime):
  shared = models.shared_batch('mlp')
  if regime == 'shared':
    return shared
  return {
    task: {'inputs': np.roll(shared['inputs'], i, axis=0), 'targets': targets}
    for i, (task, targets) in enumerate(shared['targets'].items())
  }


def in_first_step(model):
  return model.at(0) if protocols.changes(model) else model


def measured(model, params, batch):
  """Our losses and gradients, the plain losses and their Jacobian: drawn as the first step does."""
  model = in_first_step(model)

  @jax.jit
  def find(params):
    key = jax.random.fold_in(KEY, 0)
    ours = mtl_jax.task_gradients(model, params, batch, key)
    return *ours, *models.jacobian(model, params, batch, key)

  losses, grads, plain, rows = find(params)
  np.testing.assert_allclose(losses, plain, rtol=1e-5)
  models.assert_trees_close(grads, models.halves(model, rows))
  for i, task in enumerate(model.task_names):
    own = jax.tree.map(lambda leaf, i=i: leaf[i], rows['tasks'])
    for other in model.task_names:
      assert any(map(np.any, jax.tree.leaves(own[other]))) == (
        task == other and bool(jax.tree.leaves(own[other]))
      ), (task, other)
  return rows


def penalty_slope(model, params):
  """The gradient of what is no task's loss."""
  penalty = protocols.penalty_of(model)
  return jax.tree.map(jnp.zeros_like, params) if penalty is None else jax.grad(penalty)(params)


def updated(model, params, batch, balance, mesh=None, **options):
  """Parameters after one step of gradient descent."""
  optimizer = optax.sgd(RATE)
  state = mtl_jax.init_train_state(model, balance, optimizer, KEY, batch, params=params, mesh=mesh)
  step = mtl_jax.make_train_step(model, balance, optimizer, mesh=mesh, **options)
  state = state.replace(key=jax.random.clone(KEY))  # donated
  return step(state, batch if mesh is None else sharding.shard_batch(batch, mesh))[0].params


@pytest.mark.parametrize(
  ('name', 'regime'),
  [*((name, 'shared') for name in sharing.SHARING), *((name, 'own') for name in BY_WAY)],
)
def test_task_gradients_are_those_of_each_loss(name, regime):
  """The Jacobian of the plain losses; on another task's parameters it is zero."""
  model, batch = transformer(name), text_batch(regime)
  params = models.drawn(model, batch)
  assert set(params) == {'shared', 'tasks'}
  measured(model, params, batch)


@pytest.mark.parametrize('name', sharing.SHARING)
def test_own_inputs_here_and_on_eight_devices(name):
  """Gradients as those of each loss, and one step of the plain sum on a mesh along these."""
  model, batch = mlp(name), mlp_batch('own')
  params = models.drawn(model, batch)
  rows = measured(model, params, batch)
  slope = jax.jit(functools.partial(penalty_slope, model))(params)
  expected = jax.tree.map(lambda p, row, s: p - RATE * (row.sum(0) + s), params, rows, slope)
  meshed = updated(model, params, batch, optim.sum_tasks(), sharding.make_mesh(4, 2))
  models.assert_trees_close(meshed, expected)


@pytest.mark.parametrize('name', sharing.SHARING)
def test_every_way_of_the_step_is_the_same(name):
  """Stacked, and matrix-free on eight devices; own parameters are never balanced."""
  model, batch, balance = mlp(name), models.shared_batch('mlp'), optim.aligned_mtl()
  params = models.drawn(model, batch)
  update = functools.partial(updated, model, params, batch)
  expected = update(balance, jacobian='stacked')
  mesh = sharding.make_mesh(4, 2)
  models.assert_trees_close(update(balance, mesh, jacobian='matrix_free'), expected)
  if name in BY_WAY:
    models.assert_trees_close(update(balance, jacobian='matrix_free'), expected)
    models.assert_trees_close(update(balance, mesh, jacobian='stacked'), expected)

  def plain(own):
    key = jax.random.fold_in(KEY, 0)
    return in_first_step(model).losses(params | {'tasks': own}, batch, key).sum()

  slope = jax.jit(
    lambda p: jax.tree.map(jnp.add, jax.grad(plain)(p['tasks']), penalty_slope(model, p)['tasks'])
  )(params)
  own = jax.tree.map(lambda p, g: p - RATE * g, params['tasks'], slope)
  models.assert_trees_close(expected['tasks'], own)
  if name in ('hard', 'soft'):  # encoded once, and by task
    models.assert_trees_close(update(balance, jacobian='sequential'), expected)
    mean = update(optim.mean_tasks(), unit_task_weights=True)
    models.assert_trees_close(mean['tasks'], own)
    every = optim.every_k(optim.mean_tasks(), 2)
    models.assert_trees_close(update(every)['shared'], mean['shared'])


@pytest.mark.parametrize('name', sharing.SHARING)
def test_losses_fall_in_ten_steps_for_two_seeds_at_once(name):
  """From the first parameters and with dropout, on inputs of the tasks' own."""
  more = {'layers': MLP_LAYERS[name]} if name in MLP_LAYERS else {}
  model, batch = models.model('mlp', 0.1, share(name, **more)), mlp_batch('own')
  balance, optimizer = optim.mean_tasks(), optax.adam(1e-2)
  step = mtl_jax.make_train_step(model, balance, optimizer, jit=False)

  def train(key):
    state = mtl_jax.init_train_state(model, balance, optimizer, key, batch)
    return jax.lax.scan(lambda state, _: step(state, batch), state, None, length=10)[1]

  losses = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))['loss']
  chex.assert_tree_all_finite(losses)
  assert (losses[:, -1].sum(-1) < losses[:, 0].sum(-1)).all()


@pytest.mark.parametrize('name', sharing.SHARING)
def test_outputs_need_no_labels_and_evaluation_adds_up(name):
  model, batch = mlp(name), models.shared_batch('mlp')
  params = models.drawn(model, batch)

  @jax.jit
  def find(params, batch):
    bare = model.outputs(params, {'inputs': batch['inputs']})
    evaluated = mtl_jax.make_eval_step(model)(params, batch)
    return bare, model.outputs(params, batch), evaluated, model.losses(params, batch)

  bare, outputs, result, losses = find(params, batch)
  models.assert_trees_close(bare, outputs)
  np.testing.assert_allclose(result['loss_sum'] / result['loss_count'], losses, rtol=1e-5)
  chex.assert_tree_all_finite(outputs)


@pytest.mark.parametrize('name', sharing.SHARING)
def test_bfloat16_computation(name):
  """Traced: no promotion is left to chance, parameters and their gradients stay float32."""
  more = {'layers': MLP_LAYERS[name]} if name in MLP_LAYERS else {}
  encoder = encoders.MLP((16, 16), dtype=jnp.bfloat16)
  model, batch = share(name, **more)(encoder, models.tasks(text=False)), models.shared_batch('mlp')
  # JAX's attention and Flax's normalizations promote by themselves.
  with jax.numpy_dtype_promotion('standard' if name in ('mtan', 'pals') else 'strict'):
    params = jax.eval_shape(model.init, jax.random.key(0), batch)
    losses, grads = jax.eval_shape(
      functools.partial(mtl_jax.task_gradients, model), params, batch, jax.random.key(1)
    )
  assert {leaf.dtype for leaf in jax.tree.leaves((params, losses, grads))} == {jnp.dtype('float32')}
