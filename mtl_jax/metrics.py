"""Task metrics accumulated over a split, and what sums them up: averages, Δm, intervals over seeds.

The metrics of a task are those of its kind (`mtl_jax.kinds`). The evaluation loop lives elsewhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import errors, kinds
from mtl_jax.later import Later

stats = Later('scipy.stats')


class Scored(NamedTuple):
  """What is scored of a task.

  Attributes:
    kind: its kind, or the name of one.
    metrics: names of metrics of that kind.
    names: of its classes, which the metrics of spans need.
  """

  kind: str | kinds.Kind
  metrics: Sequence[str]
  names: Sequence[str] | None


def check(
  task: str,
  kind: str | kinds.Kind,
  metrics: Sequence[str],
  names: Sequence[str] | None = None,
) -> None:
  """Raises ValueError unless each metric exists and suits the task's kind (and class names)."""
  try:
    rules = kinds.get(kind)
    kinds.metrics_of(rules, metrics)
  except ValueError as e:
    raise ValueError(f'task {task!r}: {e}') from None
  for name in metrics if names is not None else ():
    complaint = rules.metrics[name].complaint(names or ())
    if complaint:
      raise ValueError(f'task {task!r}: metric {name!r} {complaint}')


class Accumulator:
  """Collects predictions and targets over the batches of a split, then computes the metrics.

  >>> accumulator = Accumulator({'intent': ('classification', ('accuracy',), None)})
  >>> result = {'loss_sum': [1.5], 'loss_count': [2], 'outputs': {'intent': np.array([0, 1, 1])}}
  >>> accumulator.add({'intent': np.array([0, 2, -1])}, None, result)
  >>> accumulator.compute()['metrics'], accumulator.compute()['loss']
  ({'intent': {'accuracy': 0.5}}, {'intent': 0.75})
  """

  def __init__(
    self,
    tasks: Mapping[str, Scored | tuple[str | kinds.Kind, Sequence[str], Sequence[str] | None]],
    *,
    joint: bool = True,
  ):
    """Creates an empty accumulator.

    Args:
      tasks: for each task, in the model's order, its kind, its metrics and the names of its classes
        (which the metrics of spans need; may be None elsewhere).
      joint: whether to compute the joint exact match. False where tasks have their own inputs: row
        i of two tasks is then not the same example.

    Raises:
      ValueError: for an unknown metric or kind, a metric of another kind, or names of classes that
        a metric cannot be computed on.
    """
    self._tasks: dict[str, tuple[kinds.Kind, Scored]] = {}
    for task, given in tasks.items():
      scored = Scored(*given)
      check(task, scored.kind, scored.metrics, scored.names)
      rules = kinds.get(scored.kind)
      if scored.names is None and any(rules.metrics[m].needs_names for m in scored.metrics):
        raise ValueError(f'task {task!r}: metrics of spans need the names of the classes')
      self._tasks[task] = rules, scored
    self._targets: dict[str, list[Any]] = {task: [] for task in tasks}
    self._predictions: dict[str, list[Any]] = {task: [] for task in tasks}
    self._scores: dict[str, list[Any]] = {  # of the tasks with a metric that needs them
      task: []
      for task, (rules, scored) in self._tasks.items()
      if rules.needs_scores(scored.metrics)
    }
    self._count = dict.fromkeys(tasks, 0)
    self._loss_sum = np.zeros(len(tasks))
    self._loss_count = np.zeros(len(tasks))
    self._joint = joint and any(rules.discrete for rules, _ in self._tasks.values())
    self._joint_right = 0
    self._joint_count = 0

  def add(
    self,
    targets: Mapping[str, Any],
    masks: Mapping[str, Any] | None,
    result: Mapping[str, Any],
  ) -> None:
    """Adds one batch.

    Args:
      targets: {task: targets}, as in the batch: [B] (classification, regression), [B, C]
        (multilabel), [B, S] (tagging). A task may be absent.
      masks: {task: bool [B]}; False rows are left out. Without a mask a task has all rows.
      result: the evaluation step's `{'loss_sum': [T], 'loss_count': [T], 'outputs': {task:
        predictions}}`, predictions shaped like the targets, and `'scores': {task: [B, ...]}` for
        tasks with a metric that needs them.

    Raises:
      ValueError: if shapes disagree, or scores are missing.
      DataError: if a labelled target is infinite.
      NonFiniteError: if a prediction or score for a labelled example is not finite.
    """
    loss_sum = np.asarray(result['loss_sum'], np.float64)
    loss_count = np.asarray(result['loss_count'], np.float64)
    if not loss_sum.shape == loss_count.shape == (len(self._tasks),):
      raise ValueError(
        f'loss_sum {loss_sum.shape} and loss_count {loss_count.shape} must be '
        f'[{len(self._tasks)}], one entry for each of the tasks {list(self._tasks)}'
      )
    seen, right = [], []  # of each task in the joint match: bool [B]
    for task, (rules, _) in self._tasks.items():
      if task not in targets:
        continue
      y, p = np.asarray(targets[task]), np.asarray(result['outputs'][task])
      if y.shape != p.shape:
        raise ValueError(f'task {task!r}: targets {y.shape} and predictions {p.shape} differ')
      mask = None if masks is None else masks.get(task)
      rows = np.ones(len(y), bool) if mask is None else np.asarray(mask, bool)  # [B]
      if rows.shape != y.shape[:1]:
        raise ValueError(f'task {task!r}: mask {rows.shape} does not fit targets {y.shape}')
      rows = rows & rules.labelled(y)
      _check_finite(task, y[rows], p[rows])
      if rules.discrete:
        seen.append(rows)
        right.append(~rows | rules.right(y, p))
      kept, predicted = rules.collect(y[rows], p[rows])
      self._targets[task] += kept
      self._predictions[task] += predicted
      if task in self._scores:
        scores = _scores_of(task, result, len(y))[rows]
        _check_finite(task, y[rows], scores, 'scores')
        self._scores[task] += rules.collect_scores(y[rows], scores)
      self._count[task] += int(rows.sum())
    if self._joint and seen:
      if len({len(rows) for rows in seen}) > 1:
        raise ValueError(
          'tasks differ in batch size, so their rows are not the same examples: use joint=False'
        )
      any_seen = np.any(seen, axis=0)
      self._joint_right += int(np.sum(any_seen & np.all(right, axis=0)))
      self._joint_count += int(np.sum(any_seen))
    self._loss_sum += loss_sum
    self._loss_count += loss_count

  def compute(self) -> dict[str, dict[str, Any]]:
    """Returns the metrics of all batches added so far, as plain numbers that JSON can hold.

    Returns:
      `{'metrics': {task: {metric: value}}, 'joint': {'exact_match': value}, 'loss': {task: value},
      'count': {task: n}}`. Losses are means over what carried a loss; counts are the examples with
      at least one label. The joint exact match is the share of examples with every labelled target
      of every task right; examples without a label and tasks of numbers take no part in it; 'joint'
      is empty where no task can take part. A value without any labelled example is None, and so is
      a metric that those there are give no value.

    Raises:
      NonFiniteError: if a task's loss is NaN or infinite.
    """
    metrics: dict[str, dict[str, float | None]] = {}
    losses: dict[str, float | None] = {}
    for i, (task, (rules, scored)) in enumerate(self._tasks.items()):
      metrics[task] = dict.fromkeys(scored.metrics)
      if self._count[task]:
        y, p = rules.join(self._targets[task]), rules.join(self._predictions[task])
        s = rules.join(self._scores[task]) if task in self._scores else None
        for name in scored.metrics:
          metric = rules.metrics[name]
          value = metric.function(y, s if metric.needs_scores else p, scored.names or ())
          metrics[task][name] = None if value is None else float(value)
      losses[task] = float(self._loss_sum[i] / self._loss_count[i]) if self._loss_count[i] else None
      if not np.isfinite(self._loss_sum[i]):
        raise errors.NonFiniteError(f'task {task!r}: the evaluation loss is {self._loss_sum[i]}')
    joint = {}
    if self._joint:
      joint['exact_match'] = self._joint_right / self._joint_count if self._joint_count else None
    return {'metrics': metrics, 'joint': joint, 'loss': losses, 'count': dict(self._count)}


def _scores_of(task: str, result: Mapping[str, Any], count: int) -> np.ndarray:
  """The scores `[B, ...]` of a task, which must be there."""
  found = result.get('scores', {}).get(task)
  if found is None:
    raise ValueError(
      f'task {task!r}: its metrics need scores, which the evaluation step did not give: a model of '
      "one's own returns them under 'scores'"
    )
  scores = np.asarray(found)
  if scores.shape[:1] != (count,):
    raise ValueError(f'task {task!r}: scores {scores.shape} for {count} targets')
  return scores


def _check_finite(
  task: str, targets: np.ndarray, predictions: np.ndarray, what: str = 'predictions'
) -> None:
  if not np.isfinite(targets).all():
    raise errors.DataError(f'task {task!r}: a target is infinite; a missing one is NaN')
  if not np.isfinite(predictions).all():
    count = int(np.sum(~np.isfinite(predictions)))
    raise errors.NonFiniteError(f'task {task!r}: {count} of {predictions.size} {what} not finite')


def average(
  metrics: Mapping[str, Mapping[str, float | None]],
  main: Mapping[str, str],
  higher: Mapping[str, bool] | None = None,
) -> float | None:
  """Returns the mean of the tasks' main metrics, with errors (lower is better) negated.

  So a higher average is always better, whatever the tasks.

  Args:
    metrics: {task: {metric: value}}, as `Accumulator.compute` gives it.
    main: {task: name of its main metric}.
    higher: {task: whether a higher one is better}; None: as the metrics of `kinds.KINDS` say.

  Returns:
    The mean over the tasks that have a value; None if none has.

  >>> average({'pos': {'micro_f1': 0.9}, 'age': {'mae': 0.5}}, {'pos': 'micro_f1', 'age': 'mae'})
  0.2
  """
  values = [
    value if (higher_is_better(name) if higher is None else higher[task]) else -value
    for task, name in main.items()
    if (value := metrics[task][name]) is not None
  ]
  return float(np.mean(values)) if values else None


def higher_is_better(name: str) -> bool:
  """The direction in which a metric of any kind improves; ValueError if there is none."""
  found = kinds.find_metric(name)
  if found is None:
    raise ValueError(f'unknown metric {name!r}')
  return found.higher_is_better


def delta_m(
  multi: Sequence[float], single: Sequence[float], higher_is_better: Sequence[bool]
) -> float:
  """Returns Δm, the mean relative change for the worse from single-task models, in percent.

      Δm = 100/T Σ_i (-1)^{l_i} (M_i - S_i) / |S_i|,   l_i = 1 if a higher M_i is better, else 0.

  Lower is better: a negative Δm says that the multi-task model is the better one on average. The
  sign is Navon et al.'s; Maninis et al. define the same mean with the opposite sign. They divide by
  S_i; the absolute value differs for negative metrics alone (a correlation), where it keeps the
  sense of the sign.

  Args:
    multi: the multi-task model's metrics M, [T].
    single: the single-task models' metrics S, [T], none of them 0.
    higher_is_better: the metrics' directions, [T].

  References:
    Maninis et al., Attentive Single-Tasking of Multiple Tasks, CVPR 2019.
    Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.

  >>> round(delta_m([0.99, 1.1], [0.9, 1.0], [True, False]), 6)
  0.0
  """
  if not 0 < len(multi) == len(single) == len(higher_is_better):
    raise ValueError(
      f'need the same number (at least 1) of metrics: {len(multi)} of the multi-task model, '
      f'{len(single)} of single-task models, {len(higher_is_better)} directions'
    )
  m, s = np.asarray(multi, np.float64), np.asarray(single, np.float64)
  if not s.all():
    raise ValueError(f'a change relative to a single-task metric of 0 is undefined: {list(single)}')
  sign = np.where(higher_is_better, -1.0, 1.0)
  return float(100 * np.mean(sign * (m - s) / np.abs(s)))


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None]:
  """Returns the mean and the half-width of its confidence interval.

  The interval is Student's t with n - 1 degrees of freedom. The half-width is None for a single
  value, which says nothing of the spread.
  """
  if not len(values):
    raise ValueError('no values to average')
  mean = float(np.mean(values))
  if len(values) == 1:
    return mean, None
  quantile = stats.t.ppf((1 + level) / 2, len(values) - 1)
  return mean, float(quantile * np.std(values, ddof=1) / np.sqrt(len(values)))
