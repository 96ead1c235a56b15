"""What comes out of batches: on the host, with windows put together, and as columns for a user."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax.data import serving
from mtl_jax.data import windows as windows_lib
from mtl_jax.evaluate.windows import Windows
from mtl_jax.protocols import LabelledTask


class Result(NamedTuple):
  """Of a task: outputs of its head, predictions and probabilities read off them, or None each."""

  outputs: Any
  predictions: Any
  probabilities: Any


Results = dict[str, Result]


class Done(NamedTuple):
  """A batch that is computed.

  Attributes:
    chunk: the inputs that it is of.
    batch: None where the chunk is done.
    results: task -> what came out, on the host; None where the chunk is done.
  """

  chunk: Sequence[Any]
  batch: serving.Batch | None
  results: Any


class Columns(NamedTuple):
  """What is predicted of some inputs, by columns.

  Attributes:
    size: the number of inputs.
    labels: task -> what each input is.
    probabilities: task -> those of each input, of tasks that have some.
  """

  size: int
  labels: dict[str, list[Any]]
  probabilities: dict[str, list[Any]]

  def rows(self) -> list[dict[str, dict[str, Any]]]:
    """For each input task -> `{'label': ..., 'probabilities': ...}`."""
    by_task = {}
    for task, labels in self.labels.items():
      by_task[task] = [{'label': label} for label in labels]
      for found, shares in zip(by_task[task], self.probabilities.get(task, ()), strict=False):
        found['probabilities'] = shares
    return [dict(zip(by_task, row, strict=True)) for row in zip(*by_task.values(), strict=True)]


def rows_of(task: LabelledTask, values: Any, batch: serving.Batch) -> Sequence[np.ndarray]:
  """The values of each example; of words those of the first token of each."""
  rows = values[: len(batch.rows)]
  if not task.rules.per_token:
    return rows
  assert batch.starts is not None
  return [row[places] for row, places in zip(rows, batch.starts, strict=True)]


def together(
  done: Iterable[tuple[Done, windows_lib.Windows | None]], tasks: Mapping[str, LabelledTask]
) -> Iterator[Done]:
  """Yields batches whose rows are inputs: the windows of each are put together.

  Args:
    done: batches, with the windows of their chunk, if it has any; of tasks that do not label words
      there are outputs then.
    tasks: those of the results.
  """
  held: Windows | None = None
  for item, windows in done:
    if windows is None:
      yield item
      continue
    held = held or Windows(windows, list(tasks.values()), len(tasks))
    if item.batch is None:
      for texts, made in held.whole():
        results = {name: _of_texts(tasks[name], found) for name, found in made.items()}
        yield Done(item.chunk, _batch(texts), results)
      held = None
      yield item
      continue
    by_task: dict[str, dict[str, Any]] = {}
    for name, result in item.results.items():
      if tasks[name].rules.per_token:
        there = {key: value for key, value in result._asdict().items() if value is not None}
        by_task[name] = {key: rows_of(tasks[name], v, item.batch) for key, v in there.items()}
      else:
        by_task[name] = {'raw': jax.device_get(tasks[name].rules.of_windows(result.outputs))}
    left = np.flatnonzero(~held.hold(item.batch.rows, by_task))
    owners, _ = held.texts_of(item.batch.rows)
    starts = item.batch.starts and [item.batch.starts[place] for place in left]
    batch = serving.Batch(item.batch.inputs, owners[left], starts)
    if len(left):
      yield Done(item.chunk, batch, jax.tree.map(lambda leaf, left=left: leaf[left], item.results))


def _batch(texts: Sequence[int]) -> serving.Batch:
  whole: list[Any] = [slice(None)] * len(texts)  # of words there is one value each already
  return serving.Batch(None, np.array(texts), whole)


def _of_texts(task: LabelledTask, found: Mapping[str, Any]) -> Result:
  if task.rules.per_token:
    return Result(*(found.get(key) for key in Result._fields))
  outputs = found['outputs']
  shares = np.asarray(task.rules.probabilities(outputs)) if task.rules.discrete else None
  return Result(outputs, found['predictions'], shares)
