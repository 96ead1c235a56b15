"""Each method drives the published toy problems to where its paper says it goes.

Methods whose papers have no toy problem are held to what the papers claim in general: the point
that their formula has as its limit, or the Pareto set.
"""

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.stats

from mtl_jax import optim, toys
from mtl_jax.toys import __main__ as command

FONSECA = toys.fonseca()
CQF = toys.jd_cqf()
PROBLEMS = {
  **{name: make() for name, make in toys.PROBLEMS.items()},
  'fonseca_fine': dataclasses.replace(  # for methods whose direction does not shrink at the front
    FONSECA, name='fonseca_fine', optimizer=optax.sgd(0.003), steps=6000, starts=FONSECA.starts[:3]
  ),
  'cqf_fine': dataclasses.replace(  # small steps, so that what rises is the direction's doing
    CQF, name='cqf_fine', optimizer=optax.sgd(0.002), steps=500, starts=CQF.starts[:4]
  ),
}

# Four tasks that agree but for a little, and one far off: what krum and trimmed_mean are for.
CENTERS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [40, 40]], np.float32)
PROBLEMS['outlier'] = toys.Problem(
  'outlier',
  '',
  lambda x, batch: jnp.sum((x[None] - CENTERS) ** 2, axis=1),
  (0.0,) * 5,
  np.array([[5, 5], [3, -2]], np.float32),
  optax.sgd(0.05),
  400,
)


def reaches_the_front(problem, way, but=(), slow=(), within=0.2):
  """Every start ends at the Pareto set, except those named by index; slow ones may, by rounding."""
  away = toys.distance(problem, way.points[:, -1])
  assert set(np.flatnonzero(away > within)) - set(slow) == set(but), away


def ends_at(problem, way, points, within):
  """Every start ends near its point, or near the one point of all."""
  errors = np.linalg.norm(way.points[:, -1] - np.asarray(points), axis=1)
  assert errors.max() < within, np.asarray(way.points[:, -1])


def rises(way):
  """How much each loss stood above its lowest value so far, at most: `[S, T]`."""
  losses = np.asarray(way.losses)
  lowest = np.minimum.accumulate(losses, axis=1)
  return (losses - lowest).max(axis=1)


def never_rises(problem, way):
  assert rises(way).max() < 2e-3, rises(way)
  assert way.losses[:, -1].sum() < way.losses[:, 0].sum()


def rises_from_the_first_start(problem, way):
  assert rises(way)[0].max() > 0.05, rises(way)


def middle(problem, way):
  reaches_the_front(problem, way)
  assert np.abs(np.diff(way.losses[:, -1])).max() < 0.15, way.losses[:, -1]


def inside(problem, way):
  """On the concave front, and not at its ends."""
  reaches_the_front(problem, way)
  assert way.losses[:, -1].min() > 0.2, way.losses[:, -1]


def never_rests(problem, way):
  """At the Pareto set, and still moving about there."""
  reaches_the_front(problem, way)
  assert np.std(way.points[:, -20:], axis=1).max() > 5e-3


def extremes(problem, way):
  """All at the two ends of a concave front, and both ends are found."""
  reaches_the_front(problem, way)
  last = np.asarray(way.losses[:, -1])
  assert (last.min(axis=1) < 0.05).all(), last
  assert set(last.argmin(axis=1)) == {0, 1}


def cqf_minimum(*weights):
  """The minimum of a weighted sum of the two quadratic forms, from the paper's formulas."""
  turn = np.array([[np.cos(a := np.pi / 16), -np.sin(a)], [np.sin(a), np.cos(a)]])
  first = weights[0] * turn @ np.diag([1, 0.01]) @ turn.T
  second = weights[1] * turn.T @ np.diag([3, 0.01]) @ turn
  return np.linalg.solve(first + second, first @ [1, 0] + second @ [-1, 0])


def at_the_minimum_of_its_weights(problem, way):
  """On `jd_cqf`: the weights settled, away from equal ones."""
  weights = np.asarray(way.state.weights, float)
  assert np.abs(weights - 1).max() > 0.5
  ends_at(problem, way, [cqf_minimum(*pair) for pair in weights], 0.05)


def cqf_minimum_of_logs():
  """The local minimum of log f1 + log f2, by hand-written forms and scipy, from (0, 4)."""
  turn = np.array([[np.cos(a := np.pi / 16), -np.sin(a)], [np.sin(a), np.cos(a)]])

  def value(x):
    first, second = turn.T @ (x - [1, 0]), turn @ (x - [-1, 0])
    return np.log(first**2 @ [1, 0.01]) + np.log(second**2 @ [3, 0.01])

  return scipy.optimize.minimize(value, [0.0, 4.0]).x


def at(points, within):
  return functools.partial(ends_at, points=points, within=within)


def all_but(*starts, **options):
  return functools.partial(reaches_the_front, but=starts, **options)


@dataclasses.dataclass(frozen=True)
class Claim:
  """That a method ends on a problem as `check(problem, trajectory)` asserts."""

  problem: str
  check: Callable
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  steps: int | None = None

  def way(self, method):
    return _run(self.problem, method, tuple(self.options.items()), self.steps)


@functools.cache
def _run(problem, method, options, steps):
  problem = PROBLEMS[problem]
  way = toys.run(problem, problem.method(method, **dict(options)), steps=steps, records=500)
  return way._replace(points=None if way.points is None else np.asarray(way.points))


ON_PAR = cqf_minimum(1, 1)
ON_LOGS = cqf_minimum_of_logs()
INDEX = {'order': 'index'}  # of two tasks there is one order, and none to draw
EXACT = {'reg_eps': 0.0}

# Points are from a float64 run in NumPy, made independently of this code.
CAGRAD_MGDA = [[-3.32, -8.37], [-3.33, -8.37], [0, -8.36], [3.32, -8.37], [7, -8.43]]
CAGRAD_ADAM = [[-5.04, 2.15], [-5.65, 0.83], [0, -8.36], [5.04, 2.34], [0, -8.36]]
NASH_MGDA = [[-1.98, -8.36], [6.1, -8.42], [6.98, -8.43], [-4.26, -8.39], [7, -8.43]]
NASH_FAMO = [[-0.64, -8.36], [0.06, -8.36], [0.4, -8.35], [-1.2, -8.36], [2.15, -8.35]]
NASH_BISECTOR = [[-2.43, -8.37], [0, -8.36], [2.47, -8.37], [-3.45, -8.38], [4.98, -8.4]]

EXPECTED: dict[str, list[Claim]] = {
  'sum_tasks': [
    Claim('nash_2d', all_but(2, slow=(0,))),
    Claim('cagrad_2d', at(CAGRAD_ADAM, 0.2)),
    Claim('pcgrad_2d', all_but(0)),  # stalls in the valley
    Claim('fonseca', extremes),
  ],
  'mean_tasks': [
    Claim('jd_cqf', at(ON_PAR, 0.02)),
    Claim('cqf_fine', rises_from_the_first_start),
  ],
  'static': [Claim('jd_cqf', at(cqf_minimum(3, 1), 0.02), {'weights': (3.0, 1.0)}, 6000)],
  'rlw': [Claim('jd_cqf', at(ON_PAR, 0.1)), Claim('jd_cqf', never_rests)],
  # All three have the gradient of Σ log L at their limit.
  'uncertainty': [Claim('jd_cqf', at(ON_LOGS, 0.02))],
  'imtl_l': [Claim('jd_cqf', at(ON_LOGS, 0.02))],
  'geometric_mean': [Claim('cqf_near', at(ON_LOGS, 0.02))],
  'dwa': [Claim('jd_cqf', at(ON_PAR, 0.02))],
  'soft_adapt': [Claim('jd_cqf', at(ON_PAR, 0.02))],  # no loss moves at its limit
  'relobralo': [Claim('jd_cqf', at(ON_PAR, 0.1))],
  'go4align': [Claim('nash_2d', all_but(0))],
  'adatask': [Claim('cagrad_2d', all_but(within=0.3))],  # by signs, which do not shrink
  'lr_annealing': [Claim('nash_2d', all_but()), Claim('nash_2d', all_but(2), {'form': 'norm'})],
  'famo': [
    Claim('nash_2d', all_but()),
    Claim('nash_2d', at(NASH_FAMO, 0.4)),
  ],
  'chebyshev': [Claim('fonseca_fine', middle)],
  'stch': [Claim('fonseca_fine', middle, {'mu': 0.02})],
  'cosmos': [Claim('fonseca_fine', middle)],
  'pbi': [Claim('fonseca_fine', middle)],
  'dtp': [Claim('fonseca_fine', middle)],
  'normalize_task_gradients': [
    Claim('nash_2d', at(NASH_BISECTOR, 1)),  # of two tasks, the direction of IMTL-G and Nash-MTL
    Claim('fonseca', middle),
  ],
  'gradnorm': [Claim('nash_2d', all_but())],  # and test_gradnorm_regression
  'pcgrad': [
    Claim('nash_2d', all_but(2), INDEX),
    Claim('cagrad_2d', all_but(), INDEX),
    Claim('pcgrad_2d', all_but(), INDEX),
    Claim('jd_ewq', all_but(within=0.01), INDEX, 150),
    Claim('fonseca_fine', inside, INDEX),
  ],
  'pcd': [
    Claim('nash_2d', all_but()),
    Claim('fonseca', all_but()),
    Claim('cqf_fine', never_rises, {'tau': 0.0}),
  ],
  'mgda': [
    Claim('nash_2d', at(NASH_MGDA, 0.3)),
    Claim('cagrad_2d', at(CAGRAD_MGDA, 0.3)),
    Claim('jd_ewq', all_but(0, 1, 3, 4, within=0.01), {}, 150),
    Claim('cqf_fine', never_rises),
    Claim('fonseca', middle),
  ],
  'upgrad': [
    # Exactly, it is PCGrad's direction for two tasks; the default's ε stops it in the valley.
    Claim('cagrad_2d', all_but(), EXACT),
    Claim('jd_ewq', all_but(within=0.01), {}, 150),
    Claim('cqf_fine', never_rises, EXACT),
  ],
  'dualproj': [
    Claim('cagrad_2d', all_but(), EXACT),
    Claim('jd_ewq', all_but(within=0.01), {}, 150),
    Claim('cqf_fine', never_rises, EXACT),
  ],
  'cagrad': [
    Claim('nash_2d', all_but(2, slow=(0,))),
    Claim('cagrad_2d', at([0, -8.3552], 0.1)),
    Claim('cagrad_2d', at(CAGRAD_ADAM, 0.2), {'c': 0.0}),
    Claim('cqf_fine', rises_from_the_first_start),
  ],
  'imgrad': [Claim('cagrad_2d', at([0, -8.3552], 0.1)), Claim('jd_cqf', all_but())],
  'ntkmtl': [Claim('cagrad_2d', all_but()), Claim('cqf_fine', never_rises)],  # of two: the bisector
  'nash_mtl': [
    Claim('nash_2d', all_but()),
    # Its step does not shrink, so that it ends circling. On an axis the zero gradient has no part.
    Claim('jd_ewq', all_but(0, 2, 3, 4, within=0.01), {}, 150),
    Claim('cqf_fine', never_rises),
  ],
  'fairgrad': [Claim('nash_2d', all_but())],  # its default is Nash-MTL, unclipped
  'gradvac': [
    Claim('cagrad_2d', at([0, -8.3552], 0.1), INDEX),
  ],
  'imtl_g': [Claim('nash_2d', all_but())],
  'aligned_mtl': [
    Claim('jd_ewq', all_but(0, 3, 4, within=0.01), {}, 150),
    Claim('cqf_fine', rises_from_the_first_start),
  ],
  'config': [Claim('cqf_fine', never_rises), Claim('jd_cqf', all_but())],
  'krum': [Claim('outlier', at([0, 0], 1.01))],
  'trimmed_mean': [Claim('outlier', at([1 / 3, 1 / 3], 0.01))],
  # Without noise the three are MGDA, with a pull towards the mean (sdmgrad) or delay.
  'sdmgrad': [Claim('fonseca_fine', inside)],
  'modo': [Claim('fonseca_fine', middle, {'gamma': 0.1, 'rho': 0.0})],
  'cr_mogm': [Claim('fonseca_fine', middle)],
  'graddrop': [
    Claim('jd_ewq', all_but(within=0.01), {}, 150),
    Claim('jd_cqf', never_rests),  # it rests where all tasks' gradients vanish, nowhere else
    Claim('cqf_fine', rises_from_the_first_start),
  ],
  'moco': [Claim('fonseca', middle)],
  'db_mtl': [Claim('nash_2d', all_but())],
  'excess_mtl': [Claim('jd_cqf', at_the_minimum_of_its_weights, {'robust_step_size': 0.1})],
  'auto_lambda': [
    # With one primary task, the weight of the other falls to where it no longer harms.
    Claim('jd_cqf', at([1, 0], 0.15), {'primary': (1.0, 0.0), 'learning_rate': 0.01}, 5000),
  ],
  'moml': [Claim('nash_2d', all_but())],
  'forum': [Claim('fonseca_fine', inside, {'learning_rate': 0.01})],
}
PROBLEMS['cqf_near'] = dataclasses.replace(CQF, name='cqf_near', starts=CQF.starts[1:4])


def test_every_method_has_a_claim():
  assert set(EXPECTED) == set(optim.METHODS)


@pytest.mark.parametrize(
  ('method', 'claim'),
  [
    pytest.param(name, claim, id=f'{name}-{claim.problem}-{i}')
    for name, claims in EXPECTED.items()
    for i, claim in enumerate(claims)
  ],
)
def test_goes_where_its_paper_says(method, claim):
  claim.check(PROBLEMS[claim.problem], claim.way(method))


def concave_front_at(ratio):
  """The point of the concave front where f2/f1 has the given value."""

  def losses(s):
    return 1 - np.exp(-((s - 1) ** 2)), 1 - np.exp(-((s + 1) ** 2))

  s = scipy.optimize.brentq(lambda s: losses(s)[1] - ratio * losses(s)[0], -0.999, 0.999)
  return np.array(losses(s))


@pytest.mark.parametrize(
  ('method', 'options', 'ratio'),
  [
    # At the solution p1 f1 = p2 f2 where the losses are weighted, and f2/f1 = p2/p1 where p is a
    # direction in the space of losses.
    ('chebyshev', {}, lambda p: p[0] / p[1]),
    ('stch', {'mu': 0.005}, lambda p: p[0] / p[1]),
    ('cosmos', {'coefficient': 50.0}, lambda p: p[1] / p[0]),
    ('pbi', {}, lambda p: p[1] / p[0]),
  ],
)
def test_preferences_spread_over_the_concave_front(method, options, ratio):
  """Where a weighted sum finds the two ends only. All preferences run as one program."""
  problem = PROBLEMS['fonseca_fine']
  preferences = np.array([[0.2, 0.8], [0.4, 0.6], [0.5, 0.5], [0.7, 0.3]], np.float32)

  def last(preference):
    balance = problem.method(method, preference=preference, **options)
    return toys.run(problem, balance, records=1, starts=problem.starts[:1]).losses[0, -1]

  actual = jax.vmap(last)(jnp.asarray(preferences))
  expected = [concave_front_at(ratio(p)) for p in preferences.astype(float)]
  np.testing.assert_allclose(actual, expected, atol=0.05)


def test_gradnorm_regression():
  """Equal weights suppress the task of small scale; GradNorm raises its weight and ends lower."""
  problem = PROBLEMS['gradnorm_regression']
  equal = toys.run(problem, problem.method('sum_tasks'), steps=600, records=3)
  learned = toys.run(problem, problem.method('gradnorm'), steps=600, records=3)
  relative = [np.asarray(way.losses[0, -1] / way.losses[0, 0]) for way in (equal, learned)]
  assert relative[1].mean() < 1 < 1.1 < relative[0].mean()
  assert relative[0][0] > 1.2
  weights = learned.state[0].weights[0]
  assert weights[0] > 1.5
  np.testing.assert_allclose(jnp.sum(weights), 2.0, rtol=1e-5)


def test_gradnorm_regression_of_ten_tasks():
  """Smaller scales get larger weights, and the sum of the relative losses ends lower."""
  problem = PROBLEMS['gradnorm_regression_10']
  equal = toys.run(problem, problem.method('sum_tasks'), steps=250, records=1)
  learned = toys.run(problem, problem.method('gradnorm'), steps=250, records=1)
  relative = [np.mean(way.losses[0, -1] / way.losses[0, 0]) for way in (equal, learned)]
  assert relative[1] < relative[0] < 1
  scales = np.asarray(learned.losses[0, 0])
  order = scipy.stats.spearmanr(scales, learned.state[0].weights[0]).statistic
  assert order < -0.8


def test_imtl_g_raises_a_loss_at_the_front_of_cqf():
  """Gradients that point straight against each other have no bisector."""
  problem = dataclasses.replace(CQF, starts=CQF.starts[:4])
  assert rises(toys.run(problem, problem.method('imtl_g'), steps=4000, records=4000)).max() > 0.05


def test_gradients_at_the_clamp_and_the_published_cosine():
  """At x2 = 0 both clamps pass the gradient on, as PyTorch's do; f2 takes + tanh(-x2)."""
  origin = jnp.zeros(2)
  jacobian = jax.jacobian(toys.nash_2d().losses)(origin, None)
  f = np.log([3.5, 3.5]) + 6
  g = (np.array([49.0, 49.0]) + 6.4) / 10 - 20
  np.testing.assert_allclose(jacobian[:, 1], np.array([0.1, 1]) * (0.5 * f - 0.5 * g), rtol=1e-5)
  x = np.array([1.3, 0.7])
  bend, c1 = np.tanh(-x[1]), np.tanh(0.5 * x[1])
  expected = c1 * (np.log(abs(0.5 * (3 - x[0]) + bend + 2)) + 6)
  actual = toys.cagrad_2d().losses(jnp.asarray(x, jnp.float32), None)[1]
  np.testing.assert_allclose(actual, expected, rtol=1e-5)
  first, second = jax.jacobian(CQF.losses)(origin, None)
  cosine = first @ second / (jnp.linalg.norm(first) * jnp.linalg.norm(second))
  np.testing.assert_allclose(cosine, -0.925, atol=5e-4)


@pytest.mark.parametrize('name', ['jd_ewq', 'jd_cqf', 'fonseca'])
def test_the_pareto_set_is_stationary(name):
  """Where two losses are smooth, a convex combination of their gradients is zero on the set."""
  problem = PROBLEMS[name]
  points = jnp.asarray(problem.pareto_set, jnp.float32)
  first, second = jnp.swapaxes(
    jax.vmap(jax.jacobian(lambda x: problem.losses(x, None)))(points), 0, 1
  )
  gap = first - second
  squares = jnp.sum(gap**2, axis=1)
  share = jnp.clip(-jnp.sum(second * gap, axis=1) / jnp.where(squares > 0, squares, 1.0), 0, 1)
  assert float(jnp.linalg.norm(second + share[:, None] * gap, axis=1).max()) < 2e-6


def test_records_are_on_the_way():
  """K + 1 records from the start to the end, the same steps whatever their number."""
  problem = PROBLEMS['jd_ewq']
  many = toys.run(problem, optim.mean_tasks(), steps=10)
  few = toys.run(problem, optim.mean_tasks(), steps=10, records=5)
  assert many.steps.tolist() == list(range(11))
  assert few.steps.tolist() == [0, 2, 4, 6, 8, 10]
  np.testing.assert_array_equal(many.points[:, 0], problem.starts)
  np.testing.assert_array_equal(many.points[:, ::2], few.points)
  np.testing.assert_allclose(many.points[:, 1], 0.95 * problem.starts, rtol=1e-6)
  np.testing.assert_allclose(many.losses, many.points**2, rtol=1e-6)


def test_command(tmp_path, capsys):
  out = tmp_path / 'new' / 'toys.png'
  problems = 'jd_ewq,fonseca,gradnorm_regression'
  argv = ['--methods=mgda,krum', f'--problems={problems}', '--steps-scale=.02', f'--out={out}']
  assert command.main(argv) == 0
  assert out.read_bytes().startswith(b'\x89PNG')
  assert [p.name for p in out.parent.iterdir()] == ['toys.png']
  text = capsys.readouterr().out
  assert 'jd_ewq: last (x1, x2), by start' in text
  assert 'krum: num_byzantine=1 needs 4 tasks, not 2.' in text
  assert f'Wrote {out}' in text


@pytest.mark.parametrize(
  ('argv', 'code', 'message'),
  [
    (['--methods=mgdaa'], 2, "unknown method 'mgdaa'; did you mean 'mgda'?"),
    (['--problems=nash2d'], 2, "unknown toy problem 'nash2d'; did you mean 'nash_2d'?"),
    (['--out=toys.jpg'], 2, 'must end in .png'),
    (['--out=/dev/null/toys.png'], 1, 'cannot write /dev/null/toys.png'),
  ],
)
def test_command_errors(argv, code, message, capsys):
  assert command.main(argv) == code
  assert message in capsys.readouterr().err


def test_help_without_matplotlib():
  """The help shows at once: drawing is imported only where it is needed."""
  program = (
    'import sys; from mtl_jax.toys import __main__ as m\n'
    "try: m.main(['--help'])\nexcept SystemExit: pass\n"
    "assert 'mtl_jax.toys._plots' not in sys.modules"
  )
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  assert '--steps-scale' in done.stdout
