"""Training batches of tasks with examples of their own: which tasks make which step.

Everything follows from the seed and the number of the step, as in `_batches`.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import SupportsIndex

import numpy as np

from mtl_jax import errors
from mtl_jax.data import _batches
from mtl_jax.plain import is_number

MIXINGS = ('all', 'one')
"""A batch of every task in each step, or of one task."""

_TASK = 3  # a stream of random numbers, beside those of `_batches`
_BLOCK = 4096  # steps drawn at once


class Mixed:
  """Item i is `{task: batch}` of step i; a source for grain.

  Every task goes through its own examples, epoch after epoch. In a step of all tasks the batches
  have one length; long batches of different tasks come in the same steps.
  """

  def __init__(
    self,
    trainings: Mapping[str, _batches.Training],
    seed: int,
    shares: Sequence[float] | None,
  ):
    """`shares` are the probabilities of the tasks, one a step; None: every task in each step."""
    self._trainings = dict(trainings)
    self._names = list(trainings)
    self._seed = seed
    self._by_turns = shares is not None
    self._edges = np.cumsum(shares or [])[:-1]
    self._drawn = functools.lru_cache(maxsize=2)(self._draw)
    self._before = functools.cache(self._count)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: SupportsIndex) -> _batches.Batch:
    number = index.__index__()
    if not self._by_turns:
      return self.every_task(number)
    name, place = self._task(number)
    return {name: of_task(name, self._trainings[name][place])}

  def every_task(self, number: int) -> _batches.Batch:
    """The batches `number` of every task, of one length."""
    width = max(training.width(number) for training in self._trainings.values())
    return {
      name: of_task(name, training.batch(number, width))
      for name, training in self._trainings.items()
    }

  def present(self, known: Mapping[str, np.ndarray], steps: int) -> np.ndarray:
    """Which tasks have a label in each of the first steps, bool `[steps, T]`.

    Args:
      known: which examples of each task have one, bool `[N, 1]`.
      steps: how many to look at.
    """
    result = np.zeros((steps, len(self._names)), bool)
    if self._by_turns:
      return result
    for column, (name, training) in enumerate(self._trainings.items()):
      result[:, column] = known[name].all() or [
        known[name][training.rows(number)].any() for number in range(steps)
      ]
    return result

  def _task(self, number: int) -> tuple[str, int]:
    """The task of a step, and how many of its batches came before."""
    block, position = divmod(number, _BLOCK)
    drawn = self._drawn(block)
    task = drawn[position]
    place = self._before(block)[task] + np.count_nonzero(drawn[:position] == task)
    return self._names[task], int(place)

  def _draw(self, block: int) -> np.ndarray:
    """The tasks of the steps of a block, int64 `[_BLOCK]`."""
    bits = _batches.random_bits((self._seed,), _TASK, block, _BLOCK)
    return np.searchsorted(self._edges, bits / 2.0**64, side='right')

  def _count(self, block: int) -> np.ndarray:
    """How many batches of each task came before a block, int64 `[T]`."""
    if not block:
      return np.zeros(len(self._names), np.int64)
    return self._before(block - 1) + np.bincount(self._draw(block - 1), minlength=len(self._names))


def shares(sizes: Sequence[int], temperature: float, limit: int) -> list[float]:
  """Returns each task's probability: min(size, limit)^(1/temperature), divided by their sum.

  Args:
    sizes: the numbers of training examples.
    temperature: 1: by size; large: all alike.
    limit: sizes above count as this; 0: none do.

  Raises:
    ConfigError: a temperature so low that the numbers do not fit.

  References:
    Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer, JMLR 21, 2020, section 3.5.2.
  """
  try:
    rates = [min(size, limit or size) ** (1 / temperature) for size in sizes]
  except OverflowError:
    rates = [math.inf]
  if not math.isfinite(sum(rates)):
    raise errors.ConfigError(
      f'temperature: {temperature} is too low for tasks of {max(sizes)} examples; only the largest '
      'task would be drawn'
    )
  return [rate / sum(rates) for rate in rates]


def given_shares(rates: Mapping[str, float] | Sequence[float], names: Sequence[str]) -> list[float]:
  """Returns each task's probability: its rate, divided by the sum of all.

  Args:
    rates: above 0, by task or in the order of `names`.
    names: those of the tasks.

  Raises:
    ConfigError: a rate is missing, or of no task, or not above 0.
  """
  if isinstance(rates, Mapping):
    for name in rates:
      if name not in names:
        raise errors.ConfigError(f'rates: no task {name!r}{errors.nearest(name, names)}')
    rates = [rates.get(name, math.nan) for name in names]
  if len(rates) != len(names) or not all(is_number(r) and 0 < r < math.inf for r in rates):
    raise errors.ConfigError(
      f'rates: need a number above 0 for each of the tasks ({", ".join(names)}), not {list(rates)}'
    )
  return [rate / sum(rates) for rate in rates]


def draws(seed: int, start: int, stop: int) -> np.ndarray:
  """A random number for each step, the same for all tasks: uint64 `[stop - start]`."""
  first, last = start // _BLOCK, (stop - 1) // _BLOCK
  blocks = [
    _batches.random_bits((seed,), _batches.SHUFFLE, block, _BLOCK)
    for block in range(first, last + 1)
  ]
  return np.concatenate(blocks)[start - first * _BLOCK : stop - first * _BLOCK]


class Evaluations:
  """The batches of every task in turn, each `{task: batch}`. Can be iterated again."""

  def __init__(self, evaluations: Mapping[str, _batches.Evaluation]):
    self._evaluations = dict(evaluations)
    self.num_examples = sum(item.num_examples for item in evaluations.values())

  def __len__(self) -> int:
    return sum(map(len, self._evaluations.values()))

  def __iter__(self) -> Iterator[_batches.EvaluationBatch]:
    for name, evaluation in self._evaluations.items():
      for item in evaluation:
        yield dataclasses.replace(item, batch={name: of_task(name, item.batch)})


def of_task(name: str, batch: _batches.Batch) -> _batches.Batch:
  """The only task of a batch, as an own batch `{'inputs', 'targets', 'mask'[, 'weight']}`."""
  return {key: part if key == 'inputs' else part[name] for key, part in batch.items()}
