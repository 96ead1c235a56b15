"""What holds for every architecture: the two halves, the regimes, the ways of the step, a mesh."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import encoders, optim, sharding, sharing
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
TEXT_TASKS = ('intent', 'slots', 'score')


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
  return {'inputs': own['intent']['inputs'], 'targets': targets}


def mlp_batch(regime):
  shared = models.shared_batch('mlp')
  if regime == 'shared':
    return shared
  return {
    task: {'inputs': np.roll(shared['inputs'], i, axis=0), 'targets': targets}
    for i, (task, targets) in enumerate(shared['targets'].items())
  }


def drawn(model, batch, seed=0):
  """Normal numbers in place of `model.init`, which takes longer to compile."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


@pytest.mark.parametrize('regime', REGIMES)
@pytest.mark.parametrize('name', sharing.SHARING)
def test_task_gradients_are_those_of_each_loss(name, regime):
  """The Jacobian of the plain losses; on another task's parameters it is zero."""
  model, batch = transformer(name), text_batch(regime)
  params = drawn(model, batch)
  assert set(params) == {'shared', 'tasks'}

  @jax.jit
  def both(params):
    plain, rows = model.losses(params, batch), jax.jacrev(lambda p: model.losses(p, batch))(params)
    return *mtl_jax.task_gradients(model, params, batch), plain, rows

  losses, grads, plain, rows = both(params)
  np.testing.assert_allclose(losses, plain, rtol=1e-5)
  models.assert_trees_close(grads['shared'], rows['shared'])
  for i, task in enumerate(TEXT_TASKS):
    own = jax.tree.map(lambda leaf, i=i: leaf[i], rows['tasks'])
    models.assert_trees_close(grads['tasks'][task], own[task])
    for other in TEXT_TASKS:
      assert any(map(np.any, jax.tree.leaves(own[other]))) == (
        task == other and bool(jax.tree.leaves(own[other]))
      ), (task, other)


@pytest.mark.parametrize('name', sharing.SHARING)
def test_every_way_of_the_step_is_the_same(name):
  """Stacked, matrix-free and on eight devices; own parameters are never balanced."""
  model, batch = mlp(name), models.shared_batch('mlp')
  params, optimizer = drawn(model, batch), optax.sgd(0.1)

  def update(balance, mesh=None, **options):
    state = mtl_jax.init_train_state(
      model, balance, optimizer, jax.random.key(1), batch, params=params, mesh=mesh
    )
    step = mtl_jax.make_train_step(model, balance, optimizer, mesh=mesh, **options)
    placed = batch if mesh is None else sharding.shard_batch(batch, mesh)
    return step(state, placed)[0].params

  expected = update(optim.mgda(), jacobian='stacked')
  models.assert_trees_close(update(optim.mgda(), jacobian='matrix_free'), expected)
  models.assert_trees_close(update(optim.mgda(), sharding.make_mesh(4, 2)), expected)
  mean = update(optim.mean_tasks(), unit_task_weights=True)
  models.assert_trees_close(mean['tasks'], expected['tasks'])
  if name in ('hard', 'soft'):  # encoded once, and by task
    models.assert_trees_close(update(optim.mgda(), jacobian='sequential'), expected)
    every = optim.every_k(optim.mean_tasks(), 2)
    models.assert_trees_close(update(every)['shared'], mean['shared'])


@pytest.mark.parametrize('name', sharing.SHARING)
def test_own_inputs_on_eight_devices(name):
  """One step of the plain sum, as on one device."""
  model, batch = mlp(name), mlp_batch('own')
  params, balance, optimizer = drawn(model, batch), optim.sum_tasks(), optax.sgd(0.1)

  def update(mesh):
    state = mtl_jax.init_train_state(
      model, balance, optimizer, jax.random.key(1), batch, params=params, mesh=mesh
    )
    step = mtl_jax.make_train_step(model, balance, optimizer, mesh=mesh)
    return step(state, batch if mesh is None else sharding.shard_batch(batch, mesh))[0].params

  models.assert_trees_close(update(sharding.make_mesh(4, 2)), update(None))


@pytest.mark.parametrize('regime', REGIMES)
@pytest.mark.parametrize('name', sharing.SHARING)
def test_losses_fall_in_ten_steps_for_two_seeds_at_once(name, regime):
  more = {'layers': MLP_LAYERS[name]} if name in MLP_LAYERS else {}
  model = models.model('mlp', 0.1, share(name, **more))
  batch = mlp_batch(regime)
  balance, optimizer = optim.mean_tasks(), optax.adam(1e-2)
  step = mtl_jax.make_train_step(model, balance, optimizer, jit=False)

  def train(key):
    state = mtl_jax.init_train_state(model, balance, optimizer, key, batch)
    _, metrics = jax.lax.scan(lambda state, _: step(state, batch), state, None, length=10)
    return metrics

  metrics = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))
  chex.assert_tree_all_finite(metrics['loss'])
  assert (metrics['loss'][:, -1].sum(-1) < metrics['loss'][:, 0].sum(-1)).all()


@pytest.mark.parametrize('name', sharing.SHARING)
def test_outputs_need_no_labels_and_evaluation_adds_up(name):
  model, batch = mlp(name), models.shared_batch('mlp')
  params = drawn(model, batch)
  outputs = jax.jit(model.outputs)(params, {'inputs': batch['inputs']})
  models.assert_trees_close(outputs, jax.jit(model.outputs)(params, batch))
  result = mtl_jax.make_eval_step(model)(params, batch)
  mean = result['loss_sum'] / result['loss_count']
  np.testing.assert_allclose(mean, models.losses(model, params, batch), rtol=1e-5)
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
