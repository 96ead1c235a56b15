"""Exact solutions on the gradients themselves, float64, by other ways than the package's solvers.

Minima over a simplex by enumerating supports, each with its closed form; projections by
Lawson–Hanson NNLS on J; Nash's and FairGrad's equations by Newton's method, checked by residual.
"""

import itertools

import numpy as np
import scipy.linalg
import scipy.optimize


def supports(tasks: int, size: int):
  """Carathéodory: some solution has at most D + 1 tasks."""
  for count in range(1, min(tasks, size + 1) + 1):
    yield from itertools.combinations(range(tasks), count)


def affine_hull(rows: np.ndarray):
  """Its point nearest to 0, and an orthonormal basis of its directions, in the columns.

  In units in which rows have norm 1, as differences of rows of very different length are inexact.
  """
  norms = np.linalg.norm(rows, axis=1)
  units, inverse = rows / norms[:, None], norms.min() / norms
  null = scipy.linalg.null_space(inverse[None, :])
  left, values, _ = np.linalg.svd(units.T @ null, full_matrices=False)
  basis = left[:, values > 1e-12]
  shortest = int(np.argmin(norms))
  nearest = rows[shortest] - basis @ (basis.T @ rows[shortest])
  return nearest - basis @ (basis.T @ nearest), basis


def is_convex_combination(rows: np.ndarray, point: np.ndarray) -> bool:
  norms = np.linalg.norm(rows, axis=1)
  system = np.vstack([(rows / norms[:, None]).T, norms.min() / norms])
  right = np.append(point / norms.min(), 1.0)
  return bool(scipy.optimize.nnls(system, right)[1] <= 1e-9)


def shortest_in_hull(jacobian: np.ndarray) -> np.ndarray:
  """The point of the convex hull nearest to 0: Désidéri's direction."""
  if (np.linalg.norm(jacobian, axis=1) == 0).any():
    return np.zeros(jacobian.shape[1])
  best = np.full(jacobian.shape[1], np.inf)
  for support in supports(*jacobian.shape):
    rows = jacobian[list(support)]
    point, _ = affine_hull(rows)
    if np.linalg.norm(point) < np.linalg.norm(best) and is_convex_combination(rows, point):
      best = point
  return best


def cagrad(jacobian: np.ndarray, c: float, preference: np.ndarray | None = None) -> np.ndarray:
  """Eq. 3 of Liu et al. 2021; 0 where g_w = 0 attains the minimum.

  On the affine hull of a support, g_w = a + Bz with a ⊥ B: the objective depends on z through
  z·Bᵀg₀ and ‖z‖ alone, and one variable along Bᵀg₀ is left, with a closed form.
  """
  rows = jacobian[np.linalg.norm(jacobian, axis=1) > 0]
  tasks = len(jacobian)
  mean = (np.full(tasks, 1 / tasks) if preference is None else preference) @ jacobian
  radius = c * np.linalg.norm(mean)
  if radius == 0:
    return mean
  scale = np.linalg.norm(rows, axis=1).max()
  candidates = []
  for support in supports(*rows.shape):
    near, basis = affine_hull(rows[list(support)])
    along = basis.T @ mean
    slope = np.linalg.norm(along)
    if np.linalg.norm(near) < 1e-12 * scale:
      near = np.zeros_like(near)
    if slope >= radius:
      continue
    z = -along / np.sqrt(radius**2 - slope**2) * np.linalg.norm(near)
    candidates.append(
      (
        near @ mean + np.linalg.norm(near) * np.sqrt(radius**2 - slope**2),
        support,
        near + basis @ z,
      )
    )
  for _, support, point in sorted(candidates, key=lambda x: x[0]):
    if is_convex_combination(rows[list(support)], point):
      length = np.linalg.norm(point)
      return mean + radius / length * point if length > 0 else np.zeros_like(mean)
  raise AssertionError('no support holds the minimum')


def project(jacobian: np.ndarray, start: np.ndarray, reg_eps: float = 0.0) -> np.ndarray:
  """v that minimizes vᵀ(JJᵀ/tr + εI)v over v ≥ start, by NNLS on J/√tr beside √ε I."""
  trace = np.sum(jacobian**2)
  columns = np.hstack([jacobian / np.sqrt(trace), np.sqrt(reg_eps) * np.eye(len(jacobian))]).T
  size = np.linalg.norm(columns, axis=0)
  size = np.where(size > 0, size, 1.0)
  found, _ = scipy.optimize.nnls(columns / size, -columns @ start, maxiter=1000)
  return start + found / size


def length_of_projection(jacobian: np.ndarray, v: np.ndarray, reg_eps: float) -> float:
  """vᵀ(JJᵀ/tr + εI)v."""
  return float(np.sum((v @ jacobian) ** 2) / np.sum(jacobian**2) + reg_eps * v @ v)


def upgrad(jacobian, reg_eps=0.0, preference=None):
  tasks = len(jacobian)
  wanted = np.full(tasks, 1 / tasks) if preference is None else preference
  return sum(project(jacobian, wanted * unit, reg_eps) for unit in np.eye(tasks)) @ jacobian


def dualproj(jacobian, reg_eps=0.0, preference=None):
  tasks = len(jacobian)
  wanted = np.full(tasks, 1 / tasks) if preference is None else preference
  return project(jacobian, wanted, reg_eps) @ jacobian


def fair(jacobian: np.ndarray, alpha: float = 1.0) -> np.ndarray:
  """w with (JJᵀw)ᵢ = wᵢ^(−1/α) on the rows that are not zero (Nash: α = 1)."""
  usable = np.linalg.norm(jacobian, axis=1) > 0
  rows = jacobian[usable]
  gramian, power = rows @ rows.T, 1 / alpha

  def objective(logs):
    w = np.exp(logs)
    gain = logs.sum() if power == 1 else (w ** (1 - power)).sum() / (1 - power)
    return w @ gramian @ w / 2 - gain

  w = np.diagonal(gramian) ** (-1 / (1 + power))
  for _ in range(500):
    gradient = gramian @ w - w**-power
    hessian = gramian + np.diag(power * w ** (-power - 1))
    relative = np.linalg.solve(w[:, None] * hessian * w, -w * gradient)
    length = min(1.0, 0.9 / max(np.max(-relative), 1e-300))
    if np.max(np.abs(relative)) > 1e-2:
      before, slope = objective(np.log(w)), relative @ (w * gradient)
      while objective(np.log(w * (1 + length * relative))) > before + 1e-4 * length * slope:
        length /= 2
    w = w * (1 + length * relative)
    if np.max(np.abs(relative)) < 1e-12:
      break
  gap = np.abs(gramian @ w - w**-power) / np.linalg.norm(rows, axis=1)
  assert np.max(gap) < 1e-9 * np.linalg.norm(w @ rows), 'not found'
  weights = np.zeros(len(jacobian))
  weights[usable] = w
  return weights


def unfairness(jacobian: np.ndarray, w: np.ndarray, alpha: float) -> float:
  """½‖Jᵀw‖² − Σ ∫wᵢ^(−1/α), which the weights minimize."""
  power = 1 / alpha
  gain = np.log(w).sum() if power == 1 else (w ** (1 - power)).sum() / (1 - power)
  return float(np.sum((w @ jacobian) ** 2) / 2 - gain)


class PCD:
  """Varam & AlHajri 2026 on the gradients themselves: every set of active constraints is tried."""

  def __init__(self, tasks: int, tau: float, beta: float, eps: float, primary: int = 0):
    self.mean, self.t = np.zeros(tasks), 0
    self.tau, self.beta, self.eps, self.primary = tau, beta, eps, primary

  def step(self, jacobian: np.ndarray) -> np.ndarray:
    self.t += 1
    squares = np.sum(jacobian**2, axis=1)
    self.mean = self.beta * self.mean + (1 - self.beta) * squares
    scales = 1 / np.sqrt(self.mean / (1 - self.beta**self.t) + self.eps)
    rows = scales[:, None] * jacobian
    found = self.solve(rows)
    length = np.linalg.norm(found)
    if length < 1e-9 * np.linalg.norm(rows[self.primary]):
      return np.zeros_like(found)
    return found / length * np.linalg.norm(jacobian[self.primary])

  def solve(self, rows: np.ndarray) -> np.ndarray:
    first, rest = rows[self.primary], np.delete(rows, self.primary, axis=0)
    asked = self.tau * np.sum(rest**2, axis=1)
    best, nearest = first, np.inf  # without a solution the constraints are dropped
    for count in range(len(rest) + 1):
      for chosen in itertools.combinations(range(len(rest)), count):
        active = rest[list(chosen)]
        if np.linalg.matrix_rank(active) < count:
          continue
        gap = asked[list(chosen)] - active @ first
        candidate = first + active.T @ np.linalg.solve(active @ active.T, gap)
        distance = np.linalg.norm(candidate - first)
        if (rest @ candidate >= asked - 1e-9).all() and distance < nearest:
          best, nearest = candidate, distance
    return best
