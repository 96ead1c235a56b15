"""Small convex problems on the T×T Gramian, solved to float64 accuracy; call them in `exactly`.

All of them work on the correlation matrix, so no result depends on how the rows are scaled, and
every loop has a cap.
"""

import jax
import jax.numpy as jnp

from mtl_jax.optim import _base

# Eigenvalues: far below what float32 rounding does to a correlation matrix (1e-7), far above
# float64's own rounding.
_FLOOR = 1e-12
_ROUNDING = 1e-14
_MOST_ROUNDS = 100
_MOST_NEWTON_STEPS = 2000  # FairGrad with a large α on badly scaled rows takes hundreds

# What a loop carries.
_Three = tuple[jax.Array, jax.Array, jax.Array]
_Four = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
_Five = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]

dot = _base.dot


def correlations(gramian: jax.Array, floor: float = _FLOOR) -> tuple[jax.Array, jax.Array]:
  """Row norms `[T]` and the correlation matrix `[T, T]`, made positive definite.

  A float32 Gramian of dependent rows has eigenvalues around -1e-7: those below `floor` are
  raised to it, which also settles weights where they are not unique. A zero row has correlation 0
  with all others.
  """
  norms = jnp.sqrt(jnp.diagonal(gramian))
  safe = jnp.where(norms > 0, norms, 1.0)
  matrix = gramian / safe[:, None] / safe[None, :]
  matrix = jnp.where(jnp.eye(len(norms), dtype=bool), 1.0, (matrix + matrix.T) / 2)
  values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
  return norms, dot(vectors * jnp.maximum(values, floor)[None, :], vectors.T)


def nonnegative_qp(
  matrix: jax.Array, linear: jax.Array, start: jax.Array | None = None
) -> jax.Array:
  """argmin of ½uᵀAu + bᵀu over u ≥ 0.

  An active-set method: minimize over the free variables; where that leaves u ≥ 0, go as far as
  u ≥ 0 allows and fix what stopped us; else free every variable with a negative slope. The value
  falls at each minimum reached, so no set of free variables comes twice.

  Args:
    matrix: A `[T, T]`, positive definite, diagonal about 1.
    linear: b `[T]`.
    start: `[T]`, ≥ 0; a solution nearby saves rounds. None: 0.
  """
  start = jnp.zeros_like(linear) if start is None else start
  size = linear.shape[0]

  def step(state: _Five) -> _Five:
    rounds, _, u, free, least = state
    target = _solve_free(matrix, -linear, free)
    blocked = free & (target <= 0)
    ratios = jnp.where(blocked, u / jnp.where(u > 0, u - target, 1.0), jnp.inf)
    length = jnp.minimum(jnp.min(ratios), 1.0)
    stopped = ratios <= length
    u = jnp.where(stopped | ~free, 0.0, jnp.maximum(u + length * (target - u), 0.0))
    arrived = ~jnp.any(blocked)
    slope = dot(matrix, u) + linear
    rounding = _ROUNDING * (jnp.sum(u) + jnp.max(jnp.abs(linear)))
    entering = arrived & ~free & (slope < -rounding)
    value = jnp.where(arrived, dot(linear, u), jnp.inf)
    done = arrived & (~jnp.any(entering) | (value >= least))
    return rounds + 1, done, u, (free & ~stopped) | entering, jnp.minimum(value, least)

  def unfinished(state: _Five) -> jax.Array:
    return ~state[1] & (state[0] < 4 * size + 20)

  zero = jnp.zeros((), jnp.int32)
  state = zero, jnp.zeros((), bool), start, start > 0, jnp.full_like(start[0], jnp.inf)
  return jax.lax.while_loop(unfinished, step, state)[2]


def simplex_qp(gramian: jax.Array, present: jax.Array) -> jax.Array:
  """argmin of wᵀGw over the simplex, `[T]`: the weights of the shortest vector in the hull.

  In the rows' own units v = w‖g‖, the conditions of optimality are those of
  min ½vᵀCv − aᵀv, v ≥ 0, with a = 1/‖g‖, but for a common factor. Zero rows share all the weight.
  """
  norms, matrix = correlations(gramian)
  zero = present & (norms == 0)
  usable = norms > 0
  shortest = jnp.min(jnp.where(usable, norms, jnp.inf))
  inverse = jnp.where(usable, shortest / jnp.where(usable, norms, 1.0), 0.0)
  weights = inverse * nonnegative_qp(matrix, -inverse)
  weights = jnp.where(jnp.any(zero), zero.astype(weights.dtype), weights)
  total = jnp.sum(weights)
  return weights / jnp.where(total > 0, total, 1.0)


def conflict_averse(
  gramian: jax.Array, preference: jax.Array, radius: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Maximizes minᵢ gᵢ·d over ‖d − g₀‖ ≤ c‖g₀‖, where g₀ = Jᵀp.

  d is the point nearest to g₀ where every gᵢ·d ≥ m, for the m at which it is c‖g₀‖ away: a
  nonnegative QP for given m. Its solution v gives weights w ∝ v, and their objective
  g_w·g₀ + c‖g₀‖‖g_w‖ is the next m: Newton's method on the distance, which is convex in m, and
  always at or above the answer.

  Args:
    gramian: `[T, T]`.
    preference: p `[T]`.
    radius: c `[]`, ≥ 0.

  Returns:
    u `[T]`, where d = g₀ + Jᵀu, and whether Jᵀu vanishes at u ≠ 0: no d moves all tasks down.
  """
  norms, matrix = correlations(gramian)
  longest = jnp.max(norms)
  norms = norms / jnp.where(longest > 0, longest, 1.0)
  usable = norms > 0
  shortest = jnp.min(jnp.where(usable, norms, jnp.inf))
  inverse = jnp.where(usable, shortest / jnp.where(usable, norms, 1.0), 0.0)

  def length_of(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(dot(x, dot(matrix, x)), 0.0))

  scaled = preference * norms
  product = dot(matrix, scaled)
  length = length_of(scaled)
  # gᵢ·g₀/(‖gᵢ‖‖g₀‖), as ‖g₀‖ is the unit of v and m.
  slopes = jnp.where(usable, product / jnp.where(length > 0, length, 1.0), 0.0)
  bound = jnp.min(jnp.where(usable, (slopes + radius) / jnp.where(usable, inverse, 1.0), jnp.inf))

  def step(state: _Four) -> _Four:
    rounds, _, least, v = state
    v = nonnegative_qp(matrix, slopes - least * inverse, v)
    total = dot(inverse, v)
    objective = (dot(slopes, v) + radius * length_of(v)) / jnp.where(total > 0, total, 1.0)
    done = (total == 0) | (least - objective <= _ROUNDING * (jnp.abs(least) + radius))
    return rounds + 1, done, objective, v

  def unfinished(state: _Four) -> jax.Array:
    return ~state[1] & (state[0] < _MOST_ROUNDS)

  zero = jnp.zeros((), jnp.int32)
  state = zero, jnp.zeros((), bool), bound, jnp.zeros_like(norms)
  v = jax.lax.while_loop(unfinished, step, state)[3]
  distance = length_of(v)
  vanishes = (jnp.sum(v) > 0) & (distance <= 1e-3 * jnp.sum(v))
  v = v * (radius * length / jnp.where(distance > 0, distance, 1.0))
  return jnp.where(usable, v / jnp.where(usable, norms, 1.0), 0.0), vanishes


def power_fixed_point(gramian: jax.Array, power: jax.Array) -> jax.Array:
  """The w > 0 with (Gw)ᵢ = wᵢ^−power; 0 for zero rows.

  It minimizes the convex ½wᵀGw − Σ ∫wᵢ^−power: Newton's method with a line search, in units in
  which orthogonal rows have the solution 1.

  Where rows cancel, w grows without bound. A floor of 1e-9 on eigenvalues stops it where Jᵀw would
  be nothing but the rounding of float32 weights.

  Args:
    gramian: `[T, T]`.
    power: `[]`, > 0.
  """
  norms, matrix = correlations(gramian, floor=1e-9)
  usable = norms > 0
  safe = jnp.where(usable, norms, 1.0)
  unit = safe ** ((power - 1) / (power + 1))
  matrix = unit[:, None] * matrix * unit[None, :]
  gains = unit**2
  lengths = 2.0 ** jnp.arange(2.0, -14.0, -1.0)

  def gain(z: jax.Array) -> jax.Array:  # ∫ from 1 to z of x^−power, for any power
    x = jnp.log(z) * (1 - power)
    return jnp.log(z) * jnp.where(x == 0, 1.0, jnp.expm1(x) / jnp.where(x == 0, 1.0, x))

  def step(state: _Three) -> _Three:
    rounds, _, z = state
    scaled = z[:, None] * matrix * z[None, :]
    pull = jnp.sum(scaled, axis=1)
    push = gains * z ** (1 - power)
    factor = jax.lax.linalg.cholesky(scaled + jnp.diag(power * push), symmetrize_input=False)
    change = _solve_with(factor, push - pull)
    curvature = dot(change, dot(scaled, change))
    moved = 1 + lengths[:, None] * change[None, :]
    gained = dot(gain(z[None, :] * jnp.maximum(moved, 1e-300)), gains)
    value = lengths * dot(pull, change) + lengths**2 / 2 * curvature - gained
    value = jnp.where(jnp.all(moved > 1e-3, axis=1), value, jnp.inf)
    largest = jnp.max(jnp.abs(change))
    best = jnp.max(jnp.where(value == jnp.min(value), lengths, 0.0))
    length = jnp.where(largest < 0.1 / (1 + power), 1.0, best)
    return rounds + 1, largest < 1e-7, z * jnp.maximum(1 + length * change, 1e-3)

  def unfinished(state: _Three) -> jax.Array:
    return ~state[1] & (state[0] < _MOST_NEWTON_STEPS)

  ray = (jnp.sum(gains) / jnp.sum(matrix)) ** (1 / (1 + power))
  state = jnp.zeros((), jnp.int32), jnp.zeros((), bool), jnp.full_like(unit, ray)
  z = jax.lax.while_loop(unfinished, step, state)[2]
  return jnp.where(usable, z * unit / safe, 0.0)


def _solve_free(matrix: jax.Array, right: jax.Array, free: jax.Array) -> jax.Array:
  """Solves for the free variables; the others are 0."""
  both = free[:, None] & free[None, :]
  system = jnp.where(both, matrix, jnp.eye(len(free), dtype=matrix.dtype))
  factor = jax.lax.linalg.cholesky(system, symmetrize_input=False)
  return _solve_with(factor, jnp.where(free, right, 0.0))


def _solve_with(factor: jax.Array, right: jax.Array) -> jax.Array:
  """Solves L Lᵀx = right."""
  column = right[:, None]
  column = jax.lax.linalg.triangular_solve(factor, column, left_side=True, lower=True)
  column = jax.lax.linalg.triangular_solve(
    factor, column, left_side=True, lower=True, transpose_a=True
  )
  return column[:, 0]
