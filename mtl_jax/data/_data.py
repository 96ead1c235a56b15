"""Encoded examples, and the batches of training and evaluation that are made of them."""

import copy
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_jax import errors
from mtl_jax.data import (
  _arrays,
  _batches,
  _encode,
  _meetings,
  _mixing,
  augment,
  known,
  specs,
)
from mtl_jax.data import vocabularies as vocabularies_lib
from mtl_jax.data import windows as windows_lib

if TYPE_CHECKING:
  import grain


class Data(known.Known):
  """A data set ready for training.

  Attributes:
    name: the data set.
    specs: task -> what its labels are, in the order asked for.
    vocabularies: tokenizers and class names.
    batch_size: the rows of a training batch (of one task, with own inputs, unless its spec says
      otherwise), over all processes.
    own_inputs: whether the tasks have examples of their own. Batches are then
      `{task: {'inputs', 'targets', 'mask'}}`, and otherwise `{'inputs', 'targets', 'mask'}`; with
      a 'weight' where tasks have weights.
    steps_per_epoch: training steps in an epoch. Fewer than `batch_size` examples are left out; with
      own inputs an epoch has as many rows as there are training examples.
    bucket_lengths: the widths that batches are padded to, ascending; (1,) for arrays.
    num_examples: split -> how many there are.
    truncated: split -> how many were cut at max_length.
    windowed: split -> how many are of several windows, with a stride.
    stride: how many tokens a window shares with the one before; 0: there are none.
    splits: split (with own inputs 'split/task') -> what was encoded.
    notes: what was counted while the files were read.
  """

  def __init__(
    self,
    name: str,
    task_specs: Mapping[str, specs.TaskSpec],
    splits: Mapping[str, Mapping[str, _batches.Split]],
    vocabularies: vocabularies_lib.Vocabularies,
    assembler: Callable[..., _batches.Batch],
    bucket_lengths: tuple[int, ...],
    batch_size: int,
    seed: int,
    options: Mapping[str, Any],
    process: tuple[int, int],
  ):
    """`splits` are by task; one called '' is that of all tasks."""
    super().__init__(task_specs, vocabularies, bucket_lengths)
    self.name = name
    self.batch_size = batch_size
    self.num_examples = {s: sum(map(examples_in, p.values())) for s, p in splits.items()}
    self.truncated = {s: sum(p.truncated for p in parts.values()) for s, parts in splits.items()}
    self.stride: int = options['stride']
    self.windowed = {
      s: sum(p.windows.several for p in parts.values() if p.windows) for s, parts in splits.items()
    }
    self.notes: dict[str, int] = {}
    self.own_inputs = '' not in splits['train']
    self.splits = {
      f'{split}/{task}' if task else split: part
      for split, parts in splits.items()
      for task, part in parts.items()
    }
    self._splits = splits
    self._assembler = assembler
    self._options = options
    self._process = process
    self._augment = self._make_augment()
    # Which examples of a training split carry a loss: with own inputs of one task each.
    self._known = {
      key: np.stack(
        [_meetings.learned(y, part.weights.get(task)) for task, y in part.targets.items()], axis=1
      )
      for key, part in splits['train'].items()
    }
    self._stratum = self._strata()
    self._training = self._make_training(seed)
    self.steps_per_epoch = self._steps_per_epoch()

  def with_seed(self, seed: int) -> 'Data':
    """Returns the same data in the order of another seed, without encoding anything again."""
    other = copy.copy(self)
    other._training = self._make_training(seed)
    return other

  def _strata(self) -> np.ndarray | None:
    """The strata of the training examples that share inputs; None: there is one."""
    if self.own_inputs or self._known[''].all():
      return None
    bucket = _batches.bucket_of(self._splits['train'][''], self.bucket_lengths)
    stratum = _meetings.strata(self._known[''], bucket)
    return stratum if stratum.any() else None

  def _make_training(self, seed: int) -> _batches.Training | _mixing.Mixed:
    if seed < 0:
      raise errors.ConfigError(f'seed {seed}: need 0 or more')

    strength, tokenizer = self._options['word_dropout'], self.vocabularies.tokenizer

    def make(
      split: _batches.Split, rows: int, seeds: tuple[int, ...], draws: Any = None
    ) -> _batches.Training:
      dropout = None
      if strength and tokenizer and isinstance(split, _encode.Split):
        dropout = _batches.WordDropout(split.tokens.values, strength, tokenizer.unknown_id)
      return _batches.Training(
        split,
        self._assembler,
        self.bucket_lengths,
        rows,
        seeds,
        dropout,
        self._augment,
        self._process,
        draws,
        self._stratum,
      )

    parts = self._splits['train']
    if not self.own_inputs:
      return make(parts[''], self.batch_size, (seed,))
    draws = functools.partial(_mixing.draws, seed)
    trainings = {
      task: make(part, self._rows[task], (seed, number), draws)
      for number, (task, part) in enumerate(parts.items(), start=1)
    }
    return _mixing.Mixed(trainings, seed, self._shares())

  def _make_augment(self) -> _batches.Augment | None:
    """What changes the examples of training batches, if anything does."""
    given = self._options['augment']
    if given == augment.DEFAULTS:
      return None
    split = next(iter(self._splits['train'].values()))
    images = isinstance(split, _arrays.Split)
    augment.check_kind(given, [t for t, s in self.specs.items() if s.rules.per_token], images)
    if isinstance(split, _arrays.Split):
      return augment.Images(given, split.values.shape[1:], -split.mean / split.std)
    assert self.vocabularies.tokenizer is not None
    return augment.Texts(given, self.vocabularies.tokenizer, self.vocabularies.pieces)

  @property
  def _rows(self) -> dict[str, int]:
    """The rows of a batch of each task's own."""
    return {task: spec.batch_size or self.batch_size for task, spec in self.specs.items()}

  def _shares(self) -> list[float] | None:
    """The probabilities of the tasks, one a step; None: every task is in each."""
    options, parts = self._options, self._splits['train']
    if options['mixing'] != 'one':
      return None
    if options['rates']:
      return _mixing.given_shares(options['rates'], list(parts))
    sizes = [len(part) for part in parts.values()]
    return _mixing.shares(sizes, options['temperature'], options['size_limit'])

  def _steps_per_epoch(self) -> int:
    if isinstance(self._training, _batches.Training):
      return self._training.batches_per_epoch
    shares, rows = self._shares(), list(self._rows.values())
    count = sum(map(len, self._splits['train'].values()))
    if shares is None:
      return max(1, count // sum(rows))
    if len(set(rows)) == 1:
      return max(1, count // rows[0])
    mean = sum(share * size for share, size in zip(shares, rows, strict=True))
    return max(1, int(count / mean))

  def train(self, start: int = 0, threads: int = 1, prefetch: int = 8) -> 'grain.DatasetIterator':
    """Returns the endless stream of training batches.

    Its `get_state` and `set_state`, and grain's checkpoint handlers, save and restore the place.

    Args:
      start: the first batch, counted from the beginning of training.
      threads: how many make batches ahead; 0: none, batches are made when asked for. The batches
        do not depend on it.
      prefetch: how many batches are kept ready.
    """
    import grain  # takes long, and is for training alone

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    iterator = iter(grain.MapDataset.source(self._training).to_iter_dataset(options))
    if start:
      iterator.set_state({**iterator.get_state(), 'next_index': start})
    return iterator

  def evaluation(
    self, split: str, batch_size: int = 0
  ) -> _batches.Evaluation | _mixing.Evaluations:
    """Returns the batches of a split, each example once, the last one filled up with padding.

    With own inputs they are of one task each, task after task.

    Args:
      split: `'train'`, `'validation'` or `'test'`.
      batch_size: rows of a batch, over all processes; 0: as in training. A batch is no larger than
        its examples need.

    Raises:
      ConfigError: no such split, or a batch size that the processes cannot share.
    """
    if split not in self._splits:
      raise errors.ConfigError(
        f'data set {self.name!r} has no split {split!r}{errors.nearest(split, self._splits)}'
      )
    batch_size = batch_size or self.batch_size
    check_batch_size(batch_size, self._process)
    # Whatever processes and devices share a batch divides both sizes.
    step = math.gcd(batch_size, self.batch_size, *self._rows.values())
    evaluations = {
      task: _batches.Evaluation(
        part.once() if isinstance(part, _encode.Split) else part,
        self._assembler,
        self.bucket_lengths,
        min(batch_size, -(-len(part) // step) * step),
        self._process,
      )
      for task, part in self._splits[split].items()
    }
    return _mixing.Evaluations(evaluations) if self.own_inputs else evaluations['']

  def word_starts(self, split: str, task: str, examples: np.ndarray) -> list[np.ndarray]:
    """The places of the first token of each word, one array for each of these examples.

    Args:
      split: its name.
      task: the task, which counts with own inputs.
      examples: places in the split, as `EvaluationBatch.indices`; of windows, the words that are
        read in each.
    """
    part = self._splits[split][task if self.own_inputs else '']
    assert isinstance(part, _encode.Split)
    return part.word_starts(examples.tolist())

  def windows(self, split: str, task: str) -> windows_lib.Windows | None:
    """Which rows of a split (of a task's, with own inputs) are windows of which examples.

    None where no example has several.
    """
    found = self._splits[split][task if self.own_inputs else ''].windows
    return found if found is not None and found.several else None

  def targets(self, split: str, task: str) -> np.ndarray:
    """The labels of a task in a split, as encoded; those of tokens one after another."""
    part = self._splits[split][task if self.own_inputs else '']
    part = part.once() if isinstance(part, _encode.Split) else part
    target = part.targets[task]
    if not isinstance(target, np.ndarray):
      return target.values
    return target if part.windows is None else target[part.windows.firsts]

  def labelled(self, split: str) -> dict[str, int]:
    """Returns for each task how many examples of a split have a label, of unknown classes too."""
    found = {}
    for part in self._splits[split].values():
      for task, target in part.targets.items():
        known = _meetings.labelled(target, unknown=True)
        windows = part.windows
        found[task] = int(
          known.sum() if windows is None else np.logical_or.reduceat(known, windows.firsts).sum()
        )
    return found

  def meetings(self) -> dict[tuple[str, str], float]:
    """Returns for each pair of tasks the share of an epoch's steps in which both have a label.

    Tasks that never meet are never balanced against each other.
    """
    steps, names = self.steps_per_epoch, list(self.specs)
    if not isinstance(self._training, _mixing.Mixed):
      rows = np.stack([self._training.rows(number) for number in range(steps)])
      return _meetings.shares(self._known[''][rows].any(axis=1), names)
    return _meetings.shares(self._training.present(self._known, steps), names)

  def example_batch(self) -> _batches.Batch:
    """Returns a training batch with every task, the first, for initialization."""
    if isinstance(self._training, _mixing.Mixed):
      return self._training.every_task(0)
    return self._training[0]

  def write(self, workdir: str | Path) -> None:
    """Writes the vocabularies to a run's directory."""
    self.vocabularies.write(workdir)


def examples_in(part: _batches.Split) -> int:
  """The number of examples, each of which may have several rows."""
  return len(part) if part.windows is None else len(part.windows.firsts)


def check_batch_size(batch_size: int, process: tuple[int, int]) -> None:
  """Raises ConfigError unless the processes can share a batch."""
  index, count = process
  if not 0 <= index < count:
    raise errors.ConfigError(f'process_index {index} is not below process_count {count}')
  if batch_size < 1 or batch_size % count:
    raise errors.ConfigError(
      f'batch_size {batch_size}: need a positive multiple of the {count} process(es) that share it'
    )
