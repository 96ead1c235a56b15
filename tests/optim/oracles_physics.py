"""The methods for physics-informed networks in float64 NumPy, written from the papers' formulas."""

import numpy as np

from tests.optim.oracles_losses import softmax


def soft_adapt(history: list[np.ndarray], beta: float, period: int, variant: str) -> np.ndarray:
  """Section 3.1 of Heydari et al. 2019 with first differences, from all losses so far."""
  means = [
    np.mean(history[i : i + period], axis=0) for i in range(0, len(history) - period + 1, period)
  ]
  tasks = len(history[0])
  slopes = means[-1] - means[-2] if len(means) > 1 else np.zeros(tasks)
  if variant == 'normalized' and np.abs(slopes).sum() > 0:
    slopes = slopes / np.abs(slopes).sum()
  weights = np.exp(beta * slopes)
  if variant == 'loss_weighted' and means:
    weights *= np.mean(means[-2:], axis=0)
  return weights / weights.sum()


class ReLoBRaLo:
  """The update of Bischof & Kraus 2021, the draws given."""

  def __init__(self, tasks: int, alpha: float, temperature: float):
    self.weights, self.losses = np.ones(tasks), []
    self.alpha, self.temperature = alpha, temperature

  def balanced(self, losses: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    return len(losses) * softmax(losses / (self.temperature * earlier))

  def step(self, losses: np.ndarray, draw: int) -> np.ndarray:
    self.losses.append(losses)
    since_start = self.balanced(losses, self.losses[0])
    since_last = self.balanced(losses, self.losses[-2:][0])
    past = draw * self.weights + (1 - draw) * since_start
    self.weights = self.alpha * past + (1 - self.alpha) * since_last
    return self.weights


class Annealing:
  """Algorithm 1 of Wang, Teng & Perdikaris 2021, and the norms of Wang et al. 2023."""

  def __init__(self, tasks: int, decay: float, form: str, residual: int = 0):
    self.weights, self.decay = np.ones(tasks), decay
    self.form, self.residual = form, residual

  def step(self, jacobian: np.ndarray) -> np.ndarray:
    for i, row in enumerate(jacobian):
      if self.form == 'norm':
        wanted = sum(np.linalg.norm(g) for g in jacobian) / np.linalg.norm(row)
      elif i == self.residual:
        continue
      else:
        wanted = np.max(np.abs(jacobian[self.residual])) / np.mean(np.abs(row))
      self.weights[i] = self.decay * self.weights[i] + (1 - self.decay) * wanted
    return self.weights @ jacobian
