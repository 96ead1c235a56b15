"""What a model says of the windows of a text as what it says of the text.

Of a text: the mean over its windows of outputs in the form of `Kind.of_windows`, log-probabilities
of classes. Of words: what each has in the window that it is read in.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mtl_jax.data import windows as windows_lib
from mtl_jax.protocols import LabelledTask


def mean(outputs: Any, owners: np.ndarray) -> Any:
  """The mean of the rows of each owner: leaves `[W, ...]` -> `[N, ...]`, for owners 0 to N − 1."""
  count = np.bincount(owners)

  def of_leaf(leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    total = np.zeros((len(count), *leaf.shape[1:]), np.float64)
    np.add.at(total, owners, leaf)
    return (total / count.reshape(-1, *(1,) * (leaf.ndim - 1))).astype(leaf.dtype)

  return jax.tree.map(of_leaf, outputs)


class Windows:
  """Holds the rows of batches that are windows of texts with several, until all have come."""

  def __init__(self, windows: windows_lib.Windows, tasks: Sequence[LabelledTask], count: int):
    """Gets ready.

    Args:
      windows: which rows are windows of which texts.
      tasks: those of which the texts are examples.
      count: the number of all tasks of the model.
    """
    self._windows = windows
    self._tasks = {task.name: task for task in tasks}
    self._count = count
    self._held: dict[int, dict[str, dict[str, Any]]] = {}  # row -> task -> what it has

  def texts_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The text of each row, and whether that has several, both `[n]`."""
    owners = self._windows.owners[rows]
    return owners, self._windows.counts[owners] > 1

  def hold(self, rows: np.ndarray, by_task: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
    """Keeps windows of texts with several.

    Args:
      rows: of a batch, `[n]`.
      by_task: task -> trees of arrays `[B, ...]` or lists, of which the first n rows are these; of
        tasks that do not label words with the outputs as 'raw'.

    Returns:
      which of the rows are kept, bool `[n]`.
    """
    _, several = self.texts_of(rows)
    for place in np.flatnonzero(several).tolist():
      self._held[int(rows[place])] = {
        task: {
          key: jax.tree.map(lambda leaf, place=place: leaf[place], value)
          if key == 'raw'
          else value[place]
          for key, value in found.items()
        }
        for task, found in by_task.items()
      }
    return several

  def whole(self) -> Iterator[tuple[list[int], dict[str, dict[str, Any]]]]:
    """Yields all texts at once, if there are any, with what there is of each task.

    Of tasks that label words, lists of what each window had, joined; of others what the first
    window had, with the text's own `predictions` and `scores`.
    """
    rows = sorted(self._held)
    if not rows:
      return
    texts, owners = np.unique(self._windows.owners[rows], return_inverse=True)
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    made: dict[str, dict[str, Any]] = {}
    for name, task in self._tasks.items():
      held = [self._held[row][name] for row in rows]
      if task.rules.per_token:
        bounds = [*first.tolist(), len(rows)]
        made[name] = {
          key: [
            np.concatenate([held[i][key] for i in range(start, stop)])
            for start, stop in itertools.pairwise(bounds)
          ]
          for key in held[0]
        }
        continue
      raw = jax.tree.map(lambda *leaves: np.stack(leaves), *(item['raw'] for item in held))
      outputs = mean(raw, owners)
      made[name] = {key: np.stack([held[i][key] for i in first]) for key in held[0] if key != 'raw'}
      made[name]['outputs'] = outputs
      made[name]['predictions'] = np.asarray(task.predictions(outputs))
      if task.rules.discrete:
        made[name]['scores'] = np.asarray(task.rules.scores(outputs))
    yield texts.tolist(), made

  def batch(self) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Yields targets, masks and result of all texts, such as `metrics.Accumulator.add` takes."""
    for _, made in self.whole():
      zero = np.zeros(self._count)
      result: dict[str, Any] = {'loss_sum': zero, 'loss_count': zero, 'outputs': {}, 'scores': {}}
      targets, masks = {}, {}
      for name, found in made.items():
        values = {k: _padded(v) for k, v in found.items() if k not in ('masks', 'outputs')}
        targets[name] = values['targets']
        masks[name] = np.array([np.any(row) for row in found['masks']])
        result['outputs'][name] = values['predictions']
        if 'scores' in values:
          result['scores'][name] = values['scores']
      yield targets, masks, result


def _padded(rows: Any) -> np.ndarray:
  """Rows as one array, filled up with -1, which is no label."""
  if isinstance(rows, np.ndarray):
    return rows
  longest = max(map(len, rows))
  made = np.full((len(rows), longest, *rows[0].shape[1:]), -1, rows[0].dtype)
  for row, values in zip(made, rows, strict=True):
    row[: len(values)] = values
  return made
