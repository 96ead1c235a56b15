"""What a number hides: which classes are taken for which, how sure the model is, which slices fail.

Pure functions of arrays on the host. Plots of what they return are in `mtl_jax.report`.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtl_jax.evaluate import statistics
from mtl_jax.kinds import MISSING, UNKNOWN


class Calibration(NamedTuple):
  """How well confidence tells accuracy.

  Attributes:
    expected_error: Σ_m n_m/N |accuracy_m − confidence_m| over the bins (ECE), in [0, 1].
    maximum_error: the largest |accuracy_m − confidence_m| of a bin with examples (MCE).
    brier: the mean of Σ_c (p_c − y_c)², in [0, 2]. Where papers on two classes count one of them,
      theirs is half of it.
    edges: of the bins, `[M + 1]`.
    confidence: the mean probability of the predicted class in each bin, `[M]`; NaN without
      examples.
    accuracy: the share of right predictions in each bin, `[M]`; NaN without examples.
    counts: examples in each bin, int `[M]`.
  """

  expected_error: float
  maximum_error: float
  brier: float
  edges: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray
  counts: np.ndarray


class Slice(NamedTuple):
  """The examples that have one value in a column.

  Attributes:
    value: that of the column; None for examples without one; 'other' where rare ones are pooled.
    pooled: how many rare values are in it; 0: it is of one value.
    examples: how many there are.
    metric: the metric of these; None where they give it no value.
  """

  value: Hashable
  pooled: int
  examples: int
  metric: float | None


def calibration(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> Calibration:
  """Compares the probability of the predicted class with how often it is right.

  Bins have equal width: bin m of M holds confidences in ((m − 1)/M, m/M]. A prediction is the most
  probable class, the first of equals.

  Args:
    probabilities: `[N, C]`, as `Kind.probabilities` gives them. For tags, of all tokens; for one
      label of many, `np.stack([1 - p, p], axis=1)`.
    targets: int `[N]`; -1: missing, left out; -2, the label of an unknown class: wrong, with
      probability 0.
    bins: M.

  Raises:
    ValueError: no labelled example, shapes that do not fit, what is no probability, no such class.

  References:
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equations 3 and 5.
    Brier, Verification of Forecasts Expressed in Terms of Probability, 1950.

  >>> found = calibration(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]), bins=2)
  >>> round(found.expected_error, 6), found.counts
  (0.25, array([0, 2]))
  """
  if bins < 1:
    raise ValueError(f'bins: {bins}, but it takes one or more')
  probabilities, targets = np.asarray(probabilities, np.float64), np.asarray(targets)
  if probabilities.ndim != 2 or targets.shape != probabilities.shape[:1]:
    raise ValueError(
      f'probabilities must be [N, C] and targets [N], not {probabilities.shape} and {targets.shape}'
    )
  known = targets != MISSING
  probabilities, targets = probabilities[known], targets[known]
  if not len(targets):
    raise ValueError('no example has a label')
  if not np.all((probabilities >= 0) & (probabilities <= 1 + 1e-6)):  # what float32 sums to
    raise ValueError('probabilities must be between 0 and 1; logits are none')
  _check_classes('targets', targets[targets != UNKNOWN], probabilities.shape[1])
  confidence = np.minimum(probabilities.max(axis=1), 1.0)  # [N]
  right = probabilities.argmax(axis=1) == targets  # [N]
  truth = targets[:, None] == np.arange(probabilities.shape[1])[None]  # [N, C]
  brier = np.mean(np.sum((probabilities - truth) ** 2, axis=1) + (targets == UNKNOWN))
  edges = np.linspace(0, 1, bins + 1)
  # Left: an edge belongs to the bin below it.
  places = np.maximum(np.searchsorted(edges, confidence, side='left') - 1, 0)  # [N]
  counts = np.bincount(places, minlength=bins)
  full = np.where(counts, counts, np.nan)
  mean = np.bincount(places, confidence, bins) / full
  accuracy = np.bincount(places, right, bins) / full
  gaps = np.abs(accuracy - mean)
  expected = np.nansum(counts * gaps) / len(targets)
  return Calibration(
    float(expected), float(np.nanmax(gaps)), float(brier), edges, mean, accuracy, counts
  )


def confusion(
  targets: np.ndarray | Sequence[np.ndarray],
  predictions: np.ndarray | Sequence[np.ndarray],
  names: Sequence[str],
) -> np.ndarray:
  """How often each class was taken for each.

  Args:
    targets: int, of any shape, or a list of arrays, as of sentences; -1: missing, left out; -2: the
      label of an unknown class.
    predictions: the same, of predicted classes.
    names: of the C classes.

  Returns:
    int `[C, C]`: rows are labels, columns predictions. With a row more, `[C + 1, C]`, where some
    labels are of unknown classes.

  Raises:
    ValueError: targets and predictions that do not fit, or no such class.

  >>> confusion(np.array([0, 1, 1, -2]), np.array([0, 0, 1, 1]), ('no', 'yes'))
  array([[1, 0],
         [1, 1],
         [0, 1]])
  """
  gold, predicted = _flat(targets), _flat(predictions)
  if gold.shape != predicted.shape:
    raise ValueError(f'{gold.size} labels, but {predicted.size} predictions')
  known = gold != MISSING
  gold, predicted = gold[known], predicted[known]
  count = len(names)
  unknown = gold == UNKNOWN
  _check_classes('targets', gold[~unknown], count)
  _check_classes('predictions', predicted, count)
  rows = count + bool(unknown.any())
  cells = np.where(unknown, count, gold) * count + predicted
  return np.bincount(cells, minlength=rows * count).reshape(rows, count)


def by_slice(
  column: Sequence[Any],
  metric: statistics.MetricFunction,
  targets: statistics.Examples,
  predictions: statistics.Examples,
  *,
  least: int = 10,
) -> list[Slice]:
  """A metric for the examples of each value of a column.

  Args:
    column: a value of each of N examples; None and NaN: without one.
    metric: the metric, as in `statistics`.
    targets: of N examples.
    predictions: of the same.
    least: values of fewer examples are pooled, where there are several.

  Returns:
    the slices, largest first, and then in the order of the text of their values; the pooled one, if
    any, comes last.

  Raises:
    ValueError: no examples, or different numbers of them.

  >>> def accuracy(targets, predictions):
  ...   return float((targets == predictions).mean())
  >>> column, gold, predicted = ['web', 'web', 'app'], np.array([0, 1, 1]), np.array([0, 0, 1])
  >>> found = by_slice(column, accuracy, gold, predicted, least=1)
  >>> [(s.value, s.examples, s.metric) for s in found]
  [('web', 2, 0.5), ('app', 1, 1.0)]
  """
  count = statistics.count_of(column, targets, predictions)
  rows: dict[Hashable, list[int]] = {}
  for row in range(count):
    value = column[row]
    rows.setdefault(None if value is None or value != value else value, []).append(row)
  rare = {value for value, found in rows.items() if len(found) < least}
  if len(rare) == 1:
    rare = set()
  groups: list[tuple[Hashable, int, list[int]]]
  groups = [(value, 0, found) for value, found in rows.items() if value not in rare]
  groups.sort(key=lambda group: (-len(group[2]), str(group[0])))
  if rare:
    groups.append(('other', len(rare), sorted(row for value in rare for row in rows[value])))
  slices = []
  for value, pooled, found in groups:
    of = [statistics.take(values, np.array(found)) for values in (targets, predictions)]
    slices.append(Slice(value, pooled, len(found), statistics.value_of(metric, *of)))
  return slices


def _flat(values: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
  """All entries in one row, int64."""
  if not isinstance(values, np.ndarray):
    values = np.concatenate([np.ravel(row) for row in values]) if len(values) else np.empty(0)
  return values.ravel().astype(np.int64)


def _check_classes(what: str, numbers: np.ndarray, count: int) -> None:
  odd = numbers[(numbers < 0) | (numbers >= count)]
  if odd.size:
    raise ValueError(f'{what}: no class {int(odd[0])}; there are {count}')
