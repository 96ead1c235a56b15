"""Spans that tags mark, counted sentence by sentence: metrics of any sentences follow from sums.

Which tags are a span is seqeval's to say.
"""

from collections.abc import Sequence

import numpy as np

Tags = Sequence[Sequence[str]]
"""Those of each sentence."""


def counts(gold: Tags, predicted: Tags, scheme: str) -> np.ndarray:
  """How many spans of each class are right, predicted and in the labels of each sentence.

  Args:
    gold: the labels of N sentences.
    predicted: of the same.
    scheme: 'conlleval', or a scheme of seqeval's, strictly.

  Returns:
    int64 `[N, 3C]`: right, predicted and labelled spans of each of the C classes that occur.
  """
  found = [_spans(tags, scheme) for tags in (predicted, gold)]  # sets of (class, first, last)
  classes = sorted({span[0] for sentences in found for spans in sentences for span in spans})
  index = {name: number for number, name in enumerate(classes)}
  made = np.zeros((len(gold), 3, len(classes)), np.int64)
  for row, (ours, theirs) in enumerate(zip(*found, strict=True)):
    for place, spans in enumerate((ours & theirs, ours, theirs)):
      for span in spans:
        made[row, place, index[span[0]]] += 1
  return made.reshape(len(gold), -1)


def _spans(sentences: Tags, scheme: str) -> list[set[tuple[str, int, int]]]:
  if scheme == 'conlleval':
    from seqeval.metrics.sequence_labeling import get_entities

    return [set(get_entities(list(tags))) for tags in sentences]
  from seqeval import scheme as schemes

  found = schemes.Entities([list(tags) for tags in sentences], getattr(schemes, scheme)).entities
  return [{(span.tag, span.start, span.end) for span in spans} for spans in found]


def _parts(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  right, predicted, labelled = sums.reshape(3, -1)
  return right, predicted, labelled


def precision(sums: np.ndarray) -> float:
  """Right spans over predicted ones, of all classes; 0 where there are none."""
  right, predicted, _ = _parts(sums)
  return _over(right.sum(), predicted.sum())


def recall(sums: np.ndarray) -> float:
  """Right spans over labelled ones, of all classes; 0 where there are none."""
  right, _, labelled = _parts(sums)
  return _over(right.sum(), labelled.sum())


def f1(sums: np.ndarray) -> float:
  """The harmonic mean of precision and recall; 0 where no span is right."""
  right, predicted, labelled = _parts(sums)
  return _over(2 * right.sum(), predicted.sum() + labelled.sum())


def macro_f1(sums: np.ndarray) -> float:
  """The mean F1 of the classes that occur in these sentences; 0 where none does."""
  right, predicted, labelled = _parts(sums)
  both = (predicted + labelled)[predicted + labelled > 0]
  return float(np.mean(2 * right[predicted + labelled > 0] / both)) if len(both) else 0.0


def _over(part: int, whole: int) -> float:
  return float(part / whole) if whole else 0.0
