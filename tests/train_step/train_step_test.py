"""The train step: every path gives the update of its definition, on one device and on eight."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized
from flax import nnx

import mtl_jax
from mtl_jax import gradients, optim, sharding
from tests import models

BALANCERS = {
  'sum_tasks': optim.sum_tasks,
  'mean_tasks': optim.mean_tasks,
  'pcgrad': lambda: optim.pcgrad(order='index'),
  'gradnorm+pcgrad': lambda: optim.compose(optim.gradnorm(), optim.pcgrad(order='index')),
  'chain': lambda: optax.chain(optim.normalize_task_gradients(), optim.pcgrad(order='index')),
}


def start(balance, optimizer, encoder='mlp', mesh=None, model=None, dropout=0.0):
  batch = models.shared_batch(encoder)
  params = models.first_params(encoder) if model is None else models.init(model, batch)
  model = model or models.model(encoder, dropout)
  state = mtl_jax.init_train_state(
    model, balance, optimizer, jax.random.key(1), batch, params=params, mesh=mesh
  )
  step = mtl_jax.make_train_step(model, balance, optimizer, mesh=mesh)
  return model, batch, state, step


@functools.cache
def definition(name):
  """A state, a batch, and what a step must give by the stacked gradients and plain SGD."""
  balance = BALANCERS[name]()
  model, batch, state, _ = start(balance, optax.sgd(0.1))
  losses, grads = jax.jit(lambda p: mtl_jax.task_gradients(model, p, batch))(state.params)
  if getattr(balance, 'weighting', None) is not None:
    weights, _ = balance.weighting.update(
      balance.weighting.init(3),
      losses=losses,
      gramian=gradients.gramian(grads['shared']),
      present=jnp.ones(3, bool),
    )
    shared = gradients.combine(weights, grads['shared'])
  else:
    shared, _ = balance.update(grads['shared'], balance.init(state.params['shared']), losses=losses)
  tasks = grads['tasks']
  if name == 'mean_tasks':  # a loss weighting scales the whole loss
    tasks = jax.tree.map(lambda g: g / 3, tasks)
  grads = {'shared': shared, 'tasks': tasks}
  return model, state, batch, losses, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)


class OneStepTest(chex.TestCase):
  """A step is its definition: compiled, eager, on arrays of the host, and under pmap."""

  @chex.all_variants(with_device=False)
  @parameterized.parameters(*BALANCERS)
  def test_one_step_is_the_definition(self, name):
    model, state, batch, losses, expected = definition(name)
    pure = mtl_jax.make_train_step(model, BALANCERS[name](), optax.sgd(0.1), jit=False)
    new, metrics = self.variant(pure)(state, batch)
    models.assert_trees_close(new.params, expected)
    np.testing.assert_allclose(metrics['loss'], losses, rtol=1e-5)
    chex.assert_shape([metrics['loss'], metrics['finite']], (3,))
    assert metrics['finite'].all()
    assert int(new.step) == 1


@pytest.mark.parametrize(
  ('name', 'encoder'),
  [
    *(('sum_tasks', encoder) for encoder in ('mlp', 'bilstm', 'transformer')),
    *(('gradnorm+pcgrad', encoder) for encoder in ('mlp', 'transformer')),
  ],
)
def test_losses_fall_in_ten_steps_and_every_parameter_moves(encoder, name):
  _, batch, state, step = start(BALANCERS[name](), optax.adamw(1e-2), encoder)
  before = jax.tree.map(np.asarray, state.params)
  history = []
  for _ in range(10):
    state, metrics = step(state, batch)
    history.append(np.asarray(metrics['loss']))
  assert (history[-1] < history[0]).all()
  moved = jax.tree.map(lambda a, b: bool((a != np.asarray(b)).any()), before, state.params)
  assert all(jax.tree.leaves(moved)), moved


@pytest.mark.parametrize('name', BALANCERS)
def test_eight_devices_give_the_update_of_one(name):
  mesh = sharding.make_mesh(2, 4)
  runs = []
  for where in (None, mesh):
    _, batch, state, step = start(BALANCERS[name](), optax.sgd(0.1, momentum=0.9), mesh=where)
    batch = batch if where is None else sharding.shard_batch(batch, where)
    for _ in range(4):
      state, metrics = step(state, batch)
    runs.append((state, metrics))
  models.assert_trees_close(runs[1][0].params, runs[0][0].params, 1e-4)
  np.testing.assert_allclose(runs[1][1]['loss'], runs[0][1]['loss'], rtol=1e-4)
  kernel = runs[1][0].params['shared']['Dense_1']['kernel']
  momentum = jax.tree.leaves(runs[1][0].opt_state)[-1]
  assert not kernel.sharding.is_fully_replicated
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  assert momentum.sharding.mesh == mesh


def test_transformer_on_eight_devices():
  mesh = sharding.make_mesh(4, 2)
  runs = []
  for where in (None, mesh):
    balance = BALANCERS['gradnorm+pcgrad']()
    _, batch, state, step = start(balance, optax.sgd(0.1), 'transformer', where, dropout=0.1)
    state, _ = step(state, batch if where is None else sharding.shard_batch(batch, where))
    runs.append(state.params)
  models.assert_trees_close(runs[1], runs[0], 1e-4)


def _count_compilations(action):
  events = []

  def listen(name, *args, **kwargs):
    del args, kwargs
    if name == '/jax/core/compile/backend_compile_duration':
      events.append(name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    action()
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return len(events)


def test_the_step_is_compiled_once_on_a_mesh():
  mesh = sharding.make_mesh()
  _, batch, state, step = start(optim.pcgrad(), optax.adamw(1e-3), mesh=mesh)
  batch = sharding.shard_batch(batch, mesh)

  def advance(steps):
    nonlocal state
    for _ in range(steps):
      state, _ = step(state, batch)

  assert _count_compilations(lambda: advance(1)) > 0
  assert _count_compilations(lambda: advance(4)) == 0


@pytest.mark.parametrize('name', BALANCERS)
def test_the_step_is_traced_once(name):
  """What a step returns is typed as what it takes, weakly typed scalars and all."""
  chex.clear_trace_counter()  # parameters of a test do not tell its functions apart
  balance, optimizer = BALANCERS[name](), optax.adamw(1e-3)
  model, _, state, _ = start(balance, optimizer)
  step = mtl_jax.make_train_step(model, balance, optimizer, jit=False)
  step = jax.jit(chex.assert_max_traces(step, n=1), donate_argnums=0)
  for seed in range(3):
    state, _ = step(state, models.shared_batch('mlp', seed))


def test_state_is_donated_and_randomness_follows_the_step():
  """A state rebuilt from its parts goes on as the one that never stopped."""
  _, batch, state, step = start(optim.pcgrad(), optax.adam(1e-2), 'bilstm', dropout=0.3)
  state, first = step(state, batch)
  saved = jax.tree.map(jnp.copy, state)
  donated = state.params['shared']
  state, _ = step(state, batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
  again, metrics = step(saved, batch)
  jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
  assert not np.allclose(first['loss'], metrics['loss'])


def test_many_seeds_in_one_program():
  """vmap over states: each column is the run of its own key."""
  model, batch = models.model('mlp'), models.shared_batch('mlp')
  balance, optimizer = optim.pcgrad(), optax.sgd(0.1)
  step = mtl_jax.make_train_step(model, balance, optimizer, jit=False)

  def init(key):
    return mtl_jax.init_train_state(model, balance, optimizer, key, batch)

  keys = jax.random.split(jax.random.key(0), 3)
  states, _ = jax.jit(jax.vmap(step, in_axes=(0, None)))(jax.vmap(init)(keys), batch)
  alone, _ = jax.jit(step)(init(keys[1]), batch)
  models.assert_trees_close(jax.tree.map(lambda x: x[1], states.params), alone.params)


def _pmap_step(model, balance, optimizer):
  """The step under `pmap`: gradients of the local examples, averaged over devices by hand."""

  def step(state, batch):
    losses, grads = mtl_jax.task_gradients(model, state.params, batch)
    losses, grads = jax.lax.pmean((losses, grads), 'data')
    shared, balance_state = balance.update(grads['shared'], state.balance_state, losses=losses)
    grads = {'shared': shared, 'tasks': grads['tasks']}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(
      step=state.step + 1, params=params, opt_state=opt_state, balance_state=balance_state
    )

  return jax.pmap(step, axis_name='data')


def test_pmap_gives_the_same_step():
  """Users ask for pmap by name: the parts are pure, so it works; labels must be complete."""
  balance, optimizer = optim.pcgrad(order='index'), optax.sgd(0.1)
  model, batch, state, step = start(balance, optimizer)
  batch['targets']['intent'] = np.abs(batch['targets']['intent'])
  del batch['mask']
  devices = 8
  copies = jax.tree.map(lambda x: jnp.stack([x] * devices), state)
  parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
  many = _pmap_step(model, balance, optimizer)(copies, parts)
  state, _ = step(state, batch)
  models.assert_trees_close(jax.tree.map(lambda x: x[3], many.params), state.params)


def test_a_hand_written_jax_function_trains():
  """No Flax: two losses of one parameter vector, and the whole train step around them."""
  target = jnp.array([[1.0, 0.0], [0.0, 2.0]])

  def quadratic(i):
    return lambda params, batch, key: jnp.sum((params['w'] * batch - target[i]) ** 2)

  functions = [quadratic(0), quadratic(1)]
  for balance in (optim.sum_tasks(), optim.compose(optim.gradnorm(), optim.pcgrad())):
    optimizer = optax.sgd(0.05)
    state = mtl_jax.init_train_state(
      functions, balance, optimizer, jax.random.key(0), params={'w': jnp.array([3.0, -1.0])}
    )
    step = mtl_jax.make_train_step(functions, balance, optimizer)
    first = None
    for _ in range(200):
      state, metrics = step(state, jnp.ones(2))
      first = metrics['loss'] if first is None else first
    assert float(metrics['loss'].sum()) < float(first.sum())
    # Every Pareto point lies between the two minima.
    assert 0 <= float(state.params['w'][0]) <= 1
    assert 0 <= float(state.params['w'][1]) <= 2


def test_an_nnx_model_trains():
  """`nnx.split` and `nnx.merge` around the functions: no half of it is ours."""

  class Model(nnx.Module):
    def __init__(self, rngs):
      self.trunk = nnx.Linear(2, 8, rngs=rngs)
      self.heads = nnx.List([nnx.Linear(8, 1, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
      x = nnx.tanh(self.trunk(x))
      return jnp.concatenate([head(x) for head in self.heads], -1)  # [B, T]

  graph, values = nnx.split(Model(nnx.Rngs(0)))

  def losses(params, batch, key):
    del key
    outputs = nnx.merge(graph, params)(batch['x'])
    return jnp.mean((outputs - batch['y']) ** 2, axis=0)

  x = jax.random.normal(jax.random.key(0), (32, 2))
  batch = {'x': x, 'y': jnp.stack([x[:, 0] * x[:, 1], x[:, 0] - x[:, 1]], -1)}
  balance, optimizer = optim.compose(optim.gradnorm(), optim.pcgrad()), optax.adam(0.03)
  state = mtl_jax.init_train_state(
    losses, balance, optimizer, jax.random.key(1), batch, params=values
  )
  step = mtl_jax.make_train_step(losses, balance, optimizer)
  before = losses(state.params, batch, None)
  for _ in range(100):
    state, metrics = step(state, batch)
  assert (metrics['loss'] < 0.2 * before).all()
  assert nnx.merge(graph, state.params)(x).shape == (32, 2)


def test_a_function_to_all_losses_trains():
  def losses(params, batch, key):
    del key
    return jnp.stack([jnp.sum((params - batch) ** 2), jnp.sum((params + batch) ** 2)])

  optimizer = optax.sgd(0.1)
  state = mtl_jax.init_train_state(
    losses, optim.pcgrad(), optimizer, jax.random.key(0), params=jnp.array([2.0, 1.0])
  )
  step = mtl_jax.make_train_step(losses, optim.pcgrad(), optimizer)
  for _ in range(100):
    state, metrics = step(state, jnp.array([1.0, 0.0]))
  # The Pareto set is the segment between the two minima.
  assert abs(float(state.params[0])) <= 1
  np.testing.assert_allclose(state.params[1], 0.0, atol=1e-3)
  assert metrics['cosine'].shape == (2, 2)
  evaluation = mtl_jax.make_eval_step(lambda p, b: losses(p, b, None))
  assert evaluation(state.params, jnp.ones(2))['loss'].shape == (2,)


@pytest.mark.parametrize('name', ['sum_tasks', 'pcgrad'])
def test_a_non_finite_loss_or_gradient_names_its_task(name):
  _, batch, state, step = start(BALANCERS[name](), optax.sgd(0.1))
  batch = jax.tree.map(np.copy, batch)
  batch['targets']['score'][0] = np.inf
  _, metrics = step(state, batch)
  assert metrics['finite'].tolist() == [True, True, False]


def test_a_balance_that_leaves_the_task_axis_is_refused():
  chain = optax.chain(optim.gradnorm(num_tasks=3), optim.normalize_task_gradients())
  _, batch, state, step = start(chain, optax.sgd(0.1))
  with pytest.raises(ValueError, match='must end with a balancer'):
    step(state, batch)


def test_the_gramian_of_split_gradients_gathers_nothing():
  mesh = sharding.make_mesh(2, 4)
  placed = jax.device_put(
    jnp.ones((3, 64, 128)),
    jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None, 'fsdp')),
  )
  program = jax.jit(lambda x: gradients.gramian(x, sharded=True)).lower(placed).compile()
  assert 'all-gather' not in program.as_text()
  np.testing.assert_allclose(program(placed), np.full((3, 3), 64 * 128), rtol=1e-6)


@pytest.mark.parametrize('name', ['pcgrad', 'dwa', 'graddrop'])
@pytest.mark.parametrize('jacobian', ['auto', 'sequential'])
def test_a_shared_half_without_parameters(name, jacobian):
  functions = [lambda p, b, k: jnp.sum((p['tasks']['a'] - b) ** 2)] * 2
  params = {'shared': {}, 'tasks': {'a': jnp.ones(2)}}
  balance, optimizer = optim.get(name), optax.sgd(0.1)
  state = mtl_jax.init_train_state(functions, balance, optimizer, jax.random.key(0), params=params)
  step = mtl_jax.make_train_step(functions, balance, optimizer, jacobian=jacobian, monitor=True)
  state, metrics = step(state, jnp.zeros(2))
  assert not np.asarray(metrics['cosine']).any()
  assert float(state.params['tasks']['a'][0]) < 1


def test_init_needs_parameters_or_a_model():
  with pytest.raises(ValueError, match='needs params='):
    mtl_jax.init_train_state(
      [lambda p, b, k: p], optim.sum_tasks(), optax.sgd(1.0), jax.random.key(0)
    )


def test_bfloat16_compute_keeps_float32_parameters_and_balancing():
  tasks = models.tasks(text=False)
  model = mtl_jax.sharing.hard(mtl_jax.encoders.MLP((16,), dtype=jnp.bfloat16), tasks)
  with jax.numpy_dtype_promotion('standard'):
    _, batch, state, step = start(optim.pcgrad(), optax.sgd(0.1), model=model)
    state, metrics = step(state, batch)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
  assert metrics['cosine'].dtype == jnp.float32
