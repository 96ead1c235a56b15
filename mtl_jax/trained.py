"""What was trained, ready for use: `load` a run, then `predict`, `outputs` and `encode`.

Files are read and written by the commands; here are inputs in memory.
"""

import json
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax import checkpoint, errors
from mtl_jax.build.encoder import source_of
from mtl_jax.build.model import build_model
from mtl_jax.data import pipeline, serving, sources
from mtl_jax.data import vocabularies as vocabularies_lib
from mtl_jax.gradients import halves
from mtl_jax.model import MultiTaskModel
from mtl_jax.plain import Plain, is_number

_CHUNK = 4096  # inputs that are tokenized and sorted at once


class Trained:
  """A trained model, or several of one variant whose outputs are averaged. Safe for threads.

  Attributes:
    run: the config of the run.
    model: the model.
    params: the best parameters of each member.
    serving: encodes inputs.
    source: the data set that it was trained on, for its files and columns.
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
    self.params = list(params)
    self.serving = encoder
    self.source = source
    self._stacked = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *params)
    self._step = jax.jit(self._forward)
    self._features = jax.jit(self._encode, static_argnums=2)
    self._lock = threading.Lock()  # of what encoding counts

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
      inputs: texts; pairs of texts; lists of words; arrays or lists of numbers. Of one text alone
        write `[text]`.
      tasks: their names; (): all.
      probabilities: whether to give them.

    Returns:
      for each input, in order, task -> `{'label': ..., 'probabilities': ...}`: a class and the
      probability of each; of several labels those predicted and the probability of each; of words a
      list of both, one a word, the probability being that of the predicted tag; of a number the
      number alone.

    Raises:
      ValueError: no such task.
      DataError: an input is not such as the model reads; the message names it.
    """
    if isinstance(inputs, str):
      raise ValueError('inputs: need a list of texts, such as [text], not a text')
    examples = (self.example(item) for item in inputs)
    return list(self.stream(examples, tasks, probabilities=probabilities))

  def example(self, item: Any) -> dict[str, Any]:
    """An input of `predict` as an example of the data set."""
    spec = self.serving.input
    if spec.kind == 'array' and not isinstance(item, np.ndarray):
      item = [np.nan if value is None else value for value in item]
      return {spec.field: np.asarray(item, np.float32)}
    if spec.pair and isinstance(item, tuple | list):
      first, second = item
      return {spec.field: first, spec.pair: second}
    return {spec.field: list(item) if spec.kind == 'words' and not isinstance(item, str) else item}

  def stream(
    self,
    examples: Iterable[Mapping[str, Any]],
    tasks: Sequence[str] = (),
    *,
    probabilities: bool = True,
    where: str = 'inputs',
  ) -> Iterator[dict[str, dict[str, Any]]]:
    """Yields what `predict` returns, for examples by field as they come, in bounded memory."""
    chosen = self._chosen(tasks)
    chunk: list[Mapping[str, Any]] = []
    for example in examples:
      chunk.append(example)
      if len(chunk) == _CHUNK:
        yield from self._predict(chunk, chosen, probabilities, where)
        chunk = []
    yield from self._predict(chunk, chosen, probabilities, where)

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
    for batch, result in self._results(examples, where):
      for rows, values in zip(found, result[task], strict=True):
        if values is not None:
          for index, row in zip(batch.rows, self._rows(task, values, batch), strict=True):
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
    for batch, result in self._results(examples, 'inputs'):
      for task in chosen:
        rows = self._rows(task, result[task].outputs, batch)
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
    for batch in self._batches(examples, 'inputs'):
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

  def _forward(self, params: Any, inputs: Any) -> dict[str, '_Result']:
    """All that is read of the outputs, on the device."""
    outputs = jax.vmap(lambda member: self.model.outputs(member, {'inputs': inputs}))(params)
    made = {}
    for task in self.model.tasks:
      rules = task.rules
      own = (
        rules.average(outputs[task.name]) if len(self.params) > 1 else _first(outputs[task.name])
      )
      shares = rules.probabilities(own) if rules.discrete else None
      made[task.name] = _Result(own, task.predictions(own), shares)
    return made

  def _encode(self, params: Any, inputs: Any, task: str) -> Any:
    return halves.encode_examples(self.model, params, {task: {'inputs': inputs}})[task]

  def _batches(self, examples: Sequence[Any], where: str) -> Iterator[serving.Batch]:
    with self._lock:
      before = self.serving.cut
      batches = self.serving.batches(examples, where)
      first = next(batches, None)
      cut = self.serving.cut - before
    if cut:
      warnings.warn(
        f'{cut:,} of {len(examples):,} {where} were longer than any in training and were cut at '
        f'{self.serving.bucket_lengths[-1]} tokens',
        stacklevel=4,
      )
    if first is not None:
      yield first
      yield from batches

  def _results(
    self, examples: Sequence[Any], where: str
  ) -> Iterator[tuple[serving.Batch, dict[str, '_Result']]]:
    """Yields batch and results on the host, one batch behind the device."""
    behind = None
    for batch in self._batches(examples, where):
      result = self._step(self._stacked, batch.inputs)
      if behind is not None:
        yield behind[0], jax.device_get(behind[1])
      behind = batch, result
    if behind is not None:
      yield behind[0], jax.device_get(behind[1])

  def _rows(self, task: str, values: Any, batch: serving.Batch) -> list[Any]:
    """The values of each example; of words those of the first token of each."""
    rows = list(values[: len(batch.rows)])
    if self.model.task(task).rules.per_token:
      assert batch.starts is not None
      rows = [row[places] for row, places in zip(rows, batch.starts, strict=True)]
    return rows

  def _predict(
    self, examples: Sequence[Any], tasks: Sequence[str], probabilities: bool, where: str
  ) -> Iterator[dict[str, dict[str, Any]]]:
    found: list[dict[str, dict[str, Any]]] = [{} for _ in examples]
    for batch, result in self._results(examples, where):
      for task in tasks:
        rules, names = self.model.task(task).rules, self.serving.label_names[task]
        predictions = self._rows(task, result[task].predictions, batch)
        for index, row in zip(batch.rows, predictions, strict=True):
          found[index][task] = {'label': rules.read(row, names)}
        shares = result[task].probabilities
        if probabilities and shares is not None:
          for index, row in zip(batch.rows, self._rows(task, shares, batch), strict=True):
            found[index][task]['probabilities'] = rules.read_probabilities(row, names)
    yield from found


def load(
  workdir: str | Path, *, variant: str = '', seeds: int | Sequence[int] | str | None = None
) -> Trained:
  """Loads what a run trained, at its best checkpoint.

  Args:
    workdir: the directory of a run, WORKDIR/VARIANT/seed_K, or one that holds runs.
    variant: which, where there are several.
    seeds: one, several, or 'all' of them, whose outputs are averaged; None: where there are several
      the one that was best on the validation split.

  Raises:
    WorkdirError: there is no run that was trained, or one that cannot be read.
    ConfigError: there are several variants and none was chosen, or no such seed.

  Example:
    >>> model = load('runs/tickets')  # doctest: +SKIP
    >>> model.predict(['My invoice is wrong'])[0]['category']['label']  # doctest: +SKIP
    'billing'
  """
  return load_runs(find(workdir, variant=variant, seeds=seeds))


def find(
  workdir: str | Path, *, variant: str = '', seeds: int | Sequence[int] | str | None = None
) -> list[Path]:
  """The directories of the runs that `load` would load, for the same arguments."""
  root = Path(workdir).expanduser()
  if (root / 'checkpoints').is_dir():
    return [root]
  runs = sorted(
    path.parent for path in (*root.glob('seed_*/checkpoints'), *root.glob('*/seed_*/checkpoints'))
  )
  if not runs:
    raise errors.WorkdirError(
      f'{workdir} holds no run that was trained; give WORKDIR, WORKDIR/VARIANT or '
      'WORKDIR/VARIANT/seed_K of python -m mtl_jax.train'
    )
  variants = list(dict.fromkeys(run.parent.name for run in runs))
  if variant and variant not in variants:
    raise errors.ConfigError(
      f'no variant {variant!r} in {workdir}{errors.nearest(variant, variants)}'
    )
  if not variant and len(variants) > 1:
    raise errors.ConfigError(
      f'{workdir} holds several variants: give {root.name}/VARIANT, one of {", ".join(variants)}'
    )
  runs = [run for run in runs if run.parent.name == (variant or variants[0])]
  by_seed = {run.name.removeprefix('seed_'): run for run in runs}
  if seeds == 'all':
    return list(by_seed.values())
  if seeds is None:
    return [max(runs, key=_validation)]
  chosen = [str(seed) for seed in (seeds if isinstance(seeds, Sequence) else (seeds,))]
  for seed in chosen:
    if seed not in by_seed:
      raise errors.ConfigError(f'no seed {seed} in {runs[0].parent}{errors.nearest(seed, by_seed)}')
  return [by_seed[seed] for seed in chosen]


def _validation(run: Path) -> float:
  """The mean of the main metrics on the validation split; the lowest for a run without results."""
  try:
    found = json.loads((run / 'results.json').read_text(encoding='utf-8'))['validation']['mean']
  except (OSError, ValueError, KeyError, TypeError):
    return -np.inf
  return found if is_number(found) else -np.inf


def load_runs(runs: Sequence[Path]) -> Trained:
  """Loads runs of one variant, by their directories; see `load`."""
  configs = [_config(run) for run in runs]
  config, first = configs[0], runs[0]
  vocabularies = vocabularies_lib.read(first)
  for run in runs[1:]:
    if vocabularies_lib.read(run).labels != vocabularies.labels:
      raise errors.ConfigError(f'{run} has other classes than {first}: they are no ensemble')
  source = sources.of(config['dataset'], config['tasks'])
  specs = {
    task: spec.fitted(vocabularies.fitted.get(task, {}))
    for task, spec in pipeline.choose(source, config['tasks']).items()
  }
  pretrained = (
    bool(source_of(config)) and not config['dataset']['tokenizer'] and not config['init_from']
  )
  encoder = serving.Serving(source.input, specs, vocabularies, config['dataset'], pretrained)
  with errors.as_config_errors(f'{first}: '):
    model = build_model(config, encoder)
  return Trained(config, model, [_params(run) for run in runs], encoder, source)


def _config(run: Path) -> Plain:
  path = run / 'config.json'
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
    dataset, _ = found['dataset'], found['tasks']
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise errors.WorkdirError(f'{path} cannot be read as the config of a run: {e!r}') from e
  for key in ('data_dir', 'manual_dir'):  # of the machine that it was trained on
    dataset.setdefault(key, '')
  return found


def _params(run: Path) -> Any:
  """The best parameters, as nested dicts."""
  tree: dict[str, Any] = {'shared': {}, 'tasks': {}}
  for path, value in checkpoint.read_best(run / 'checkpoints').items():
    parts = path.split('/')
    if parts[0] != 'params':
      continue
    node = tree
    for part in parts[1:-1]:
      node = node.setdefault(part, {})
    node[parts[-1]] = value
  return tree


class _Result(NamedTuple):
  """Outputs of a head, the predictions read off them, and probabilities or None."""

  outputs: Any
  predictions: Any
  probabilities: Any


class _Unpad:
  """Cuts padding off what has a value for each token."""

  def __init__(self, mask: np.ndarray):
    self._width, self._length = len(mask), int(mask.sum())

  def __call__(self, leaf: np.ndarray) -> np.ndarray:
    return leaf[: self._length] if leaf.ndim > 1 and len(leaf) == self._width else leaf


def _first(outputs: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf[0], outputs)
