"""What every method does when tasks change places, and when gradients or losses change scale.

Three steps with the state carried. One compilation a method: a fixed number of problems at once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import optim
from tests.optim.contract_test import CASES, given

TASKS, SIZE, STEPS, PROBLEMS = 4, 12, 3, 8
PARAMS = jnp.zeros(SIZE)

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(STEPS, TASKS, SIZE)) + 0.7 * RNG.normal(size=(STEPS, 1, SIZE))
LOSSES = RNG.uniform(0.5, 2.0, (STEPS, TASKS))
GIVEN = np.array([0.1, 0.2, 0.3, 0.4])
ORDERS = np.stack([np.arange(TASKS), *(RNG.permutation(TASKS) for _ in range(PROBLEMS - 1))])

PER_TASK = {  # a method's option with one number a task
  'static': 'weights',
  'famo': 'min_losses',
  'auto_lambda': 'primary',
} | dict.fromkeys(
  ['chebyshev', 'stch', 'cosmos', 'pbi', 'cagrad', 'upgrad', 'dualproj', 'aligned_mtl', 'config']
  + ['sdmgrad', 'imgrad'],
  'preference',
)

OPTIONS = {'sdmgrad': {'learning_rate': 0.3}}  # at 10, twenty steps magnify rounding
ORDER_MATTERS = {
  'rlw': 'draws the weights by index',
  'pcgrad': 'each task meets the others one after the other',
  'gradvac': 'as pcgrad',
  'lr_annealing': 'one task is the residual',
  'pcd': 'one task is the primary',
}


@functools.cache
def compiled(name, **options):
  """(options [N, T], rows [N, STEPS, T, D], losses [N, STEPS, T]) -> directions, last states."""
  made = CASES[name] | OPTIONS.get(name, {}) | options
  if 'num_tasks' in made:
    made = made | {'num_tasks': TASKS}

  def run(values, rows, losses):
    own = {PER_TASK[name]: values} if name in PER_TASK else {}
    tx = optim.get(name, **made, **own)

    def step(state, batch):
      direction, state = tx.update(batch[0], state, PARAMS, **given(*batch))
      return state, direction

    state, directions = jax.lax.scan(step, tx.init(PARAMS), (rows, losses))
    return directions, state

  return jax.jit(jax.vmap(run))


def solve(name, rows=None, losses=None, values=None, **options):
  """Float64 directions `[PROBLEMS, STEPS, ...]` and the states; what is not given is constant."""
  arrays = []
  for given_array, constant in ((values, GIVEN), (rows, ROWS), (losses, LOSSES)):
    array = np.broadcast_to(constant, (PROBLEMS, *constant.shape))
    array = array if given_array is None else given_array
    arrays.append(jnp.asarray(array, jnp.float32))
  directions, states = compiled(name, **options)(*arrays)
  return np.asarray(directions, np.float64), states


def floats(states):
  return [x for x in jax.tree.leaves(states) if jnp.issubdtype(x.dtype, jnp.floating)]


def near(actual, expected, tolerance=1e-4):
  """Along the last axis, the error is small beside the vector."""
  error = np.linalg.norm(actual - expected, axis=-1)
  assert (error <= tolerance * np.linalg.norm(expected, axis=-1)).all(), error


@pytest.mark.parametrize('name', [name for name in CASES if name not in ORDER_MATTERS])
def test_tasks_change_places(name):
  """Rows, losses and options change places: so does what the state holds of them; d stays.

  The rows are independent, so that equal directions have the same weights for the same tasks.
  """
  rows, losses = (np.swapaxes(each[:, ORDERS], 0, 1) for each in (ROWS, LOSSES))
  directions, states = solve(name, rows, losses, GIVEN[ORDERS])
  expected = directions[0]
  for order, found in zip(ORDERS, directions, strict=True):
    stacked = found.ndim == 3  # a normalizer's rows
    near(found, expected[:, order] if stacked else expected)
  if hasattr(states, 'logits'):  # known up to a constant
    states = states._replace(logits=jax.nn.softmax(states.logits))
  for leaf in floats(states):
    first = np.asarray(leaf[0])
    for order, found in zip(ORDERS, leaf, strict=True):
      moved = first[order] if first.shape[:1] == (TASKS,) else first
      np.testing.assert_allclose(found, moved, rtol=1e-4, atol=1e-6)


SCALES = 10.0 ** np.array([0, -12, -9, -6, -3, 6, 9, 12])
SCALE_FREE = {'normalize_task_gradients', 'moco', 'nash_mtl', 'fairgrad'}
NOT_LINEAR = {
  'modo': 'γ has the unit of 1/G',
  'pcd': 'ε has the unit of G',
  'adatask': 'ε has the unit of the gradients',
  'auto_lambda': 'its virtual step has a fixed rate',
  'moml': 'as auto_lambda',
  'forum': 'as auto_lambda',
}
LINEAR_AT_FIRST = {  # then the weights learn, and an ε of 1e-8 is not small beside such gradients
  'gradnorm': 'Adam',
  'excess_mtl': 'the square root',
}


@pytest.mark.parametrize('name', CASES)
def test_extreme_scales(name):
  """Gradients from 1e-12 to 1e12 times as long: all finite, and d with them where it is linear."""
  directions, states = solve(name, ROWS * SCALES[:, None, None, None])
  assert np.isfinite(directions).all()
  assert all(np.isfinite(leaf).all() for leaf in floats(states))
  if name in SCALE_FREE:
    near(directions, np.broadcast_to(directions[0], directions.shape))
  elif name not in NOT_LINEAR:
    steps = 1 if name in LINEAR_AT_FIRST else STEPS
    scales = SCALES.reshape(-1, *[1] * (directions.ndim - 1))
    near(directions[:, :steps], scales * directions[0, :steps])


def unchanged(d, w, rows, s):
  del w, rows, s
  return d


def same_weights(d, w, rows, s):
  del d
  return (w * s) @ rows


def inverse_weights(d, w, rows, s):
  """wᵢ/sᵢ, brought to the sum 1: the same line."""
  del rows
  return d / np.sum(w / s)


def sum_of_projections(d, w, rows, s):
  """The same unit vector u, as long as Σ sᵢgᵢ·u."""
  del w
  unit = d / np.linalg.norm(d)
  return np.sum(s * (rows @ unit)) * unit


def mean_scale(d, w, rows, s):
  """wᵢ/sᵢ times the geometric mean of s."""
  del w, rows
  return np.prod(s) ** (1 / TASKS) * d


CLAIMS = [  # method, options, what is scaled, and d for gradients (and losses) times s
  ('nash_mtl', {}, 'rows', unchanged),
  ('nash_mtl', {'max_norm': 0.0}, 'rows', unchanged),
  ('moco', {}, 'rows', unchanged),
  ('normalize_task_gradients', {}, 'rows', unchanged),
  ('mgda', {'normalization': 'l2', 'apply_to': 'normalized'}, 'rows', unchanged),
  ('mgda', {'normalization': 'l2'}, 'rows', same_weights),
  ('excess_mtl', {}, 'rows', same_weights),
  ('config', {}, 'rows', sum_of_projections),
  ('imtl_g', {}, 'rows', inverse_weights),
  ('adatask', {}, 'rows', unchanged),
  ('db_mtl', {}, 'losses', unchanged),
  ('mgda', {'normalization': 'loss', 'apply_to': 'normalized'}, 'losses', unchanged),
  ('dwa', {}, 'losses', same_weights),
  ('relobralo', {'alpha': 0.5, 'rho': 0.5}, 'losses', same_weights),
  ('mgda', {'normalization': 'loss'}, 'losses', same_weights),
  ('geometric_mean', {}, 'losses', mean_scale),
  ('famo', {}, 'losses', inverse_weights),
]


def factors():
  """One for each task, the first 1."""
  drawn = 2.0 ** np.random.default_rng(1).uniform(-6, 6, (PROBLEMS, TASKS))
  drawn[0] = 1.0
  return drawn


def scaled(kind):
  """Rows and losses times the factors; 'rows': rows alone, 'losses': a loss and so its gradient."""
  s = factors()[:, None, :]
  return ROWS * s[..., None], (LOSSES * s if kind == 'losses' else None)


@pytest.mark.parametrize(('name', 'options', 'kind', 'claim'), CLAIMS)
def test_scale_of_each_task(name, options, kind, claim):
  """Weights are those of d on the independent rows, from least squares."""
  values = np.zeros((PROBLEMS, TASKS)) if name == 'famo' else None  # bounds scale with the losses
  directions, _ = solve(name, *scaled(kind), values, **options)
  for s, found in zip(factors(), directions, strict=True):
    for rows, d, actual in zip(ROWS, directions[0], found, strict=True):
      weights = np.linalg.lstsq(rows.T, d.T, rcond=None)[0]
      near(actual, claim(d, weights, rows, s))


def test_db_mtl_points_the_same_way_whatever_the_gradients_norms():
  """Its length is that of the longest."""
  directions, _ = solve('db_mtl', *scaled('rows'))
  units = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
  near(units, np.broadcast_to(units[0], units.shape))
  lengths = np.linalg.norm(ROWS[0], axis=-1) / LOSSES[0]  # of ∇log L; the first step's average
  expected = np.max(factors() * lengths, axis=-1) / np.max(lengths)
  actual = np.linalg.norm(directions[:, 0], axis=-1) / np.linalg.norm(directions[0, 0])
  np.testing.assert_allclose(actual, expected, rtol=1e-4)
