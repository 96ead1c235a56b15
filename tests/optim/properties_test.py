"""What methods promise for any gradients, on random ones: symmetry, scaling, no conflict.

A method joins by its name in the sets below. Fixed shapes, so that each method compiles twice.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_jax import optim

TASKS, SIZE = 4, 12
OPTIONS = {  # off their defaults: no regularization, no random order
  'pcgrad': {'order': 'index'},
  'upgrad': {'reg_eps': 0.0},
  'dualproj': {'reg_eps': 0.0},
}
EXACT = {'mgda', 'upgrad', 'dualproj', 'cagrad', 'nash_mtl', 'fairgrad', 'imtl_g', 'aligned_mtl'}
SYMMETRIC = EXACT | {'config', 'imgrad', 'ntkmtl', 'sum_tasks', 'mean_tasks'}
NO_CONFLICT = {'mgda', 'upgrad', 'dualproj', 'nash_mtl'}
LINEAR = (SYMMETRIC - {'nash_mtl', 'fairgrad'}) | {'pcgrad', 'krum'}  # krum breaks ties by index
ROW_SCALE_FREE = {'nash_mtl'}


def known(names):
  return sorted(names & set(optim.METHODS))


@functools.cache
def update_of(name, **options):
  tx = optim.get(name, **OPTIONS.get(name, {}), **options)
  return jax.jit(lambda rows: tx.update(rows, tx.init(jnp.zeros(SIZE)))[0])


def direction(name, rows, **options):
  found = np.asarray(update_of(name, **options)(jnp.asarray(rows, jnp.float32)), np.float64)
  assert np.isfinite(found).all()
  return found


def check(test):
  return settings(max_examples=25, deadline=None, derandomize=True, database=None)(test)


@st.composite
def gradients(draw, tasks=TASKS, mildest=0.0):
  """Rows of norm about √D, some with a common part, some scaled; `mildest` > 0: far from conflict.

  The Gramian's rounding shows where gradients cancel, so tests that compare two directions keep
  away from there, and tests of an inequality do not.
  """
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  rows = rng.normal(size=(tasks, SIZE)) + draw(st.floats(mildest, 2.0)) * rng.normal(size=SIZE)
  scales = draw(st.lists(st.sampled_from([0.1, 1.0, 10.0]), min_size=tasks, max_size=tasks))
  return (rows * np.array(scales)[:, None]).astype(np.float32)


def close(actual, expected, rows):
  natural = np.linalg.norm(rows, axis=1).max()
  error = np.linalg.norm(actual - expected)
  assert error <= 1e-4 * np.linalg.norm(expected) + 1e-6 * min(natural, np.linalg.norm(expected))


@pytest.mark.parametrize('name', known(SYMMETRIC))
@check
@given(rows=gradients(mildest=0.5), order=st.permutations(range(TASKS)))
def test_order_of_tasks_does_not_matter(name, rows, order):
  close(direction(name, rows[np.array(order)]), direction(name, rows), rows)


@pytest.mark.parametrize('name', known(LINEAR))
@check
@given(rows=gradients(mildest=0.5), power=st.integers(-12, 12))
def test_direction_scales_with_the_gradients(name, rows, power):
  close(direction(name, rows * 2.0**power), 2.0**power * direction(name, rows), 2.0**power * rows)


@pytest.mark.parametrize('name', known(NO_CONFLICT))
@check
@given(rows=gradients())
def test_no_task_goes_up(name, rows):
  d = direction(name, rows)
  norms = np.linalg.norm(rows, axis=1)
  assert np.min(rows @ d / norms) >= -1e-5 * max(np.linalg.norm(d), 1e-3 * norms.max())


@check
@given(rows=gradients(tasks=2))
def test_pcgrad_of_two_tasks_moves_neither_up(rows):
  d = direction('pcgrad', rows)
  norms = np.linalg.norm(rows, axis=1)
  assert np.min(rows @ d / norms) >= -1e-5 * norms.max()


@pytest.mark.parametrize('max_norm', [0.0, 1.0])
@pytest.mark.parametrize('name', known(ROW_SCALE_FREE))
@check
@given(
  rows=gradients(mildest=0.5),
  powers=st.lists(st.integers(-8, 8), min_size=TASKS, max_size=TASKS),
)
def test_scale_of_each_task_does_not_matter(name, max_norm, rows, powers):
  scaled = rows * 2.0 ** np.array(powers)[:, None]
  expected = direction(name, rows, max_norm=max_norm)
  close(direction(name, scaled, max_norm=max_norm), expected, rows)


@pytest.mark.parametrize('name', known(LINEAR))
@check
@given(rows=gradients(tasks=1))
def test_one_task_is_its_gradient(name, rows):
  close(direction(name, rows), rows[0], rows)


@check
@given(rows=gradients(mildest=0.5), power=st.integers(-12, 12))
def test_fairgrad_scales_with_its_power(rows, power):
  scale, alpha = 2.0**power, 2.0
  expected = direction('fairgrad', rows, alpha=alpha) * scale ** ((1 - alpha) / (1 + alpha))
  close(direction('fairgrad', rows * scale, alpha=alpha), expected, rows)
