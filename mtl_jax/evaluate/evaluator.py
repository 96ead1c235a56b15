"""A model on the examples of a split: metrics, and predictions as a user reads them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax import metrics, train_step
from mtl_jax.data import pipeline
from mtl_jax.evaluate.windows import Windows
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
    step: compiled `(params, batch) -> results`; None: made of the model. With windows of long texts
      it has to give their outputs, as a model with `windows` does.
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
      model = dataclasses.replace(self.model, windows=True) if self.data.stride else self.model
      object.__setattr__(self, 'step', train_step.make_eval_step(model))

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
    windows = self._windows(split)
    for item, result in self._results(params, split):
      by_task = halves.examples(item.batch, self.model.task_names)
      targets = {name: example['targets'] for name, example in by_task.items()}
      masks = {name: example['mask'] for name, example in by_task.items()}
      if found := windows[next(iter(by_task))]:
        several = found.hold(item.indices, _held(targets, masks, result))
        masks = {name: _without(mask, several) for name, mask in masks.items()}
      accumulator.add(targets, masks, result)
    for found in dict.fromkeys(windows.values()):
      for whole in found.batch() if found else ():
        accumulator.add(*whole)
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
    windows = self._windows(split)
    for item, result in self._results(params, split):
      predicted = {}
      for name, predictions in result['outputs'].items():
        rules, rows = self.model.task(name).rules, list(predictions[: item.count])
        if rules.per_token:  # one a word, of its first token
          places = self.data.word_starts(split, name, item.indices)
          rows = [row[words] for row, words in zip(rows, places, strict=True)]
        predicted[name] = rules.read_all(rows, names[name])
      owners, several = item.indices, np.zeros(item.count, bool)
      if found := windows[next(iter(predicted))]:
        owners, _ = found.texts_of(item.indices)
        raw = result['raw']
        held = {n: {'raw': raw[n]} if n in raw else {'tags': predicted[n]} for n in predicted}
        several = found.hold(item.indices, held)
      for row in np.flatnonzero(~several):
        yield Prediction(int(owners[row]), {name: read[row] for name, read in predicted.items()})
    for found in dict.fromkeys(windows.values()):
      for texts, made in found.whole() if found else ():
        for place, index in enumerate(texts):
          yield Prediction(index, {n: self._read(n, of, place) for n, of in made.items()})

  def _read(self, name: str, found: dict[str, Any], place: int) -> Any:
    """What a user reads of a text that was put together."""
    if 'tags' in found:
      return found['tags'][place].tolist()
    return self.model.task(name).rules.read(
      found['predictions'][place], self.data.label_names[name]
    )

  def _windows(self, split: str) -> dict[str, Windows | None]:
    """Task -> what puts together the windows of its texts; the same for tasks of one batch."""
    count = len(self.model.tasks)
    if not self.data.own_inputs:
      found = self.data.windows(split, '')
      made = Windows(found, self.model.tasks, count) if found else None
      return dict.fromkeys(self.model.task_names, made)
    of_tasks = {task.name: self.data.windows(split, task.name) for task in self.model.tasks}
    return {
      name: Windows(found, [self.model.task(name)], count) if found else None
      for name, found in of_tasks.items()
    }

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


def _held(
  targets: Mapping[str, Any], masks: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Task -> what is held of windows."""
  made = {}
  for name, target in targets.items():
    made[name] = {'targets': target, 'masks': masks[name]}
    if name in result['raw']:
      made[name]['raw'] = result['raw'][name]
      continue
    made[name]['masks'] = np.asarray(masks[name])[:, None]  # windows are joined along words
    made[name]['predictions'] = result['outputs'][name]
    if name in result.get('scores', {}):
      made[name]['scores'] = result['scores'][name]
  return made


def _without(mask: Any, several: np.ndarray) -> np.ndarray:
  """A mask `[B]` that leaves out rows `several` of the first n, `[n]`."""
  made = np.array(mask)
  made[: len(several)] &= ~several
  return made
