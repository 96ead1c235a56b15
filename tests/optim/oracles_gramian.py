"""The methods on the Gramian in float64 NumPy, on the gradients themselves."""

from collections.abc import Sequence

import numpy as np
import scipy.optimize


def imtl_g(jacobian: np.ndarray) -> np.ndarray:
  """v = G⁺n by pseudo-inverses of J, and Σ w = 1 (Quinton & Rey 2024)."""
  inverse = np.linalg.pinv(jacobian, rcond=1e-13)
  v = inverse.T @ (inverse @ np.linalg.norm(jacobian, axis=1))
  return v @ jacobian / v.sum()


def imtl_g_closed_form(jacobian: np.ndarray) -> np.ndarray:
  """α = g₁Uᵀ(DUᵀ)⁻¹ of Liu et al. 2021, for linearly independent gradients."""
  units = jacobian / np.linalg.norm(jacobian, axis=1)[:, None]
  differences, unit_differences = jacobian[0] - jacobian[1:], units[0] - units[1:]
  alpha = np.linalg.solve((differences @ unit_differences.T).T, unit_differences @ jacobian[0])
  return (1 - alpha.sum()) * jacobian[0] + alpha @ jacobian[1:]


def aligned_mtl(jacobian: np.ndarray, p: np.ndarray, scale_mode: str) -> np.ndarray:
  """Senushkin et al. 2023 by the singular values of J: √s (XYᵀ)ᵀp over those kept."""
  left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
  tolerance = len(jacobian) * np.finfo(np.float32).eps
  kept = singular**2 > tolerance * singular[0] ** 2
  values = np.sort(singular[kept] ** 2)
  scale = {
    'min': values[0],
    'median': values[(len(values) - 1) // 2],
    'rmse': values.mean(),
  }[scale_mode]
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
