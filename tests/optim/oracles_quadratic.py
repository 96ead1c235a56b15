"""Three quadratic losses in float64 NumPy, and methods as steps on them, from the other oracles.

A step is `(rows [T, D], losses [T]) -> direction [D], numbers`: what the method's state holds after
it, by its path in that state. Wrappers are written on steps.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.optim import (
  oracles,
  oracles_gramian,
  oracles_jacobian,
  oracles_losses,
  oracles_solvers,
)

TASKS, SIZE = 3, 5
ORDERS = np.tile(np.arange(TASKS), (TASKS, 1))
Step = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, dict[str, Any]]]


class Quadratics:
  """Lᵢ(x) = ½(x − cᵢ)ᵀAᵢ(x − cᵢ) with Aᵢ positive definite; all of it exact in float32."""

  def __init__(self, seed: int = 0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(TASKS, SIZE, SIZE))
    matrices = factors @ factors.transpose(0, 2, 1) / SIZE + 0.3 * np.eye(SIZE)
    matrices = matrices * np.array([0.5, 1.0, 1.5])[:, None, None]
    self.matrices, self.centers, self.start = (
      x.astype(np.float32).astype(np.float64)
      for x in (matrices, rng.normal(size=(TASKS, SIZE)), 0.5 * rng.normal(size=SIZE))
    )

  def losses(self, x: np.ndarray) -> np.ndarray:
    rest = x - self.centers
    return 0.5 * np.sum(rest * self.jacobian(x), axis=1)

  def jacobian(self, x: np.ndarray) -> np.ndarray:
    rest = x - self.centers
    return np.stack([a @ r for a, r in zip(self.matrices, rest, strict=True)])


def descend(problem: Quadratics, step: Step, rate: float, steps: int) -> Iterator[tuple]:
  """x ← x − rate · d: x and the state's numbers after each step."""
  x = problem.start
  for _ in range(steps):
    direction, numbers = step(problem.jacobian(x), problem.losses(x))
    x = x - rate * direction
    yield x, {path: np.array(value) for path, value in numbers.items()}


def gradnorm(
  alpha: float, learning_rate: float, columns: slice = slice(None), balance=None
) -> Step:
  """The rows scaled by weights from the norms over some columns; then summed, or balanced."""
  oracle = oracles.GradNorm(TASKS, alpha, learning_rate)

  def step(rows, losses):
    scaled = oracle.step(rows[:, columns], losses)[:, None] * rows
    direction = scaled.sum(0) if balance is None else balance(scaled)
    return direction, {'0.weights': oracle.weights, '0.first_losses': oracle.first}

  return step


def gradvac(beta: float) -> Step:
  oracle = oracles_gramian.GradVac(TASKS, beta)
  return lambda rows, losses: (oracle.step(rows, ORDERS), {'targets': oracle.targets})


def moco(**options: Any) -> Step:
  oracle = oracles_jacobian.MoCo(TASKS, SIZE, **options)

  def step(rows, losses):
    direction = oracle.step(rows, losses)
    steps = np.full(TASKS, oracle.t)
    return direction, {'tracked': oracle.tracked, 'weights': oracle.weights, 'steps': steps}

  return step


def db_mtl(beta: float, beta_sigma: float) -> Step:
  oracle = oracles_jacobian.DBMTL(TASKS, SIZE, beta, beta_sigma)

  def step(rows, losses):
    direction = oracle.step(rows, losses)
    return direction, {'average': oracle.average, 'steps': np.full(TASKS, oracle.t)}

  return step


def excess_mtl(step_size: float) -> Step:
  oracle = oracles_jacobian.ExcessMTL(TASKS, SIZE, step_size)

  def step(rows, losses):
    direction = oracle.step(rows)
    numbers = {'squares': oracle.squares, 'weights': oracle.weights, 'first_excess': oracle.first}
    return direction, numbers

  return step


def famo(rate: float, decay: float) -> Step:
  """In a chain: each step's losses finish the step before."""
  oracle, previous = oracles_losses.FAMO(TASKS, rate, decay, np.zeros(TASKS)), None

  def step(rows, losses):
    nonlocal previous
    if previous is not None:
      oracle.learn(previous, losses)
    previous = losses
    return oracle.weights(losses) @ rows, {'logits': oracle.logits, 'losses': losses}

  return step


def sdmgrad(lam: float, steps: int, learning_rate: float, momentum: float) -> Step:
  """With one batch for all three of the algorithm's."""
  oracle = oracles_gramian.SDMGrad(np.ones(TASKS), lam, steps, learning_rate, momentum)
  return lambda rows, losses: (oracle.step(rows, rows, rows), {'weights': oracle.weights})


def mgda(rows: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
  return oracles_solvers.shortest_in_hull(rows), {}


def pcgrad(rows: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
  return oracles.pcgrad(rows, ORDERS), {}


def nash(rows: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
  """Without a clip."""
  return oracles_solvers.fair(rows) @ rows, {}


def weights_of(direction: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """w with wᵀJ = d, for independent rows."""
  return np.linalg.lstsq(rows.T, direction, rcond=None)[0]


def inside(numbers: dict[str, Any]) -> dict[str, Any]:
  return {f'inner.{path}': value for path, value in numbers.items()}


def every_k(inner: Step, k: int, max_norm: float = np.inf) -> Step:
  """Section 5 of Navon et al. 2022; each direction is clipped, as in their code."""
  count, weights, numbers = 0, None, {}

  def step(rows, losses):
    nonlocal count, weights, numbers
    if count % k == 0:
      direction, numbers = inner(rows, losses)
      weights = weights_of(direction, rows)
    count += 1
    direction = weights @ rows
    direction = direction * min(1.0, max_norm / np.linalg.norm(direction))
    return direction, {'weights': weights, 'age': count % k} | inside(numbers)

  return step


def with_warmup(inner: Step, steps: int) -> Step:
  count = 0

  def step(rows, losses):
    nonlocal count
    count += 1
    direction, numbers = (rows.mean(0), {}) if count <= steps else inner(rows, losses)
    return direction, {'step': min(count, steps + 1)} | inside(numbers)

  return step


def ema_weights(inner: Step, alpha: float) -> Step:
  """Eq. 9 of Zhou et al. 2022, from the first weights on."""
  average = None

  def step(rows, losses):
    nonlocal average
    direction, numbers = inner(rows, losses)
    new = weights_of(direction, rows)
    average = new if average is None else alpha * average + (1 - alpha) * new
    return average @ rows, {'average': average} | inside(numbers)

  return step


def ema_gramian(inner: Step, decay: float) -> Step:
  """The method on the rows of a factor of the average, its weights on the step's own rows."""
  average = None

  def step(rows, losses):
    nonlocal average
    new = rows @ rows.T
    average = new if average is None else decay * average + (1 - decay) * new
    factor = np.linalg.cholesky(average)
    direction, numbers = inner(factor, losses)
    return weights_of(direction, factor) @ rows, {'average': average} | inside(numbers)

  return step
