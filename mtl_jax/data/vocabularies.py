"""The tokenizers and class names of a run: from its training split, kept in its directory."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_jax import errors
from mtl_jax.data import _labels, specs, text


@dataclasses.dataclass(frozen=True)
class Vocabularies:
  """What turns examples into integers, and integers back into names.

  Attributes:
    tokenizer: splits the input.
    pieces: splits words, or None.
    labels: task -> the names of its classes (none for regression).
    longest: tokens of the longest text that an encoder of these must read; 0: not known.
  """

  tokenizer: text.Tokenizer
  pieces: text.Tokenizer | None
  labels: dict[str, tuple[str, ...]]
  longest: int = 0

  def write(self, workdir: str | Path) -> None:
    """Writes `vocabulary.json`, `tokenizer.json` and, with pieces, `pieces.json`."""
    workdir = Path(workdir)
    files = {'tokenizer': 'tokenizer.json', 'pieces': 'pieces.json' if self.pieces else None}
    self.tokenizer.save(workdir / 'tokenizer.json')
    if self.pieces:
      self.pieces.save(workdir / 'pieces.json')
    content = {'labels': self.labels, 'longest': self.longest, **files}
    text.write_atomically(
      workdir / 'vocabulary.json', json.dumps(content, indent=2, ensure_ascii=False) + '\n'
    )


def read(workdir: str | Path) -> Vocabularies:
  """Returns what `Vocabularies.write` wrote.

  Raises:
    ConfigError: the folder holds no vocabularies, or damaged ones.
  """
  path = Path(workdir) / 'vocabulary.json'
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    labels = {task: tuple(names) for task, names in content['labels'].items()}
    tokenizer, pieces = content['tokenizer'], content['pieces']
    longest = int(content.get('longest', 0))
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.ConfigError(f'{path} cannot be read as a vocabulary: {error!r}') from error
  return Vocabularies(
    text.load(path.parent / tokenizer),
    text.load(path.parent / pieces) if pieces else None,
    labels,
    longest,
  )


def train(
  options: Mapping[str, Any],
  kind: str | text.Tokenizer,
  inputs: Sequence[Any],
  as_words: bool,
  task_specs: Mapping[str, specs.TaskSpec],
  examples: Mapping[str, Sequence[Mapping[str, Any]]],
  known: Vocabularies | None = None,
) -> Vocabularies:
  """Returns the vocabularies of a training split.

  Args:
    options: see `pipeline.DEFAULTS`.
    kind: the tokenizer, one of `text.KINDS`, the path of a tokenizer.json, or itself.
    inputs: the strings or pairs of strings, or with `as_words` the lists of words, of all examples.
    as_words: see `inputs`.
    task_specs: the tasks.
    examples: task -> its examples, for their labels.
    known: what there is already: its tokenizers, and the classes of tasks that it has.

  Raises:
    ConfigError: a tokenizer that does not exist or cannot be read.
    DataError: a task without a class.
  """
  pairs = not as_words and any(isinstance(item, tuple) for item in inputs)
  if as_words:
    texts: Sequence[str] = [word for words in inputs for word in words]
  else:
    texts = [part for item in inputs for part in (item if isinstance(item, tuple) else (item,))]

  def make(which: str | text.Tokenizer, vocab_size: int) -> text.Tokenizer:
    if isinstance(which, text.Tokenizer):
      return which
    if which.endswith('.json'):
      return text.load(which)
    return text.train(
      which, texts, vocab_size, options['min_count'], options['lowercase'], as_words, pairs
    )

  if known is not None:
    kind, pieces = known.tokenizer, known.pieces
  else:
    pieces = make(options['pieces'], options['pieces_vocab_size']) if options['pieces'] else None
  labels = {
    task: known.labels[task]
    if known is not None and task in known.labels
    else _labels.names(spec, examples[task], options['label_min_count'])
    for task, spec in task_specs.items()
  }
  for task, names in labels.items():
    if not names and task_specs[task].kind != 'regression':
      raise errors.DataError(
        f'task {task!r} has no labels in the training split (label_min_count: '
        f'{options["label_min_count"] or task_specs[task].min_count})'
      )
  longest = known.longest if known is not None else 0
  return Vocabularies(make(kind, options['vocab_size']), pieces, labels, longest)
