"""The published toy problems.

Losses are as the papers, or where the two differ the papers' code, have them. Nothing here plots.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_jax import errors
from mtl_jax.toys.runs import Problem

_CLAMP = 5e-6


def _two_valleys(x: jax.Array, scale: float) -> jax.Array:
  """The losses of CAGrad's toy, the first one scaled; f2 with + tanh, as in all released code."""
  x1, x2 = x[0], x[1]
  bend = jnp.tanh(-x2)
  f1 = _log_abs(0.5 * (-x1 - 7) - bend) + 6
  f2 = _log_abs(0.5 * (-x1 + 3) + bend + 2) + 6
  g1 = ((-x1 + 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
  g2 = ((-x1 - 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
  c1, c2 = _at_least(jnp.tanh(0.5 * x2), 0.0), _at_least(jnp.tanh(-0.5 * x2), 0.0)
  return jnp.stack([scale * (c1 * f1 + c2 * g1), c1 * f2 + c2 * g2])


def _log_abs(x: jax.Array) -> jax.Array:
  return jnp.log(_at_least(jnp.abs(x), _CLAMP))


def _at_least(x: jax.Array, low: float) -> jax.Array:
  """max(x, low) with gradient 1 where they are equal, as PyTorch's clamp: half of it in JAX."""
  return jnp.where(x >= low, x, low)


_VALLEYS_FRONT = np.array([[-7.0, -8.3552], [7.0, -8.3552]])
_VALLEYS_BOX = ((-10.5, 10.5), (-10.5, 10.5))


def cagrad_2d() -> Problem:
  """Two curved valleys that lead to a plain: the toy of CAGrad (section 5.1, figures 1 and 3).

  The published starts; 100,000 steps of Adam at 1e-3.
  """
  return Problem(
    'cagrad_2d',
    'Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021.',
    lambda x, batch: _two_valleys(x, 1.0),
    (-21.0, -21.0),
    np.array([[-8.5, 7.5], [-8.5, 5], [0, 0], [9, 9], [10, -8]], np.float32),
    optax.adam(1e-3),
    100_000,
    pareto_set=_VALLEYS_FRONT,
    box=_VALLEYS_BOX,
    settings={'famo': {'weight_decay': 0.0}},
  )


def nash_2d() -> Problem:
  """`cagrad_2d` with the first loss at a tenth, and other starts: the toy of Nash-MTL and FAMO.

  35,000 steps of Adam at 1e-3 (Nash-MTL); the lower bounds are FAMO's.
  """
  return Problem(
    'nash_2d',
    'Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.',
    lambda x, batch: _two_valleys(x, 0.1),
    (-2.1, -21.0),
    np.array([[-8.5, 7.5], [0, 0], [9, 9], [-7.5, -0.5], [9, -1]], np.float32),
    optax.adam(1e-3),
    35_000,
    pareto_set=_VALLEYS_FRONT,
    box=_VALLEYS_BOX,
    settings={
      'cagrad': {'c': 0.4},
      'famo': {'weight_decay': 0.0},
      'imtl_l': {'learning_rate': 0.025},
      'uncertainty': {'learning_rate': 0.025},
    },
  )


def pcgrad_2d() -> Problem:
  """Two logarithmic valleys that meet at the joint minimum x1 = -2, x2 -> ∞: PCGrad's figure 1.

  500,000 steps of Adam at 1e-3 from (0.5, -3).
  """

  def losses(x: jax.Array, batch: Any) -> jax.Array:
    bend = jnp.tanh(x[1])
    return jnp.stack([20 * _log_abs(0.5 * x[0] + bend), 25 * _log_abs(0.5 * x[0] - bend + 2)])

  return Problem(
    'pcgrad_2d',
    'Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020.',
    losses,
    (-245.0, -306.0),
    np.array([[0.5, -3]], np.float32),
    optax.adam(1e-3),
    500_000,
    pareto_set=np.array([[-2.0, 5.0], [-2.0, 20.0]]),  # from where tanh is 1 but for 1e-4
    box=((-7.0, 3.5), (-5.0, 9.0)),
  )


def fonseca(size: int = 20) -> Problem:
  """A concave front: f = 1 - exp(-‖x ∓ 1/√n‖²); the toy of Pareto MTL (section 5, figure 2).

  100 steps of plain gradient descent at 1, from ten points uniform in [-0.5, 0.5]ⁿ.

  Args:
    size: n.
  """
  middle = np.full(size, 1 / np.sqrt(size), np.float32)

  def losses(x: jax.Array, batch: Any) -> jax.Array:
    return 1 - jnp.exp(-jnp.stack([jnp.sum((x - middle) ** 2), jnp.sum((x + middle) ** 2)]))

  return Problem(
    'fonseca',
    'Lin et al., Pareto Multi-Task Learning, NeurIPS 2019.',
    losses,
    (0.0, 0.0),
    np.random.default_rng(0).uniform(-0.5, 0.5, (10, size)).astype(np.float32),
    optax.sgd(1.0),
    100,
    pareto_set=np.linspace(-1, 1, 101)[:, None] * middle,
  )


def gradnorm_regression(
  sigmas: tuple[float, ...] = (1.0, 100.0),
  spread: str = 'variance',
  batch_size: int = 64,
  learning_rate: float = 3e-4,
) -> Problem:
  """fᵢ(x) = σᵢ tanh((B + εᵢ)x) for T scales σ; the toy of GradNorm (section 4, figure 2).

  x ∈ R²⁵⁰, y ∈ R¹⁰⁰; B ~ N(0, 10) and εᵢ ~ N(0, 3.5); a trunk of four ReLU layers of 100 units
  and one affine head a task; mean squared errors.

  The paper leaves the rest open, so that its curves can be compared in kind only. Here
  x ~ N(0, I/250), so that (Bx)ⱼ varies as B's entries do; a new batch at each step; 1,000
  steps of Adam.

  Args:
    sigmas: σ, one a task.
    spread: what 10 and 3.5 are, 'variance' (the usual notation) or 'std'.
    batch_size: examples a step.
    learning_rate: of Adam.

  Raises:
    ValueError: another spread.
  """
  if spread not in ('variance', 'std'):
    raise ValueError(f"gradnorm_regression: spread must be 'variance' or 'std', not {spread!r}.")
  tasks, inputs, width, outputs = len(sigmas), 250, 100, 100
  base, extra = (10.0, 3.5) if spread == 'std' else (10**0.5, 3.5**0.5)
  rng = np.random.default_rng(0)
  maps = base * rng.normal(size=(1, outputs, inputs))
  maps = (maps + extra * rng.normal(size=(tasks, outputs, inputs))).astype(np.float32)

  def layer(*shape: int) -> dict[str, np.ndarray]:
    scale = np.sqrt(2 / shape[-2])  # He's, for ReLU
    return {
      'w': (scale * rng.normal(size=(1, *shape))).astype(np.float32),
      'b': np.zeros((1, *shape[:-2], shape[-1]), np.float32),
    }

  def draw(key: jax.Array, examples: int = batch_size) -> jax.Array:
    return jax.random.normal(key, (examples, inputs)) / inputs**0.5

  def losses(params: Any, x: jax.Array) -> jax.Array:
    scales = jnp.asarray(sigmas)[:, None, None]
    # [T, B, 100]
    targets = scales * jnp.tanh(jnp.einsum('tyx,bx->tby', maps, x))
    for name in ('trunk_0', 'trunk_1', 'trunk_2', 'trunk_3'):
      x = jax.nn.relu(x @ params[name]['w'] + params[name]['b'][None])
    heads = params['heads']
    predicted = jnp.einsum('bx,txy->tby', x, heads['w']) + heads['b'][:, None]
    return jnp.mean((predicted - targets) ** 2, axis=(1, 2))

  return Problem(
    'gradnorm_regression' if tasks == 2 else f'gradnorm_regression_{tasks}',
    'Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask '
    'Networks, ICML 2018.',
    losses,
    (0.0,) * tasks,
    {f'trunk_{i}': layer(inputs if i == 0 else width, width) for i in range(4)}
    | {'heads': layer(tasks, width, outputs)},
    optax.adam(learning_rate),
    1000,
    draw,
    draw(jax.random.key(0), 512),
    settings={'gradnorm': {'alpha': 0.12}},
  )


def gradnorm_regression_10() -> Problem:
  """`gradnorm_regression` of ten tasks: σ = |N(0, 50²)| at a fixed seed, as none is published."""
  sigmas = np.abs(np.random.default_rng(0).normal(0, 50, 10)).round(1)
  return gradnorm_regression(tuple(sigmas.tolist()), learning_rate=1e-3)


def jd_ewq() -> Problem:
  """Element-wise quadratic f = (x1², x2²); the first problem of Jacobian descent (appendix A.1).

  Only the origin is Pareto-optimal, though all points of both axes are weakly Pareto-stationary.
  The paper shows starts and step size in a figure only: these are ours, one on an axis.
  """
  return Problem(
    'jd_ewq',
    'Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, 2024.',
    lambda x, batch: x**2,
    (0.0, 0.0),
    np.array([[3, -2], [0, -3], [-4, 4], [-3.5, 1], [1, 4]], np.float32),
    optax.sgd(0.05),
    1000,
    pareto_set=np.zeros((1, 2)),
    box=((-5.0, 5.0), (-5.0, 5.0)),
  )


def jd_cqf() -> Problem:
  """Two convex quadratic forms that conflict; the second problem of Jacobian descent (A.1).

  f1 = (x-v1)ᵀUS1Uᵀ(x-v1), f2 = (x-v2)ᵀUᵀS2U(x-v2): U turns by π/16, S1 = diag(1, 0.01),
  S2 = diag(3, 0.01), v = (±1, 0). The paper shows starts and step size in a figure only: these are
  ours.
  """
  cosine, sine = np.cos(np.pi / 16), np.sin(np.pi / 16)
  turn = np.array([[cosine, -sine], [sine, cosine]])
  forms = np.stack(
    [turn @ np.diag([1, 0.01]) @ turn.T, turn.T @ np.diag([3, 0.01]) @ turn]
  )  # [T, 2, 2]
  centers = np.array([[1.0, 0.0], [-1.0, 0.0]])

  def losses(x: jax.Array, batch: Any) -> jax.Array:
    away = x[None] - centers.astype(np.float32)
    return jnp.einsum('ti,tij,tj->t', away, forms.astype(np.float32), away)

  mixes = np.stack([np.linspace(1, 0, 401), np.linspace(0, 1, 401)], axis=1) ** 3
  front = np.linalg.solve(
    np.einsum('nt,tij->nij', mixes, forms),
    np.einsum('nt,tij,tj->ni', mixes, forms, centers)[..., None],
  )[..., 0]
  return Problem(
    'jd_cqf',
    'Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, 2024.',
    losses,
    (0.0, 0.0),
    np.array([[0, 0], [0, 4], [-3, 3], [3, 3], [2.5, -3], [-2.5, -3]], np.float32),
    optax.sgd(0.05),
    10_000,
    pareto_set=front,
    box=((-4.0, 4.0), (-4.0, 5.0)),
  )


PROBLEMS: dict[str, Callable[[], Problem]] = {
  'cagrad_2d': cagrad_2d,
  'nash_2d': nash_2d,
  'pcgrad_2d': pcgrad_2d,
  'jd_ewq': jd_ewq,
  'jd_cqf': jd_cqf,
  'fonseca': fonseca,
  'gradnorm_regression': gradnorm_regression,
  'gradnorm_regression_10': gradnorm_regression_10,
}
"""Every problem by name, as the function that makes it."""


def distance(problem: Problem, points: jax.Array | np.ndarray) -> np.ndarray:
  """How far points `[..., D]` are from the problem's Pareto set: `[...]`.

  Example:
    >>> from mtl_jax import toys
    >>> toys.distance(toys.get('jd_ewq'), [[3.0, 4.0]]).tolist()
    [5.0]
  """
  front = np.asarray(problem.pareto_set)
  first, last = front[: max(len(front) - 1, 1)], front[min(len(front) - 1, 1) :]
  along = last - first  # [N - 1, D]
  away = np.asarray(points)[..., None, :] - first  # [..., N - 1, D]
  squares = np.maximum(np.sum(along**2, -1), np.finfo(float).tiny)
  share = np.clip(np.sum(away * along, -1) / squares, 0, 1)
  return np.linalg.norm(away - share[..., None] * along, axis=-1).min(-1)


def get(name: str) -> Problem:
  """The problem called `name`.

  Raises:
    ValueError: no such problem; the nearest names are listed.
  """
  if name not in PROBLEMS:
    raise ValueError(f'Unknown toy problem {name!r}{errors.nearest(name, PROBLEMS)}')
  return PROBLEMS[name]()
