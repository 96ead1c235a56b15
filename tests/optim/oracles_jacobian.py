"""The methods that look inside J, in float64 NumPy, written from the papers' formulas."""

import numpy as np


def graddrop(jacobian: np.ndarray, draws: np.ndarray, leak: np.ndarray) -> np.ndarray:
  """Algorithm 1 of Chen et al. 2020 with the uniform draws given, coordinate by coordinate."""
  direction = np.zeros(jacobian.shape[1])
  for place, column in enumerate(jacobian.T):
    if not np.abs(column).sum():
      continue
    purity = 0.5 * (1 + column.sum() / np.abs(column).sum())
    mask = np.where(purity > draws[place], column > 0, column < 0)
    direction[place] = np.sum((leak + (1 - leak) * mask) * column)
  return direction


def trimmed_mean(jacobian: np.ndarray, trim: int) -> np.ndarray:
  """Definition 2 of Yin et al. 2018."""
  return np.sort(jacobian, axis=0)[trim : len(jacobian) - trim].mean(0)


def nearest_in_simplex(point: np.ndarray) -> np.ndarray:
  """The shift with Σ max(point − shift, 0) = 1, by bisection."""
  low, high = point.min() - 1, point.max()
  for _ in range(200):
    middle = (low + high) / 2
    low, high = (middle, high) if np.maximum(point - middle, 0).sum() > 1 else (low, middle)
  return np.maximum(point - high, 0)


class MoCo:
  """Algorithm 1 of Fernando et al. 2023, and its variant in the authors' code."""

  def __init__(self, tasks, size, beta, beta_sigma, gamma, gamma_sigma, rho, normalize, projection):
    self.tracked, self.weights, self.t = np.zeros((tasks, size)), np.ones(tasks) / tasks, 0
    self.beta, self.gamma, self.rho = (beta, beta_sigma), (gamma, gamma_sigma), rho
    self.normalize, self.projection = normalize, projection

  def step(self, jacobian, losses):
    self.t += 1
    if self.normalize:
      jacobian = jacobian / np.linalg.norm(jacobian, axis=1)[:, None] * losses[:, None]
    self.tracked -= self.beta[0] / self.t ** self.beta[1] * (self.tracked - jacobian)
    matrix = self.tracked @ self.tracked.T + self.rho * np.eye(len(losses))
    moved = self.weights - self.gamma[0] / self.t ** self.gamma[1] * matrix @ self.weights
    if self.projection == 'simplex':
      self.weights = nearest_in_simplex(moved)
    else:
      exponentials = np.exp(moved - moved.max())
      self.weights = exponentials / exponentials.sum()
    return self.tracked.T @ self.weights


class DBMTL:
  """Algorithm 1 of Lin et al. 2023."""

  def __init__(self, tasks, size, beta, beta_sigma):
    self.average, self.t, self.beta, self.sigma = np.zeros((tasks, size)), 0, beta, beta_sigma

  def step(self, jacobian, losses):
    self.t += 1
    beta = self.beta / self.t**self.sigma
    self.average = beta * self.average + (1 - beta) * jacobian / (losses + 1e-8)[:, None]
    norms = np.linalg.norm(self.average, axis=1)
    return np.sum(norms.max() * self.average / norms[:, None], axis=0)


class ExcessMTL:
  """Algorithm 1 of He et al. 2024 with the diagonal estimate; weights of sum T, as in its code."""

  def __init__(self, tasks, size, step_size):
    self.squares, self.weights = np.zeros((tasks, size)), np.ones(tasks)
    self.first, self.step_size = None, step_size

  def step(self, jacobian):
    self.squares += jacobian**2
    excess = np.array(
      [g @ np.diag(1 / np.sqrt(s + 1e-7)) @ g for g, s in zip(jacobian, self.squares, strict=True)]
    )
    if self.first is None:
      self.first = excess
    self.weights *= np.exp(self.step_size * excess / self.first)
    self.weights *= len(self.weights) / self.weights.sum()
    return jacobian.T @ self.weights


def to_common_norm(jacobian: np.ndarray, kind: str) -> np.ndarray:
  """Every row at the mean, largest or smallest of the rows' norms."""
  norms = np.linalg.norm(jacobian, axis=1)
  return jacobian / norms[:, None] * {'mean': np.mean, 'max': np.max, 'min': np.min}[kind](norms)
