"""What every balancing method promises; a new method joins `CASES` and inherits all checks.

Those of `jit`, `vmap` and `scan` against single and eager updates are in `transforms_test`.
"""

import doctest
import functools
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from optax.experimental import aggregating

from mtl_jax import gradients, optim, sharding
from mtl_jax.optim import _base

T = 3
CASES = {
  'cr_mogm': {'num_tasks': T},
  'sum_tasks': {},
  'mean_tasks': {},
  'static': {},
  'rlw': {},
  'uncertainty': {'num_tasks': T},
  'dwa': {'num_tasks': T},
  'geometric_mean': {},
  'imtl_l': {'num_tasks': T},
  'famo': {'num_tasks': T},
  'chebyshev': {},
  'stch': {},
  'cosmos': {},
  'pbi': {},
  'dtp': {'num_tasks': T},
  'soft_adapt': {'num_tasks': T},
  'relobralo': {'num_tasks': T},
  'go4align': {'num_tasks': T},
  'normalize_task_gradients': {},
  'gradnorm': {'num_tasks': T},
  'pcgrad': {},
  'pcd': {'num_tasks': T},
  'mgda': {},
  'upgrad': {},
  'dualproj': {},
  'cagrad': {},
  'imgrad': {},
  'nash_mtl': {},
  'fairgrad': {},
  'gradvac': {'num_tasks': T},
  'imtl_g': {},
  'ntkmtl': {},
  'aligned_mtl': {},
  'config': {},
  'krum': {'num_byzantine': 0},
  'sdmgrad': {'num_tasks': T},
  'modo': {'num_tasks': T},
  'graddrop': {},
  'trimmed_mean': {},
  'moco': {'num_tasks': T},
  'db_mtl': {'num_tasks': T},
  'excess_mtl': {'num_tasks': T},
  'lr_annealing': {'num_tasks': T},
  'adatask': {'num_tasks': T},
  'auto_lambda': {'num_tasks': T},
  'moml': {'num_tasks': T},
  'forum': {'num_tasks': T},
}
BALANCERS = [n for n in CASES if isinstance(optim.get(n, **CASES[n]), optim.Balancer)]
WEIGHTINGS = [n for n in BALANCERS if optim.get(n, **CASES[n]).weighting is not None]
READERS = [n for n in BALANCERS if optim.get(n, **CASES[n]).needs != 'functions']
ONE_BATCH = [  # what compose takes
  n for n in READERS if getattr(optim.get(n, **CASES[n]).weighting, 'batches', 1) == 1
]
RESCALES_ONE_TASK = (
  'moco',
  'db_mtl',
  'auto_lambda',
  'forum',
  'uncertainty',
  'dtp',
  'nash_mtl',
  'fairgrad',
)
DIVIDES_BY_SIZE = ('adatask',)  # so that even one task has no plain gradient
NORMALIZERS = [n for n in CASES if n not in BALANCERS]
HIDES_A_ROW = ('moco', 'db_mtl')  # they follow averages, and one of a row that is not finite stays
IGNORES_LOSSES = ('graddrop', 'trimmed_mean', 'excess_mtl', 'lr_annealing', 'adatask')


def stacked(seed=0, tasks=T):
  rng = np.random.default_rng(seed)
  tree = {'w': rng.normal(size=(tasks, 8, 5)), 'b': rng.normal(size=(tasks, 8))}
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


PARAMS = {'w': jnp.zeros((8, 5)), 'b': jnp.zeros(8)}
LOSSES = jnp.array([1.0, 2.0, 0.5])


def given(grads, losses=LOSSES):
  """What the train step tells a method; the functions' values and gradients are these at PARAMS."""

  def loss_fn(params):
    def term(g, p):
      return g.reshape(len(losses), -1).astype(jnp.float32) @ p.ravel().astype(jnp.float32)

    return sum(jax.tree.leaves(jax.tree.map(term, grads, params)), losses)

  return {
    'losses': losses,
    'loss_fn': loss_fn,
    'validation_fn': lambda params: 0.5 * loss_fn(params) ** 2,
  }


def close(actual, expected, rtol=2e-5, atol=1e-6):
  def check(a, e):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, e = jax.random.key_data(a), jax.random.key_data(e)
    np.testing.assert_allclose(a, e, rtol, atol)

  jax.tree.map(check, actual, expected)


def all_finite(tree):
  return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree))


@functools.cache
def update_of(name):
  """(grads, state, losses, present) -> direction, state; compiled once, with a donated state."""
  tx = optim.get(name, **CASES[name])

  def update(grads, state, losses, present):
    return tx.update(grads, state, PARAMS, present=present, **given(grads, losses))

  return jax.jit(update, donate_argnums=1)


def test_the_table_is_complete():
  assert set(CASES) == set(optim.METHODS)


@pytest.mark.parametrize('name', CASES)
def test_shapes_state_and_optax_type(name):
  tx = optim.get(name, **CASES[name])
  assert isinstance(tx, optax.GradientTransformationExtraArgs)
  assert tx.needs in _base.NEEDS

  def update(grads):
    state = tx.init(PARAMS)
    return state, *tx.update(grads, state, PARAMS, **given(grads), unknown='ignored')

  state, updates, new_state = jax.eval_shape(update, stacked())
  lead = () if name in BALANCERS else (T,)
  assert jax.tree.map(lambda x: x.shape, updates) == jax.tree.map(lambda x: lead + x.shape, PARAMS)
  assert jax.tree.structure(state) == jax.tree.structure(new_state)
  assert all(
    a.dtype == b.dtype and a.shape == b.shape
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(new_state), strict=True)
  )


@pytest.mark.parametrize('name', CASES)
def test_sharded_gradients_give_the_same_answer(name):
  tx = optim.get(name, **CASES[name])
  mesh = sharding.make_mesh(2, 4)
  specs = {'w': PartitionSpec(None, 'fsdp'), 'b': PartitionSpec(None, ('data', 'fsdp'))}
  placed = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in stacked().items()}
  direction = jax.jit(lambda g, s: tx.update(g, s, PARAMS, **given(g))[0])
  expected, _ = update_of(name)(stacked(), tx.init(PARAMS), LOSSES, jnp.ones(T, bool))
  close(direction(placed, tx.init(PARAMS)), expected)


@pytest.mark.parametrize('name', CASES)
def test_wrong_task_axis_names_the_leaf(name):
  tx = optim.get(name, **CASES[name])
  grads = stacked() | {'b': jnp.zeros((2, 8))}
  with pytest.raises(ValueError, match=r"T = 3 .*\['b'\] has shape \(2, 8\)"):
    tx.update(grads, tx.init(PARAMS), PARAMS, **given(stacked()))


@pytest.mark.parametrize('name', CASES)
def test_zero_gradient_and_zero_loss_stay_finite(name):
  tx, update, everyone = optim.get(name, **CASES[name]), update_of(name), jnp.ones(T, bool)
  grads = jax.tree.map(lambda x: x.at[1].set(0.0), stacked())
  updates, state = update(grads, tx.init(PARAMS), LOSSES.at[1].set(0.0), everyone)
  assert all_finite(updates)
  updates, _ = update(grads, state, LOSSES, everyone)
  assert all_finite(updates)


@pytest.mark.parametrize('name', [n for n in BALANCERS if n not in DIVIDES_BY_SIZE])
def test_one_task_is_the_plain_gradient(name):
  """Or a multiple of it, where the method averages or scales even a single gradient."""
  tx = optim.get(name, **({'num_tasks': 1} if 'num_tasks' in CASES[name] else {}))
  grads = stacked(tasks=1)
  update = jax.jit(lambda g, s: tx.update(g, s, PARAMS, **given(g, LOSSES[:1]))[0])
  updates = update(grads, tx.init(PARAMS))
  factor = jnp.max(updates['b'] / grads['b'][0]) if name in RESCALES_ONE_TASK else 1.0
  assert factor > 0
  close(updates, jax.tree.map(lambda x: factor * x[0], grads))


@pytest.mark.parametrize('name', WEIGHTINGS)
def test_weighting_is_the_transformation(name):
  tx = optim.get(name, **CASES[name])
  grads = stacked()
  state = tx.weighting.init(T)
  weights, _ = tx.weighting.update(
    state, losses=LOSSES, gramian=gradients.gramian(grads), present=jnp.ones(T, bool)
  )
  direction = gradients.combine(weights, grads)
  direction, weights = _base.bounded(tx.weighting, state, direction, weights)
  close(direction, tx.update(grads, tx.init(PARAMS), losses=LOSSES)[0])
  close(direction, gradients.combine(weights, grads))


@pytest.mark.parametrize('balancer', ONE_BATCH)
@pytest.mark.parametrize('normalizer', NORMALIZERS)
def test_compose_is_chain_with_one_gramian(normalizer, balancer):
  links = [optim.get(n, **CASES[n]) for n in (normalizer, balancer)]
  composed, chained = optim.compose(*links), optax.chain(*links)
  state, chain_state = composed.init(PARAMS), chained.init(PARAMS)
  for seed in range(3):
    told = given(stacked(seed), LOSSES / (seed + 1))
    actual, state = composed.update(stacked(seed), state, PARAMS, **told)
    expected, chain_state = chained.update(stacked(seed), chain_state, PARAMS, **told)
    close(actual, expected)
  from_tasks = composed.init_tasks(PARAMS, T)
  assert jax.tree.structure(from_tasks) == jax.tree.structure(state)


@pytest.mark.parametrize('name', CASES)
def test_in_a_chain_with_clipping_and_adam(name):
  link = optim.get(name, **CASES[name])
  links = [link] if name in BALANCERS else [link, optim.sum_tasks()]
  with jax.numpy_dtype_promotion('standard'):
    tx = optax.chain(*links, optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    updates = jax.eval_shape(
      lambda g: tx.update(g, tx.init(PARAMS), PARAMS, **given(g))[0], stacked()
    )
  assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)


# `process` puts its extra arguments through `lax.cond`, which takes no functions.
@pytest.mark.parametrize('name', READERS)
def test_in_optax_aggregating_process(name):
  balancer = optim.get(name, **CASES[name])
  tx = aggregating.process(
    optim.normalize_task_gradients(), balancer, optax.with_extra_args_support(optax.sgd(0.5))
  )
  chain = optax.chain(optim.normalize_task_gradients(), balancer)

  @jax.jit
  def both(grads):
    return [t.update(grads, t.init(PARAMS), PARAMS, losses=LOSSES)[0] for t in (tx, chain)]

  updates, expected = both(stacked())
  close(updates, jax.tree.map(lambda x: -0.5 * x, expected))


def test_inject_hyperparams_reaches_alpha():
  with jax.numpy_dtype_promotion('standard'):
    tx = optax.inject_hyperparams(optim.gradnorm, static_args=('num_tasks', 'optimizer'))(
      num_tasks=T, alpha=1.5
    )
    state = tx.init(PARAMS)
    _, state = jax.jit(tx.update)(stacked(), state, PARAMS, losses=LOSSES)
  assert float(state.hyperparams['alpha']) == 1.5


def test_on_shared_leaves_tasks_alone():
  tx = optim.on_shared(optim.pcgrad())
  params = {'shared': PARAMS, 'tasks': {'a': jnp.zeros(2)}}
  grads = {'shared': stacked(), 'tasks': {'a': jnp.arange(2.0)}}
  updates, _ = tx.update(grads, tx.init(params), params)
  close(updates['tasks'], grads['tasks'])
  close(updates['shared'], optim.pcgrad().update(stacked(), optim.pcgrad().init(PARAMS))[0])
  with pytest.raises(ValueError, match='on_shared needs'):
    tx.init(PARAMS)


def test_unknown_name_lists_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'pcgrad'"):
    optim.get('pc_grad')


def test_compose_refuses_wrong_links():
  with pytest.raises(ValueError, match='last, a balancer'):
    optim.compose(optim.gradnorm())
  with pytest.raises(ValueError, match='must be a normalizer'):
    optim.compose(optim.pcgrad(), optim.pcgrad())


def test_every_example_runs():
  """The docstrings' examples, of the whole package."""
  import mtl_jax

  for module in pkgutil.walk_packages(mtl_jax.__path__, 'mtl_jax.'):
    if module.name.endswith('__main__'):
      continue
    with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
      failed, _ = doctest.testmod(importlib.import_module(module.name))
    assert not failed, module.name


@pytest.mark.parametrize('name', READERS)
def test_a_row_that_is_not_finite_spoils_nothing_else(name):
  """It shows where it is; the other coordinates, the weights and the state stay as without it."""
  tx, update = optim.get(name, **CASES[name]), update_of(name)
  everyone, others = jnp.ones(T, bool), jnp.array([True, False, True])
  for bad in (jnp.nan, jnp.inf, -jnp.inf):
    broken = stacked() | {'b': stacked()['b'].at[1].set(bad)}
    direction, state = update(broken, tx.init(PARAMS), LOSSES, everyone)
    assert all_finite(direction['w'])
    if name not in HIDES_A_ROW and not (name == 'trimmed_mean' and jnp.isinf(bad)):
      assert not jnp.isfinite(direction['b']).any()
    if name in WEIGHTINGS and tx.needs == 'gramian':
      without = jax.tree.map(lambda g: g.at[1].set(0.0), stacked())
      expected, clean = update(without, tx.init(PARAMS), LOSSES, others)
      close(direction['w'], expected['w'])
      close(state, clean)
    later, _ = update(stacked(1), state, LOSSES, everyone)
    assert all_finite(later)


@pytest.mark.parametrize('name', CASES)
def test_a_loss_that_is_not_finite_spoils_nothing_else(name):
  """Its task is left out like an absent one, where the method looks at losses at all."""
  tx, update = optim.get(name, **CASES[name]), update_of(name)
  everyone, others = jnp.ones(T, bool), jnp.array([True, False, True])
  for bad in (jnp.nan, jnp.inf):
    direction, state = update(stacked(), tx.init(PARAMS), LOSSES.at[1].set(bad), everyone)
    assert all_finite(direction)
    if tx.needs != 'functions':
      here = everyone if name in IGNORES_LOSSES else others
      close((direction, state), update(stacked(), tx.init(PARAMS), LOSSES, here))
    later, _ = update(stacked(1), state, LOSSES, everyone)
    assert all_finite(later)


@pytest.mark.parametrize('name', CASES)
def test_a_huge_loss_leaves_no_infinity_in_the_state(name):
  tx, update = optim.get(name, **CASES[name]), update_of(name)
  everyone = jnp.ones(T, bool)
  direction, state = update(stacked(), tx.init(PARAMS), LOSSES.at[1].set(1e30), everyone)
  assert all_finite(direction)
  numbers = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
  assert not any(bool(jnp.isinf(x).any()) for x in numbers)
  later, _ = update(stacked(1), state, LOSSES, everyone)
  assert all_finite(later)


def numbers(name):
  """The numeric options that a schedule may drive."""
  options = inspect.signature(optim.METHODS[name]).parameters.values()
  return [p.name for p in options if isinstance(p.default, float)]


@pytest.mark.parametrize('name', [n for n in CASES if numbers(n)])
def test_inject_hyperparams_reaches_every_rate(name):
  function = optim.METHODS[name]
  others = [p for p in inspect.signature(function).parameters if p not in numbers(name)]
  with jax.numpy_dtype_promotion('standard'):
    tx = optax.inject_hyperparams(function, static_args=others)(**CASES[name])
    state = tx.init(PARAMS)
    assert set(state.hyperparams) == set(numbers(name))
    update = jax.jit(lambda g, s: tx.update(g, s, PARAMS, **given(g)))
    direction, _ = update(stacked(), state)
  start = optim.get(name, **CASES[name]).init(PARAMS)
  close(direction, update_of(name)(stacked(), start, LOSSES, jnp.ones(T, bool))[0])


def test_what_counts_as_zero_and_as_infinite():
  """By the squares of float32, of which a CPU has no denormals: √1.18e-38 and √3.4e38."""

  def update(state, *, gramian, **extra_args):
    return jnp.where(jnp.diagonal(gramian) > 0, 2.0, 1.0), state

  weighting = _base.Weighting(lambda tasks: (), update, 'gramian')

  @jax.jit
  def seen(size):  # 0: left out, 1: zero, 2: neither
    rows = jnp.stack([jnp.array([size, 0.0]), jnp.array([size / 2, size / 2]), jnp.ones(2)])
    known = {'present': jnp.ones(3, bool), 'gramian': gradients.gramian(rows)}
    return _base.weigh(weighting, (), **known)[0]

  zero, infinite = (
    float(f(np.finfo(np.float32))) ** 0.5 for f in (lambda i: i.tiny, lambda i: i.max)
  )
  np.testing.assert_allclose([zero, infinite], [1.08e-19, 1.84e19], rtol=5e-3)
  np.testing.assert_array_equal(seen(1.01 * zero), [2, 1, 2])  # halves are below
  np.testing.assert_array_equal(seen(2.02 * zero), [2, 2, 2])
  np.testing.assert_array_equal(seen(0.99 * zero), [1, 1, 2])
  np.testing.assert_array_equal(seen(1e-22), [1, 1, 2])
  np.testing.assert_array_equal(seen(0.99 * infinite), [2, 2, 2])
  np.testing.assert_array_equal(seen(1.01 * infinite), [0, 2, 2])
