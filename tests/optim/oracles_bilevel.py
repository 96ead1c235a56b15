"""The validation-driven methods in float64 NumPy, on quadratic losses, where all is closed form."""

import itertools

import numpy as np

from tests.optim.oracles import Adam


class Quadratics:
  """T losses Lᵢ(θ) = ½‖Aᵢθ − bᵢ‖²."""

  def __init__(self, seed: int, tasks: int, size: int):
    rng = np.random.default_rng(seed)
    self.matrices = rng.normal(size=(tasks, size, size)) / size**0.5
    self.targets = rng.normal(size=(tasks, size))

  def losses(self, theta):
    rest = self.matrices @ theta - self.targets
    return 0.5 * np.sum(rest**2, axis=1)

  def gradients(self, theta):
    rest = self.matrices @ theta - self.targets
    return np.einsum('tij,ti->tj', self.matrices, rest)


def softmax(logits):
  exponentials = np.exp(logits - logits.max())
  return exponentials / exponentials.sum()


class AutoLambda:
  """Liu et al. 2022, eq. 4 and 5: descent on the validation loss after a virtual step."""

  def __init__(self, train, validation, primary, eta, learning_rate, start=0.1):
    self.train, self.validation, self.primary, self.eta = train, validation, primary, eta
    self.weights = np.full(len(primary), start)
    self.adam = Adam(len(primary), learning_rate)

  def step(self, theta):
    rows = self.train.gradients(theta)
    ahead = theta - self.eta * rows.T @ self.weights
    slope = -self.eta * rows @ (self.validation.gradients(ahead).T @ self.primary)
    self.weights = self.weights + self.adam.step(slope)
    return rows.T @ self.weights


class MOML:
  """Ye et al. 2021, algorithm 1 with one inner step, on softmax weights."""

  def __init__(self, train, validation, tasks, eta, learning_rate):
    self.train, self.validation, self.eta = train, validation, eta
    self.logits, self.adam = np.zeros(tasks), Adam(tasks, learning_rate)

  def step(self, theta):
    rows, weights = self.train.gradients(theta), softmax(self.logits)
    ahead = theta - self.eta * rows.T @ weights
    of_softmax = np.diag(weights) - np.outer(weights, weights)
    slopes = -self.eta * self.validation.gradients(ahead) @ rows.T @ of_softmax
    unit = slopes / np.linalg.norm(slopes, axis=1)[:, None]
    self.logits = self.logits + self.adam.step(shortest_in_hull(unit))
    return rows.T @ softmax(self.logits)


class Forum:
  """Ye et al. 2024: the constrained multi-objective problem, its dual by trying all active sets."""

  def __init__(self, train, validation, tasks, rho, eta, steps, beta, learning_rate, normalize):
    self.train, self.validation, self.normalize = train, validation, normalize
    self.rho, self.eta, self.steps, self.beta = rho, eta, steps, beta
    self.logits, self.adam = np.zeros(tasks), Adam(tasks, learning_rate)
    self.shares, self.k, self.force = np.zeros(tasks), 0, 0.0

  def step(self, theta):
    self.k += 1
    tasks, weights = len(self.logits), softmax(self.logits)
    inner = theta
    for _ in range(self.steps):
      inner = inner - self.eta * self.train.gradients(inner).T @ weights
    of_softmax = np.diag(weights) - np.outer(weights, weights)
    gain = self.train.losses(theta) - self.train.losses(inner)
    slope = np.append(of_softmax @ gain, self.train.gradients(theta).T @ weights)
    rows = self.validation.gradients(theta)
    if self.normalize:
      rows = rows / np.linalg.norm(rows, axis=1)[:, None]
    rows = np.hstack([np.zeros((tasks, tasks)), rows])
    new = self.dual(rows, slope)
    self.shares = self.shares + self.beta * self.k**-0.75 * (new - self.shares)
    pull = self.rho - rows @ slope / (slope @ slope)
    self.force = max(self.shares @ pull, 0)
    direction = self.shares @ rows + self.force * slope
    self.logits = self.logits + self.adam.step(direction[:tasks])
    return direction[tasks:]

  def dual(self, rows, slope):
    """min ½‖Σ λᵢvᵢ + ν∇q‖² − νρ‖∇q‖² over the simplex and ν ≥ 0."""
    whole = np.vstack([rows, slope])
    linear = np.append(np.zeros(len(rows)), self.rho * slope @ slope)
    summed = np.append(np.ones(len(rows)), 0.0)
    return best_of_all_active_sets(whole @ whole.T, linear, summed)[: len(rows)]


def shortest_in_hull(rows):
  size = len(rows)
  weights = best_of_all_active_sets(rows @ rows.T, np.zeros(size), np.ones(size))
  return weights @ rows


def best_of_all_active_sets(matrix, linear, summed):
  """argmin ½xᵀQx − cᵀx over x ≥ 0 with aᵀx = 1: the stationary point of every support."""
  best, lowest = None, np.inf
  for size in range(1, len(linear) + 1):
    for support in itertools.combinations(range(len(linear)), size):
      place = list(support)
      system = np.block(
        [[matrix[np.ix_(place, place)], -summed[place][:, None]], [summed[place], np.zeros(1)]]
      )
      solution = np.linalg.lstsq(system, np.append(linear[place], 1.0), rcond=None)[0]
      x = np.zeros(len(linear))
      x[place] = solution[:-1]
      value = 0.5 * x @ matrix @ x - linear @ x
      if abs(summed @ x - 1) < 1e-9 and (x >= -1e-10).all() and value < lowest - 1e-13:
        best, lowest = x, value
  return best
