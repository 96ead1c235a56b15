"""The methods in float64 NumPy, written from the papers' formulas."""

import numpy as np


def pcgrad(jacobian: np.ndarray, orders: np.ndarray) -> np.ndarray:
  """Algorithm 1 of Yu et al. 2020 on the gradients themselves; `orders[i]`: task i's visits."""
  direction = np.zeros(jacobian.shape[1])
  for task, order in enumerate(orders):
    gradient = jacobian[task].copy()
    for other in order:
      inner = gradient @ jacobian[other]
      if other != task and inner < 0:
        gradient -= inner / (jacobian[other] @ jacobian[other]) * jacobian[other]
    direction += gradient
  return direction


class Adam:
  """Kingma & Ba 2015, algorithm 1."""

  def __init__(self, size: int, learning_rate: float):
    self.m, self.v, self.t, self.learning_rate = np.zeros(size), np.zeros(size), 0, learning_rate

  def step(self, gradient: np.ndarray) -> np.ndarray:
    self.t += 1
    self.m = 0.9 * self.m + 0.1 * gradient
    self.v = 0.999 * self.v + 0.001 * gradient**2
    m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
    return -self.learning_rate * m / (np.sqrt(v) + 1e-8)


class GradNorm:
  """Algorithm 1 of Chen et al. 2018; the gradient of eq. 2 by central differences."""

  def __init__(self, tasks: int, alpha: float, learning_rate: float):
    self.weights, self.first, self.alpha = np.ones(tasks), None, alpha
    self.adam = Adam(tasks, learning_rate)

  def step(self, jacobian: np.ndarray, losses: np.ndarray) -> np.ndarray:
    if self.first is None:
      self.first = losses.copy()
    norms = np.linalg.norm(jacobian, axis=1)
    ratios = losses / self.first
    target = np.mean(self.weights * norms) * (ratios / ratios.mean()) ** self.alpha

    def objective(weights):
      return np.sum(np.abs(weights * norms - target))

    gradient, h = np.zeros_like(self.weights), 1e-7
    for i in range(len(gradient)):
      bump = np.eye(len(gradient))[i] * h
      gradient[i] = (objective(self.weights + bump) - objective(self.weights - bump)) / (2 * h)
    used = self.weights
    moved = self.weights + self.adam.step(gradient)
    self.weights = moved * len(moved) / moved.sum()
    return used


def normalize(jacobian: np.ndarray, losses: np.ndarray, kind: str) -> np.ndarray:
  """Sener & Koltun's three normalizations."""
  norms = np.linalg.norm(jacobian, axis=1)
  scale = {'l2': norms, 'loss': losses, 'loss+': losses * norms}[kind]
  return jacobian / scale[:, None]


def jacobian_of(tree: dict) -> np.ndarray:
  """Stacked gradients as one float64 matrix `[T, D]`."""
  import jax

  leaves = jax.tree.leaves(tree)
  return np.concatenate([np.asarray(x, np.float64).reshape(x.shape[0], -1) for x in leaves], axis=1)
