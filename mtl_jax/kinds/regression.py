"""A number an example."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtl_jax import heads
from mtl_jax.kinds.kind import Kind, Metric, Names, all_shortest, are_amounts, numbers_of, shortest
from mtl_jax.later import Later

sklearn, stats = Later('sklearn.metrics'), Later('scipy.stats')


def squared_error(predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(prediction − target)² in the targets' unit squared.

  Args:
    predictions: `[B, ...]`.
    targets: float, the same shape; NaN: missing.

  Returns:
    values float32 (0 where missing) and valid bool, of that shape.
  """
  targets = targets.astype(jnp.float32)
  valid = ~jnp.isnan(targets)
  # The inner choice, not the outer one, keeps NaN out of the gradient.
  return jnp.square(jnp.where(valid, predictions.astype(jnp.float32) - targets, 0.0)), valid


@dataclasses.dataclass(frozen=True)
class Regression(Kind):
  """Values float `[B]`, targets float `[B]`; a missing one is NaN.

  Attributes:
    standardize: whether outputs and losses are in standard deviations of the training labels from
      their mean, so that the unit of a task does not decide how much it weighs. Predictions and
      metrics are in the unit of the targets.
    mean: of the training labels, with `standardize`.
    std: their standard deviation, above 0.
  """

  standardize: bool = False
  mean: float = dataclasses.field(default=0.0, metadata={'fitted': True})
  std: float = dataclasses.field(default=1.0, metadata={'fitted': True})
  name: ClassVar[str] = 'regression'
  label: ClassVar[str] = 'a finite number (NaN or None: missing)'
  head: ClassVar[Any] = heads.Regression
  discrete: ClassVar[bool] = False
  dtype: ClassVar[Any] = np.float32

  def accepts(self, label: Any, fixed: bool) -> bool:
    """A number that is not infinite, or None."""
    del fixed
    number = isinstance(label, numbers.Real) and not isinstance(label, bool)
    return label is None or (number and not math.isinf(label))

  def claims(self, fields: Sequence[Any], per_word: bool) -> bool:
    """Numbers that are not all integers, or of which there are many different ones."""
    del per_word
    return are_amounts(fields)

  def read_field(self, field: Any, separator: str) -> float:
    """The number."""
    del separator
    found = numbers_of([field])
    if found is None:
      raise ValueError(f'{field!r} is no number')
    return found[0]

  def usual_metrics(self, names: Names) -> tuple[str, ...]:
    """Mean absolute error and Pearson's correlation."""
    del names
    return 'mae', 'pearson'

  def classes_in(self, label: Any) -> Iterable[str]:
    """None."""
    del label
    return ()

  def has_label(self, label: Any) -> bool:
    """Not None, and not NaN."""
    return label is not None and not math.isnan(label)

  def encode(self, label: Any, number: Callable[[Any], int], count: int) -> float:
    """The number itself."""
    del number, count
    return math.nan if label is None else float(label)

  def fit(self, labels: Sequence[Any]) -> dict[str, float]:
    """Mean and standard deviation, with `standardize`."""
    if not self.standardize or not labels:
      return {}
    values = np.asarray(labels, np.float64)
    return {'mean': float(values.mean()), 'std': float(values.std()) or 1.0}

  def width(self, names: Names) -> int:
    """1."""
    del names
    return 1

  def build_head(self, names: Names, dtype: Any, **options: Any) -> nn.Module:
    """A head for one number."""
    del names
    return self.head(dtype=dtype, **options)

  def loss(self, outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squared error, of standardized targets where there are such."""
    return squared_error(outputs, (targets - self.mean) / self.std if self.standardize else targets)

  def predict(self, outputs: jax.Array) -> jax.Array:
    """The values in the unit of the targets, float32."""
    values = outputs.astype(jnp.float32)
    return self.mean + self.std * values if self.standardize else values

  @property
  def metrics(self) -> Mapping[str, Metric]:
    """Errors, and correlations, which are 0 where either side is constant.

    `r2` is the share of the targets' variance that is explained; constant targets have none, and
    it has no value.
    """
    return {
      'mse': Metric(lambda y, p, _: sklearn.mean_squared_error(y, p), False, False),
      'mae': Metric(lambda y, p, _: sklearn.mean_absolute_error(y, p), False, False),
      'pearson': Metric(_correlation('pearsonr')),
      'spearman': Metric(_correlation('spearmanr')),
      'rmse': Metric(lambda y, p, _: np.sqrt(sklearn.mean_squared_error(y, p)), False, False),
      'r2': Metric(_r2, fraction=False),
    }

  def labelled(self, targets: np.ndarray) -> np.ndarray:
    """Which examples have a number."""
    return ~np.isnan(targets)

  def collect(self, targets: np.ndarray, predictions: np.ndarray) -> tuple[list[Any], list[Any]]:
    """Both in float64."""
    return [targets.astype(np.float64)], [predictions.astype(np.float64)]

  def read(self, prediction: np.ndarray, names: Names) -> float:
    """The number."""
    del names
    return shortest(prediction)

  def read_all(self, predictions: Sequence[np.ndarray], names: Names) -> list[float]:
    """The numbers."""
    del names
    return all_shortest(np.asarray(predictions))


def _correlation(name: str) -> Callable[[Any, Any, Names], float]:
  def function(targets: np.ndarray, predictions: np.ndarray, _: Names) -> float:
    if np.ptp(targets) == 0 or np.ptp(predictions) == 0:
      return 0.0
    return getattr(stats, name)(targets, predictions).statistic

  return function


def _r2(targets: np.ndarray, predictions: np.ndarray, _: Names) -> float | None:
  return sklearn.r2_score(targets, predictions) if np.ptp(targets) else None
