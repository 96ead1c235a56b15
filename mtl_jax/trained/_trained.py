"""A model ready for use: what it predicts of inputs in memory. Reads no files."""

import collections
import contextlib
import itertools
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.errors
import jax
import numpy as np

from mtl_jax import errors
from mtl_jax.data import described, serving, sources
from mtl_jax.data import windows as windows_lib
from mtl_jax.gradients import halves
from mtl_jax.model import MultiTaskModel
from mtl_jax.plain import Plain
from mtl_jax.trained._results import Columns, Done, Result, Results, rows_of, together

_CHUNK = 4096  # inputs that are tokenized and sorted at once
_AHEAD = 24  # batches that the device is given ahead: enough while chunks are read and written


class Trained:
  """A trained model, or several of one variant whose outputs are averaged. Safe for threads.

  Attributes:
    run: the config of the run.
    model: the model.
    params: the best parameters of each member.
    serving: encodes inputs.
    source: the data set that it was trained on, for its files and columns.
    cut: how many inputs were cut so far, since they were longer than any in training.
  """

  def __init__(
    self,
    run: Plain,
    model: MultiTaskModel,
    params: Sequence[Any],
    encoder: serving.Serving,
    source: sources.Source,
  ):
    self.run = run
    self.model = model
    self.params = [jax.device_put(member) for member in params]
    self.serving = encoder
    self.source = source
    self.cut = 0
    self._whole = self.params[0]
    if len(self.params) > 1:
      self._whole = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *self.params)
    self._step = jax.jit(self._forward, static_argnums=2)
    self._features = jax.jit(self._encode, static_argnums=2)
    self._lock = threading.Lock()  # of what is counted

  @property
  def tasks(self) -> tuple[str, ...]:
    """The names of the tasks."""
    return self.model.task_names

  @property
  def classes(self) -> dict[str, tuple[str, ...]]:
    """Task -> the names of its classes, none where it is a number."""
    return {task: self.serving.label_names[task] for task in self.tasks}

  def predict(
    self, inputs: Iterable[Any], tasks: Sequence[str] = (), *, probabilities: bool = True
  ) -> list[dict[str, dict[str, Any]]]:
    """Predicts all tasks for each input.

    Args:
      inputs: texts; pairs of texts; lists of words, or texts to be split at blanks; arrays or lists
        of numbers; or rows, dicts by the columns of training. Of one text alone write `[text]`.
      tasks: their names; (): all.
      probabilities: whether to give them.

    Returns:
      for each input, in order, task -> `{'label': ..., 'probabilities': ...}`: a class and the
      probability of each; of several labels those predicted and the probability of each; of words a
      list of both, one a word, the probability being that of the predicted tag, and None for words
      that were cut off; of a number the number alone.

    Raises:
      ValueError: no such task.
      DataError: an input is not such as the model reads; the message names it.
    """
    if isinstance(inputs, str):
      raise ValueError('inputs: need a list of texts, such as [text], not a text')
    examples = (self.example(item) for item in inputs)
    parts = self.columns(examples, tasks, probabilities=probabilities)
    return [row for part in parts for row in part.rows()]

  def example(self, item: Any) -> dict[str, Any]:
    """An input of `predict` as an example of the data set; a row by the columns of its file."""
    spec = self.serving.input
    if isinstance(item, Mapping):
      if isinstance(self.source, described.Described):
        return self.source.example(self.source.file_with(item), item)
      return dict(item)
    if spec.kind == 'array' and isinstance(item, list | tuple):
      with contextlib.suppress(TypeError, ValueError):  # what is none is told of with its number
        item = np.asarray([np.nan if value is None else value for value in item], np.float32)
    elif spec.pair and isinstance(item, list | tuple) and len(item) == 2:
      return dict(zip((spec.field, spec.pair), item, strict=True))
    elif spec.kind == 'words' and isinstance(item, str):
      item = item.split()
    return {spec.field: item}

  def columns(
    self,
    examples: Iterable[Mapping[str, Any]],
    tasks: Sequence[str] = (),
    *,
    probabilities: bool = True,
    where: str = 'inputs',
  ) -> Iterator[Columns]:
    """Yields what `predict` returns by columns, for examples as they come, in bounded memory.

    Args:
      examples: with the fields of the input.
      tasks: their names; (): all. Of other tasks nothing is computed.
      probabilities: whether to give them.
      where: what messages call the examples.

    Yields:
      columns of the next examples, some thousands at once.

    Raises:
      ValueError: no such task.
      DataError: an example is not such as the model reads.
    """
    chosen = self._chosen(tasks)

    fields = ('predictions', 'probabilities')[: 1 + probabilities]
    rest = iter(examples)
    chunks = iter(lambda: list(itertools.islice(rest, _CHUNK)), [])
    part = Columns(0, {}, {})
    for chunk, batch, results in self._flow(chunks, chosen, fields, where):
      if batch is None:
        yield part
        part = Columns(0, {}, {})
        continue
      part = part if part.size else Columns(len(chunk), {}, {})
      for task in chosen:
        self._read(task, batch, results[task], probabilities, chunk, part)

  def arrays(
    self, examples: Sequence[Mapping[str, Any]], task: str, where: str = 'inputs'
  ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Outputs, predictions and probabilities of one task, one of each an example, in order.

    Of words they are `[words, ...]`, without words that were cut off; of tasks without classes
    there are no probabilities, `[]`.

    Args:
      examples: with the fields of the input.
      task: its name.
      where: what messages call the examples.
    """
    found: list[list[Any]] = [[None] * len(examples) for _ in range(3)]
    one = self.model.task(task)
    for batch, results in self._results(examples, self.tasks, Result._fields, where):
      for rows, values in zip(found, results[task], strict=True):
        if values is not None:
          for index, row in zip(batch.rows, rows_of(one, values, batch), strict=True):
            rows[index] = row
    outputs, predictions, shares = found
    return outputs, predictions, shares if self.model.task(task).rules.discrete else []

  def outputs(
    self, inputs: Iterable[Any], tasks: Sequence[str] = ()
  ) -> dict[str, list[np.ndarray]]:
    """The raw outputs of the heads: task -> one array an input (logits; of words `[words, C]`)."""
    chosen = self._chosen(tasks)
    examples = [self.example(item) for item in inputs]
    found: dict[str, list[Any]] = {task: [None] * len(examples) for task in chosen}
    for batch, results in self._results(examples, chosen, ('outputs',), 'inputs'):
      for task in chosen:
        rows = rows_of(self.model.task(task), results[task].outputs, batch)
        for index, row in zip(batch.rows, rows, strict=True):
          found[task][index] = row
    return found

  def encode(self, inputs: Iterable[Any], task: str = '') -> list[Any]:
    """Features of the shared half, one an input: `[D]`, or `[S, D]` of its S tokens.

    Args:
      inputs: as for `predict`.
      task: whose features, where the shared half works differently for each; '': the first's.

    Returns:
      arrays, or pytrees of them; of an ensemble those of the first member.
    """
    name = self._chosen([task] if task else ())[0]
    examples = [self.example(item) for item in inputs]
    found: list[Any] = [None] * len(examples)
    made = self._batches(examples, 'inputs')
    if made.windows is not None:
      index = int(np.flatnonzero(made.windows.counts > 1)[0])
      raise errors.DataError(
        f'inputs, example {index}: it is longer than max_length, and its features are those of '
        f'{made.windows.counts[index]} windows; give its parts'
      )
    for batch in made.batches:
      features = jax.device_get(self._features(self.params[0], batch.inputs, name))
      mask = batch.inputs['mask'] if isinstance(batch.inputs, dict) else None
      for place, index in enumerate(batch.rows):
        row = jax.tree.map(lambda leaf, place=place: leaf[place], features)
        found[index] = row if mask is None else jax.tree.map(_Unpad(mask[place]), row)
    return found

  def _chosen(self, tasks: Sequence[str]) -> tuple[str, ...]:
    for task in tasks:
      if task not in self.tasks:
        raise ValueError(f'no task {task!r}{errors.nearest(task, self.tasks)}')
    return tuple(tasks) or self.tasks

  def _forward(self, params: Any, inputs: Any, tasks: tuple[str, ...]) -> Results:
    """All that is read of the outputs of some tasks, on the device."""

    def outputs_of(member: Any) -> dict[str, Any]:
      return self.model.outputs(member, {'inputs': inputs}, tasks)

    several = len(self.params) > 1
    outputs = jax.vmap(outputs_of)(params) if several else outputs_of(params)
    made = {}
    for task in map(self.model.task, tasks):
      rules, own = task.rules, outputs[task.name]
      own = rules.average(own) if several else own
      shares = rules.probabilities(own) if rules.discrete else None
      made[task.name] = Result(own, task.predictions(own), shares)
    return made

  def _encode(self, params: Any, inputs: Any, task: str) -> Any:
    model, params = self.model.unpacked(params)
    return halves.encode_examples(model, params, {task: {'inputs': inputs}})[0][task]

  def _batches(self, examples: Sequence[Any], where: str, first: int = 0) -> serving.Batches:
    """The batches of some inputs, of which `first` says the number in messages."""
    made = self.serving.batches(examples, where, first)
    if made.cut:
      with self._lock:
        self.cut += made.cut
      _warn(
        f'{made.cut:,} of {len(examples):,} {where} were longer than any in training and were cut '
        f'at {self.serving.bucket_lengths[-1]} tokens'
      )
    return made

  def _flow(
    self,
    chunks: Iterable[Sequence[Any]],
    tasks: tuple[str, ...],
    fields: Sequence[str],
    where: str,
  ) -> Iterator[Done]:
    """Yields the batches of chunks, with those fields of the results on the host."""
    computed = self._computed(chunks, tasks, fields, where)
    return together(computed, {task: self.model.task(task) for task in tasks})

  def _computed(
    self,
    chunks: Iterable[Sequence[Any]],
    tasks: tuple[str, ...],
    fields: Sequence[str],
    where: str,
  ) -> Iterator[tuple[Done, windows_lib.Windows | None]]:
    """`_flow`, with rows that may be windows of inputs.

    What comes next is encoded while the device computes, and results come to the host meanwhile.
    """
    waiting: collections.deque[tuple[Done, windows_lib.Windows | None]] = collections.deque()
    first = 0
    for chunk in chunks:
      made = self._batches(chunk, where, first)
      for batch in made.batches:
        results = {
          task: self._needed(task, result, fields, made.windows is not None)
          for task, result in self._dispatch(batch, tasks, where).items()
        }
        for leaf in jax.tree.leaves(results):
          leaf.copy_to_host_async()
        waiting.append((Done(chunk, batch, results), made.windows))
        while len(waiting) > _AHEAD:
          yield _fetched(*waiting.popleft())
      waiting.append((Done(chunk, None, None), made.windows))
      first += len(chunk)
    for item in waiting:
      yield _fetched(*item)

  def _needed(self, task: str, result: Result, fields: Sequence[str], windows: bool) -> Result:
    """What is to come to the host; of windows, what they are put together of."""
    if windows and not self.model.task(task).rules.per_token:
      fields = (*fields, 'outputs')
    return Result(*(value if key in fields else None for key, value in result._asdict().items()))

  def _dispatch(self, batch: serving.Batch, tasks: tuple[str, ...], where: str) -> Results:
    try:
      return self._step(self._whole, batch.inputs, tasks)
    except (flax.errors.FlaxError, TypeError, ValueError) as error:
      if self.serving.input.kind != 'array':
        raise
      shape = list(batch.inputs.shape[1:])
      raise errors.DataError(
        f'{where}: the model cannot read arrays {shape}: it was trained on another shape'
      ) from error

  def _results(
    self,
    examples: Sequence[Any],
    tasks: tuple[str, ...],
    fields: Sequence[str],
    where: str,
  ) -> Iterator[tuple[serving.Batch, Results]]:
    """Yields batches and those fields of the results on the host."""
    for _, batch, results in self._flow([examples], tasks, fields, where):
      if batch is not None:
        yield batch, results

  def _read(
    self,
    task: str,
    batch: serving.Batch,
    result: Result,
    probabilities: bool,
    chunk: Sequence[Mapping[str, Any]],
    part: Columns,
  ) -> None:
    """Puts what a batch says of a task where its examples are in the columns."""
    one, names = self.model.task(task), self.serving.label_names[task]
    rules = one.rules
    read = [(part.labels, rules.read_all(rows_of(one, result.predictions, batch), names))]
    if probabilities and result.probabilities is not None:
      shares = rules.read_all_probabilities(rows_of(one, result.probabilities, batch), names)
      read.append((part.probabilities, shares))
    rows = batch.rows.tolist()
    for columns, values in read:
      if rules.per_token:
        for index, found in zip(rows, values, strict=True):
          words = chunk[index][self.serving.input.field]
          count = len(words.split() if isinstance(words, str) else words)
          found += [None] * (count - len(found))
      column = columns.setdefault(task, [None] * part.size)
      for index, found in zip(rows, values, strict=True):
        column[index] = found


def _fetched(
  item: Done, windows: windows_lib.Windows | None
) -> tuple[Done, windows_lib.Windows | None]:
  """The same with the results on the host."""
  return item._replace(results=jax.device_get(item.results)), windows


class _Unpad:
  """Cuts padding off what has a value for each token."""

  def __init__(self, mask: np.ndarray):
    self._width, self._length = len(mask), int(mask.sum())

  def __call__(self, leaf: np.ndarray) -> np.ndarray:
    return leaf[: self._length] if leaf.ndim > 1 and len(leaf) == self._width else leaf


def _warn(message: str) -> None:
  """Warns whoever called this package."""
  level, frame = 1, sys._getframe()
  while frame.f_back is not None and frame.f_globals['__name__'].startswith('mtl_jax.'):
    level, frame = level + 1, frame.f_back
  warnings.warn(message, stacklevel=level)
