"""One class an example."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_jax import heads
from mtl_jax.kinds import ranking
from mtl_jax.kinds.kind import (
  UNKNOWN,
  Kind,
  Metric,
  Names,
  are_amounts,
  is_class,
  read_class,
  shares_of,
)
from mtl_jax.later import Later

sklearn = Later('sklearn.metrics')


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy per label, in nats.

  Args:
    logits: `[B, ..., C]`.
    labels: int `[B, ...]`; below zero: missing.

  Returns:
    values `[B, ...]` float32 and valid `[B, ...]` bool.
  """
  valid = labels >= 0
  values = optax.softmax_cross_entropy_with_integer_labels(
    logits.astype(jnp.float32), jnp.where(valid, labels, 0)
  )
  return values, valid


@dataclasses.dataclass(frozen=True)
class Classification(Kind):
  """Logits `[B, C]`, labels int `[B]`."""

  name: ClassVar[str] = 'classification'
  label: ClassVar[str] = 'one string (empty: missing)'
  head: ClassVar[Any] = heads.Classification

  def accepts(self, label: Any, fixed: bool) -> bool:
    """A text, None, or with `fixed` names a number."""
    return label is None or is_class(label, fixed)

  def claims(self, fields: Sequence[Any], per_word: bool) -> bool:
    """Texts, bools, and few different integers."""
    del per_word
    single = all(isinstance(field, str | bool | int | float | np.generic) for field in fields)
    return single and not are_amounts(fields)

  def read_field(self, field: Any, separator: str) -> str:
    """The name of the class."""
    del separator
    return read_class(field)

  def usual_metrics(self, names: Names) -> tuple[str, ...]:
    """Accuracy and macro F1."""
    del names
    return 'accuracy', 'macro_f1'

  def classes_in(self, label: Any) -> Iterable[str]:
    """The label itself."""
    return () if label is None else (label,)

  def encode(self, label: Any, number: Callable[[Any], int], count: int) -> int:
    """Its number."""
    del count
    return number(label)

  def targets_shape(self, outputs: jax.Array) -> tuple[int, ...]:
    """`[B]`."""
    return outputs.shape[:-1]

  def loss(self, outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy."""
    return softmax_cross_entropy(outputs, targets)

  def predict(self, outputs: jax.Array) -> jax.Array:
    """The most probable class, int32."""
    return jnp.argmax(outputs, axis=-1).astype(jnp.int32)

  def probabilities(self, outputs: jax.Array) -> jax.Array:
    """Softmax."""
    return jax.nn.softmax(outputs.astype(jnp.float32))

  def average(self, outputs: jax.Array) -> jax.Array:
    """Logits of the mean of the probabilities."""
    return jnp.log(jnp.mean(self.probabilities(outputs), axis=0))

  def of_windows(self, outputs: jax.Array) -> jax.Array:
    """Log-probabilities."""
    return jax.nn.log_softmax(outputs.astype(jnp.float32))

  @property
  def metrics(self) -> Mapping[str, Metric]:
    """Accuracy first; `binary_f1` is that of the second of two classes.

    `roc_auc` and `pr_auc` (average precision) rank by the probability of the second of two classes;
    of more, they are the means over classes against the rest, without classes that no label or
    every label is of. A label of a class that training lacks is a negative of each.
    """
    return {
      'accuracy': Metric(lambda y, p, _: sklearn.accuracy_score(y, p)),
      'binary_f1': Metric(_binary_f1, complaint=_not_two),
      'macro_f1': Metric(_macro_f1),
      'mcc': Metric(_mcc),
      'balanced_accuracy': Metric(_balanced_accuracy),
      'kappa': Metric(_kappa),
      'quadratic_kappa': Metric(_quadratic_kappa),
      'roc_auc': Metric(_ranked(ranking.roc_auc), needs_scores=True),
      'pr_auc': Metric(_ranked(ranking.average_precision), needs_scores=True),
    }

  def read(self, prediction: np.ndarray, names: Names) -> str:
    """The name of the class."""
    return names[int(prediction)]

  def read_all(self, predictions: Sequence[np.ndarray], names: Names) -> list[str]:
    """The names of the classes."""
    return [names[number] for number in np.asarray(predictions).tolist()]

  def read_all_probabilities(self, probabilities: Sequence[np.ndarray], names: Names) -> list[Any]:
    """Name -> probability."""
    return shares_of(probabilities, names)


def _mcc(targets: np.ndarray, predictions: np.ndarray, _: Names) -> float:
  """Matthews' correlation; 0 where only one class occurs, and without a warning."""
  if len(np.union1d(targets, predictions)) == 1:
    return 0.0
  return sklearn.matthews_corrcoef(targets, predictions)


def _binary_f1(targets: np.ndarray, predictions: np.ndarray, _: Names) -> float:
  positive = predictions == 1
  targets = np.where(targets == UNKNOWN, ~positive, targets == 1)  # wrong, whatever was predicted
  return sklearn.f1_score(targets, positive, zero_division=0)


def _not_two(names: Names) -> str:
  if len(names) == 2:
    return ''
  return f'is that of two classes, not of the {len(names)} there are; use macro_f1'


def _macro_f1(targets: np.ndarray, predictions: np.ndarray, _: Names) -> float:
  """The mean over the classes that occur in targets or predictions."""
  # An unknown label is no class of its own, but a false positive of the class predicted for it.
  classes = np.setdiff1d(np.union1d(targets, predictions), [UNKNOWN])
  return sklearn.f1_score(targets, predictions, labels=classes, average='macro', zero_division=0)


def _balanced_accuracy(targets: np.ndarray, predictions: np.ndarray, _: Names) -> float:
  """The mean recall of the classes that occur in the targets.

  Unknown labels are one class more, of which none is found.
  """
  return float(np.mean([np.mean(predictions[targets == c] == c) for c in np.unique(targets)]))


def _kappa(targets: np.ndarray, predictions: np.ndarray, names: Names) -> float:
  """Agreement beyond chance (Cohen 1960); unknown labels are a class that is never predicted."""
  table = _table(targets, predictions, names)
  return _agreement(table, 1.0 - np.eye(*table.shape))


def _quadratic_kappa(targets: np.ndarray, predictions: np.ndarray, names: Names) -> float:
  """Agreement beyond chance with disagreement as the squared distance of classes (Cohen 1968).

  Classes whose names are all numbers stand in the order of these, others in the order of their
  indices, which is that of fixed names. An unknown label is as far from every class as the first
  is from the last.
  """
  table = _table(targets, predictions, names)
  places = _places(names, table.shape[1])
  weights = np.full(table.shape, max(np.ptp(places), 1.0) ** 2)
  weights[:-1] = np.square(places[:, None] - places[None])
  return _agreement(table, weights)


def _table(targets: np.ndarray, predictions: np.ndarray, names: Names) -> np.ndarray:
  """Counts `[C + 1, C]` of label and prediction, float64; unknown labels in the last row."""
  count = max(len(names), int(np.max(targets)) + 1, int(np.max(predictions)) + 1)
  table = np.zeros((count + 1, count))
  np.add.at(table, (np.where(targets == UNKNOWN, count, targets), predictions), 1)
  return table


def _agreement(table: np.ndarray, weights: np.ndarray) -> float:
  """1 − disagreement / disagreement by chance; 0 where one class is all that occurs, as in `_mcc`.

  Args:
    table: counts `[C + 1, C]`.
    weights: how much each cell disagrees, `[C + 1, C]`, ≥ 0.
  """
  chance = np.sum(weights * np.outer(table.sum(axis=1), table.sum(axis=0))) / np.sum(table)
  return float(1 - np.sum(weights * table) / chance) if chance else 0.0


def _places(names: Names, count: int) -> np.ndarray:
  """The place of each class in the order of classes, float64 `[C]`; equal numbers share one."""
  try:
    numbers = np.array([float(name) for name in names])
  except ValueError:
    numbers = np.empty(0)
  if len(numbers) != count or not np.isfinite(numbers).all():
    numbers = np.arange(count)
  return np.unique(numbers, return_inverse=True)[1].astype(np.float64)


def _ranked(
  score: Callable[[np.ndarray, np.ndarray], float | None],
) -> Callable[[Any, Any, Names], float | None]:
  def function(targets: np.ndarray, scores: np.ndarray, _: Names) -> float | None:
    count = scores.shape[1]
    if count == 2:
      return score(targets == 1, scores[:, 1])
    return ranking.over_classes(score, targets[:, None] == np.arange(count)[None], scores)

  return function
