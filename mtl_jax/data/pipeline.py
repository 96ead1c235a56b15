"""The input pipeline: a prepared data set as padded NumPy batches. Devices come later.

Examples are encoded once, at the start; a batch is then made of array slices. Batch i follows from
(seed, i) alone, so the state of the training stream is an index.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import errors
from mtl_jax.data import (
  _batches,
  _encode,
  _labels,
  _mixing,
  _ragged,
  builders,
  prepare,
  specs,
  text,
)
from mtl_jax.data import vocabularies as vocabularies_lib
from mtl_jax.data._data import Data, check_batch_size

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
  'train_limit': 0,  # train on the first so many examples (of each task's own); 0: on all
  # Where tasks have examples of their own: a batch of each in every step ('all'), or of one task a
  # step ('one'), drawn with probability ∝ min(examples, size_limit)^(1/temperature).
  'mixing': 'all',
  'temperature': 1.0,
  'size_limit': 0,  # 0: none
  'unlabelled': False,  # train on the unlabelled examples too, where the data set has some
}
"""The options of a data set and their defaults."""


def load(
  config: Mapping[str, Any],
  tasks: Iterable[str],
  batch_size: int,
  seed: int,
  vocabularies: vocabularies_lib.Vocabularies | None = None,
  tokenizer: text.Tokenizer | None = None,
  *,
  new_tasks: bool = False,
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
    tokenizer: splits the input, instead of what the options say.
    new_tasks: tasks that `vocabularies` lacks get theirs from the training split.
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
    tokenizer,
    new_tasks=new_tasks,
    owner=builder.OWNER,
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
  tokenizer: text.Tokenizer | None = None,
  *,
  new_tasks: bool = False,
  owner: str = '',
  process_index: int = 0,
  process_count: int = 1,
) -> Data:
  """Returns examples in memory ready for training; for the other arguments see `load`.

  Args:
    examples: split -> examples; `'train'` is needed, and `'unlabelled'` may join it.
    input_spec: which field is read, and how.
    task_specs: the tasks.
    config: options, see `DEFAULTS`; those about files are not used.
    batch_size: as in `load`.
    seed: as in `load`.
    vocabularies: as in `load`.
    tokenizer: as in `load`.
    new_tasks: as in `load`.
    owner: the field that names the task of an example, where tasks have examples of their own; '':
      every example is an input of all tasks.
    process_index: as in `load`.
    process_count: as in `load`.

  Raises:
    ConfigError: an unknown option or tokenizer; a value out of range.
    DataError: an empty split, or an example that is not what its task says.
  """
  options = _options(config)
  name = options['name'] or 'given examples'
  process = (process_index, process_count)
  check_batch_size(batch_size, process)
  chosen = _chosen(examples, options, task_specs, owner)
  where = {split: f'data set {name!r}, split {split!r}' for split in chosen}
  for split, by_task in chosen.items():
    for task, items in by_task.items():
      of = f', task {task!r}' if owner else ''
      if not len(items):
        raise errors.DataError(f'{where[split]}{of}: it is empty')
      _labels.check(where[split], task, task_specs[task], items)
  for task, items in chosen['train'].items():
    if batch_size > len(items):
      of = f', task {task!r}' if owner else ''
      raise errors.ConfigError(
        f'batch_size {batch_size} is larger than the training split of {name!r}{of}, '
        f'{len(items)} examples'
      )

  kind = 'pretrained' if tokenizer else options['tokenizer'] or input_spec.tokenizer
  tagging = [task for task, spec in task_specs.items() if spec.kind == 'tagging']
  if options['pieces'] and (kind != 'words' or input_spec.pair):
    raise errors.ConfigError(
      f"pieces need tokenizer='words', not {kind!r}"
      if kind != 'words'
      else 'pieces are not for pairs of texts'
    )
  as_words = input_spec.kind == 'words' or (kind == 'words' and not input_spec.pair)
  if tagging and not as_words:
    raise errors.ConfigError(f"task {tagging[0]!r} labels words and needs tokenizer='words'")

  def read(split: str, tasks: Sequence[str]) -> list[Any]:
    return _encode.inputs(where[split], input_spec, chosen[split][tasks[0]], as_words)

  # Tasks of the same examples are encoded together.
  groups = [[task] for task in task_specs] if owner else [list(task_specs)]
  inputs = {split: [read(split, group) for group in groups] for split in chosen}
  if vocabularies is None or (new_tasks and not set(task_specs) <= set(vocabularies.labels)):
    vocabularies = vocabularies_lib.train(
      options,
      tokenizer or kind,
      [item for items in inputs['train'] for item in items],
      as_words,
      task_specs,
      chosen['train'],
      vocabularies,
    )
  for task in task_specs:
    if task not in vocabularies.labels:
      raise errors.ConfigError(
        f'the vocabularies have no task {task!r}{errors.nearest(task, vocabularies.labels)}'
      )
  targets = [
    {
      split: {
        task: _labels.encode(
          where[split], task, task_specs[task], by_task[task], vocabularies.labels[task]
        )
        for task in group
      }
      for split, by_task in chosen.items()
    }
    for group in groups
  ]
  encoded, piece_table = _encode_splits(
    where, options, inputs, targets, vocabularies, as_words, bool(input_spec.pair)
  )
  names = list(task_specs) if owner else ['']
  splits = {split: dict(zip(names, parts, strict=True)) for split, parts in encoded.items()}
  train_lengths = np.concatenate([item.tokens.lengths for item in splits['train'].values()])
  longest = max(int(i.tokens.lengths.max()) for parts in splits.values() for i in parts.values())
  if options['bucket_lengths'] and max(options['bucket_lengths']) < longest:
    raise errors.ConfigError(
      f'bucket_lengths end at {max(options["bucket_lengths"])}, but the longest example has '
      f'{longest} tokens: add a longer one, or set max_length'
    )
  tokenizer = vocabularies.tokenizer
  buckets = _batches.bucket_lengths(
    train_lengths, longest, options['buckets'], options['bucket_lengths']
  )
  return Data(
    name,
    task_specs,
    splits,
    dataclasses.replace(
      vocabularies,
      labels={task: vocabularies.labels[task] for task in task_specs},
      longest=max(buckets[-1], vocabularies.longest),
    ),
    _batches.Assembler(tokenizer.pad_id, tokenizer.unknown_id, piece_table),
    buckets,
    batch_size,
    seed,
    options,
    process,
  )


def _chosen(
  examples: Mapping[str, Sequence[Mapping[str, Any]]],
  options: Mapping[str, Any],
  task_specs: Mapping[str, specs.TaskSpec],
  owner: str,
) -> dict[str, dict[str, Sequence[Mapping[str, Any]]]]:
  """Returns split -> task -> examples, the unlabelled ones in training or left out."""
  examples = dict(examples)
  unlabelled = examples.pop('unlabelled', ())
  if options['unlabelled'] and not len(unlabelled):
    raise errors.ConfigError(f'unlabelled: data set {options["name"]!r} has no such examples')
  if not owner and options['mixing'] != 'all':
    raise errors.ConfigError(
      f'mixing={options["mixing"]!r}: the tasks of data set {options["name"]!r} share their '
      'examples, so that every step is of all tasks'
    )

  def split_up(items: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Mapping[str, Any]]]:
    if not owner:
      return dict.fromkeys(task_specs, items)
    parts: dict[str, list[Mapping[str, Any]]] = {task: [] for task in task_specs}
    for item in items:
      if item[owner] in parts:
        parts[item[owner]].append(item)
    return dict(parts)

  result = {split: split_up(items) for split, items in examples.items()}
  if options['train_limit']:
    result['train'] = {t: items[: options['train_limit']] for t, items in result['train'].items()}
  if options['unlabelled']:
    more = split_up(unlabelled)
    result['train'] = {t: [*items, *more[t]] for t, items in result['train'].items()}
  return result


def _encode_splits(
  where: Mapping[str, str],
  options: Mapping[str, Any],
  inputs: Mapping[str, Sequence[list[Any]]],
  targets: Sequence[Mapping[str, Mapping[str, _labels.Targets]]],
  vocabularies: vocabularies_lib.Vocabularies,
  as_words: bool,
  pairs: bool,
) -> tuple[dict[str, list[_encode.Split]], np.ndarray | None]:
  """Returns the encoded groups of each split and, with pieces, the pieces of each word."""
  tokenizer, longest = vocabularies.tokenizer, options['max_length']
  if not as_words:
    return {
      split: [
        _encode_texts(tokenizer, items, target[split], longest, pairs)
        for items, target in zip(groups, targets, strict=True)
      ]
      for split, groups in inputs.items()
    }, None
  before, after = tokenizer.frame if tokenizer.frames else ([], [])
  if 0 < longest <= len(before) + len(after):
    raise errors.ConfigError(
      f'max_length {longest}: the tokenizer puts {len(before) + len(after)} tokens around each text'
    )
  words = _encode.Words()
  units = {split: [words.number(items) for items in groups] for split, groups in inputs.items()}
  ids = words.encode(tokenizer)
  table = None
  if vocabularies.pieces is not None:
    table = _encode.piece_table(words.encode(vocabularies.pieces), options['max_pieces'])

  def encode(split: str, numbers: _ragged.Ragged, target: Mapping[str, Any]) -> _encode.Split:
    for task, labels in target.items():
      if isinstance(labels, _ragged.Ragged):
        _encode.check_lengths(where[split], task, numbers, labels)
    tokens, split_labels = _encode.split_words(numbers, ids, target)
    item = _encode.Split(tokens, split_labels, None if table is None else numbers, 0)
    item = _encode.cut(item, longest and longest - len(before) - len(after))
    return _encode.frame(item, before, after) if before or after else item

  return {
    split: [
      encode(split, numbers, target[split]) for numbers, target in zip(groups, targets, strict=True)
    ]
    for split, groups in units.items()
  }, table


def _encode_texts(
  tokenizer: text.Tokenizer,
  items: list[Any],
  targets: Mapping[str, _labels.Targets],
  longest: int,
  pairs: bool,
) -> _encode.Split:
  """The examples of one split, single texts or, with `pairs`, also pairs of texts."""
  if not tokenizer.frames:
    return _encode.cut(_encode.Split(tokenizer.encode(items), targets, None, 0), longest)
  framed = tokenizer.encode_framed(items, longest)
  segments = framed.segments if pairs else None
  return _encode.Split(framed.ids, targets, None, framed.truncated, segments)


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
  if options['mixing'] not in _mixing.MIXINGS:
    raise errors.ConfigError(
      f'mixing: no {options["mixing"]!r}{errors.nearest(options["mixing"], _mixing.MIXINGS)}'
    )
  if not 0 < options['temperature'] < math.inf:
    raise errors.ConfigError(f'temperature: need more than 0, not {options["temperature"]}')
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
