"""The methods on losses in float64 NumPy, written from the papers' formulas."""

import numpy as np

from tests.optim import oracles


class Quadratics:
  """Losses ½‖A_i θ − b_i‖² + c_i with their gradients, and plain gradient steps on Σ wᵢLᵢ."""

  def __init__(self, tasks: int = 3, size: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    self.a = rng.normal(size=(tasks, 5, size)) * np.linspace(0.5, 1.5, tasks)[:, None, None]
    self.b = rng.normal(size=(tasks, 5))
    self.c = rng.uniform(0.1, 1.0, tasks)
    self.params = rng.normal(size=size)

  def residuals(self) -> np.ndarray:
    return self.a @ self.params - self.b

  def losses(self) -> np.ndarray:
    return 0.5 * np.sum(self.residuals() ** 2, axis=1) + self.c

  def jacobian(self) -> np.ndarray:
    return np.einsum('trd,tr->td', self.a, self.residuals())

  def step(self, weights: np.ndarray, learning_rate: float = 0.02) -> None:
    self.params = self.params - learning_rate * weights @ self.jacobian()


def softmax(x: np.ndarray) -> np.ndarray:
  powers = np.exp(x - x.max())
  return powers / powers.sum()


def gradient(function, x: np.ndarray, step: float = 1e-5) -> np.ndarray:
  """Central differences."""
  bumps = np.eye(len(x)) * step
  return np.array([(function(x + e) - function(x - e)) / (2 * step) for e in bumps])


class Learned:
  """A parameter a task that descends on an objective of the losses by Adam.

  With Kendall et al. 2018: Σ L/(2σ²) + log σ for s = log σ²; with Liu et al. 2021: Σ e^s L − s.
  """

  def __init__(self, objective, tasks: int, learning_rate: float):
    self.s, self.adam = np.zeros(tasks), oracles.Adam(tasks, learning_rate)
    self.objective = objective

  def step(self, losses: np.ndarray) -> np.ndarray:
    weights = gradient(lambda x: self.objective(self.s, x), losses)
    self.s = self.s + self.adam.step(gradient(lambda s: self.objective(s, losses), self.s))
    return weights


def kendall(s: np.ndarray, losses: np.ndarray) -> float:
  sigma = np.exp(s / 2)
  return np.sum(losses / (2 * sigma**2) + np.log(sigma))


def imtl(s: np.ndarray, losses: np.ndarray) -> float:
  return np.sum(np.exp(s) * losses - s)


def dwa(history: list[np.ndarray], temperature: float, period: int) -> np.ndarray:
  """Eq. 7 of Liu et al. 2019, from all earlier losses: the weights of the next step."""
  epochs = [
    np.mean(history[i : i + period], axis=0) for i in range(0, len(history) - period + 1, period)
  ]
  tasks = len(history[0]) if history else 0
  if len(epochs) < 2:
    return np.ones(tasks)
  return tasks * softmax(epochs[-1] / epochs[-2] / temperature)


class FAMO:
  """Algorithm 1 of Liu et al. 2023, with the softmax's Jacobian as a matrix."""

  def __init__(self, tasks: int, learning_rate: float, decay: float, bound: np.ndarray):
    self.logits, self.adam = np.zeros(tasks), oracles.Adam(tasks, learning_rate)
    self.decay, self.bound = decay, bound

  def weights(self, losses: np.ndarray) -> np.ndarray:
    z, excess = softmax(self.logits), losses - self.bound
    return z / excess / np.sum(z / excess)

  def learn(self, losses: np.ndarray, new_losses: np.ndarray) -> None:
    z = softmax(self.logits)
    jacobian = np.diag(z) - np.outer(z, z)
    delta = jacobian.T @ (np.log(losses - self.bound) - np.log(new_losses - self.bound))
    self.logits = self.logits + self.adam.step(delta + self.decay * self.logits)


class DTP:
  """Eqs. 2 and 3 of Guo et al. 2018."""

  def __init__(self, gamma: float, decay: float):
    self.kpi, self.gamma, self.decay = None, gamma, decay

  def step(self, kpi: np.ndarray) -> np.ndarray:
    self.kpi = kpi if self.kpi is None else self.decay * self.kpi + (1 - self.decay) * kpi
    return -((1 - self.kpi) ** self.gamma) * np.log(self.kpi)


def geometric_mean(losses: np.ndarray) -> float:
  return np.prod(losses) ** (1 / len(losses))


def chebyshev(losses: np.ndarray, p: np.ndarray, ideal: np.ndarray) -> float:
  return np.max(p * (losses - ideal))


def stch(losses: np.ndarray, p: np.ndarray, ideal: np.ndarray, mu: float) -> float:
  return mu * np.log(np.sum(np.exp(p * (losses - ideal) / mu)))


def cosmos(losses: np.ndarray, p: np.ndarray, coefficient: float) -> float:
  cosine = p @ losses / np.linalg.norm(p) / np.linalg.norm(losses)
  return p @ losses - coefficient * cosine


def pbi(losses: np.ndarray, p: np.ndarray, ideal: np.ndarray, theta: float) -> float:
  along = abs((losses - ideal) @ p) / np.linalg.norm(p)
  return along + theta * np.linalg.norm(losses - (ideal + along * p / np.linalg.norm(p)))
