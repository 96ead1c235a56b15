"""MGDA, UPGrad, DualProj, CAGrad, Nash-MTL, FairGrad against exact solutions on J in float64.

Columns of zeros and absent tasks fill all problems up to two shapes, so that each method compiles
twice; every answer must be that of the small problem.

Directions are held to 1e-5; objectives, at the float32 weights and evaluated in float64, to 1e-6 of
the optimum. Where gradients cancel, what is left is known to the rounding of float32 weights, which
is relative to Σ wᵢ‖gᵢ‖, the length of a direction whose terms do not cancel.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import gradients, optim
from mtl_jax.optim import _base, _solvers
from tests.optim import oracles_solvers as oracles

METHODS = {
  'mgda': (optim.mgda(), oracles.shortest_in_hull),
  'upgrad': (optim.upgrad(), lambda rows: oracles.upgrad(rows, 1e-4)),
  'upgrad, exact': (optim.upgrad(reg_eps=0.0), oracles.upgrad),
  'dualproj': (optim.dualproj(), lambda rows: oracles.dualproj(rows, 1e-4)),
  'dualproj, exact': (optim.dualproj(reg_eps=0.0), oracles.dualproj),
  'cagrad': (optim.cagrad(), lambda rows: oracles.cagrad(rows, 0.5)),
}
FAIR = {'nash': (optim.nash_mtl(max_norm=0.0), 1.0), 'fairgrad': (optim.fairgrad(2.0), 2.0)}
KINDS = ['random', 'conflicting', 'parallel', 'equal', 'zero', 'scaled']
COLUMNS = 200


def jacobian(tasks, size, kind):
  rng = np.random.default_rng(tasks * size)
  rows = rng.normal(size=(tasks, size))
  if kind == 'conflicting':
    rows = rows - rows.mean(0) * 0.99
  if kind == 'parallel':
    rows = rows[:1] + 1e-3 * rows
  if kind == 'equal':
    rows[-1] = rows[0]
  if kind == 'zero':
    rows[1] = 0
  if kind == 'scaled':
    rows *= np.logspace(-4, 4, tasks)[:, None]
  return rows.astype(np.float32)


def problems():
  for tasks in (2, 3, 5, 11):
    for size in (3, 10, COLUMNS):
      yield tasks, size


def tree(rows):
  """Two leaves of every other column each, so that a per-leaf mistake shows."""
  return {'a': jnp.asarray(rows[:, ::2]), 'b': jnp.asarray(rows[:, 1::2])[..., None]}


@functools.cache
def update_of(tx):
  return jax.jit(lambda rows, present: tx.update(rows, tx.init({}), present=present)[0])


def direction(tx, rows):
  """d in float64, of a problem filled up to 5 or 11 tasks and 200 columns."""
  tasks, size = rows.shape
  slots = 5 if tasks <= 5 else 11
  full = np.zeros((slots, COLUMNS), np.float32)
  full[:tasks, :size] = rows
  updates = update_of(tx)(tree(full), jnp.arange(slots) < tasks)
  result = np.empty(COLUMNS)
  result[::2], result[1::2] = np.asarray(updates['a']), np.asarray(updates['b'])[:, 0]
  return result[:size]


@functools.cache
def exact_direction(name, tasks, size, kind):
  return METHODS[name][1](jacobian(tasks, size, kind).astype(np.float64))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', METHODS)
def test_direction(name, kind):
  """To 1e-5; where gradients cancel to less than 2%, 3e-6 of the longest (MGDA: shortest) one."""
  tx, _ = METHODS[name]
  for tasks, size in problems():
    rows = jacobian(tasks, size, kind)
    exact = exact_direction(name, tasks, size, kind)
    norms = np.linalg.norm(rows, axis=1)
    natural, length = norms.min() if name == 'mgda' else norms.max(), np.linalg.norm(exact)
    bound = 1e-5 * length if length > 0.02 * natural else 3e-6 * natural
    error = np.linalg.norm(direction(tx, rows) - exact)
    assert error <= bound, (tasks, size, error / natural, length / natural)


@functools.cache
def weights_of(tx):
  return jax.jit(lambda gram, here: tx.weighting.update((), present=here, gramian=gram)[0])


@functools.cache
def parts_of_upgrad(reg_eps):
  """vᵢ in row i: a preference for task i alone leaves one projection of the sum."""

  def part(preference, gram, here):
    weighting = optim.upgrad(reg_eps, preference=preference).weighting
    return weighting.update((), present=here, gramian=gram)[0]

  every = jnp.eye(11, dtype=jnp.float32)
  return jax.jit(lambda gram, here: jax.vmap(part, (0, None, None))(every, gram, here))


def solved(solve, rows):
  """Weights `[..., T]` in float64, of a problem filled up to 11 tasks."""
  tasks = len(rows)
  gram = np.zeros((11, 11), np.float32)
  gram[:tasks, :tasks] = gradients.gramian(jnp.asarray(rows, jnp.float32))
  found = np.asarray(solve(gram, jnp.arange(11) < tasks), np.float64)
  return found[tuple(slice(tasks) for _ in found.shape)]


@pytest.mark.parametrize('kind', KINDS)
def test_mgda_objective(kind):
  """‖Jᵀw‖² over the simplex: to 1e-6 of the minimum, also where that is small; 0 to 1e-12.

  The 1e-12 are the square of 1e-6: of (Σ wᵢ‖gᵢ‖)², its value if the gradients were parallel.
  """
  for tasks, size in problems():
    rows = jacobian(tasks, size, kind).astype(np.float64)
    w = solved(weights_of(METHODS['mgda'][0]), rows)
    assert np.min(w) >= 0
    assert abs(np.sum(w) - 1) <= 1e-6
    least = np.sum(exact_direction('mgda', tasks, size, kind) ** 2)
    gap = np.sum((w @ rows) ** 2) - least
    parallel = (w @ np.linalg.norm(rows, axis=1)) ** 2
    assert abs(gap) <= 1e-6 * least + 1e-12 * parallel, (tasks, size, gap / max(least, 1e-300))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('reg_eps', [1e-4, 0.0])
@pytest.mark.parametrize('name', ['upgrad', 'dualproj'])
def test_projection_objective(name, reg_eps, kind):
  """vᵀ(G/tr G + εI)v over v ≥ l: to 1e-6 of the minimum, also where that is small; 0 to 1e-9.

  The 1e-9 are of (Σ lᵢ‖gᵢ‖)²/tr G + ε‖l‖², its value at the bounds if the gradients were parallel:
  v is up to 40 times as large as l where 0 is the minimum, and its square counts.
  """
  for tasks, size in problems():
    rows = jacobian(tasks, size, kind).astype(np.float64)
    norms, epsilon = np.linalg.norm(rows, axis=1), float(np.float32(reg_eps))
    if name == 'upgrad':
      bounds, found = np.eye(tasks), solved(parts_of_upgrad(reg_eps), rows)
    else:
      tx, _ = METHODS['dualproj' if reg_eps else 'dualproj, exact']
      bounds, found = np.full((1, tasks), 1 / tasks), solved(weights_of(tx), rows)[None]

    for bound, v in zip(bounds, found, strict=True):
      assert np.min(v - bound) >= -1e-7
      least = oracles.length_of_projection(rows, oracles.project(rows, bound, epsilon), epsilon)
      parallel = (bound @ norms) ** 2 / np.sum(norms**2) + epsilon * bound @ bound
      gap = oracles.length_of_projection(rows, v, epsilon) - least
      assert abs(gap) <= 1e-6 * least + 1e-9 * parallel, (tasks, size, gap / max(least, 1e-300))


@pytest.mark.parametrize('kind', KINDS)
def test_cagrad_objective(kind):
  """minᵢ gᵢ·d over the ball: no task gains less than the optimum, but for 1e-6 ‖gᵢ‖ Σ wⱼ‖gⱼ‖.

  That is what gᵢ·d would be if the gradients were parallel. In units of its own, as the least gain
  is that of a short row, and a long one loses more than that by rounding. Where the optimum is
  above 5% of it for the longest row, the least gain is the optimum to 1e-6 of itself.
  """
  relative = 0
  for tasks, size in problems():
    rows = jacobian(tasks, size, kind).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    w = solved(weights_of(METHODS['cagrad'][0]), rows)
    d, mean, parallel = w @ rows, rows.mean(0), np.abs(w) @ norms
    assert np.linalg.norm(d - mean) <= 0.5 * np.linalg.norm(mean) + 1e-6 * parallel
    gains = (rows @ d)[norms > 0]
    best = np.min((rows @ exact_direction('cagrad', tasks, size, kind))[norms > 0])
    assert np.max((best - gains) / norms[norms > 0]) <= 1e-6 * parallel, (tasks, size)
    if abs(best) > 0.05 * np.max(norms) * parallel:
      relative += 1
      assert abs(np.min(gains) - best) <= 1e-6 * abs(best), (tasks, size)
  assert relative >= 6 or kind in ('conflicting', 'scaled')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', FAIR)
def test_fair_direction(name, kind):
  """To 1e-5; where gradients cancel to less than 2%, the objective to 1e-6; d ≈ 0 if to 0."""
  tx, alpha = FAIR[name]
  for tasks, size in problems():
    rows = jacobian(tasks, size, kind).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    rows = rows[norms > 0]
    left = np.linalg.norm(oracles.shortest_in_hull(rows / norms[norms > 0][:, None]))
    if left < 1e-9:  # no direction moves all tasks down: there is no solution
      assert np.linalg.norm(direction(optim.nash_mtl(), jacobian(tasks, size, kind))) < 0.05
      continue
    exact = oracles.fair(rows, alpha)
    if left > 0.02:
      error = np.linalg.norm(direction(tx, jacobian(tasks, size, kind)) - exact @ rows)
      assert error <= 1e-5 * np.linalg.norm(exact @ rows), (tasks, size)
    found = solved(weights_of(tx), rows)
    gap = oracles.unfairness(rows, found, alpha) - oracles.unfairness(rows, exact, alpha)
    assert abs(gap) <= 1e-6 * np.sum((exact @ rows) ** 2), (tasks, size, left)


def test_published_numbers():
  """Of the example in the documentation of the authors' library: its rows, its four decimals."""
  rows = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], np.float32)
  for name, expected in (
    ('upgrad', [0.2929, 1.9004, 1.9004]),
    ('cagrad', [0.1835, 1.2041, 1.2041]),
  ):
    np.testing.assert_allclose(direction(METHODS[name][0], rows), expected, atol=5e-5)


@pytest.mark.parametrize('size', [20, 100])
def test_64_tasks_satisfy_the_conditions_of_optimality(size):
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(64, size)) + 0.3
  gram = jnp.asarray(rows @ rows.T, jnp.float32)
  present = jnp.ones(64, bool)

  def weights(tx):
    found, _ = jax.jit(lambda g: tx.weighting.update((), present=present, gramian=g))(gram)
    return np.asarray(found, np.float64)

  scale = size
  shortest = weights(optim.mgda()) @ rows
  assert np.min(rows @ shortest) >= shortest @ shortest - 1e-5 * scale
  for tx in (optim.dualproj(reg_eps=0.0), optim.upgrad(reg_eps=0.0)):
    v = weights(tx)
    assert np.min(v) >= 1 / 64 - 1e-7
    assert np.min(rows @ (v @ rows)) >= -1e-5 * scale
  v = weights(optim.dualproj(reg_eps=0.0))
  assert abs((v - 1 / 64) @ (rows @ (v @ rows))) <= 1e-5 * scale
  mean, d = rows.mean(0), weights(optim.cagrad()) @ rows
  np.testing.assert_allclose(np.linalg.norm(d - mean), 0.5 * np.linalg.norm(mean), rtol=1e-4)
  worst = np.sort(rows @ d)
  assert worst[1] - worst[0] <= 1e-4 * scale  # more than one task is the worst off
  alpha = weights(optim.nash_mtl(max_norm=0.0))
  if np.linalg.norm(shortest) > 0.02 * np.sqrt(scale):
    np.testing.assert_allclose(alpha * (rows @ (alpha @ rows)), 1.0, rtol=1e-3)


@pytest.mark.parametrize('name', [*METHODS, *FAIR])
def test_vmap_is_the_loop_and_zeros_stay_finite(name):
  tx = (METHODS | FAIR)[name][0]
  rows = np.stack(
    [jacobian(5, 10, kind) for kind in ('random', 'scaled', 'equal')]
    + [0 * jacobian(5, 10, 'zero')]
  )
  grams = jnp.einsum('nij,nkj->nik', rows, rows, precision='highest')
  solve = jax.jit(lambda g: tx.weighting.update((), present=jnp.ones(5, bool), gramian=g)[0])
  together = jax.jit(jax.vmap(solve))(grams)
  for gram, weights in zip(grams, together, strict=True):
    np.testing.assert_allclose(weights, solve(gram), rtol=1e-5, atol=1e-12)
  assert np.isfinite(together).all()
  nobody, _ = tx.weighting.update((), present=jnp.zeros(5, bool), gramian=jnp.zeros((5, 5)))
  assert np.isfinite(nobody).all()


def test_nonnegative_qp_meets_its_cap_on_nothing():
  """Singular, scaled and equal rows: the conditions of optimality hold at the end."""
  rng = np.random.default_rng(1)
  solve = jax.jit(_base.exactly(lambda a, b: _solvers.nonnegative_qp(a, b)))
  for seed in range(20):
    rows = rng.normal(size=(12, 3 + seed))
    rows[-1] = rows[0]
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    matrix = rows @ rows.T + 1e-10 * np.eye(12)
    linear = rows @ rng.normal(size=3 + seed)
    with jax.enable_x64(True):
      u = np.asarray(solve(jnp.asarray(matrix), jnp.asarray(linear)), np.float64)
    slope = matrix @ u + linear
    assert np.min(u) >= 0
    assert np.min(slope) >= -1e-5
    assert abs(u @ slope) <= 1e-5


@pytest.mark.parametrize('apply_to', ['original', 'normalized'])
@pytest.mark.parametrize('normalization', ['none', 'l2', 'loss', 'loss+'])
def test_mgda_normalizations(normalization, apply_to):
  rows = jacobian(3, 10, 'random') * np.array([[1.0], [5.0], [0.2]], np.float32)
  losses = np.array([0.5, 2.0, 1.0])
  norms = np.linalg.norm(rows.astype(np.float64), axis=1)
  sizes = {'none': 1 + 0 * norms, 'l2': norms, 'loss': losses, 'loss+': losses * norms}
  scaled = rows / sizes[normalization][:, None]
  exact = oracles.shortest_in_hull(scaled)
  tx = optim.mgda(normalization=normalization, apply_to=apply_to)
  weights, _ = tx.weighting.update(
    (),
    present=jnp.ones(3, bool),
    losses=jnp.asarray(losses, jnp.float32),
    gramian=gradients.gramian(jnp.asarray(rows)),
  )
  if apply_to == 'normalized':
    np.testing.assert_allclose(weights @ rows, exact, atol=1e-5 * np.linalg.norm(exact))
  else:
    np.testing.assert_allclose(weights @ scaled, exact, atol=1e-5 * np.linalg.norm(exact))
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-6)


def test_preferences():
  rows = jacobian(3, 10, 'conflicting').astype(np.float64) + 0.3
  wanted = np.array([0.2, 0.5, 0.3])
  given = [2.0, 5.0, 3.0]
  for tx, exact in (
    (optim.upgrad(preference=given, reg_eps=0.0), oracles.upgrad(rows, 0.0, wanted)),
    (optim.dualproj(preference=given, reg_eps=0.0), oracles.dualproj(rows, 0.0, wanted)),
    (optim.cagrad(preference=given), oracles.cagrad(rows, 0.5, wanted)),
  ):
    found, _ = tx.update(jnp.asarray(rows, jnp.float32), tx.init({}))
    assert np.linalg.norm(found - exact) <= 1e-5 * np.linalg.norm(exact)


def test_cagrad_radius_and_rescale():
  rows = jacobian(3, 10, 'random').astype(np.float64)
  mean = rows.mean(0)
  for c in (0.0, 0.2, 0.9, 1.0, 10.0):
    found, _ = optim.cagrad(c).update(jnp.asarray(rows, jnp.float32), ())
    exact = oracles.cagrad(rows, c)
    assert np.linalg.norm(found - exact) <= 1e-5 * np.linalg.norm(exact), c
    distance = np.linalg.norm(found - mean)
    np.testing.assert_allclose(distance, c * np.linalg.norm(mean), rtol=1e-5, atol=1e-6)
  plain, _ = optim.cagrad(0.4).update(jnp.asarray(rows, jnp.float32), ())
  for rescale, divisor in (('1+c2', 1.16), ('1+c', 1.4)):
    found, _ = optim.cagrad(0.4, rescale=rescale).update(jnp.asarray(rows, jnp.float32), ())
    np.testing.assert_allclose(found, plain / divisor, rtol=1e-5)


def test_cagrad_stops_where_no_direction_helps_all():
  opposite = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5]])
  np.testing.assert_array_equal(optim.cagrad().update(opposite, ())[0], 0.0)


def test_fairgrad_with_any_alpha_on_badly_scaled_rows():
  update = jax.jit(lambda rows, alpha: optim.fairgrad(alpha).update(rows, ())[0])
  for alpha in (0.5, 5.0, 10.0):
    rows = jacobian(11, 200, 'scaled')
    exact = oracles.fair(rows.astype(np.float64), alpha) @ rows.astype(np.float64)
    found = update(jnp.asarray(rows), jnp.float32(alpha))
    assert np.linalg.norm(found - exact) <= 1e-5 * np.linalg.norm(exact), alpha


def test_nash_with_opposite_gradients_goes_to_zero():
  opposite = jnp.array([[1.0, 2.0], [-1.0, -2.0]])
  np.testing.assert_array_equal(optim.nash_mtl().update(opposite, ())[0], 0.0)


def test_nash_clip_and_one_task():
  rows = jacobian(4, 10, 'random')
  free, _ = optim.nash_mtl(max_norm=0.0).update(jnp.asarray(rows), ())
  np.testing.assert_allclose(jnp.linalg.norm(free), 2.0, rtol=1e-6)  # √T
  for max_norm, length in ((1.0, 1.0), (5.0, 2.0)):
    clipped, _ = optim.nash_mtl(max_norm=max_norm).update(jnp.asarray(rows), ())
    np.testing.assert_allclose(clipped, free * (length / 2), rtol=1e-5)
  alone, _ = optim.nash_mtl().update(jnp.array([[3.0, 4.0]]), ())
  np.testing.assert_allclose(alone, [0.6, 0.8], rtol=1e-6)
  alone, _ = optim.fairgrad(alpha=3.0).update(jnp.array([[3.0, 4.0]]), ())
  np.testing.assert_allclose(alone, np.array([3.0, 4.0]) * 5**-1.5, rtol=1e-6)


def test_nash_holds_its_weights():
  tx, every_step = optim.nash_mtl(num_tasks=3, update_every=3), optim.nash_mtl()
  state = tx.init({})
  update = jax.jit(lambda g, s, p: tx.weighting.update(s, present=p, gramian=g))
  everyone, first_two = jnp.ones(3, bool), jnp.array([True, True, False])
  grams = [gradients.gramian(jnp.asarray(jacobian(3, size, 'random'))) for size in range(4, 11)]
  for step, gram in enumerate(grams[:4]):
    due, held, _ = tx.weighting.held(state)
    assert bool(due) == (step % 3 == 0)
    before = held
    weights, state = update(gram if due else jnp.zeros((3, 3)), state, everyone)
    if due:
      fresh, _ = every_step.weighting.update((), present=everyone, gramian=gram)
      np.testing.assert_allclose(weights, fresh, rtol=1e-6)
    else:
      np.testing.assert_array_equal(weights, before)
  for _ in range(2):
    _, state = update(jnp.zeros((3, 3)), state, everyone)
  pair = grams[5].at[2].set(0.0).at[:, 2].set(0.0)
  moved, _ = update(pair, state, first_two)  # due, and task 2 is absent
  assert float(moved[2]) == float(state.weights[2]) > 0
  assert float(moved[0]) != float(state.weights[0])
  with pytest.raises(ValueError, match='num_tasks'):
    optim.nash_mtl(update_every=2).init({})


def test_wrong_options():
  for make, options in (
    (optim.mgda, {'normalization': 'l1'}),
    (optim.mgda, {'apply_to': 'both'}),
    (optim.upgrad, {'reg_eps': -1.0}),
    (optim.dualproj, {'reg_eps': -1.0}),
    (optim.cagrad, {'c': -0.1}),
    (optim.cagrad, {'rescale': '2'}),
    (optim.nash_mtl, {'max_norm': -1.0}),
    (optim.nash_mtl, {'update_every': 0}),
    (optim.fairgrad, {'alpha': 0.0}),
  ):
    with pytest.raises(ValueError, match=f'^{make.__name__}: '):
      make(**options)
