"""A model on the examples of a split: metrics, and predictions as a user reads them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from mtl_jax import metrics, train_step
from mtl_jax.data import pipeline
from mtl_jax.gradients import halves
from mtl_jax.model import MultiTaskModel


class Prediction(NamedTuple):
  """What a model says of one example.

  Attributes:
    example: its place in its split (with inputs of each task's own, in its task's).
    tasks: task -> what `Kind.read` made of its prediction; of tags one a word, but for words that
      were cut off at `max_length`.
  """

  example: int
  tasks: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Evaluates a model on the splits of a data set. It knows no run and shows nothing.

  What is computed of a task is what the task says: its kind, its metrics.

  Attributes:
    model: the model.
    data: the data set.
    batch_size: rows of a batch; 0: as in training.
    step: compiled `(params, batch) -> results`; None: made of the model.
    put: brings a batch of NumPy arrays to where the step expects it.

  Example:
    >>> evaluator = Evaluator(model, data)  # doctest: +SKIP
    >>> evaluator.evaluate(state.params, 'test')['metrics']  # doctest: +SKIP
  """

  model: MultiTaskModel
  data: pipeline.Data
  batch_size: int = 0
  step: Callable[[Any, Any], Any] | None = None
  put: Callable[[Any], Any] = lambda batch: batch

  def __post_init__(self) -> None:
    if self.step is None:
      object.__setattr__(self, 'step', train_step.make_eval_step(self.model))

  def evaluate(self, params: Any, split: str) -> dict[str, Any]:
    """Metrics of a split.

    Args:
      params: `{'shared': θ, 'tasks': {name: φ}}`.
      split: 'train', 'validation' or 'test'.

    Returns:
      `{'loss': {task: x}, 'metrics': {task: {metric: x}}, 'joint': {'exact_match': x}, 'mean': x}`,
      as `metrics.Accumulator.compute` says; 'mean' is `metrics.average` of the main metrics.

    Raises:
      ConfigError: no such split.
      NonFiniteError: a prediction or a loss is NaN or infinite.
    """
    tasks = self.model.tasks
    names = self.data.label_names
    accumulator = metrics.Accumulator(
      {task.name: metrics.Scored(task.rules, task.metrics, names[task.name]) for task in tasks},
      joint=not self.data.own_inputs,
    )
    for item, result in self._results(params, split):
      by_task = halves.examples(item.batch, self.model.task_names)
      targets = {name: example['targets'] for name, example in by_task.items()}
      masks = {name: example['mask'] for name, example in by_task.items()}
      accumulator.add(targets, masks, result)
    values = accumulator.compute()
    mean = metrics.average(
      values['metrics'],
      {task.name: task.metrics[0] for task in tasks},
      {task.name: task.rules.metrics[task.metrics[0]].higher_is_better for task in tasks},
    )
    return {name: values[name] for name in ('loss', 'metrics', 'joint')} | {'mean': mean}

  def predict(self, params: Any, split: str) -> Iterator[Prediction]:
    """The predictions for every example of a split, labelled or not, as they come.

    Args:
      params: `{'shared': θ, 'tasks': {name: φ}}`.
      split: 'train', 'validation' or 'test'.

    Yields:
      one prediction an example, in the order of evaluation: short examples first, and with inputs
      of each task's own task after task.

    Raises:
      ConfigError: no such split.
    """
    names = self.data.label_names
    for item, result in self._results(params, split):
      predicted = {}
      for name, predictions in result['outputs'].items():
        rules, rows = self.model.task(name).rules, list(predictions[: item.count])
        if rules.per_token:  # one a word, of its first token
          places = self.data.word_starts(split, name, item.indices)
          rows = [row[words] for row, words in zip(rows, places, strict=True)]
        predicted[name] = [rules.read(row, names[name]) for row in rows]
      for row, index in enumerate(item.indices):
        yield Prediction(int(index), {name: read[row] for name, read in predicted.items()})

  def _results(self, params: Any, split: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yields (batch of evaluation, results on the host), one batch behind the device."""
    assert self.step is not None
    behind = None
    for item in self.data.evaluation(split, self.batch_size):
      result = self.step(params, self.put(item.batch))
      if behind is not None:
        yield behind[0], jax.device_get(behind[1])
      behind = item, result
    if behind is not None:
      yield behind[0], jax.device_get(behind[1])
