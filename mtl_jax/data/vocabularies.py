"""The tokenizers and class names of a run: from its training split, kept in its directory."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_jax import errors, files
from mtl_jax.data import text


@dataclasses.dataclass(frozen=True)
class Vocabularies:
  """What turns examples into integers, and integers back into names.

  Attributes:
    tokenizer: splits the input; None where that is an array.
    pieces: splits words, or None.
    labels: task -> the names of its classes (none for regression).
    longest: tokens of the longest text that an encoder of these must read; 0: not known.
    buckets: the lengths that batches were padded to; (): not known.
    numbers: of inputs that are standardized, mean and standard deviation of each number; or None.
    fitted: task -> what its kind took from the training labels, `Kind.fit`, where that is anything.
    pieces_width: the most pieces that a word had, at most `dataset.max_pieces`; 0: none, or not
      known.
  """

  tokenizer: text.Tokenizer | None
  pieces: text.Tokenizer | None
  labels: dict[str, tuple[str, ...]]
  longest: int = 0
  buckets: tuple[int, ...] = ()
  numbers: tuple[tuple[float, ...], tuple[float, ...]] | None = None
  fitted: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  pieces_width: int = 0

  def write(self, workdir: str | Path) -> None:
    """Writes `vocabulary.json` and the tokenizers, `tokenizer.json` and `pieces.json`."""
    workdir = Path(workdir)
    names: dict[str, str | None] = {}
    for name, tokenizer in (('tokenizer', self.tokenizer), ('pieces', self.pieces)):
      names[name] = f'{name}.json' if tokenizer else None
      if tokenizer:
        tokenizer.save(workdir / f'{name}.json')
    content: dict[str, Any] = {
      'labels': self.labels,
      'longest': self.longest,
      'buckets': self.buckets,
      **names,
    }
    if self.numbers is not None:
      content['numbers'] = self.numbers
    if self.fitted:
      content['fitted'] = self.fitted
    if self.pieces_width:
      content['pieces_width'] = self.pieces_width
    files.write(
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
    buckets = tuple(map(int, content.get('buckets', ())))
    width = int(content.get('pieces_width', 0))
    numbers = content.get('numbers')
    fitted = {task: dict(found) for task, found in content.get('fitted', {}).items()}
    if numbers is not None:
      mean, std = (tuple(map(float, part)) for part in numbers)
      numbers = mean, std
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.ConfigError(f'{path} cannot be read as a vocabulary: {error!r}') from error
  return Vocabularies(
    text.load(path.parent / tokenizer) if tokenizer else None,
    text.load(path.parent / pieces) if pieces else None,
    labels,
    longest,
    buckets,
    numbers,
    fitted,
    width,
  )


def train(
  options: Mapping[str, Any],
  kind: str | text.Tokenizer,
  inputs: Sequence[Any],
  as_words: bool,
) -> tuple[text.Tokenizer, text.Tokenizer | None]:
  """Returns the tokenizers of the input and of the pieces of words, from a training split.

  Args:
    options: see `pipeline.DEFAULTS`.
    kind: the tokenizer, one of `text.KINDS`, the path of a tokenizer.json, or itself.
    inputs: the strings or pairs of strings, or with `as_words` the lists of words, of all examples.
    as_words: see `inputs`.

  Raises:
    ConfigError: a tokenizer that does not exist or cannot be read.
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

  pieces = make(options['pieces'], options['pieces_vocab_size']) if options['pieces'] else None
  return make(kind, options['vocab_size']), pieces
