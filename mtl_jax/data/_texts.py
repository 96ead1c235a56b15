"""Texts become arrays of tokens: of the whole data set once, then padded in each batch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import errors
from mtl_jax.data import (
  _batches,
  _encode,
  _examples,
  _labels,
  _ragged,
  clean,
  specs,
  text,
  vocabularies,
)
from mtl_jax.data import windows as windows_lib

Splits = dict[str, list[_encode.Split]]


@dataclasses.dataclass(frozen=True)
class Assembler:
  """Makes padded arrays of examples.

  Attributes:
    pad_id: fills up `tokens`.
    pieces: int32 `[words, P]`, row 0 for padding, or None.
  """

  pad_id: int
  pieces: np.ndarray | None

  def __call__(
    self, split: _encode.Split, rows: np.ndarray, size: int, width: int
  ) -> _batches.Batch:
    """Returns the examples `rows`, filled up to `size` with padding, `width` tokens each."""
    fill = _batches.fill
    inputs = {
      'tokens': fill(split.tokens.padded(rows, width, self.pad_id), size, self.pad_id),
      'mask': fill(np.arange(width) < split.tokens.lengths[rows][:, None], size, False),
    }
    if split.segments is not None:
      inputs['segments'] = fill(split.segments.padded(rows, width, 0), size, 0)
    if self.pieces is not None and split.units is not None:
      inputs['pieces'] = self.pieces[fill(split.units.padded(rows, width, 0), size, 0)]
    return {'inputs': inputs, **_batches.labels(split, rows, size, width)}


def encode(
  examples: _examples.Examples,
  options: Mapping[str, Any],
  labels: Mapping[str, Sequence[str]],
  known: vocabularies.Vocabularies | None,
  tokenizer: text.Tokenizer | None,
) -> _batches.Encoded:
  """Returns the examples as tokens.

  Args:
    examples: those of a data set of texts.
    options: see `pipeline.DEFAULTS`.
    labels: task -> the names of its classes.
    known: vocabularies of an earlier run, whose tokenizers are used; None: from the training split.
    tokenizer: splits the input, instead of what the options say.

  Raises:
    ConfigError: a tokenizer that does not exist or does not fit; lengths that are too short.
    DataError: an example is not what the data set says.
  """
  spec, groups = examples.input, examples.groups
  kind = _kind(spec, options, tokenizer is not None)
  if options['pieces'] and (kind != 'words' or spec.pair):
    raise errors.ConfigError(
      f"pieces need tokenizer='words', not {kind!r}"
      if kind != 'words'
      else 'pieces are not for pairs of texts'
    )
  as_words = _as_words(spec, kind)
  per_word = [task for task, task_spec in examples.tasks.items() if task_spec.rules.per_token]
  if per_word and not as_words:
    raise errors.ConfigError(f"task {per_word[0]!r} labels words and needs tokenizer='words'")

  tidy = clean.cleaner(options['normalize'])
  # Tasks of the same examples are encoded together.
  inputs = {
    split: [
      _encode.inputs(examples.where[split], spec, items[group[0]], as_words, tidy)
      for group in groups
    ]
    for split, items in examples.by_task.items()
  }
  if known is not None:
    tokenizer, pieces = known.tokenizer, known.pieces
    if tokenizer is None:
      raise errors.ConfigError('the vocabularies are of a data set without texts')
  else:
    read = [item for items in inputs['train'] for item in items]
    tokenizer, pieces = vocabularies.train(options, tokenizer or kind, read, as_words)
  targets, where = examples.targets(labels), examples.where
  table = None
  if as_words:
    splits, table = _words(where, options, inputs, targets, tokenizer, pieces)
  else:
    splits = _strings(options, inputs, targets, tokenizer, bool(spec.pair))
  splits = {
    split: [part.with_weights(w) for part, w in zip(parts, found, strict=True)]
    for (split, found), parts in zip(examples.weights().items(), splits.values(), strict=True)
  }
  train_lengths = np.concatenate([item.lengths for item in splits['train']])
  longest = max(int(item.lengths.max()) for parts in splits.values() for item in parts)
  if options['stride']:  # longer texts may come when it is used
    longest = max(longest, options['max_length'])
  if options['bucket_lengths'] and max(options['bucket_lengths']) < longest:
    raise errors.ConfigError(
      f'bucket_lengths end at {max(options["bucket_lengths"])}, but the longest example has '
      f'{longest} tokens: add a longer one, or set max_length'
    )
  buckets = _batches.bucket_lengths(
    train_lengths, longest, options['buckets'], options['bucket_lengths']
  )
  assembler = Assembler(tokenizer.pad_id, table)
  width = 0 if table is None else table.shape[1]
  return _batches.Encoded(splits, assembler, buckets, tokenizer, pieces, pieces_width=width)


def _kind(spec: specs.InputSpec, options: Mapping[str, Any], pretrained: bool) -> str:
  """What splits the input: a kind of tokenizer, or the path of one."""
  return 'pretrained' if pretrained else options['tokenizer'] or spec.tokenizer


def _as_words(spec: specs.InputSpec, kind: str) -> bool:
  """Whether the input is split into words before anything else."""
  return spec.kind == 'words' or (kind == 'words' and not spec.pair)


def serve(
  where: str,
  spec: specs.InputSpec,
  options: Mapping[str, Any],
  known: vocabularies.Vocabularies,
  examples: _labels.Examples,
  pretrained: bool,
  first: int = 0,
) -> tuple[_encode.Split, Assembler, bool]:
  """Returns inputs without labels as tokens, what makes batches of them, and whether as words.

  Args:
    where: what messages call the examples.
    spec: their input.
    options: see `pipeline.DEFAULTS`.
    known: the vocabularies of the run that reads them.
    examples: at least one.
    pretrained: whether the tokenizer is one that the encoder brought.
    first: the number of the first example in messages.

  Raises:
    DataError: an example is not what `spec` says.
  """
  assert known.tokenizer is not None
  as_words = _as_words(spec, _kind(spec, options, pretrained))
  tidy = clean.cleaner(options['normalize'])
  inputs = {where: [_encode.inputs(where, spec, examples, as_words, tidy, first)]}
  table = None
  if as_words:
    splits, table = _words(
      {where: where}, options, inputs, {where: [{}]}, known.tokenizer, known.pieces
    )
    # Of one width for all, so that nothing is compiled again. An encoder may see where the table
    # ends, so that it is that of training, where that is known.
    if table is not None and (width := known.pieces_width or options['max_pieces']):
      more = max(0, width - table.shape[1])
      table = np.pad(table[:, :width], ((0, 0), (0, more)), constant_values=text.PAD_ID)
  else:
    splits = _strings(options, inputs, {where: [{}]}, known.tokenizer, bool(spec.pair))
  return splits[where][0], Assembler(known.tokenizer.pad_id, table), as_words


def _words(
  where: Mapping[str, str],
  options: Mapping[str, Any],
  inputs: Mapping[str, list[list[Any]]],
  targets: Mapping[str, list[_labels.ByTask]],
  tokenizer: text.Tokenizer,
  pieces: text.Tokenizer | None,
) -> tuple[Splits, np.ndarray | None]:
  """The groups of each split, split into words first, and with pieces the pieces of each word."""
  longest = options['max_length']
  before, after = tokenizer.frame if tokenizer.frames else ([], [])
  _check_room(longest, len(before) + len(after), options['stride'])
  words = _encode.Words()
  numbered = {split: [words.number(items) for items in groups] for split, groups in inputs.items()}
  split_by = [tokenizer] if pieces is None else [tokenizer, pieces]
  told = iter(words.tell_first([part for parts in numbered.values() for part in parts], *split_by))
  numbered = {split: [next(told) for _ in parts] for split, parts in numbered.items()}
  ids = words.encode(tokenizer)
  table = None
  if pieces is not None:
    table = _encode.piece_table(words.encode(pieces), options['max_pieces'])

  def encode(
    split: str, items: list[Any], numbers: _ragged.Ragged, target: _labels.ByTask
  ) -> _encode.Split:
    for task, labels in target.items():
      if isinstance(labels, _ragged.Ragged):
        _encode.check_lengths(where[split], task, numbers, labels)
    tokens, split_labels, starts = _encode.split_words(numbers, ids, target)
    if not tokenizer.splits_at_blanks:
      _encode.check_whole(where[split], tokenizer, items, tokens)
    units = None if table is None else numbers
    item = _encode.Split(tokens, split_labels, units, 0, starts=starts)
    room = longest and longest - len(before) - len(after)
    if options['stride']:
      item = _encode.window(item, room, options['stride'])
    else:
      item = _encode.cut(item, room)
    return _encode.frame(item, before, after) if before or after else item

  return {
    split: [
      encode(split, *group) for group in zip(inputs[split], groups, targets[split], strict=True)
    ]
    for split, groups in numbered.items()
  }, table


def _strings(
  options: Mapping[str, Any],
  inputs: Mapping[str, list[list[Any]]],
  targets: Mapping[str, list[_labels.ByTask]],
  tokenizer: text.Tokenizer,
  pairs: bool,
) -> Splits:
  """The groups of each split, single texts or, with `pairs`, also pairs of texts."""
  longest = options['max_length']
  _check_room(longest, tokenizer.backend.num_special_tokens_to_add(pairs), options['stride'])

  def encode(items: list[Any], target: _labels.ByTask) -> _encode.Split:
    if not tokenizer.frames:
      whole = _encode.Split(tokenizer.encode(items), target, None, 0)
      if options['stride']:
        return _encode.window(whole, longest, options['stride'])
      return _encode.cut(whole, longest)
    framed = tokenizer.encode_framed(items, longest, options['stride'])
    segments = framed.segments if pairs else None
    if not options['stride']:
      return _encode.Split(framed.ids, target, None, framed.truncated, segments)
    owners = framed.owners
    rows = {task: labels[owners] for task, labels in target.items()}
    windows = windows_lib.Windows(owners)
    return _encode.Split(framed.ids, rows, None, 0, segments, windows=windows)

  return {
    split: [encode(items, target) for items, target in zip(groups, targets[split], strict=True)]
    for split, groups in inputs.items()
  }


def _check_room(max_length: int, around: int, stride: int) -> None:
  if 0 < max_length <= around:
    raise errors.ConfigError(
      f'max_length {max_length}: the tokenizer puts {around} tokens around each text'
    )
  if stride and max_length - around <= stride:
    raise errors.ConfigError(
      f'stride {stride}: the tokenizer puts {around} tokens around each text, which max_length '
      f'{max_length} counts: stride must be less than {max_length - around}'
    )
