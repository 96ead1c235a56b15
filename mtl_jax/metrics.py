"""Task metrics accumulated over a split, and what sums them up: averages, Δm, intervals over seeds.

The numbers come from scikit-learn, seqeval and SciPy. The evaluation loop lives elsewhere.

Integer targets follow the batches' codes: -1 is missing (padding, no label) and left out; -2 is a
label that the training vocabulary lacks, which no prediction can match: it counts as wrong.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats
from seqeval import metrics as seqeval
from sklearn import metrics as sklearn

from mtl_jax.errors import ConfigError, DataError, NonFiniteError, nearest

Kind = Literal['classification', 'multilabel', 'regression', 'tagging']
KINDS: tuple[Kind, ...] = ('classification', 'multilabel', 'regression', 'tagging')

MISSING = -1
UNKNOWN = -2


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric of one or more kinds of task.

  Attributes:
    function: `(targets, predictions, label_names) -> value` on all labelled examples of a split (at
      least one). Arrays are [N] for classification and regression and [N, C] for multilabel;
      tagging has a list of N arrays, the labelled tokens of each sentence.
    higher_is_better: the direction in which the metric improves.
    kinds: the kinds of task that it is defined for.
    fraction: True if the value is at most 1 and reads well as a percentage.
  """

  function: Callable[[Any, Any, Sequence[str] | None], float]
  higher_is_better: bool
  kinds: tuple[Kind, ...]
  fraction: bool = True


def _accuracy(targets, predictions, _):
  return sklearn.accuracy_score(targets, predictions)


def _mcc(targets, predictions, _):
  if (
    len(np.union1d(targets, predictions)) == 1
  ):  # one class, always right: 0 by convention, without a warning
    return 0.0
  return sklearn.matthews_corrcoef(targets, predictions)


def _binary_f1(targets, predictions, _):
  positive = predictions == 1
  targets = np.where(targets == UNKNOWN, ~positive, targets == 1)  # wrong, whatever was predicted
  return sklearn.f1_score(targets, positive, zero_division=0)


def _macro_f1(targets, predictions, _):
  if targets.ndim == 2:
    pair = _indicators(targets, predictions)
    value = sklearn.f1_score(*pair, average='macro', zero_division=np.nan)
    return 0.0 if np.isnan(value) else value  # NaN: no positive in any column
  # An unknown label is no class of its own, but a false positive of the class predicted for it.
  classes = np.setdiff1d(np.union1d(targets, predictions), [UNKNOWN])
  return sklearn.f1_score(targets, predictions, labels=classes, average='macro', zero_division=0)


def _micro_f1(targets, predictions, _):
  return sklearn.f1_score(*_indicators(targets, predictions), average='micro', zero_division=0)


def _exact_match(targets, predictions, _):
  return np.mean(((targets == predictions) | (targets == MISSING)).all(axis=1))


def _indicators(targets, predictions) -> tuple[np.ndarray, np.ndarray]:
  """Returns 0/1 matrices [N, C + 1] for F1: missing entries become true negatives."""
  predictions = np.where(targets == MISSING, 0, predictions)
  targets = np.where(targets == MISSING, 0, targets)
  targets = np.where(targets == UNKNOWN, 1 - predictions, targets)  # wrong, whatever was predicted
  # scikit-learn takes one column for a binary problem; an empty last column keeps it multilabel.
  last = ((0, 0), (0, 1))
  return np.pad(targets, last), np.pad(predictions, last)


def _token_accuracy(targets, predictions, _):
  return sklearn.accuracy_score(np.concatenate(targets), np.concatenate(predictions))


def _entity(score):
  """Returns the entity-level metric for a seqeval function."""

  def function(targets, predictions, label_names):
    names = {
      **{i: f'{name}-<untyped>' if name in _BARE else name for i, name in enumerate(label_names)},
      UNKNOWN: 'I-<unknown>',
    }  # neighbours form one missed entity
    gold = [[names[i] for i in sentence.tolist()] for sentence in targets]
    predicted = [[names[i] for i in sentence.tolist()] for sentence in predictions]
    return score(gold, predicted, zero_division=0)

  return function


def _correlation(correlate):
  """Returns the metric for a SciPy correlation: 0 where either side is constant."""

  def function(targets, predictions, _):
    if np.ptp(targets) == 0 or np.ptp(predictions) == 0:
      return 0.0
    return correlate(targets, predictions).statistic

  return function


METRICS: dict[str, Metric] = {
  'accuracy': Metric(_accuracy, True, ('classification',)),
  'binary_f1': Metric(_binary_f1, True, ('classification',)),
  'macro_f1': Metric(_macro_f1, True, ('classification', 'multilabel')),
  'mcc': Metric(_mcc, True, ('classification',)),
  'micro_f1': Metric(_micro_f1, True, ('multilabel',)),
  'exact_match': Metric(_exact_match, True, ('multilabel',)),
  'f1': Metric(_entity(seqeval.f1_score), True, ('tagging',)),
  'precision': Metric(_entity(seqeval.precision_score), True, ('tagging',)),
  'recall': Metric(_entity(seqeval.recall_score), True, ('tagging',)),
  'token_accuracy': Metric(_token_accuracy, True, ('tagging',)),
  'mse': Metric(
    lambda y, p, _: sklearn.mean_squared_error(y, p), False, ('regression',), fraction=False
  ),
  'mae': Metric(
    lambda y, p, _: sklearn.mean_absolute_error(y, p), False, ('regression',), fraction=False
  ),
  'pearson': Metric(_correlation(stats.pearsonr), True, ('regression',)),
  'spearman': Metric(_correlation(stats.spearmanr), True, ('regression',)),
}
"""The metrics by name. Undefined ratios are 0, as in scikit-learn and seqeval:

* `macro_f1` averages over the classes (columns) that occur in the targets or the predictions;
* `binary_f1` is the F1 of the second of two classes;
* `f1`, `precision`, `recall` are seqeval's, on entities of IOB (or IOBES) label names, counted as
  conlleval does, those without a type (B, I) as of one more; neighbouring unknown labels form one
  entity that is missed;
* `exact_match` is the share of examples with every labelled entry right (subset accuracy);
* `mcc` is 0 where targets or predictions are constant, and so are `pearson` and `spearman`.
"""

_BARE = ('B', 'I', 'E', 'S')  # labels of entities without a type

ENTITY_METRICS = ('f1', 'precision', 'recall')


def check(
  task: str, kind: str, names: Sequence[str], label_names: Sequence[str] | None = None
) -> None:
  """Raises ConfigError unless each metric exists and suits the task's kind (and label names)."""
  if kind not in KINDS:
    raise ConfigError(f'task {task!r}: unknown kind {kind!r}{nearest(kind, KINDS)}')
  valid = [name for name, metric in METRICS.items() if kind in metric.kinds]
  for name in names:
    if name not in METRICS:
      raise ConfigError(f'task {task!r}: unknown metric {name!r}{nearest(name, valid)}')
    if name not in valid:
      raise ConfigError(
        f'task {task!r}: metric {name!r} is not defined for {kind}{nearest(name, valid)}'
      )
    if name == 'binary_f1' and label_names is not None and len(label_names) != 2:
      raise ConfigError(
        f'task {task!r}: metric {name!r} is that of two classes, not of the {len(label_names)} '
        'there are; use macro_f1'
      )
    if name in ENTITY_METRICS and label_names is not None:
      odd = [s for s in label_names if not s.startswith(('B-', 'I-', 'E-', 'S-'))]
      odd = [s for s in odd if s not in ('O', *_BARE)]
      if odd:
        raise ConfigError(
          f'task {task!r}: metric {name!r} counts entities and needs IOB labels (O, B-x, I-x), '
          f'not {odd[0]!r}; use token_accuracy for plain tags'
        )


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
    tasks: Mapping[str, tuple[str, Sequence[str], Sequence[str] | None]],
    *,
    joint: bool = True,
  ):
    """Creates an empty accumulator.

    Args:
      tasks: for each task, in the model's order, its kind, its metrics and its label names (which
        entity metrics need; may be None elsewhere).
      joint: whether to compute the joint exact match. False where tasks have their own inputs: row
        i of two tasks is then not the same example.

    Raises:
      ConfigError: for an unknown metric or kind, a metric of another kind, or label names that are
        not IOB where entities are counted.
    """
    for task, (kind, names, labels) in tasks.items():
      check(task, kind, names, labels)
      if labels is None and any(name in ENTITY_METRICS for name in names):
        raise ConfigError(f'task {task!r}: entity metrics need label_names')
    self._tasks = dict(tasks)
    self._targets: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    self._predictions: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    self._loss_sum = np.zeros(len(tasks))
    self._loss_count = np.zeros(len(tasks))
    kinds = [kind for kind, _, _ in tasks.values()]
    self._joint = joint and any(kind != 'regression' for kind in kinds)
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
        predictions}}`, predictions shaped like the targets.

    Raises:
      ValueError: if shapes disagree.
      DataError: if a labelled regression target is not finite.
      NonFiniteError: if a prediction for a labelled example is not finite.
    """
    loss_sum = np.asarray(result['loss_sum'], np.float64)
    loss_count = np.asarray(result['loss_count'], np.float64)
    if not loss_sum.shape == loss_count.shape == (len(self._tasks),):
      raise ValueError(
        f'loss_sum {loss_sum.shape} and loss_count {loss_count.shape} must be '
        f'[{len(self._tasks)}], one entry for each of the tasks {list(self._tasks)}'
      )
    seen, right = [], []  # of each task in the joint match: bool [B]
    for task, (kind, _, _) in self._tasks.items():
      if task not in targets:
        continue
      y, p = np.asarray(targets[task]), np.asarray(result['outputs'][task])
      if y.shape != p.shape:
        raise ValueError(f'task {task!r}: targets {y.shape} and predictions {p.shape} differ')
      mask = None if masks is None else masks.get(task)
      rows = np.ones(len(y), bool) if mask is None else np.asarray(mask, bool)  # [B]
      if rows.shape != y.shape[:1]:
        raise ValueError(f'task {task!r}: mask {rows.shape} does not fit targets {y.shape}')
      if kind == 'regression':
        _check_finite(task, y[rows], p[rows])
      else:
        p = p.astype(np.int64)
        labelled = y != MISSING  # [B], [B, C] or [B, S]
        rows = rows & labelled.reshape(len(y), -1).any(axis=1)
        seen.append(rows)
        right.append(~rows | ~(labelled & (y != p)).reshape(len(y), -1).any(axis=1))
      if kind == 'tagging':
        self._targets[task] += [y[i][labelled[i]] for i in np.flatnonzero(rows)]
        self._predictions[task] += [p[i][labelled[i]] for i in np.flatnonzero(rows)]
      else:
        self._targets[task].append(y[rows])
        self._predictions[task].append(p[rows])
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
      of every task right; examples without a label and regression tasks take no part in it; 'joint'
      is empty where no task can take part. A value without any labelled example is None.

    Raises:
      NonFiniteError: if a task's loss is NaN or infinite.
    """
    metrics: dict[str, dict[str, float | None]] = {}
    losses: dict[str, float | None] = {}
    counts: dict[str, int] = {}
    for i, (task, (kind, names, labels)) in enumerate(self._tasks.items()):
      targets: Any = self._targets[task]
      predictions: Any = self._predictions[task]
      if kind != 'tagging' and targets:
        targets, predictions = np.concatenate(targets), np.concatenate(predictions)
      if kind == 'regression' and len(targets):
        targets, predictions = targets.astype(np.float64), predictions.astype(np.float64)
      counts[task] = len(targets)
      metrics[task] = {
        name: float(METRICS[name].function(targets, predictions, labels)) if len(targets) else None
        for name in names
      }
      losses[task] = float(self._loss_sum[i] / self._loss_count[i]) if self._loss_count[i] else None
      if not np.isfinite(self._loss_sum[i]):
        raise NonFiniteError(f'task {task!r}: the evaluation loss is {self._loss_sum[i]}')
    joint = {}
    if self._joint:
      joint['exact_match'] = self._joint_right / self._joint_count if self._joint_count else None
    return {'metrics': metrics, 'joint': joint, 'loss': losses, 'count': counts}


def _check_finite(task: str, targets: np.ndarray, predictions: np.ndarray) -> None:
  if not np.isfinite(targets).all():
    raise DataError(
      f'task {task!r}: a target is NaN or infinite; mask rows without a label (mask False)'
    )
  if not np.isfinite(predictions).all():
    count = int(np.sum(~np.isfinite(predictions)))
    raise NonFiniteError(f'task {task!r}: {count} of {len(predictions)} predictions not finite')


def average(
  metrics: Mapping[str, Mapping[str, float | None]], main: Mapping[str, str]
) -> float | None:
  """Returns the mean of the tasks' main metrics, with errors (lower is better) negated.

  So a higher average is always better, whatever the tasks.

  Args:
    metrics: {task: {metric: value}}, as `Accumulator.compute` gives it.
    main: {task: name of its main metric}.

  Returns:
    The mean over the tasks that have a value; None if none has.

  >>> average({'pos': {'micro_f1': 0.9}, 'age': {'mae': 0.5}}, {'pos': 'micro_f1', 'age': 'mae'})
  0.2
  """
  values = [
    value if METRICS[name].higher_is_better else -value
    for task, name in main.items()
    if (value := metrics[task][name]) is not None
  ]
  return float(np.mean(values)) if values else None


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
