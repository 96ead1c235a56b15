"""The input pipeline: a prepared data set as padded NumPy batches. Devices come later.

Examples are encoded once, at the start; a batch is then made of array slices. Batch i follows from
(seed, i) alone, so the state of the training stream is an index.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtl_jax import errors, kinds
from mtl_jax.data import (
  _arrays,
  _examples,
  _labels,
  _learnable,
  _mixing,
  _texts,
  augment,
  clean,
  sources,
  specs,
  text,
)
from mtl_jax.data import vocabularies as vocabularies_lib
from mtl_jax.data._data import Data, check_batch_size
from mtl_jax.plain import is_int

DEFAULTS: dict[str, Any] = {
  # The data set, from mtl_jax.data.builders; or a class of your own, derived from
  # mtl_jax.data.DataSet: 'package.module:Name' or 'FILE.py:Name'.
  'name': '',
  'data_dir': '',  # where data sets are kept; '': $MTL_JAX_DATA, or ~/.cache/mtl_jax
  'manual_dir': '',  # raw files, to prepare the data set from if that has not been done
  'files': {},  # files of your own, by a name for each, in place of a data set that has one
  # How the input is split: characters, words, wordpiece, bpe, unigram (trained on the training
  # split), or the path of a tokenizer.json; '': the data set's usual way.
  'tokenizer': '',
  'vocab_size': 0,  # most ids; 0: no bound for characters and words, 8000 for the others
  'min_count': 1,  # a token seen fewer times in training is unknown
  'lowercase': False,
  # What is made of texts first: unescape (HTML), nfc, nfkc, urls, users; see `clean.RULES`.
  'normalize': (),
  # Also give the pieces of each word, beside its id (tokenizer='words'): characters, wordpiece,
  # bpe, unigram, or the path of a tokenizer.json; '': no.
  'pieces': '',
  'pieces_vocab_size': 0,  # as vocab_size
  'max_pieces': 16,  # further pieces of a word are cut
  # Examples are cut at so many tokens, in every split, and what is cut is not scored; 0: never.
  'max_length': 0,
  # In place of that: a longer text becomes windows of max_length tokens, each of which shares so
  # many with the one before; what is predicted of a text is put together of them. 0: it is cut.
  'stride': 0,
  'buckets': 4,  # lengths that batches are padded to, chosen for the least padding in training
  'bucket_lengths': (),  # these lengths instead
  'label_min_count': 0,  # a class seen fewer times is not learned; 0: as each task says
  # α: a token seen n times in training becomes the unknown id with probability α / (α + n), so that
  # the unknown id is learned from rare tokens (Kiperwasser & Goldberg, TACL 2016); 0: never.
  'word_dropout': 0.0,
  'train_limit': 0,  # train on the first so many examples (of each task's own); 0: on all
  # Each task has batches of its own, of the examples with a label of it, though tasks share them;
  # so that one with few labels is in every step like the others.
  'own_batches': False,
  # Where tasks have examples or batches of their own: a batch of each in every step ('all'), or of
  # one task a step ('one'), drawn with probability ∝ min(examples, size_limit)^(1/temperature).
  'mixing': 'all',
  'temperature': 1.0,
  'size_limit': 0,  # 0: none
  # With mixing='one': how often each task is drawn, in the order of the tasks, or {task: rate}; by
  # their sum it is its probability, whatever the sizes. (): by size, as above.
  'rates': (),
  'unlabelled': False,  # train on the unlabelled examples too, where the data set has some
  'augment': augment.DEFAULTS,  # what is done to training inputs; see `augment.Options`
}
"""The options of a data set and their defaults."""

_OF_TASK = ('train_labels', 'metrics', 'weight_column', 'batch_size')  # options about its data
_LARGEST = 2**31 - 1  # what an int32 can count: ids, places, rows

_ENCODE = {'text': _texts.encode, 'words': _texts.encode, 'array': _arrays.encode}


def load(
  config: Mapping[str, Any],
  tasks: Iterable[str] | Mapping[str, Mapping[str, Any]],
  batch_size: int,
  seed: int,
  vocabularies: vocabularies_lib.Vocabularies | None = None,
  tokenizer: text.Tokenizer | None = None,
  *,
  new_tasks: bool = False,
  source: sources.Source | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> Data:
  """Returns a data set ready for training.

  A data set that needs no consent, or comes with a `manual_dir`, is prepared on the way.

  Args:
    config: options, see `DEFAULTS`.
    tasks: the names of the tasks, in order, or name -> options of its kind (and of its column,
      where the config describes files); none: all tasks of the data set.
    batch_size: rows of a training batch, over all processes.
    seed: of the order of the examples and of word dropout.
    vocabularies: those of an earlier run; None: from the training split.
    tokenizer: splits the input, instead of what the options say.
    new_tasks: tasks that `vocabularies` lacks get theirs from the training split.
    source: where the examples come from; None: what the config says.
    process_index: which part of every batch this process gets: its rows
      `[index * batch_size / count, (index + 1) * batch_size / count)`.
    process_count: how many processes share a batch.

  Raises:
    ConfigError: an unknown option, task or tokenizer; a value out of range.
    DataError: the data set is not prepared, or an example is not what its task says.
  """
  options = _options(config)
  if source is None:
    named = tasks if isinstance(tasks, Mapping) else {task: {} for task in tasks}
    source = sources.of(options, named)
  task_specs = choose(source, tasks)
  data = from_examples(
    source.read(),
    source.input,
    task_specs,
    options | {'name': source.name},
    batch_size,
    seed,
    vocabularies,
    tokenizer,
    new_tasks=new_tasks,
    owner=source.owner,
    process_index=process_index,
    process_count=process_count,
  )
  data.notes = dict(source.notes)
  return data


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
    DataError: an empty split, an example that is not what its task says, or a task without a label
      to learn.
  """
  options = _options(config)
  apart = bool(owner) or options['own_batches']
  name = options['name'] or 'given examples'
  process = (process_index, process_count)
  check_batch_size(batch_size, process)
  for task, spec in task_specs.items():
    if spec.batch_size:
      check_batch_size(spec.batch_size, process)
      if not apart:
        raise errors.ConfigError(
          f'task {task!r}: batch_size {spec.batch_size}: the tasks of {name!r} share batches; '
          'set own_batches, and each has its own'
        )
  for key in _arrays.FOR_TEXTS if input_spec.kind == 'array' else ():
    if options[key] != DEFAULTS[key]:
      raise errors.ConfigError(f'{key}: the inputs are arrays of numbers, not texts')
  given = _examples.choose(name, examples, input_spec, task_specs, options, owner)
  for task, items in given.by_task['train'].items():
    rows = task_specs[task].batch_size or batch_size
    if rows > len(items):
      of = f', task {task!r}' if apart else ''
      key = f'tasks.{task}.batch_size' if task_specs[task].batch_size else 'train.batch_size'
      raise errors.ConfigError(
        f'batch_size {rows} is larger than the training split of {name!r}{of}, '
        f'{len(items)} examples: set {key} to {len(items)} or less'
      )
  known = vocabularies.labels if vocabularies else {}
  if vocabularies is None or new_tasks:
    known = _labels.classes(task_specs, given.by_task['train'], options['label_min_count'], known)
  for task in task_specs:
    if task not in known:
      raise errors.ConfigError(
        f'the vocabularies have no task {task!r}{errors.nearest(task, known)}'
      )
  labels = {task: known[task] for task in task_specs}
  fitted = _fit(task_specs, given.by_task['train'], vocabularies.fitted if vocabularies else {})
  task_specs = {task: spec.fitted(fitted.get(task, {})) for task, spec in task_specs.items()}
  encoded = _ENCODE[input_spec.kind](given, options, labels, vocabularies, tokenizer)
  earlier = known.keys() & (vocabularies.labels if vocabularies else {})
  _learnable.check(given, encoded.splits['train'], labels, earlier, options['label_min_count'])
  rows = max(spec.batch_size or batch_size for spec in task_specs.values())
  if rows * encoded.bucket_lengths[-1] > _LARGEST:
    raise errors.ConfigError(
      f'a batch of {rows} examples, {encoded.bucket_lengths[-1]} tokens each, does not fit: '
      'lower batch_size, bucket_lengths or max_length'
    )
  names = list(task_specs) if apart else ['']
  longest = 0 if encoded.tokenizer is None else encoded.bucket_lengths[-1]
  if vocabularies is not None:
    longest = max(longest, vocabularies.longest)
  return Data(
    name,
    task_specs,
    {split: dict(zip(names, parts, strict=True)) for split, parts in encoded.splits.items()},
    vocabularies_lib.Vocabularies(
      encoded.tokenizer,
      encoded.pieces,
      labels,
      longest,
      encoded.bucket_lengths,
      encoded.numbers,
      fitted,
      encoded.pieces_width,
    ),
    encoded.assembler,
    encoded.bucket_lengths,
    batch_size,
    seed,
    options,
    process,
  )


def _fit(
  task_specs: Mapping[str, specs.TaskSpec],
  train: Mapping[str, Sequence[Mapping[str, Any]]],
  earlier: Mapping[str, Mapping[str, Any]],
) -> dict[str, Mapping[str, Any]]:
  """Returns what each kind takes from the training labels, or took in an earlier run."""
  found: dict[str, Mapping[str, Any]] = {}
  for task, spec in task_specs.items():
    labels = [e[spec.field] for e in train[task] if spec.rules.has_label(e[spec.field])]
    fitted = earlier[task] if task in earlier else spec.rules.fit(labels)
    if fitted:
      found[task] = fitted
  return found


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns `DEFAULTS` with the given values."""
  options = dict(DEFAULTS)
  for key, value in config.items():
    if key not in DEFAULTS:
      raise errors.ConfigError(f'a data set has no option {key!r}{errors.nearest(key, DEFAULTS)}')
    options[key] = DEFAULTS[key] if value is None else value
  options['bucket_lengths'] = tuple(options['bucket_lengths'])
  clean.check(options['normalize'])
  options['augment'] = augment.read(options['augment'])
  least = {'buckets': 1, 'min_count': 1}
  for key, default in DEFAULTS.items():
    value = options[key]
    if isinstance(default, int) and not isinstance(default, bool):
      _check_size(key, value, least.get(key, 0))
    elif isinstance(default, str) and not isinstance(value, str):
      options[key] = str(value)  # a path
  if options['mixing'] not in _mixing.MIXINGS:
    raise errors.ConfigError(
      f'mixing: no {options["mixing"]!r}{errors.nearest(options["mixing"], _mixing.MIXINGS)}'
    )
  if options['rates']:
    for key in ('temperature', 'size_limit'):
      if options[key] != DEFAULTS[key]:
        raise errors.ConfigError(f'rates: {key} is for tasks that are drawn by their sizes')
    if options['mixing'] != 'one':
      raise errors.ConfigError("rates: they say which task a step is of, with mixing='one'")
  if not 0 < options['temperature'] < math.inf:
    raise errors.ConfigError(f'temperature: need more than 0, not {options["temperature"]}')
  if not 0 <= options['word_dropout'] < math.inf:
    raise errors.ConfigError(f'word_dropout: need 0 or more, not {options["word_dropout"]}')
  for length in options['bucket_lengths']:
    _check_size('bucket_lengths', length, 1)
  if options['stride'] and options['stride'] >= options['max_length']:
    raise errors.ConfigError(
      f'stride {options["stride"]}: so many tokens of a window of max_length are those of the one '
      f'before, so that it must be less than max_length ({options["max_length"]})'
    )
  return options


def _check_size(key: str, value: Any, least: int) -> None:
  if not is_int(value) or not least <= value <= _LARGEST:
    raise errors.ConfigError(f'{key}: need an integer from {least} to {_LARGEST}, not {value!r}')


def choose(
  source: sources.Source, tasks: Iterable[str] | Mapping[str, Mapping[str, Any]]
) -> dict[str, specs.TaskSpec]:
  """Returns the tasks of a data set that are asked for, with the options given; see `load`.

  Raises:
    ConfigError: there is no such task.
  """
  chosen = {}
  for task in tasks:
    if task not in source.tasks:
      raise errors.ConfigError(
        f'data set {source.name!r} has no task {task!r}{errors.nearest(task, source.tasks)}'
      )
    options = tasks[task] if isinstance(tasks, Mapping) else {}
    of_task = (*_OF_TASK, *kinds.options_of(source.tasks[task].rules))
    given = {key: options[key] for key in of_task if key in options}
    chosen[task] = source.tasks[task].with_options(given)
  return chosen or dict(source.tasks)
