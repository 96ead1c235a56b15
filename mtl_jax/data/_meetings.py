"""Which examples have labels of which tasks, and how they are spread so that the tasks meet.

A task that has a label in a batch is balanced against the others that have one there.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from mtl_jax.data import _labels, _ragged
from mtl_jax.later import Later

stats = Later('scipy.stats')

APART = 0.2
"""How far a task's share of the batches of one bucket may be from its share of the data, relative
to the latter, on average. One that is missing from a tenth of the batches is so far."""

_CHANCE = 1e-3  # a difference that is as likely as this, were there none, is none


def labelled(target: _labels.Targets, *, unknown: bool = False) -> np.ndarray:
  """Returns which of N examples have a label that carries a loss, bool `[N]`.

  Args:
    target: encoded labels: integers, below zero none; or floats, NaN none; a first axis of N.
    unknown: whether those of unknown classes, which are scored but carry no loss, count too.
  """
  flat = target.values if isinstance(target, _ragged.Ragged) else target
  if flat.dtype.kind == 'f':
    known = ~np.isnan(flat)
  else:
    known = flat != _labels.MISSING if unknown else flat >= 0
  if isinstance(target, _ragged.Ragged):
    below = np.concatenate([[0], np.cumsum(known)])
    return np.diff(below[target.offsets]) > 0
  return np.asarray(known.reshape(len(known), -1).any(axis=1))


def learned(target: _labels.Targets, weight: np.ndarray | None) -> np.ndarray:
  """Returns which of N examples have a label that is learned from, bool `[N]`.

  Args:
    target: as `labelled` takes it.
    weight: float `[N]`, 0 where nothing is learned; None: all weigh the same.
  """
  known = labelled(target)
  return known if weight is None else known & (weight > 0)


def strata(known: np.ndarray, bucket: np.ndarray) -> np.ndarray:
  """Groups examples by the tasks that they have labels of, where their length depends on these.

  Examples with and without a label of a task are told apart where batches of one length would have
  too few or too many of that task (`APART`), the task that their lengths depend on most first, and
  each of the two groups is looked at again. Where lengths say nothing of tasks, there is one group.

  Args:
    known: bool `[N, T]`: which tasks an example has a label of.
    bucket: int `[N]`: which bucket its length is in.

  Returns:
    int64 `[N]`: the group of each example, numbered from 0.
  """
  patterns, which = np.unique(np.packbits(known, axis=1), axis=0, return_inverse=True)
  patterns = np.unpackbits(patterns, axis=1, count=known.shape[1]).astype(bool)
  which = which.reshape(-1)  # some versions of NumPy keep the axis
  counts = np.zeros((len(patterns), int(bucket.max(initial=0)) + 1))
  np.add.at(counts, (which, bucket), 1)
  group = np.zeros(len(patterns), np.int64)
  number = itertools.count(1)
  pending = [np.arange(len(patterns))]
  while pending:
    members = pending.pop()
    task = _divides(patterns[members], counts[members])
    if task is not None:
      within = patterns[members, task]
      group[members[within]] = next(number)
      pending += [members[within], members[~within]]
  return np.unique(group, return_inverse=True)[1].reshape(-1)[which]


def _divides(patterns: np.ndarray, counts: np.ndarray) -> int | None:
  """The task that lengths depend on most, if any.

  Args:
    patterns: bool `[P, T]`.
    counts: `[P, K]`: how many examples of each pattern are in each bucket.
  """
  counts = counts[:, counts.any(axis=0)]
  inside = patterns.T.astype(float) @ counts  # [T, K]
  total = counts.sum(axis=0)  # [K]
  share = inside.sum(axis=1, keepdims=True) / total.sum()  # [T, 1]
  # The log-likelihood ratio of lengths that depend on having a label, to such that do not.
  expected = np.stack([share * total, (1 - share) * total])  # [2, T, K]
  seen = np.stack([inside, total - inside])
  ratio = np.log(np.divide(seen, expected, out=np.ones_like(seen), where=seen > 0))
  evidence = 2 * (seen * ratio).sum(axis=(0, 2))  # [T]
  far = np.abs(inside - share * total).sum(axis=1) > APART * inside.sum(axis=1)
  evidence = np.where(far, evidence, 0.0)
  if len(total) < 2 or evidence.max() <= stats.chi2.isf(_CHANCE, len(total) - 1):
    return None
  return int(evidence.argmax())


def mixed(order: np.ndarray, bucket: np.ndarray, stratum: np.ndarray) -> np.ndarray:
  """Puts examples in an order in which every stretch has its share of each stratum.

  Within a stratum short examples come first, so that the short ones of all strata come together.

  Args:
    order: int64 `[M]`, examples in random order; those of a stratum and bucket keep it.
    bucket: int64 `[N]`, of every example.
    stratum: int64 `[N]`, of every example.

  Returns:
    int64 `[M]`, the same examples.
  """
  order = order[np.lexsort((bucket[order], stratum[order]))]
  sizes = np.bincount(stratum[order])
  rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  place = (rank + 0.5) / np.repeat(sizes, sizes)
  return order[np.argsort(place, kind='stable')]


def shares(present: np.ndarray, names: Sequence[str]) -> dict[tuple[str, str], float]:
  """Returns for each pair of tasks the share of steps that both are in.

  Args:
    present: bool `[steps, T]`: which tasks a step has labels of.
    names: those of the T tasks.
  """
  both = present.T.astype(float) @ present / len(present)
  return {
    (names[i], names[j]): float(both[i, j]) for i, j in itertools.combinations(range(len(names)), 2)
  }
