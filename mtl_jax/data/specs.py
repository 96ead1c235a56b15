"""What a data set says about itself: its input and its tasks. Knows no models and no files."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from mtl_jax import kinds


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
    standardize: mean and std are those of each number in the training split; numbers that are
      missing (NaN) count as the mean.

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
  standardize: bool = False

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
    kind: the kind of task, or the name of one: what the labels look like. One string
      (`classification`), a set of strings (`multilabel`), one string a word (`tagging`) or a number
      (`regression`). An empty string or None is a missing label, and so is a number NaN.
    field: the name of the labels in an example.
    metrics: the usual metrics, the main one first.
    labels: the names of the classes in order, or None: those of the training split, numbers in
      their order, other names the most frequent first. With names given, an integer is also a
      label: an index into them.
    min_count: a class seen fewer times in the training split is not learned (its label is -2).
    train_labels: how many labels of the training split are learned from, those of the first
      examples that have one; 0: all.
    weight_field: the name of the field with what an example weighs in the task's loss, a number
      from 0 on, where there is none 1; '': every example weighs 1.
    batch_size: rows of a training batch of the task, where it has batches of its own; 0: as many as
      other tasks.

  Raises:
    ValueError: there is no such kind.
  """

  kind: str | kinds.Kind
  field: str
  metrics: tuple[str, ...]
  labels: tuple[str, ...] | None = None
  min_count: int = 1
  train_labels: int = 0
  weight_field: str = ''
  batch_size: int = 0

  def __post_init__(self) -> None:
    object.__setattr__(self, 'kind', kinds.get(self.kind))

  @property
  def rules(self) -> kinds.Kind:
    """The kind, as an object."""
    assert isinstance(self.kind, kinds.Kind)
    return self.kind

  def fitted(self, found: Mapping[str, Any]) -> 'TaskSpec':
    """The task with a kind that took `found` from training labels, see `Kind.fit`."""
    return dataclasses.replace(self, kind=dataclasses.replace(self.rules, **found))

  def with_options(self, options: Mapping[str, Any]) -> 'TaskSpec':
    """The task with `train_labels`, `metrics`, `weight_column` and `batch_size`, where given, and
    with other options of its kind: those that are not at the kind's defaults.
    """
    given = dict(options)
    limit = given.pop('train_labels', self.train_labels)
    metrics = tuple(given.pop('metrics', ()))
    weight = given.pop('weight_column', '') or self.weight_field
    size = given.pop('batch_size', self.batch_size)
    usual = kinds.options_of(self.rules)
    changed = {name: value for name, value in given.items() if value != usual.get(name)}
    kind = kinds.get(self.rules, **changed)
    kind, metrics = kinds.with_metrics(kind, metrics) if metrics else (kind, self.metrics)
    return dataclasses.replace(
      self, kind=kind, metrics=metrics, train_labels=limit, weight_field=weight, batch_size=size
    )
