"""How well scores rank positives above negatives, and the mean of that over classes."""

from collections.abc import Callable

import numpy as np

from mtl_jax.later import Later

stats = Later('scipy.stats')


def roc_auc(positive: np.ndarray, scores: np.ndarray) -> float | None:
  """The area under the receiver operating characteristic.

      AUC = (R₊ − n₊(n₊ + 1)/2) / (n₊ n₋)

  with R₊ the sum of the positives' ranks, equal scores sharing their mean rank: the probability
  that a positive scores above a negative, ties counting half.

  Args:
    positive: bool `[N]`.
    scores: `[N]`, higher for positives.

  Returns:
    the area, in [0, 1]; None without a positive or without a negative.

  References:
    Hanley & McNeil, The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC)
    Curve, Radiology 1982.

  >>> roc_auc(np.array([False, True, True, False]), np.array([0.1, 0.4, 0.4, 0.4]))
  0.75
  """
  count = int(np.sum(positive))
  others = len(positive) - count
  if not count or not others:
    return None
  ranks = stats.rankdata(scores)  # [N] float64
  return float((np.sum(ranks[positive]) - count * (count + 1) / 2) / (count * others))


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float | None:
  """The area under the curve of precision over recall, as average precision.

      AP = Σ_k (R_k − R_{k−1}) P_k

  over the distinct scores from the highest down, with precision P and recall R of calling positive
  what scores at least as high. Nothing is interpolated.

  Args:
    positive: bool `[N]`.
    scores: `[N]`, higher for positives.

  Returns:
    the area, in (0, 1]; None without a positive or without a negative.

  References:
    Davis & Goadrich, The Relationship Between Precision-Recall and ROC Curves, ICML 2006, on why
    the curve must not be interpolated linearly.

  >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.5, 0.5]))
  0.8333333333333333
  """
  count = int(np.sum(positive))
  if not 0 < count < len(positive):
    return None
  order = np.argsort(scores)[::-1]
  ordered = scores[order]
  ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(order) - 1)  # of equal scores
  found = np.cumsum(positive[order])[ends]  # positives at or above each score
  return float(np.sum(np.diff(found, prepend=0) * (found / (ends + 1))) / count)


def over_classes(
  score: Callable[[np.ndarray, np.ndarray], float | None],
  positive: np.ndarray,
  scores: np.ndarray,
  known: np.ndarray | None = None,
) -> float | None:
  """The mean over the classes that have a value, each against the rest.

  Args:
    score: `roc_auc` or `average_precision`.
    positive: bool `[N, C]`.
    scores: `[N, C]`.
    known: bool `[N, C]`, which entries have a label; None: all.

  Returns:
    the mean; None where every class has one value only.
  """
  found = []
  for index in range(positive.shape[1]):
    rows = slice(None) if known is None else known[:, index]
    value = score(positive[rows, index], scores[rows, index])
    if value is not None:
      found.append(value)
  return float(np.mean(found)) if found else None
