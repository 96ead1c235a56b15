"""A model on labelled examples, task by task: what it predicts, and what that is worth."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mtl_jax import errors, evaluate, kinds, metrics, trained
from mtl_jax.data import described, specs
from mtl_jax.kinds import MISSING

Example = Mapping[str, Any]


class Error(NamedTuple):
  """An example that was predicted wrongly.

  Attributes:
    example: its place among the examples.
    loss: in nats, or in the unit of the targets squared.
    label: its label, as a user reads it.
    predicted: what was predicted.
  """

  example: int
  loss: float
  label: Any
  predicted: Any


@dataclasses.dataclass(frozen=True)
class Judged:
  """One task of a model on labelled examples.

  Attributes:
    task: its name.
    rules: its kind.
    names: of its classes.
    metrics: the main one first.
    examples: int64 `[N]`: which examples have a label.
    targets: of these, as `Kind.collect` and `Kind.join` give them.
    predictions: likewise.
    scores: likewise, of metrics that need them; None for tasks without classes.
    losses: float64 `[N]`, of each of these examples.
    read: what was predicted for each of these, as a user reads it.
  """

  task: str
  rules: kinds.Kind
  names: tuple[str, ...]
  metrics: tuple[str, ...]
  examples: np.ndarray
  targets: Any
  predictions: Any
  scores: Any
  losses: np.ndarray
  read: list[Any]

  def metric(self, name: str) -> evaluate.statistics.MetricFunction:
    """A metric as a function of targets, and of predictions or scores, of some examples."""
    metric, names = self.rules.metrics[name], self.names

    def function(targets: Any, predictions: Any) -> float | None:
      return metric.function(targets, predictions, names)

    counts, of_counts = metric.counts, metric.of_counts
    if counts is None or of_counts is None:
      return function
    return evaluate.Counted(function, lambda y, p: counts(y, p, names), of_counts)

  def given(self, name: str) -> Any:
    """What a metric is computed on beside the targets: predictions or scores."""
    return self.scores if self.rules.metrics[name].needs_scores else self.predictions

  def value(self, name: str) -> float | None:
    """A metric of all examples; None where they give it no value."""
    if not len(self.examples):
      return None
    found = self.metric(name)(self.targets, self.given(name))
    return None if found is None else float(found)

  def interval(self, name: str, samples: int, seed: int = 0) -> evaluate.Interval:
    """A metric with the 95% interval over resampled examples."""
    if not len(self.examples):
      return evaluate.Interval(None, None, None, 0)
    return evaluate.bootstrap(
      self.metric(name), self.targets, self.given(name), samples=samples, seed=seed
    )

  def against(self, other: 'Judged', name: str, samples: int) -> evaluate.Comparison | None:
    """The difference of a metric from another model's on the same examples; None if they differ."""
    same = np.array_equal(self.examples, other.examples) and self.names == other.names
    if not same or not len(self.examples):
      return None
    return evaluate.paired_test(
      self.metric(name), self.targets, self.given(name), other.given(name), samples=samples, seed=0
    )

  def slices(self, values: Sequence[Any], name: str) -> list[evaluate.Slice]:
    """A metric for each value of a column, one value an example of all, labelled or not."""
    own = [values[index] for index in self.examples]
    return evaluate.by_slice(own, self.metric(name), self.targets, self.given(name))

  def worst(self, count: int, labels: Sequence[Any]) -> list[Error]:
    """The examples with the largest losses, of those that are not right.

    Args:
      count: how many at most.
      labels: the label of each example, as a user reads it.
    """
    order = np.argsort(-self.losses, kind='stable')
    found = (
      Error(int(self.examples[i]), float(self.losses[i]), labels[self.examples[i]], self.read[i])
      for i in order
    )
    return list(itertools.islice((e for e in found if e.label != e.predicted), count))


def judge(
  model: trained.Trained, examples: Sequence[Example], where: str = 'examples'
) -> dict[str, Judged]:
  """Runs a model on labelled examples.

  Args:
    model: what was trained.
    examples: with the fields of the input and of the labels; with inputs of each task's own, those
      of all tasks.
    where: what messages call them.

  Returns:
    task -> what came out.

  Raises:
    DataError: an example or a label is not such as the run knows them.
  """
  owner, found = model.source.owner, {}
  for task in model.tasks:
    spec, names = model.serving.specs[task], model.serving.label_names[task]
    places = [
      i
      for i, example in enumerate(examples)
      if (not owner or example[owner] == task) and spec.rules.has_label(example.get(spec.field))
    ]
    chosen = [examples[i] for i in places]
    found[task] = _judge(model, task, spec, names, np.array(places, np.int64), chosen, where)
  return found


def _judge(
  model: trained.Trained,
  task: str,
  spec: specs.TaskSpec,
  names: Sequence[str],
  places: np.ndarray,
  examples: Sequence[Example],
  where: str,
) -> Judged:
  rules = spec.rules
  outputs, predictions, shares = model.arrays(examples, task, where)
  make = functools.partial(Judged, task, rules, tuple(names), model.model.task(task).metrics)
  if not examples:
    return make(places, [], [], None, np.zeros(0), [])
  rows = model.serving.targets(task, examples, where)
  if rules.per_token:  # words that were cut off are not judged
    rows = [row[: len(p)] for row, p in zip(rows, predictions, strict=True)]
  y, p, o = _stacked(rows, MISSING), _stacked(predictions, 0), _stacked(outputs, 0)
  values, valid = rules.loss(jnp.asarray(o), jnp.asarray(y))
  losses = _means(np.asarray(values, np.float64), np.asarray(valid))
  kept, predicted = rules.collect(y, p)
  scores = None
  if shares:
    scores = rules.join(rules.collect_scores(y, _stacked(shares, 0)))
  read = [rules.read(row, names) for row in predictions]
  return make(places, rules.join(kept), rules.join(predicted), scores, losses, read)


def _stacked(rows: Sequence[np.ndarray], fill: float) -> np.ndarray:
  """Arrays as one, `[N, ...]`, the shorter ones of words filled up."""
  rows = [np.asarray(row) for row in rows]
  if len({row.shape for row in rows}) == 1:
    return np.stack(rows)
  longest = max(len(row) for row in rows)
  made = np.full((len(rows), longest, *rows[0].shape[1:]), fill, rows[0].dtype)
  for i, row in enumerate(rows):
    made[i, : len(row)] = row
  return made


def _means(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """The mean of the valid values of each example, `[N, ...] -> [N]`; 0 where there is none."""
  axes = tuple(range(1, values.ndim))
  count = np.maximum(valid.sum(axis=axes), 1)
  return np.where(valid, values, 0).sum(axis=axes) / count


def labels_of(model: trained.Trained, task: str, examples: Sequence[Example]) -> list[Any]:
  """The labels of examples in the form in which predictions read."""
  field = model.serving.specs[task].field
  return [list(v) if isinstance(v := e.get(field), tuple) else v for e in examples]


def examples_of(
  model: trained.Trained, split: str, keep: Sequence[str] = ()
) -> list[dict[str, Any]]:
  """The examples of a split of the data set that a run was trained on.

  Args:
    model: the run.
    split: 'train', 'validation' or 'test'.
    keep: columns that are to be there too.

  Raises:
    ConfigError: no such split or column.
    DataError: the data set cannot be read any more.
  """
  source = model.source
  if isinstance(source, described.Described):
    found: Mapping[str, Sequence[Example]] = source.read(keep)
  else:
    found = source.read()
  if split not in found:
    raise errors.ConfigError(f'--split: no split {split!r}{errors.nearest(split, found)}')
  examples = [dict(example) for example in found[split]]
  for column in keep:
    if all(example.get(column) is None for example in examples):
      raise errors.ConfigError(f'no column {column!r} in the examples of the {split} split')
  return examples


def summary(judged: Mapping[str, Judged]) -> float | None:
  """The mean of the main metrics, errors negated, as `metrics.average`."""
  values: dict[str, dict[str, float | None]] = {
    task: {one.metrics[0]: one.value(one.metrics[0])} for task, one in judged.items()
  }
  return metrics.average(
    values,
    {task: one.metrics[0] for task, one in judged.items()},
    {task: one.rules.metrics[one.metrics[0]].higher_is_better for task, one in judged.items()},
  )


def delta_m(judged: Mapping[str, Judged], base: Mapping[str, Judged]) -> float | None:
  """Δm of the tasks' main metrics from another run's, in percent, over the tasks of both.

  None where there is no task of both, or a value that nothing can be relative to.
  """
  mine, theirs, higher = [], [], []
  for task, one in judged.items():
    if task not in base:
      continue
    name = one.metrics[0]
    a, b = one.value(name), base[task].value(name)
    if a is None or not b or math.isnan(b):
      return None
    mine.append(a)
    theirs.append(b)
    higher.append(one.rules.metrics[name].higher_is_better)
  return metrics.delta_m(mine, theirs, higher) if mine else None
