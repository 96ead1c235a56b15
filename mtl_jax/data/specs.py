"""What a data set says about itself: its input and its tasks. Knows no models and no files."""

import dataclasses
import math
from typing import Literal

Kind = Literal['classification', 'multilabel', 'regression', 'tagging']


@dataclasses.dataclass(frozen=True)
class InputSpec:
  """The field that a model reads.

  Attributes:
    field: its name in an example.
    kind: `'text'`, one string; `'words'`, a sequence of words; or `'array'`, numbers in one shape
      for all examples: an image `[H, W, C]` or a vector. uint8 counts from 0 to 255 as 0 to 1.
    tokenizer: what splits a text unless the config says otherwise.
    pair: the name of the field with the second text of a pair, where that is empty a single text;
      `''`: the data set has single texts only.
    mean: of the channels (the last axis) of an array, or of all of them, subtracted; (): nothing.
    std: the same of the standard deviation, divided by.

  Raises:
    ValueError: no such kind, a text without a tokenizer or an array with one, or a std that is not
      above 0.
  """

  field: str
  kind: Literal['text', 'words', 'array']
  tokenizer: str = ''
  pair: str = ''
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    if self.kind not in ('text', 'words', 'array'):
      raise ValueError(f"kind: need 'text', 'words' or 'array', not {self.kind!r}")
    if (self.kind == 'array') == bool(self.tokenizer):
      raise ValueError(f'tokenizer {self.tokenizer!r}: texts need one, and arrays have none')
    if not all(map(math.isfinite, self.mean)) or not all(0 < x < math.inf for x in self.std):
      raise ValueError(f'need a finite mean and a std above 0, not {self.mean} and {self.std}')


@dataclasses.dataclass(frozen=True)
class TaskSpec:
  """A task that a data set has labels for.

  Attributes:
    kind: what the labels look like: one string (`classification`), a set of strings
      (`multilabel`), one string a word (`tagging`) or a number (`regression`). An empty string or
      None is a missing label.
    field: the name of the labels in an example.
    metrics: the usual metrics, the main one first.
    labels: the names of the classes in order, or None: those of the training split, the most
      frequent first. With names given, an integer is also a label: an index into them.
    min_count: a class seen fewer times in the training split is not learned (its label is -2).
  """

  kind: Kind
  field: str
  metrics: tuple[str, ...]
  labels: tuple[str, ...] | None = None
  min_count: int = 1
