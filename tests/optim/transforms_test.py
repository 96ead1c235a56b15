"""Every method under `vmap` and `scan`, with donated state and in bfloat16: the same numbers.

They are held against a Python loop of single updates that give their state away. Its gradients are
bfloat16 numbers in float32, so that it serves both precisions.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from mtl_jax import optim
from tests.optim.contract_test import CASES, PARAMS, T, close, given, stacked, update_of

COLUMNS, STEPS = 3, 3


def cast(tree, dtype):
  return jax.tree.map(lambda x: x.astype(dtype), tree)


@functools.cache
def problem(column, step):
  """Gradients and losses."""
  rounded = cast(cast(stacked(seed=10 * column + step), jnp.bfloat16), jnp.float32)
  losses = np.random.default_rng([column, step]).uniform(0.5, 2.0, T)
  return rounded, jnp.asarray(losses, jnp.float32)


def stack(trees):
  return jax.tree.map(lambda *x: jnp.stack(x), *trees)


@functools.cache
def looped(name):
  """Directions `[COLUMNS, STEPS, ...]` and last states `[COLUMNS, ...]` of updates one by one."""
  tx = optim.get(name, **CASES[name])
  directions, states = [], []
  for column in range(COLUMNS):
    state = tx.init(PARAMS)
    for step in range(STEPS):
      given_away = jax.tree.leaves(state)
      grads, losses = problem(column, step)
      direction, state = update_of(name)(grads, state, losses, jnp.ones(T, bool))
      assert all(leaf.is_deleted() for leaf in given_away)
      directions.append(direction)
    states.append(state)
  shape = COLUMNS, STEPS
  return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), stack(directions)), stack(states)


@pytest.mark.parametrize('name', CASES)
def test_vmap_of_a_jitted_scan_is_the_loop_with_donated_states(name):
  """`vmap` from outside a `jit`, where float64 is at risk; nothing is donated here."""
  tx = optim.get(name, **CASES[name])

  def step(state, batch):
    direction, state = tx.update(batch[0], state, PARAMS, **given(*batch))
    return state, direction

  many = jax.vmap(jax.jit(lambda state, batches: jax.lax.scan(step, state, batches)))
  batches = stack([stack([problem(c, s) for s in range(STEPS)]) for c in range(COLUMNS)])
  states, directions = many(stack([tx.init(PARAMS)] * COLUMNS), batches)
  close((directions, states), looped(name))


class HostTest(chex.TestCase):
  """Eager, on arrays of the host, as in the compiled loop."""

  @chex.variants(without_device=True)
  @parameterized.parameters(*CASES)
  def test_an_eager_update_is_the_compiled_one(self, name):
    tx = optim.get(name, **CASES[name])
    update = self.variant(
      lambda grads, state, losses: tx.update(grads, state, PARAMS, **given(grads, losses))
    )
    grads, losses = problem(0, 0)
    direction, state = update(grads, tx.init(PARAMS), losses)
    close(direction, jax.tree.map(lambda x: x[0, 0], looped(name)[0]))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(PARAMS))


@pytest.mark.parametrize('name', CASES)
def test_bfloat16_gradients(name):
  """The direction is rounded, a float32 state is not."""
  tx, params = optim.get(name, **CASES[name]), cast(PARAMS, jnp.bfloat16)
  update = jax.jit(
    lambda grads, state, losses: tx.update(grads, state, params, **given(grads, losses))
  )
  state = tx.init(params)
  for step in range(STEPS):
    grads, losses = problem(0, step)
    direction, state = update(cast(grads, jnp.bfloat16), state, losses)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(direction))
    expected = jax.tree.map(lambda x, step=step: x[0, step], looped(name)[0])
    if tx.needs != 'functions':
      close(cast(direction, jnp.float32), expected, rtol=2**-8)
      continue
    for leaf, wanted in zip(*map(jax.tree.leaves, (direction, expected)), strict=True):
      error = np.linalg.norm(np.asarray(leaf, np.float64) - wanted)
      assert error <= 2**-6 * np.linalg.norm(wanted)  # gradients inside are rounded too
  last = jax.tree.map(lambda x: x[0], looped(name)[1])
  chex.assert_trees_all_equal_dtypes(state, last)
  if tx.needs != 'functions':
    close(state, last)
