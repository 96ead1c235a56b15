"""The input pipeline: a prepared data set as padded NumPy batches. Devices come later.

Examples are encoded once, at the start; a batch is then made of array slices. Batch i follows from
(seed, i) alone, so the state of the training stream is an index.
"""

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from mtl_jax import errors
from mtl_jax.data import _batches, _encode, _labels, _ragged, builders, prepare, specs
from mtl_jax.data import vocabularies as vocabularies_lib

DEFAULTS: dict[str, Any] = {
  'name': '',  # the data set, from mtl_jax.data.builders
  'data_dir': '',  # where data sets are kept; '': $MTL_JAX_DATA, or ~/.cache/mtl_jax
  'manual_dir': '',  # raw files, to prepare the data set from if that has not been done
  # How the input is split: characters, words, wordpiece, bpe (trained on the training split), or
  # the path of a tokenizer.json; '': the data set's usual way.
  'tokenizer': '',
  'vocab_size': 0,  # most ids; 0: no bound for characters and words, 8000 for wordpiece and bpe
  'min_count': 1,  # a token seen fewer times in training is unknown
  'lowercase': False,
  # Also give the pieces of each word, beside its id (tokenizer='words'): characters, wordpiece,
  # bpe, or the path of a tokenizer.json; '': no.
  'pieces': '',
  'pieces_vocab_size': 0,  # as vocab_size
  'max_pieces': 16,  # further pieces of a word are cut
  # Examples are cut at so many tokens, in every split, and what is cut is not scored; 0: never.
  'max_length': 0,
  'buckets': 4,  # lengths that batches are padded to, chosen for the least padding in training
  'bucket_lengths': (),  # these lengths instead
  'label_min_count': 0,  # a class seen fewer times is not learned; 0: as each task says
  # α: a token seen n times in training becomes the unknown id with probability α / (α + n), so that
  # the unknown id is learned from rare tokens (Kiperwasser & Goldberg, TACL 2016); 0: never.
  'word_dropout': 0.0,
  'train_limit': 0,  # train on the first so many examples; 0: on all
}
"""The options of a data set and their defaults."""


class Data:
  """A data set ready for training.

  Attributes:
    name: the data set.
    specs: task -> what its labels are, in the order asked for.
    vocabularies: tokenizers and class names.
    batch_size: the rows of a training batch, over all processes.
    steps_per_epoch: training batches in an epoch; fewer than `batch_size` examples are left out.
    bucket_lengths: the widths that batches are padded to, ascending.
    num_examples: split -> how many there are.
    truncated: split -> how many were cut at max_length.
    splits: split -> what was encoded.
  """

  def __init__(
    self,
    name: str,
    task_specs: Mapping[str, specs.TaskSpec],
    splits: Mapping[str, _encode.Split],
    vocabularies: vocabularies_lib.Vocabularies,
    assembler: _batches.Assembler,
    bucket_lengths: tuple[int, ...],
    batch_size: int,
    seed: int,
    word_dropout: float,
    process: tuple[int, int],
  ):
    self.name = name
    self.specs = dict(task_specs)
    self.vocabularies = vocabularies
    self.batch_size = batch_size
    self.bucket_lengths = bucket_lengths
    self.num_examples = {split: len(encoded) for split, encoded in splits.items()}
    self.truncated = {split: encoded.truncated for split, encoded in splits.items()}
    self.splits = self._splits = dict(splits)
    self._assembler = assembler
    self._word_dropout = word_dropout
    self._process = process
    self._training = self._make_training(seed)
    self.steps_per_epoch = self._training.batches_per_epoch

  def with_seed(self, seed: int) -> 'Data':
    """Returns the same data in the order of another seed, without encoding anything again."""
    other = copy.copy(self)
    other._training = self._make_training(seed)
    return other

  def _make_training(self, seed: int) -> _batches.Training:
    if seed < 0:
      raise errors.ConfigError(f'seed {seed}: need 0 or more')
    return _batches.Training(
      self._splits['train'],
      self._assembler,
      self.bucket_lengths,
      self.batch_size,
      seed,
      self._word_dropout,
      self._process,
    )

  @property
  def label_names(self) -> dict[str, tuple[str, ...]]:
    """Task -> the names of its classes (none for regression)."""
    return self.vocabularies.labels

  @property
  def num_classes(self) -> dict[str, int]:
    """Task -> the width of its outputs; 1 for regression."""
    return {task: len(names) or 1 for task, names in self.label_names.items()}

  @property
  def vocab_size(self) -> int:
    """The number of token ids."""
    return self.vocabularies.tokenizer.size

  @property
  def pieces_vocab_size(self) -> int:
    """The number of piece ids; 0 without pieces."""
    return 0 if self.vocabularies.pieces is None else self.vocabularies.pieces.size

  def train(self, start: int = 0, threads: int = 1, prefetch: int = 8) -> grain.DatasetIterator:
    """Returns the endless stream of training batches.

    Its `get_state` and `set_state`, and grain's checkpoint handlers, save and restore the place.

    Args:
      start: the first batch, counted from the beginning of training.
      threads: how many make batches ahead; 0: none, batches are made when asked for. The batches
        do not depend on it.
      prefetch: how many batches are kept ready.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    iterator = iter(grain.MapDataset.source(self._training).to_iter_dataset(options))
    if start:
      iterator.set_state({**iterator.get_state(), 'next_index': start})
    return iterator

  def evaluation(self, split: str, batch_size: int = 0) -> _batches.Evaluation:
    """Returns the batches of a split, each example once, the last one filled up with padding.

    Args:
      split: `'train'`, `'validation'` or `'test'`.
      batch_size: rows of a batch, over all processes; 0: as in training.

    Raises:
      ConfigError: no such split, or a batch size that the processes cannot share.
    """
    if split not in self._splits:
      raise errors.ConfigError(
        f'data set {self.name!r} has no split {split!r}{errors.nearest(split, self._splits)}'
      )
    batch_size = batch_size or self.batch_size
    _check_batch_size(batch_size, self._process)
    return _batches.Evaluation(
      self._splits[split], self._assembler, self.bucket_lengths, batch_size, self._process
    )

  def example_batch(self) -> _batches.Batch:
    """Returns the first training batch, for initialization."""
    return self._training[0]

  def write(self, workdir: str | Path) -> None:
    """Writes the vocabularies to a run's directory."""
    self.vocabularies.write(workdir)


def load(
  config: Mapping[str, Any],
  tasks: Iterable[str],
  batch_size: int,
  seed: int,
  vocabularies: vocabularies_lib.Vocabularies | None = None,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Data:
  """Returns a prepared data set ready for training.

  A data set that needs no consent, or comes with a `manual_dir`, is prepared on the way.

  Args:
    config: options, see `DEFAULTS`.
    tasks: the names of the tasks, in order; none: all tasks of the data set.
    batch_size: rows of a training batch, over all processes.
    seed: of the order of the examples and of word dropout.
    vocabularies: those of an earlier run; None: from the training split.
    process_index: which part of every batch this process gets: its rows
      `[index * batch_size / count, (index + 1) * batch_size / count)`.
    process_count: how many processes share a batch.

  Raises:
    ConfigError: an unknown option, task or tokenizer; a value out of range.
    DataError: the data set is not prepared, or an example is not what its task says.
  """
  options = _options(config)
  builder = builders.get(options['name'])
  data_dir, manual_dir = options['data_dir'] or None, options['manual_dir'] or None
  task_specs = _choose(options['name'], builder.TASKS, tasks)
  if builder.NEEDS == 'package' or manual_dir:
    prepare.prepare(options['name'], data_dir, manual_dir)
  return from_examples(
    prepare.read(options['name'], data_dir),
    builder.INPUT,
    task_specs,
    options,
    batch_size,
    seed,
    vocabularies,
    process_index=process_index,
    process_count=process_count,
  )


def from_examples(
  examples: Mapping[str, Sequence[Mapping[str, Any]]],
  input_spec: specs.InputSpec,
  task_specs: Mapping[str, specs.TaskSpec],
  config: Mapping[str, Any],
  batch_size: int,
  seed: int,
  vocabularies: vocabularies_lib.Vocabularies | None = None,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Data:
  """Returns examples in memory ready for training; for the other arguments see `load`.

  Args:
    examples: split -> examples; `'train'` is needed.
    input_spec: which field is read, and how.
    task_specs: the tasks.
    config: options, see `DEFAULTS`; those about files are not used.
    batch_size: as in `load`.
    seed: as in `load`.
    vocabularies: as in `load`.
    process_index: as in `load`.
    process_count: as in `load`.

  Raises:
    ConfigError: an unknown option or tokenizer; a value out of range.
    DataError: an empty split, or an example that is not what its task says.
  """
  options = _options(config)
  name = options['name'] or 'given examples'
  process = (process_index, process_count)
  _check_batch_size(batch_size, process)
  examples = dict(examples)
  if options['train_limit']:
    examples['train'] = examples['train'][: options['train_limit']]
  where = {split: f'data set {name!r}, split {split!r}' for split in examples}
  for split, items in examples.items():
    if not len(items):
      raise errors.DataError(f'{where[split]}: it is empty')
    for task, spec in task_specs.items():
      _labels.check(where[split], task, spec, items)
  if batch_size > len(examples['train']):
    raise errors.ConfigError(
      f'batch_size {batch_size} is larger than the training split of {name!r}, '
      f'{len(examples["train"])} examples'
    )

  kind = options['tokenizer'] or input_spec.tokenizer
  tagging = [task for task, spec in task_specs.items() if spec.kind == 'tagging']
  if options['pieces'] and kind != 'words':
    raise errors.ConfigError(f"pieces need tokenizer='words', not {kind!r}")
  as_words = input_spec.kind == 'words' or kind == 'words'
  if tagging and not as_words:
    raise errors.ConfigError(f"task {tagging[0]!r} labels words and needs tokenizer='words'")
  inputs = {
    split: _encode.inputs(where[split], input_spec, items, as_words)
    for split, items in examples.items()
  }
  vocabularies = vocabularies or vocabularies_lib.train(
    options, kind, inputs['train'], as_words, task_specs, examples['train']
  )
  for task in task_specs:
    if task not in vocabularies.labels:
      raise errors.ConfigError(
        f'the vocabularies have no task {task!r}{errors.nearest(task, vocabularies.labels)}'
      )
  targets = {
    split: {
      task: _labels.encode(where[split], task, spec, items, vocabularies.labels[task])
      for task, spec in task_specs.items()
    }
    for split, items in examples.items()
  }
  splits, piece_table = _encode_splits(where, options, inputs, targets, vocabularies, as_words)
  lengths = {split: encoded.tokens.lengths for split, encoded in splits.items()}
  longest = max(int(values.max()) for values in lengths.values())
  if options['bucket_lengths'] and max(options['bucket_lengths']) < longest:
    raise errors.ConfigError(
      f'bucket_lengths end at {max(options["bucket_lengths"])}, but the longest example has '
      f'{longest} tokens: add a longer one, or set max_length'
    )
  tokenizer = vocabularies.tokenizer
  return Data(
    name,
    task_specs,
    splits,
    dataclasses.replace(
      vocabularies, labels={task: vocabularies.labels[task] for task in task_specs}
    ),
    _batches.Assembler(tokenizer.pad_id, tokenizer.unknown_id, piece_table),
    _batches.bucket_lengths(
      lengths['train'], longest, options['buckets'], options['bucket_lengths']
    ),
    batch_size,
    seed,
    options['word_dropout'],
    process,
  )


def _encode_splits(
  where: Mapping[str, str],
  options: Mapping[str, Any],
  inputs: Mapping[str, list[Any]],
  targets: Mapping[str, Mapping[str, _labels.Targets]],
  vocabularies: vocabularies_lib.Vocabularies,
  as_words: bool,
) -> tuple[dict[str, _encode.Split], np.ndarray | None]:
  """Returns the encoded splits and, with pieces, the pieces of each word."""
  tokenizer = vocabularies.tokenizer
  if not as_words:
    encoded = {
      split: _encode.Split(tokenizer.encode(items), targets[split], None, 0)
      for split, items in inputs.items()
    }
    return {s: _encode.cut(item, options['max_length']) for s, item in encoded.items()}, None
  words = _encode.Words()
  units = {split: words.number(items) for split, items in inputs.items()}
  ids = words.encode(tokenizer)
  table = None
  if vocabularies.pieces is not None:
    table = _encode.piece_table(words.encode(vocabularies.pieces), options['max_pieces'])
  splits = {}
  for split, numbers in units.items():
    for task, target in targets[split].items():
      if isinstance(target, _ragged.Ragged):
        _encode.check_lengths(where[split], task, numbers, target)
    tokens, labels = _encode.split_words(numbers, ids, targets[split])
    item = _encode.Split(tokens, labels, None if table is None else numbers, 0)
    splits[split] = _encode.cut(item, options['max_length'])
  return splits, table


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns `DEFAULTS` with the given values."""
  options = dict(DEFAULTS)
  for key, value in config.items():
    if key not in DEFAULTS:
      raise errors.ConfigError(f'a data set has no option {key!r}{errors.nearest(key, DEFAULTS)}')
    options[key] = DEFAULTS[key] if value is None else value
  options['bucket_lengths'] = tuple(options['bucket_lengths'])
  least = {'buckets': 1, 'min_count': 1}
  for key, default in DEFAULTS.items():
    value = options[key]
    if isinstance(default, int) and not isinstance(default, bool):
      if isinstance(value, bool) or not isinstance(value, int) or value < least.get(key, 0):
        raise errors.ConfigError(f'{key}: need an integer from {least.get(key, 0)}, not {value!r}')
    elif isinstance(default, str) and not isinstance(value, str):
      options[key] = str(value)  # a path
  if not 0 <= options['word_dropout'] < math.inf:
    raise errors.ConfigError(f'word_dropout: need 0 or more, not {options["word_dropout"]}')
  if any(not isinstance(length, int) or length < 1 for length in options['bucket_lengths']):
    raise errors.ConfigError(f'bucket_lengths: need integers from 1: {options["bucket_lengths"]}')
  return options


def _choose(
  name: str, available: Mapping[str, specs.TaskSpec], tasks: Iterable[str]
) -> dict[str, specs.TaskSpec]:
  chosen = {}
  for task in tasks:
    if task not in available:
      raise errors.ConfigError(
        f'data set {name!r} has no task {task!r}{errors.nearest(task, available)}'
      )
    chosen[task] = available[task]
  return chosen or dict(available)


def _check_batch_size(batch_size: int, process: tuple[int, int]) -> None:
  index, count = process
  if not 0 <= index < count:
    raise errors.ConfigError(f'process_index {index} is not below process_count {count}')
  if batch_size < 1 or batch_size % count:
    raise errors.ConfigError(
      f'batch_size {batch_size}: need a positive multiple of the {count} process(es) that share it'
    )
