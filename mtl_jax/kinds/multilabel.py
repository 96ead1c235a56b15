"""Any number of classes an example."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_jax import heads
from mtl_jax.kinds import ranking
from mtl_jax.kinds.kind import (
  MISSING,
  UNKNOWN,
  Kind,
  Metric,
  Names,
  is_class,
  read_class,
  shares_of,
)
from mtl_jax.later import Later

sklearn = Later('sklearn.metrics')


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Binary cross-entropy per class, in nats.

  Args:
    logits: `[B, C]`.
    labels: int `[B, C]`: 0, 1, or below zero: missing.

  Returns:
    values `[B, C]` float32 and valid `[B, C]` bool.
  """
  valid = labels >= 0
  targets = jnp.where(valid, labels, 0).astype(jnp.float32)
  return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets), valid


@dataclasses.dataclass(frozen=True)
class MultiLabel(Kind):
  """Logits `[B, C]`, labels 0 or 1, int `[B, C]`."""

  name: ClassVar[str] = 'multilabel'
  label: ClassVar[str] = 'a list of strings'
  head: ClassVar[Any] = heads.Classification

  def accepts(self, label: Any, fixed: bool) -> bool:
    """A list of classes, or None."""
    if label is None:
      return True
    return isinstance(label, list | tuple) and all(is_class(item, fixed) for item in label)

  def claims(self, fields: Sequence[Any], per_word: bool) -> bool:
    """Lists of texts or numbers, which are not one for each word."""
    return not per_word and all(isinstance(field, list | tuple) for field in fields)

  def read_field(self, field: Any, separator: str) -> list[str]:
    """Lists as they are; of texts the parts between separators, or a list of JSON."""
    if isinstance(field, str):
      text = field.strip()
      if text.startswith('[') and text.endswith(']'):
        try:
          field = json.loads(text)
        except ValueError:
          raise ValueError(f'{text!r} is no list of JSON') from None
      else:
        field = [part for part in text.split(separator) if part.strip()]
    if not isinstance(field, list | tuple):
      raise ValueError(f'{field!r} is no list of labels')
    return list(dict.fromkeys(map(read_class, field)))

  def classes_in(self, label: Any) -> Iterable[str]:
    """Those in the list."""
    return () if label is None else label

  def encode(self, label: Any, number: Callable[[Any], int], count: int) -> np.ndarray:
    """A row of 0 and 1, without what is unknown; all missing for None."""
    if label is None:
      return np.full(count, MISSING, np.int32)
    row = np.zeros(count, np.int32)
    row[[column for item in label if (column := number(item)) >= 0]] = 1
    return row

  def loss(self, outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Binary cross-entropy of each class."""
    return sigmoid_cross_entropy(outputs, targets)

  def of_classes(self, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """The weight of its class for a label that holds, 1 for one that does not."""
    return jnp.where(targets == 1, weights[None], 1.0)

  def balanced(self, targets: np.ndarray, count: int) -> tuple[float, ...]:
    """For each class the labels that do not hold over those that do; 1 where either is missing."""
    none, some = ((targets == value).sum(axis=0) for value in (0, 1))
    both = (none > 0) & (some > 0)
    return tuple(np.where(both, none / np.maximum(some, 1), 1.0).tolist())

  def predict(self, outputs: jax.Array) -> jax.Array:
    """The classes with a probability above ½, bool `[B, C]`."""
    return outputs > 0

  def probabilities(self, outputs: jax.Array) -> jax.Array:
    """A sigmoid for each class."""
    return jax.nn.sigmoid(outputs.astype(jnp.float32))

  def average(self, outputs: jax.Array) -> jax.Array:
    """Logits of the mean of the probabilities."""
    return jax.scipy.special.logit(jnp.mean(self.probabilities(outputs), axis=0))

  @property
  def metrics(self) -> Mapping[str, Metric]:
    """`exact_match` is the share of examples with every labelled entry right.

    `roc_auc` and `pr_auc` (average precision) are means over classes, each over its labelled
    entries; a class that all of these have, or none, is left out.
    """
    return {
      'micro_f1': Metric(_micro_f1),
      'macro_f1': Metric(_macro_f1),
      'exact_match': Metric(_exact_match),
      'roc_auc': Metric(_ranked(ranking.roc_auc), needs_scores=True),
      'pr_auc': Metric(_ranked(ranking.average_precision), needs_scores=True),
    }

  def read(self, prediction: np.ndarray, names: Names) -> list[str]:
    """The names of the classes."""
    return [name for name, chosen in zip(names, prediction.tolist(), strict=True) if chosen]

  def read_all(self, predictions: Sequence[np.ndarray], names: Names) -> list[list[str]]:
    """The names of the classes."""
    rows = np.asarray(predictions).tolist()
    return [list(itertools.compress(names, row)) for row in rows]

  def read_all_probabilities(self, probabilities: Sequence[np.ndarray], names: Names) -> list[Any]:
    """Name -> probability."""
    return shares_of(probabilities, names)


def _micro_f1(targets: np.ndarray, predictions: np.ndarray, _: Names) -> float:
  return sklearn.f1_score(*_indicators(targets, predictions), average='micro', zero_division=0)


def _macro_f1(targets: np.ndarray, predictions: np.ndarray, _: Names) -> float:
  """The mean over the classes that occur in targets or predictions; 0 without any."""
  pair = _indicators(targets, predictions)
  value = sklearn.f1_score(*pair, average='macro', zero_division=np.nan)
  return 0.0 if np.isnan(value) else value


def _exact_match(targets: np.ndarray, predictions: np.ndarray, _: Names) -> float:
  return float(np.mean(((targets == predictions) | (targets == MISSING)).all(axis=1)))


def _indicators(targets: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """0/1 matrices `[N, C + 1]` for F1: missing entries become true negatives."""
  predictions = np.where(targets == MISSING, 0, predictions)
  targets = np.where(targets == MISSING, 0, targets)
  targets = np.where(targets == UNKNOWN, 1 - predictions, targets)  # wrong, whatever was predicted
  # scikit-learn takes one column for a binary problem; an empty last column keeps it multilabel.
  last = ((0, 0), (0, 1))
  return np.pad(targets, last), np.pad(predictions, last)


def _ranked(
  score: Callable[[np.ndarray, np.ndarray], float | None],
) -> Callable[[Any, Any, Names], float | None]:
  def function(targets: np.ndarray, scores: np.ndarray, _: Names) -> float | None:
    return ranking.over_classes(score, targets == 1, scores, targets != MISSING)

  return function
