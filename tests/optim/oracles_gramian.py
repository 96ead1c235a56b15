"""The methods on the Gramian in float64 NumPy, on the gradients themselves."""

import fractions
import itertools
from collections.abc import Sequence

import numpy as np
import scipy.optimize

EPS = float(np.finfo(np.float32).eps)


def imtl_g(jacobian: np.ndarray) -> np.ndarray:
  """v = G⁺n by pseudo-inverses of J, and Σ w = 1 (Quinton & Rey 2024)."""
  inverse = np.linalg.pinv(jacobian, rcond=1e-13)
  v = inverse.T @ (inverse @ np.linalg.norm(jacobian, axis=1))
  return v @ jacobian / v.sum()


def units(jacobian: np.ndarray) -> np.ndarray:
  """Rows of norm 1; those that are 0 left out."""
  norms = np.linalg.norm(jacobian, axis=1)
  return jacobian[norms > 0] / norms[norms > 0][:, None]


def condition(jacobian: np.ndarray) -> float:
  """λmax/λmin of the correlation matrix, over the eigenvalues above T·ε·λmax."""
  values = np.linalg.svd(units(jacobian), compute_uv=False) ** 2
  return values[0] / values[values > len(jacobian) * EPS * values[0]].min()


def imtl_g_residual(jacobian: np.ndarray, w: np.ndarray) -> float:
  """How far gᵢ·d/‖gᵢ‖ are from equal, relative to Σ |wᵢ|‖gᵢ‖.

  With dependent gradients, Jd − s n ⊥ range J instead (least squares): Jd/n may differ from a
  constant by N/n, where N spans the null space of Jᵀ.
  """
  norms = np.linalg.norm(jacobian, axis=1)
  rows, norms, w = jacobian[norms > 0], norms[norms > 0], w[norms > 0]
  left, singular, _ = np.linalg.svd(rows)
  null = left[:, np.sum(singular > 1e-13 * singular[0]) :] / norms[:, None]
  free = np.column_stack([np.ones(len(rows)), null / np.linalg.norm(null, axis=0)])
  projections = rows / norms[:, None] @ (w @ rows)
  rest = projections - free @ np.linalg.lstsq(free, projections, rcond=None)[0]
  return np.max(np.abs(rest)) / (np.abs(w) @ norms)


def config_residuals(jacobian: np.ndarray, w: np.ndarray) -> tuple[float, float]:
  """Of Uᵀ(Ud − s p) = 0 for some s, p equal, and of ‖d‖ = Σ gᵢ·d/‖d‖.

  The first relative to Σ |wᵢ|‖gᵢ‖, the second to Σ (1 + |wᵢ|)‖gᵢ‖: the terms of its two sides.
  """
  direction, unit = w @ jacobian, units(jacobian)
  norms, length = np.linalg.norm(jacobian, axis=1), np.linalg.norm(direction)
  image, target = unit.T @ (unit @ direction), unit.sum(0)
  off = image - target * (image @ target) / (target @ target)
  wrong = np.sum(jacobian @ direction) / length - length
  return np.linalg.norm(off) / (np.abs(w) @ norms), np.abs(wrong) / ((1 + np.abs(w)) @ norms)


def aligned_residual(jacobian: np.ndarray, w: np.ndarray, p: np.ndarray, scale_mode: str) -> float:
  """Of gᵢ·d = √s (G^½ p)ᵢ for some s within 1e-6 λmax of the mode's, relative to λmax √(s/λmin)‖p‖.

  That is what λmax‖w‖ can be. An eigenvalue within ε λmax of the tolerance may count or not.
  """
  left, singular, _ = np.linalg.svd(jacobian, full_matrices=False)
  largest, found = singular[0] ** 2, []
  least, most = (np.sum(singular**2 > (len(jacobian) + x) * EPS * largest) for x in (1, -1))
  image, slack = jacobian @ (w @ jacobian), 1e-6 * largest
  for rank in range(least, most + 1):
    values = singular[:rank][::-1] ** 2
    scale = scale_of(values, scale_mode)
    target = left[:, :rank] * singular[:rank] @ (left[:, :rank].T @ p)
    fitted = image @ target / (target @ target)
    root = np.clip(fitted, np.sqrt(max(scale - slack, 0)), np.sqrt(scale + slack))
    size = largest * np.sqrt(scale / values[0]) * np.linalg.norm(p)
    found.append(np.linalg.norm(image - root * target) / size)
  return min(found)


def scale_of(values: np.ndarray, scale_mode: str) -> float:
  """s, from the eigenvalues kept, in ascending order."""
  return {
    'min': values[0],
    'median': values[(len(values) - 1) // 2],
    'rmse': values.mean(),
  }[scale_mode]


def imtl_g_closed_form(jacobian: np.ndarray) -> np.ndarray:
  """α = g₁Uᵀ(DUᵀ)⁻¹ of Liu et al. 2021, for linearly independent gradients."""
  units = jacobian / np.linalg.norm(jacobian, axis=1)[:, None]
  differences, unit_differences = jacobian[0] - jacobian[1:], units[0] - units[1:]
  alpha = np.linalg.solve((differences @ unit_differences.T).T, unit_differences @ jacobian[0])
  return (1 - alpha.sum()) * jacobian[0] + alpha @ jacobian[1:]


def aligned_mtl(
  jacobian: np.ndarray, p: np.ndarray, scale_mode: str, slack: float = 0.0
) -> np.ndarray:
  """Senushkin et al. 2023 by the singular values of J: √s (XYᵀ)ᵀp over those kept.

  `slack` moves the tolerance by so many ε λmax, as the rounding of a float32 G does.
  """
  left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
  kept = singular**2 > (len(jacobian) + slack) * EPS * singular[0] ** 2
  scale = scale_of(np.sort(singular[kept] ** 2), scale_mode)
  return np.sqrt(scale) * ((p @ left[:, kept]) @ right[kept])


def config(jacobian: np.ndarray, p: np.ndarray) -> np.ndarray:
  """Equations 2 and 3 of Liu et al. 2024."""
  norms = np.linalg.norm(jacobian, axis=1)
  units = jacobian / np.where(norms > 0, norms, 1)[:, None]
  direction = np.linalg.pinv(units, rcond=1e-6) @ p
  direction /= np.linalg.norm(direction)
  return np.sum(jacobian @ direction) * direction


def krum(jacobian: np.ndarray, num_byzantine: int, num_selected: int) -> np.ndarray:
  """Section 4 of Blanchard et al. 2017."""
  scores = []
  for i in range(len(jacobian)):
    others = np.delete(jacobian, i, axis=0)
    distances = np.sort(np.sum((others - jacobian[i]) ** 2, axis=1))
    scores.append(distances[: len(jacobian) - num_byzantine - 2].sum())
  return jacobian[np.argsort(scores, kind='stable')[:num_selected]].mean(0)


class GradVac:
  """Algorithm 1 of Wang et al. 2021 on the whole gradients; tasks in index order."""

  def __init__(self, tasks: int, beta: float):
    self.targets, self.beta = np.zeros((tasks, tasks)), beta

  def step(self, jacobian: np.ndarray, orders: np.ndarray) -> np.ndarray:
    norms, direction = np.linalg.norm(jacobian, axis=1), np.zeros(jacobian.shape[1])
    for i, order in enumerate(orders):
      g = jacobian[i].copy()
      for j in order:
        if i == j or norms[i] == 0 or norms[j] == 0:
          continue
        norm, target = np.linalg.norm(g), self.targets[i, j]
        cosine = g @ jacobian[j] / (norm * norms[j])
        if cosine < target:
          sine, target_sine = np.sqrt(1 - cosine**2), np.sqrt(1 - target**2)
          length = norm * (target * sine - cosine * target_sine) / (norms[j] * target_sine)
          g += length * jacobian[j]
        self.targets[i, j] = (1 - self.beta) * target + self.beta * cosine
      direction += g
    return direction


def project_to_simplex(point: np.ndarray) -> np.ndarray:
  """The shift that makes the positive parts sum to 1, by root finding."""

  def excess(shift):
    return np.maximum(point - shift, 0).sum() - 1

  shift = scipy.optimize.brentq(excess, point.min() - 1, point.max(), xtol=1e-15)
  return np.maximum(point - shift, 0)


def project_to_simplex_exactly(point: np.ndarray) -> np.ndarray:
  """The one support that meets the conditions of optimality, in fractions: exact at any scale."""
  values = [fractions.Fraction(float(x)) for x in point]
  for support in itertools.product([False, True], repeat=len(values)):
    inside = [x for x, here in zip(values, support, strict=True) if here]
    if not inside:
      continue
    shift = (sum(inside) - 1) / len(inside)
    if all((x > shift) == here for x, here in zip(values, support, strict=True)):
      return np.array([float(max(x - shift, 0)) for x in values])
  raise AssertionError('a projection exists')


class SDMGrad:
  """Algorithm 1 of Xiao et al. 2023 with momentum and the scaling of its released code."""

  def __init__(self, preference: Sequence[float], lam: float, steps: int, rate: float, momentum):
    self.preferred = np.asarray(preference) / np.sum(preference)
    self.weights = np.full(len(self.preferred), 1 / len(self.preferred))
    self.lam, self.steps, self.rate, self.momentum = lam, steps, rate, momentum

  def step(self, first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    scale = np.mean(np.sqrt(np.maximum(np.sum(first * second, axis=1), 0)))
    moving = np.zeros_like(self.weights)
    for _ in range(self.steps):
      gradient = first @ (second.T @ (self.weights + self.lam * self.preferred)) / scale**2
      moving = self.momentum * moving + gradient
      self.weights = project_to_simplex(self.weights - self.rate * moving)
    return (self.weights @ third + self.lam * self.preferred @ third) / (1 + self.lam)


class MoDo:
  """Algorithm 1 of Chen et al. 2023, with the regularization ρ."""

  def __init__(self, tasks: int, gamma: float, rho: float):
    self.weights, self.gamma, self.rho = np.full(tasks, 1 / tasks), gamma, rho

  def step(self, first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    gradient = first @ (second.T @ self.weights) + self.rho * self.weights
    self.weights = project_to_simplex(self.weights - self.gamma * gradient)
    return self.weights @ third
