"""`ManyTasks` is a model with a head a task, whatever the way of the step, and does not grow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import Task, encoders, heads, monitor, optim, sharing
from tests import models

T, B = 5, 6
WAYS = {
  'losses': (optim.famo, {}),
  'unit weights': (optim.sum_tasks, {'unit_task_weights': True}),
  'gramian': (optim.mgda, {}),
  'matrix-free': (optim.mgda, {'jacobian': 'matrix_free'}),
  'jacobian': (optim.trimmed_mean, {}),
  'representation': (optim.mgda, {'at': 'representation'}),
  'accumulated': (optim.mgda, {'accumulate': 2}),
  'batches': (lambda: optim.sdmgrad(num_tasks=T), {}),
  'functions': (lambda: optim.auto_lambda(num_tasks=T), {}),
  'scaled': (optim.mgda, {'loss_scale': 256.0}),
}


def pair(shared, dropout=0.0, kind='regression'):
  """The same model twice: stacked, and with a head by name."""
  options = {'num_classes': 3} if kind == 'classification' else {}
  task = Task('t', heads.get(kind, **options), kind=kind)
  weights = (1.0, 0.5, 2.0, 0.0, 1.0)
  many = sharing.ManyTasks(encoders.MLP((8,), dropout), task, T, shared, weights)
  tasks = [
    Task(name, task.head, kind=kind, weight=weight)
    for name, weight in zip(many.task_names, weights, strict=True)
  ]
  return many, sharing.hard(encoders.MLP((8,), dropout), tasks)


def batches(shared, kind='regression'):
  """A batch in both forms; task 4 has no labels."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(B, 3) if shared else (T, B, 3)).astype(np.float32)
  y = rng.normal(size=(T, B)).astype(np.float32)
  if kind == 'classification':
    y = (y > 0).astype(np.int32)
  mask = rng.random((T, B)) < 0.8
  mask[4] = False
  weight = rng.random((T, B)).astype(np.float32) + 0.1
  stacked = {'inputs': x, 'targets': y, 'mask': mask, 'weight': weight}
  names = [f't_{i}' for i in range(T)]
  if shared:
    by_name = {'inputs': x}
    by_name |= {
      key: dict(zip(names, stacked[key], strict=True)) for key in ('targets', 'mask', 'weight')
    }
  else:
    by_name = {
      name: {key: value[i] for key, value in stacked.items()} for i, name in enumerate(names)
    }
  return stacked, by_name


def by_name(params):
  tasks = {f't_{i}': jax.tree.map(lambda leaf, i=i: leaf[i], params['tasks']) for i in range(T)}
  return {'shared': params['shared'], 'tasks': tasks}


@pytest.mark.parametrize('shared', [True, False])
@pytest.mark.parametrize('way', WAYS)
def test_the_step_is_that_of_heads_by_name(way, shared):
  make, options = WAYS[way]
  models_, data = pair(shared), batches(shared)
  params = models.init(models_[0], data[0])
  found = []
  for model, batch, start in zip(models_, data, (params, by_name(params)), strict=True):
    balance, optimizer = make(), optax.sgd(0.1)
    state = mtl_jax.init_train_state(
      model, balance, optimizer, jax.random.key(1), batch, params=start
    )
    step = mtl_jax.make_train_step(model, balance, optimizer, **options)
    state, metrics = step(state, batch)
    found.append((state.params, metrics))
  models.assert_trees_close(by_name(found[0][0]), found[1][0])
  np.testing.assert_array_equal(found[0][1]['present'], found[1][1]['present'])
  assert not found[0][1]['present'][3:].any()  # one of weight 0, one without labels
  for name in ('loss', 'weight', 'gradient_norm', 'cosine'):
    if name in found[1][1]:
      np.testing.assert_allclose(found[0][1][name], found[1][1][name], rtol=1e-4, atol=1e-5)
  assert found[0][1]['finite'].all()


@pytest.mark.parametrize('shared', [True, False])
def test_evaluation_dropout_and_the_monitor(shared):
  """Dropout draws what it draws for heads by name."""
  (many, named), (stacked, apart) = (
    pair(shared, 0.5, 'classification'),
    batches(shared, 'classification'),
  )
  params, key = models.init(many, stacked), jax.random.key(2)
  losses, grads = jax.jit(lambda p: mtl_jax.task_gradients(many, p, stacked, key))(params)
  expected, rows = jax.jit(lambda p: mtl_jax.task_gradients(named, p, apart, key))(by_name(params))
  np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
  models.assert_trees_close(by_name(grads), rows)
  ours = mtl_jax.make_eval_step(many)(params, stacked)
  theirs = mtl_jax.make_eval_step(named)(by_name(params), apart)
  np.testing.assert_allclose(ours['loss_sum'], theirs['loss_sum'], rtol=1e-5)
  np.testing.assert_array_equal(ours['loss_count'], theirs['loss_count'])
  np.testing.assert_array_equal(ours['outputs'], np.stack(list(theirs['outputs'].values())))
  assert many.outputs(params, {'inputs': stacked['inputs']}).shape == (T, B, 3)
  seen = jax.jit(monitor.watch(many))(0, params, stacked)
  assert seen.names == many.task_names


def test_the_program_does_not_grow_with_the_tasks():
  sizes = []
  for tasks in (4, 64):
    task = Task('t', heads.get('regression'), kind='regression')
    model = sharing.ManyTasks(encoders.MLP((8,)), task, tasks)
    batch = {'inputs': np.zeros((tasks, 2, 3), 'f'), 'targets': np.zeros((tasks, 2), 'f')}
    state = mtl_jax.init_train_state(model, optim.famo(), optax.adam(0.1), jax.random.key(0), batch)
    step = mtl_jax.make_train_step(model, optim.famo(), optax.adam(0.1))
    sizes.append(step.lower(state, batch).as_text().count('\n'))
  assert sizes[0] == sizes[1]


def test_errors():
  task = Task('t', heads.get('regression'), kind='regression')
  encoder = encoders.MLP((8,))
  for names, weights, text in (
    ((), None, 'one or more different names'),
    (('a', 'a'), None, 'one or more different names'),
    (2, (1.0,), 'weights are 2 finite numbers'),
    (2, (1.0, -1.0), 'weights are 2 finite numbers'),
  ):
    with pytest.raises(ValueError, match=text):
      sharing.ManyTasks(encoder, task, names, weights=weights)
  model = sharing.ManyTasks(encoder, task, 3)
  for batch, text in (
    (
      {'inputs': jnp.zeros((2, 4, 3)), 'targets': jnp.zeros((3, 4))},
      r"'inputs' has the shape \(2, 4",
    ),
    ({'inputs': jnp.zeros((3, 4, 3)), 'targets': jnp.zeros((2, 4))}, r"'targets' has the shape"),
    ({'t_0': {}}, 'stacked over the tasks'),
  ):
    with pytest.raises(ValueError, match=text):
      model.init(jax.random.key(0), batch)
