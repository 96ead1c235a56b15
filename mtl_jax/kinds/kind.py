"""What a kind of task is: all that is special about its labels, on the host and on the device."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

MISSING = -1
"""The integer label of an example that has none, and of padding. A missing number is NaN."""
UNKNOWN = -2
"""The label of a class that the training split lacks: no loss, and always wrong in metrics."""

Names = Sequence[str]
"""The names of a task's classes, in the order of their numbers."""


def any_names(names: Names) -> str:
  """No complaint about the names of the classes."""
  del names
  return ''


class Metric(NamedTuple):
  """A metric of a kind of task.

  Attributes:
    function: `(targets, predictions, names of the classes) -> value` on what `Kind.collect` gave of
      all labelled examples of a split (at least one); None where these give it no value, as labels
      of one class only give a ranking none.
    higher_is_better: the direction in which it improves.
    fraction: whether the value is at most 1 and reads well as a percentage.
    complaint: names of the classes -> why the metric cannot be computed on them; '' where it can.
    needs_names: whether it cannot be computed without the names of the classes.
    needs_scores: whether `function` takes scores in place of predictions: what `Kind.scores` says,
      on what `Kind.collect_scores` gave.
    counts: `(targets, predictions, names) -> [N, K]`, a row of counts for each example, where their
      sums over any examples tell the metric of these; None where there are none.
    of_counts: the sums `[K]` -> the value, what `function` says up to rounding.
  """

  function: Callable[[Any, Any, Names], float | None]
  higher_is_better: bool = True
  fraction: bool = True
  complaint: Callable[[Names], str] = any_names
  needs_names: bool = False
  needs_scores: bool = False
  counts: Callable[[Any, Any, Names], np.ndarray] | None = None
  of_counts: Callable[[np.ndarray], float] | None = None


@dataclasses.dataclass(frozen=True)
class Kind(abc.ABC):
  """A kind of task. Its options are the fields of the class that derives from it, but for fields
  with `metadata={'fitted': True}`, which `fit` finds in the training labels.

  What is defined here fits labels that are classes; `name`, `label`, `head` and the abstract
  methods are what every kind has of its own.

  Attributes:
    name: its name in `kinds.KINDS`.
    label: what a label of an example is, as messages say it.
    head: the Flax module that is its task's own half by default,
      `(features, inputs, train=False) -> outputs`. Its fields but `num_classes` and `dtype` are
      options of the task.
    per_token: whether labels and predictions have a value for each token, `[B, S]`.
    discrete: whether a prediction is right or wrong, and the outputs have `probabilities`.
    dtype: of the targets, int32 or float32.
  """

  name: ClassVar[str]
  label: ClassVar[str]
  head: ClassVar[type[nn.Module]]
  per_token: ClassVar[bool] = False
  discrete: ClassVar[bool] = True
  dtype: ClassVar[Any] = np.int32

  # The labels of a data set, on the host.

  @abc.abstractmethod
  def accepts(self, label: Any, fixed: bool) -> bool:
    """Whether a raw label can be one of this kind; with `fixed`, a class may be a number."""

  @abc.abstractmethod
  def classes_in(self, label: Any) -> Iterable[str]:
    """The names of the classes in a raw label, of which `names` are counted."""

  def has_label(self, label: Any) -> bool:
    """Whether a raw label is one, and not what stands for none."""
    return label is not None and label != ''

  def blank(self, label: Any) -> Any:
    """What stands for none in place of a raw label."""
    del label
    return None

  @abc.abstractmethod
  def encode(self, label: Any, number: Callable[[Any], int], count: int) -> Any:
    """A raw label as a target.

    Args:
      label: one that `accepts` took.
      number: one class in it, or what stands for none, -> its number, `MISSING` or `UNKNOWN`.
      count: the number of classes.
    """

  def claims(self, fields: Sequence[Any], per_word: bool) -> bool:
    """Whether the fields of a column, none of them missing, look like labels of this kind.

    Kinds are asked in the order of `kinds.KINDS`.

    Args:
      fields: texts, or what JSON can hold.
      per_word: whether the input of each row is a list of words.
    """
    del fields, per_word
    return False

  def read_field(self, field: Any, separator: str) -> Any:
    """A field that is not missing as a raw label, such as `accepts` takes.

    Args:
      field: a text, or what JSON can hold.
      separator: between labels, where one text has several.

    Raises:
      ValueError: it is no label of this kind.
    """
    del separator
    raise ValueError(f'{field!r} cannot be read as {self.label}')

  def usual_metrics(self, names: Names) -> tuple[str, ...]:
    """The metrics of a task that asks for none: the main one.

    Args:
      names: of the classes in the training split.
    """
    del names
    return (next(iter(self.metrics)),)

  def fit(self, labels: Sequence[Any]) -> dict[str, Any]:
    """What the kind takes from the training labels: values of fields that are no options.

    Args:
      labels: raw ones, none of them missing.
    """
    del labels
    return {}

  def width(self, names: Names) -> int:
    """The width of the outputs."""
    return len(names)

  # On the device.

  def build_head(self, names: Names, dtype: Any, **options: Any) -> nn.Module:
    """The default head for these classes."""
    return self.head(num_classes=self.width(names), dtype=dtype, **options)

  def targets_shape(self, outputs: jax.Array) -> tuple[int, ...]:
    """The shape of the targets that fit the outputs."""
    return outputs.shape

  @abc.abstractmethod
  def loss(self, outputs: Any, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Loss values `[B, ...]` float32, and which of them are of a label, bool."""

  def of_classes(self, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """What each label weighs, `weights` `[C]` being those of the classes; of a missing one any."""
    return weights[jnp.maximum(targets, 0)]

  def balanced(self, targets: np.ndarray, count: int) -> tuple[float, ...]:
    """Weights `[C]` with which the labels of all classes weigh as much: N / (C·n_c).

    As scikit-learn's 'balanced': N labels, n_c of class c, C the classes that have one. A class
    without labels has weight 1.

    Args:
      targets: those of a split, of any shape; below zero: missing.
      count: the number of classes.
    """
    seen = np.bincount(targets[targets >= 0].reshape(-1), minlength=count)[:count]
    scale = seen.sum() / max(np.count_nonzero(seen), 1)
    return tuple(np.where(seen > 0, scale / np.maximum(seen, 1), 1.0).tolist())

  @abc.abstractmethod
  def predict(self, outputs: Any) -> jax.Array:
    """The predictions, in the shape of the targets."""

  def probabilities(self, outputs: Any) -> jax.Array:
    """The probabilities of the classes `[..., C]`; ValueError where there are no classes."""
    raise ValueError(f'{self.name} has no classes')

  def average(self, outputs: Any) -> Any:
    """The outputs of an ensemble as those of one model.

    Args:
      outputs: of each member, `[K, B, ...]`.
    """
    return jax.tree.map(lambda leaf: leaf.mean(axis=0), outputs)

  def of_windows(self, outputs: Any) -> Any:
    """The outputs for windows in the form whose mean is that of their text; of no tags.

    Args:
      outputs: `[W, ...]`.
    """
    return outputs

  def scores(self, outputs: Any) -> jax.Array:
    """What metrics with `needs_scores` are computed on: the probabilities, as float32 has them."""
    return self.probabilities(outputs)

  # Predictions and targets, on the host again.

  @property
  @abc.abstractmethod
  def metrics(self) -> Mapping[str, Metric]:
    """The metrics by name, the main one first."""

  def labelled(self, targets: np.ndarray) -> np.ndarray:
    """Which examples have a label, bool `[B]`."""
    return (targets != MISSING).reshape(len(targets), -1).any(axis=1)

  def right(self, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Which examples have every label predicted, bool `[B]`."""
    wrong = (targets != MISSING) & (targets != predictions)
    return ~wrong.reshape(len(targets), -1).any(axis=1)

  def collect(self, targets: np.ndarray, predictions: np.ndarray) -> tuple[list[Any], list[Any]]:
    """What metrics need of the labelled examples of a batch, in parts that `join` puts together."""
    return [targets], [predictions.astype(np.int64)]

  def needs_scores(self, metrics: Sequence[str]) -> bool:
    """Whether one of these metrics needs scores."""
    return any(self.metrics[name].needs_scores for name in metrics)

  def collect_scores(self, targets: np.ndarray, scores: np.ndarray) -> list[Any]:
    """What metrics need of the scores of a batch's labelled examples, in parts for `join`."""
    del targets
    return [scores]

  def join(self, parts: list[Any]) -> Any:
    """The parts of all batches, of which there is at least one, as metrics take them."""
    return np.concatenate(parts)

  @abc.abstractmethod
  def read(self, prediction: np.ndarray, names: Names) -> Any:
    """One example's prediction as a user reads it: plain Python values that JSON can hold."""

  def read_probabilities(self, probabilities: np.ndarray, names: Names) -> Any:
    """One example's probabilities `[C]` as a user reads them; only of kinds that are `discrete`."""
    return dict(zip(names, map(shortest, probabilities), strict=True))

  # The same of a whole batch at once: a kind that changes one of a pair changes both.

  def read_all(self, predictions: Sequence[np.ndarray], names: Names) -> list[Any]:
    """What `read` returns of each example's prediction, `[B, ...]` or one array an example."""
    return [self.read(row, names) for row in predictions]

  def read_all_probabilities(self, probabilities: Sequence[np.ndarray], names: Names) -> list[Any]:
    """What `read_probabilities` returns of each example's, `[B, C]` or one array an example."""
    return [self.read_probabilities(row, names) for row in probabilities]


def is_class(label: Any, fixed: bool) -> bool:
  """Whether a raw label can be a class: a text or, with `fixed` names, a number of one."""
  if isinstance(label, str):
    return True
  # A number says nothing where the classes are those that occur.
  return fixed and isinstance(label, int | np.integer) and not isinstance(label, bool)


def shortest(value: Any) -> float:
  """A number of a device as the shortest one that is the same there: 0.1 for float32 0.1."""
  return float(str(value))


def all_shortest(values: np.ndarray) -> list[float]:
  """`shortest` of each number of an array, `[N]`."""
  return list(map(float, values.astype(str).tolist()))


def shares_of(probabilities: Sequence[np.ndarray], names: Names) -> list[dict[str, float]]:
  """Name -> probability of each example, as `Kind.read_probabilities` gives one's; `[B, C]`."""
  table = np.asarray(probabilities)
  flat, width = all_shortest(table.ravel()), table.shape[1]
  rows = (flat[start : start + width] for start in range(0, len(flat), width))
  return [dict(zip(names, row, strict=True)) for row in rows]


def read_class(field: Any) -> str:
  """A field as the name of a class: texts without blanks around them, numbers as written.

  Raises:
    ValueError: it is a list or an object.
  """
  if isinstance(field, str):
    return field.strip()
  if isinstance(field, bool | np.bool_):
    return str(bool(field)).lower()
  if isinstance(field, float | np.floating) and float(field).is_integer():
    return str(int(field))  # of a column of integers with gaps
  if isinstance(field, int | float | np.number):
    return str(field)
  raise ValueError(f'{field!r} is no name of a class')


def numbers_of(fields: Sequence[Any]) -> list[float] | None:
  """Fields as numbers; None where one is none."""
  if any(isinstance(field, bool | np.bool_) for field in fields):
    return None
  try:
    found = [float(field) for field in fields]
  except (TypeError, ValueError):
    return None
  return found if np.isfinite(found).all() else None


CLASSES = 20
"""So many different integers at most are taken for classes, and more for numbers."""


def are_amounts(fields: Sequence[Any]) -> bool:
  """Whether fields are numbers of which something is predicted, and not names of classes."""
  found = numbers_of(fields)
  if found is None:
    return False
  return not all(value.is_integer() for value in found) or len(set(found)) > CLASSES
