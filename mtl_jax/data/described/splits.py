"""Which examples are held out for validation and test, and which stand in two splits."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

TRAIN, VALIDATION, TEST = range(3)


def held_out(
  count: int,
  validation: float,
  test: float,
  seed: int,
  strata: Sequence[Hashable] | None = None,
  groups: Sequence[Hashable] | None = None,
) -> np.ndarray:
  """Draws a split for each example.

  Args:
    count: of examples, N.
    validation: share of the examples.
    test: share of the examples.
    seed: of the draw; the same gives the same.
    strata: a value for each example: those of each value have the same shares, to within one.
    groups: a value for each example: those of one value get the same split. Shares are then met as
      nearly as whole groups can.

  Returns:
    int64 `[N]`: 0 train, 1 validation, 2 test. A share above 0 gets an example where there are
    three (groups) or more.
  """
  rng = np.random.default_rng(seed)
  result = np.zeros(count, np.int64)
  if groups is not None:
    names, member, sizes = _numbered(groups)
    chosen = _of_groups(sizes, rng.permutation(len(names)), validation, test)
    return chosen[member]
  order = rng.permutation(count)
  if strata is not None:
    _, member, _ = _numbered(strata)
    order = order[np.argsort(member[order], kind='stable')]
  result[order] = _spread(count, validation, test)
  return result


def _numbered(values: Sequence[Hashable]) -> tuple[list[Hashable], np.ndarray, np.ndarray]:
  """The distinct values as they come, the number of each one, and how many there are of each."""
  numbers: dict[Hashable, int] = {}
  member = np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)
  return list(numbers), member, np.bincount(member, minlength=len(numbers))


def _spread(count: int, validation: float, test: float) -> np.ndarray:
  """Splits in even distances, so that every stretch has its share of each."""
  result = np.zeros(count, np.int64)
  result[_every(count, test)] = TEST
  left = np.flatnonzero(result == TRAIN)
  result[left[_every(len(left), validation / (1 - test))]] = VALIDATION
  return result


def _every(count: int, share: float) -> np.ndarray:
  """`share · count` places of `count`, in even distances; one where that is less than one."""
  if not share or count < 2:
    return np.zeros(0, np.int64)
  chosen = max(1, round(share * count))
  return ((np.arange(chosen) + 0.5) * count / chosen).astype(np.int64)


def _of_groups(sizes: np.ndarray, order: np.ndarray, validation: float, test: float) -> np.ndarray:
  """The split of each group; one joins a split where that brings it nearer to its share."""
  result = np.zeros(len(sizes), np.int64)
  for split, share, later in ((TEST, test, 1 + (validation > 0)), (VALIDATION, validation, 1)):
    free = [group for group in order.tolist() if result[group] == TRAIN]
    room = share * sizes.sum()
    if not share or len(free) <= later:
      continue
    taken: list[int] = []
    for group in free:
      if sizes[group] <= 2 * room and len(free) - len(taken) > later:
        taken.append(group)
        room -= sizes[group]
    taken = taken or [min(free, key=lambda group: sizes[group])]  # all are large
    result[taken] = split
  return result


def overlap(splits: Mapping[str, Sequence[Hashable]]) -> dict[str, int]:
  """Counts what stands in two splits, and what stands twice in one.

  Args:
    splits: split -> the input of each example.

  Returns:
    what is counted -> how many, without what there is none of.
  """
  found: dict[str, int] = {}
  seen: dict[Hashable, str] = {}
  for split, values in splits.items():
    own: set[Hashable] = set()
    for value in values:
      if value in own:
        key = f'examples of {split} whose input stood in it before'
      elif value in seen:
        key = f'examples of {split} whose input stands in {seen[value]} too'
      else:
        own.add(value)
        continue
      found[key] = found.get(key, 0) + 1
    for value in own:
      seen.setdefault(value, split)
  return found
