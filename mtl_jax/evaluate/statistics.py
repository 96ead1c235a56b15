"""How sure a number is: bootstrap intervals, paired tests, mean ranks. On the host, without files.

A metric is here a function of targets and predictions: `lambda y, p: metric.function(y, p, names)`
of a `kinds.Metric`, on what `Kind.collect` and `Kind.join` gave (or scores for predictions, where
it needs them).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtl_jax.later import Later

stats = Later('scipy.stats')

Examples = np.ndarray | Sequence[Any]
"""Something of each of N examples: an array `[N, ...]`, or a list, as of sentences."""
MetricFunction = Callable[[Any, Any], float | None]
"""`(targets, predictions) -> value` of some examples; None where these give it no value."""


@dataclasses.dataclass(frozen=True)
class Counted:
  """A metric of counts, which is not computed from the examples again in every sample.

  Attributes:
    function: the metric.
    counts: `(targets, predictions) -> [N, K]`, a row for each example; K may follow from these.
    of_counts: their sums over any examples, `[K]` -> the metric of these.
  """

  function: MetricFunction
  counts: Callable[[Any, Any], np.ndarray]
  of_counts: Callable[[np.ndarray], float | None]

  def __call__(self, targets: Any, predictions: Any) -> float | None:
    """The metric of these examples."""
    return self.function(targets, predictions)


class Interval(NamedTuple):
  """A metric and its interval.

  Attributes:
    value: the metric of all examples; None where these give it no value.
    low: the lower end; None where no sample has a value.
    high: the upper end.
    undefined: how many samples had no value, and were left out.
  """

  value: float | None
  low: float | None
  high: float | None
  undefined: int


class Comparison(NamedTuple):
  """Two models on the same examples.

  Attributes:
    difference: the metric of the first minus that of the second; None where one has no value.
    p_value: how often chance alone makes a difference as large, in (0, 1]; None with `difference`.
    low: the lower end of the interval of the difference.
    high: the upper end.
    undefined: how many shuffles and samples had no value, and were left out.
  """

  difference: float | None
  p_value: float | None
  low: float | None
  high: float | None
  undefined: int


def bootstrap(
  metric: MetricFunction,
  targets: Examples,
  predictions: Examples,
  *,
  samples: int = 1000,
  level: float = 0.95,
  seed: int,
) -> Interval:
  """The percentile interval of a metric over resampled examples.

  Each sample draws N of the N examples with replacement, predictions along with targets, so that
  the interval says how the metric varies with the examples, for one trained model. Its ends are the
  (1 ± level)/2 quantiles of the samples' values.

  Args:
    metric: the metric; a `Counted` one is faster.
    targets: of N examples.
    predictions: of the same.
    samples: how many samples.
    level: how much of the samples the interval covers, in (0, 1).
    seed: the same seed and number of examples draw the same samples, whatever the metric.

  Raises:
    ValueError: no examples, different numbers of them, no samples, a level out of range.

  References:
    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

  >>> def accuracy(targets, predictions):
  ...   return float((targets == predictions).mean())
  >>> bootstrap(accuracy, np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]), seed=0)
  Interval(value=0.75, low=0.25, high=1.0, undefined=0)
  """
  count = count_of(targets, predictions)
  _check(samples, level)
  rng = np.random.default_rng(seed)
  value = value_of(metric, targets, predictions)
  metric, targets, predictions = _counted(metric, targets, predictions)
  values = []
  for _ in range(samples):
    rows = rng.integers(count, size=count)
    values.append(value_of(metric, take(targets, rows), take(predictions, rows)))
  low, high, undefined = _percentiles(values, level)
  return Interval(value, low, high, undefined)


def paired_test(
  metric: MetricFunction,
  targets: Examples,
  predictions_a: Examples,
  predictions_b: Examples,
  *,
  samples: int = 1000,
  level: float = 0.95,
  seed: int,
) -> Comparison:
  """Whether two models differ in a metric: approximate randomization on paired examples.

  If it did not matter which model a prediction comes from, the two predictions of any example could
  be swapped. Each shuffle swaps those of every example with probability ½ and takes the difference
  of the metric again; with c of R shuffles at least as large as the observed one in absolute value,

      p = (c + 1) / (R + 1),

  two-sided, and valid at every level for every R, as the observed order counts as one more shuffle.
  Differences equal up to rounding count. The interval of the difference is the percentile interval
  over resampled pairs, as in `bootstrap`.

  The test is about these two trained models on examples like these; it says nothing of other seeds.

  Args:
    metric: the metric.
    targets: of N examples.
    predictions_a: of the first model.
    predictions_b: of the second.
    samples: R, and the number of resamples of the interval.
    level: that of the interval, in (0, 1).
    seed: of shuffles and resamples.

  Raises:
    ValueError: as `bootstrap`.

  References:
    Yeh, More Accurate Tests for the Statistical Significance of Result Differences, COLING 2000.
    Noreen, Computer-Intensive Methods for Testing Hypotheses, 1989.
  """
  count = count_of(targets, predictions_a, predictions_b)
  _check(samples, level)

  first, second = (value_of(metric, targets, p) for p in (predictions_a, predictions_b))
  if first is None or second is None:
    return Comparison(None, None, None, None, 0)
  # Both at once, so that the counts of both are of the same things.
  metric, targets, both = _counted(
    metric, _and(targets, targets), _and(predictions_a, predictions_b)
  )
  targets, predictions_a, predictions_b = targets[:count], both[:count], both[count:]

  def difference(y: Examples, a: Examples, b: Examples) -> float | None:
    one, other = value_of(metric, y, a), value_of(metric, y, b)
    return None if one is None or other is None else one - other

  shuffles, resamples = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
  swapped, resampled = [], []
  for _ in range(samples):
    swap = shuffles.random(count) < 0.5  # [N]
    a, b = _exchange(predictions_a, predictions_b, swap)
    swapped.append(difference(targets, a, b))
    rows = resamples.integers(count, size=count)
    a, b = take(predictions_a, rows), take(predictions_b, rows)
    resampled.append(difference(take(targets, rows), a, b))
  found = np.abs([value for value in swapped if value is not None])
  # Sums of another order round otherwise.
  least = abs(first - second) - 1e-12 * max(abs(first), abs(second))
  low, high, undefined = _percentiles(resampled, level)
  return Comparison(
    first - second,
    float((np.sum(found >= least) + 1) / (len(found) + 1)),
    low,
    high,
    undefined + samples - len(found),
  )


def average_rank(
  table: Mapping[str, Mapping[str, float | None]], directions: Mapping[str, bool]
) -> dict[str, float | None]:
  """The mean rank of each run over metrics, the best being 1: the MR of Nash-MTL's tables.

  Equal values share the mean of their ranks. A run without a value is not ranked in that metric,
  and the others are ranked among themselves: mean ranks compare where all runs have all metrics.

  Args:
    table: run -> {metric: value}, as 'task.metric'; None or absent: no value.
    directions: metric -> whether higher is better, for the metrics that count.

  Returns:
    run -> its mean rank, in [1, number of runs]; None where it has no value at all.

  Raises:
    ValueError: no run has one of the metrics.

  References:
    Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.

  >>> table = {'a': {'x.f1': 0.9, 'y.mae': 2.0}, 'b': {'x.f1': 0.8, 'y.mae': 2.0}}
  >>> average_rank(table, {'x.f1': True, 'y.mae': False})
  {'a': 1.25, 'b': 1.75}
  """
  ranks: dict[str, list[float]] = {run: [] for run in table}
  for metric, higher in directions.items():
    if table and not any(metric in values for values in table.values()):
      raise ValueError(f'no run has the metric {metric!r}')
    found = {run: v for run, values in table.items() if (v := values.get(metric)) is not None}
    signed = [-value if higher else value for value in found.values()]
    for run, rank in zip(found, stats.rankdata(signed), strict=True):
      ranks[run].append(float(rank))
  return {run: float(np.mean(places)) if places else None for run, places in ranks.items()}


def count_of(*examples: Examples) -> int:
  """The number of examples; ValueError where these differ in it, or there are none."""
  counts = [len(values) for values in examples]
  if min(counts) < 1 or len(set(counts)) > 1:
    raise ValueError(f'what is given of the examples must be of one or more, the same: {counts}')
  return counts[0]


def value_of(metric: MetricFunction, targets: Examples, predictions: Examples) -> float | None:
  """The value of a metric; None where it has none, or NaN."""
  value = metric(targets, predictions)
  return None if value is None or math.isnan(value) else float(value)


def take(values: Examples, rows: np.ndarray) -> Examples:
  """The examples at the indices `rows`."""
  if isinstance(values, np.ndarray):
    return values[rows]
  return [values[row] for row in rows.tolist()]


def _and(values: Examples, more: Examples) -> Examples:
  """Both, one after the other."""
  if isinstance(values, np.ndarray) and isinstance(more, np.ndarray):
    return np.concatenate([values, more])
  return [*values, *more]


def _counted(
  metric: MetricFunction, targets: Examples, predictions: Examples
) -> tuple[MetricFunction, Examples, Examples]:
  """A metric with counts as one of its counts, which stand in place of the predictions."""
  if not isinstance(metric, Counted):
    return metric, targets, predictions
  of_counts, counts = metric.of_counts, metric.counts(targets, predictions)
  return lambda _, found: of_counts(found.sum(axis=0)), np.zeros(len(counts)), counts


def _check(samples: int, level: float) -> None:
  if samples < 1:
    raise ValueError(f'samples: {samples}, but it takes one or more')
  if not 0 < level < 1:
    raise ValueError(f'level: {level} is not between 0 and 1')


def _exchange(a: Examples, b: Examples, swap: np.ndarray) -> tuple[Examples, Examples]:
  """Both, with the examples exchanged where `swap` `[N]` says so."""
  if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
    where = swap.reshape(-1, *(1,) * (a.ndim - 1))
    return np.where(where, b, a), np.where(where, a, b)
  pairs = list(zip(a, b, swap.tolist(), strict=True))
  return [y if s else x for x, y, s in pairs], [x if s else y for x, y, s in pairs]


def _percentiles(
  values: Sequence[float | None], level: float
) -> tuple[float | None, float | None, int]:
  """The ends of the interval of those that are there, and how many are not."""
  found = [value for value in values if value is not None]
  undefined = len(values) - len(found)
  if not found:
    return None, None, undefined
  low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high), undefined
