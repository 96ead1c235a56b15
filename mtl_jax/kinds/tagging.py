"""One class a token: part-of-speech tags, or spans told by the prefixes of their tags."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import heads
from mtl_jax.kinds import spans
from mtl_jax.kinds.classification import softmax_cross_entropy
from mtl_jax.kinds.kind import (
  MISSING,
  UNKNOWN,
  Kind,
  Metric,
  Names,
  all_shortest,
  is_class,
  read_class,
  shortest,
)
from mtl_jax.later import Later

sklearn = Later('sklearn.metrics')

# How each scheme marks the first token of a span, one inside, the last, and one that is alone.
_MARKS = {'conlleval': 'BIIB', 'IOB2': 'BIIB', 'IOBES': 'BIES', 'BILOU': 'BILU'}
_TELLING = {'IOBES': ('E-', 'S-'), 'BILOU': ('L-', 'U-')}  # prefixes that no other scheme has

SCHEMES = ('', *_MARKS)
"""How tags mark spans: '' as the prefixes of the tags tell."""


@dataclasses.dataclass(frozen=True)
class Tagging(Kind):
  """Logits `[B, S, C]`, labels int `[B, S]`.

  Attributes:
    scheme: how tags mark spans, for the metrics that count them. 'conlleval': B and I, in any
      order, as CoNLL's script counts; 'IOB2', 'IOBES', 'BILOU': strictly, so that a span whose tags
      are not as the scheme says is none. '': IOBES or BILOU where the names of the classes have
      their prefixes, else conlleval. Tags that are marks alone (B, I) are of a class of their own.

  Raises:
    ValueError: there is no such scheme.
  """

  scheme: str = ''
  name: ClassVar[str] = 'tagging'
  label: ClassVar[str] = 'a list of strings, one a word'
  head: ClassVar[Any] = heads.Tagging
  per_token: ClassVar[bool] = True

  def __post_init__(self) -> None:
    if self.scheme not in SCHEMES:
      raise ValueError(f'scheme: no {self.scheme!r}. Valid: {", ".join(map(repr, SCHEMES))}')

  def accepts(self, label: Any, fixed: bool) -> bool:
    """A list of classes."""
    return isinstance(label, list | tuple) and all(is_class(item, fixed) for item in label)

  def claims(self, fields: Sequence[Any], per_word: bool) -> bool:
    """Lists, of one label a word."""
    return per_word and all(isinstance(field, list | tuple) for field in fields)

  def read_field(self, field: Any, separator: str) -> list[str]:
    """Lists as they are; of texts the parts between blanks."""
    del separator
    if isinstance(field, str):
      return field.split()
    if not isinstance(field, list | tuple):
      raise ValueError(f'{field!r} is no list of tags')
    return ['' if tag is None else read_class(tag) for tag in field]

  def usual_metrics(self, names: Names) -> tuple[str, ...]:
    """F1 of spans where the tags mark spans, else the accuracy of tags."""
    return ('token_accuracy',) if self._no_spans(names) else ('f1', 'token_accuracy')

  def classes_in(self, label: Any) -> Iterable[str]:
    """Those of all tokens."""
    return label

  def has_label(self, label: Any) -> bool:
    """Whether some token has one."""
    return any(tag != '' for tag in label)

  def blank(self, label: Any) -> list[str]:
    """As many tokens, without labels."""
    return [''] * len(label)

  def encode(self, label: Any, number: Callable[[Any], int], count: int) -> list[int]:
    """The number of each token's class."""
    del count
    return [number(tag) for tag in label]

  def targets_shape(self, outputs: jax.Array) -> tuple[int, ...]:
    """`[B, S]`."""
    return outputs.shape[:-1]

  def loss(self, outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each token."""
    return softmax_cross_entropy(outputs, targets)

  def predict(self, outputs: jax.Array) -> jax.Array:
    """The most probable class of each token, int32."""
    return jnp.argmax(outputs, axis=-1).astype(jnp.int32)

  def probabilities(self, outputs: jax.Array) -> jax.Array:
    """Softmax."""
    return jax.nn.softmax(outputs.astype(jnp.float32))

  def average(self, outputs: jax.Array) -> jax.Array:
    """Logits of the mean of the probabilities."""
    return jnp.log(jnp.mean(self.probabilities(outputs), axis=0))

  @property
  def metrics(self) -> Mapping[str, Metric]:
    """`f1`, `precision` and `recall` are seqeval's, of spans; neighbouring unknown labels form one
    span that is missed. `macro_f1` is the mean F1 over the classes of spans that occur in labels or
    predictions; unknown spans are one class more, of which none is found.
    """
    return {
      'f1': self._metric('f1_score', spans.f1),
      'precision': self._metric('precision_score', spans.precision),
      'recall': self._metric('recall_score', spans.recall),
      'macro_f1': self._metric('f1_score', spans.macro_f1, average=None),
      'token_accuracy': Metric(_token_accuracy),
    }

  def collect(self, targets: np.ndarray, predictions: np.ndarray) -> tuple[list[Any], list[Any]]:
    """The labelled tokens of each sentence."""
    known = targets != MISSING
    return (
      [row[here] for row, here in zip(targets, known, strict=True)],
      [row[here] for row, here in zip(predictions, known, strict=True)],
    )

  def collect_scores(self, targets: np.ndarray, scores: np.ndarray) -> list[Any]:
    """Those of the labelled tokens of each sentence."""
    return [row[here] for row, here in zip(scores, targets != MISSING, strict=True)]

  def join(self, parts: list[Any]) -> Any:
    """A list of sentences, each an array of its tokens."""
    return parts

  def read(self, prediction: np.ndarray, names: Names) -> list[str]:
    """The tag of each token."""
    return [names[tag] for tag in prediction.tolist()]

  def read_probabilities(self, probabilities: np.ndarray, names: Names) -> list[float]:
    """Of `[words, C]`, that of the predicted tag of each word."""
    del names
    return [shortest(value) for value in probabilities.max(axis=-1)]

  def read_all(self, predictions: Sequence[np.ndarray], names: Names) -> list[list[str]]:
    """The tag of each token."""
    return [[names[tag] for tag in row.tolist()] for row in predictions]

  def read_all_probabilities(
    self, probabilities: Sequence[np.ndarray], names: Names
  ) -> list[list[float]]:
    """That of the predicted tag of each word."""
    del names
    flat = iter(all_shortest(np.concatenate([row.max(axis=-1) for row in probabilities])))
    return [list(itertools.islice(flat, len(row))) for row in probabilities]

  def _scheme(self, names: Names) -> str:
    if self.scheme:
      return self.scheme
    for scheme, prefixes in _TELLING.items():
      if any(_typed(name).startswith(prefixes) for name in names):
        return scheme
    return 'conlleval'

  def _spans(self, score: str, **options: Any) -> Callable[[Any, Any, Names], float]:
    def function(targets: list[np.ndarray], predictions: list[np.ndarray], names: Names) -> float:
      from seqeval import metrics as seqeval
      from seqeval import scheme as schemes

      scheme = self._scheme(names)
      strict = {}
      if scheme != 'conlleval':
        strict = {'mode': 'strict', 'scheme': getattr(schemes, scheme)}
      gold, predicted = _as_tags(targets, predictions, names, scheme)
      found = getattr(seqeval, score)(gold, predicted, zero_division=0, **strict, **options)
      return float(np.mean(found)) if np.size(found) else 0.0  # an empty array: no span at all

    return function

  def _metric(self, score: str, of_counts: Callable[[np.ndarray], float], **options: Any) -> Metric:
    def counts(targets: Any, predictions: Any, names: Names) -> np.ndarray:
      scheme = self._scheme(names)
      return spans.counts(*_as_tags(targets, predictions, names, scheme), scheme)

    return Metric(
      self._spans(score, **options),
      complaint=self._no_spans,
      needs_names=True,
      counts=counts,
      of_counts=of_counts,
    )

  def _no_spans(self, names: Names) -> str:
    scheme = self._scheme(names)
    marks = 'BIES' if scheme == 'conlleval' else _MARKS[scheme]
    prefixes = tuple(f'{mark}-' for mark in dict.fromkeys(marks))
    odd = [name for name in names if name != 'O' and not _typed(name).startswith(prefixes)]
    if not odd:
      return ''
    return (
      f'counts spans and needs IOB labels (O, {"x, ".join(prefixes)}x), not {odd[0]!r}; use '
      'token_accuracy for plain tags'
    )


def _typed(name: str) -> str:
  """A tag with the class of its span, which one that is a mark alone does not name."""
  return f'{name}-<untyped>' if len(name) == 1 and name != 'O' else name


def _as_tags(
  targets: Sequence[np.ndarray], predictions: Sequence[np.ndarray], names: Names, scheme: str
) -> tuple[list[list[str]], list[list[str]]]:
  """Labels and predictions of sentences as tags."""
  tags = dict(enumerate(map(_typed, names)))
  gold = [_tags(sentence, tags, scheme) for sentence in targets]
  return gold, [[tags[i] for i in sentence.tolist()] for sentence in predictions]


def _tags(sentence: np.ndarray, tags: Mapping[int, str], scheme: str) -> list[str]:
  """The tags of a sentence; a run of unknown ones is a span of a class that is never predicted."""
  first, inside, last, single = tuple(_MARKS[scheme])
  made: list[str] = []
  for unknown, run in itertools.groupby(sentence.tolist(), lambda number: number == UNKNOWN):
    numbers = list(run)
    if unknown:
      marks = first + inside * (len(numbers) - 2) + last if len(numbers) > 1 else single
      made += [f'{mark}-<unknown>' for mark in marks]
    else:
      made += [tags[number] for number in numbers]
  return made


def _token_accuracy(targets: list[Any], predictions: list[Any], _: Names) -> float:
  return sklearn.accuracy_score(np.concatenate(targets), np.concatenate(predictions))
