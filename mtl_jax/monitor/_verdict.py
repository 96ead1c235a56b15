"""What measurements of a training say, in plain words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax.monitor._measure import Measures

CONFLICT = (
  0.05  # share of measured pairs with a negative cosine, from which tasks conflict at times
)
OFTEN = 0.3  # and from which they conflict often
CLEAR = -0.05  # mean cosine of a pair, below which it is said to conflict
SCALE = 5.0  # ratio of the largest to the smallest gradient, from which scales differ
WORSENED = (
  0.1  # share of tasks that the direction makes worse, from which balancing is likely to matter
)
_SHOWN = 3  # pairs


class Verdict(NamedTuple):
  """What was seen, a sentence or two each.

  Attributes:
    conflict: do the tasks conflict, which, when.
    scale: do their gradients differ in size.
    direction: what plain training, or the direction that was watched, does to the tasks.
    advice: is balancing likely to matter.
  """

  conflict: str
  scale: str
  direction: str
  advice: str

  def __str__(self) -> str:
    """A line each."""
    return '\n'.join(
      f'{name}: {text}' for name, text in zip(self._fields, self, strict=True) if text
    )


def verdict(seen: Measures | Sequence[Measures], names: Sequence[str] = ()) -> Verdict:
  """What measurements say.

  Args:
    seen: measures of several steps, in order: a list of them, or stacked as `scan` gives them.
      Those of steps that did not measure are NaN, and left out.
    names: of the tasks; by default those in the measures, or numbers.

  Raises:
    ValueError: nothing was measured.
  """
  norm, cosine, improved = (stacked(seen, name) for name in ('norm', 'cosine', 'improved'))
  first = seen if isinstance(seen, Measures) else seen[0]
  known = tuple(names) or first.names or tuple(map(str, range(norm.shape[-1])))
  return verdict_of(norm, cosine, improved, known)


def stacked(seen: Measures | Sequence[Measures], name: str) -> np.ndarray:
  """One field of the steps that measured, `[N, ...]` float64.

  Raises:
    ValueError: nothing was measured.
  """
  parts = [seen] if isinstance(seen, Measures) else list(seen)
  if not parts:
    raise ValueError('There are no measures.')
  single = np.ndim(parts[0].conflict) == 0
  found, kept = [], []
  for part in parts:
    values, norms = np.asarray(getattr(part, name), np.float64), np.asarray(part.norm, np.float64)
    found.append(values[None] if single else values)
    kept.append(np.isfinite(norms[None] if single else norms).any(axis=-1))
  chosen = np.concatenate(found)[np.concatenate(kept)]
  if not len(chosen):
    raise ValueError('Nothing was measured: none of the steps was one that `every` chooses.')
  return chosen


def verdict_of(
  norm: np.ndarray, cosine: np.ndarray, improved: np.ndarray, names: Sequence[str]
) -> Verdict:
  """`verdict` of arrays: norms `[N, T]`, cosines `[N, T, T]`, shares of improved tasks `[N]`.

  NaN is what was not measured.
  """
  if len(names) < 2:
    return Verdict('there is one task, which conflicts with none', '', '', 'there is none to make')
  rate, conflict = _conflict(cosine, names)
  ratio, scale = _scale(norm, names)
  worse, direction = _direction(improved)
  return Verdict(conflict, scale, direction, _advice(rate, ratio, worse))


def _conflict(cosine: np.ndarray, names: Sequence[str]) -> tuple[float, str]:
  """The share of negative cosines, and what is to be said of them."""
  first, second = np.triu_indices(len(names), 1)
  pairs = cosine[:, first, second]  # [N, P]
  known = np.isfinite(pairs)
  if not known.any():
    return np.nan, 'no two tasks were measured in one step'
  negative = np.where(known, pairs < 0, np.nan)
  rate = float(np.nanmean(negative))
  count = np.maximum(known.sum(axis=0), 1)
  means = np.where(known, pairs, 0).sum(axis=0) / count
  rates = np.nansum(negative, axis=0) / count
  worst = [p for p in np.argsort(means) if means[p] < CLEAR][:_SHOWN]
  often = 'often' if rate >= OFTEN else 'at times' if rate >= CONFLICT else 'hardly'
  text = f'the tasks conflict {often}: {rate:.0%} of the cosines are negative'
  if worst:
    listed = '; '.join(
      f'{names[first[p]]} and {names[second[p]]}, mean cosine {means[p]:.2f}, negative in '
      f'{rates[p]:.0%}'
      for p in worst
    )
    text += f' ({listed})'
  return rate, text + _when(negative)


def _when(negative: np.ndarray) -> str:
  """Whether conflicts come early or late, where there are steps enough to tell."""
  if len(negative) < 6:
    return ''
  thirds = [
    float(np.nanmean(part)) for part in np.array_split(negative, 3) if np.isfinite(part).any()
  ]
  if len(thirds) < 3 or abs(thirds[2] - thirds[0]) < 0.1:
    return ''
  more = 'more and more' if thirds[2] > thirds[0] else 'less and less'
  return f', {more} as training goes on ({" > ".join(f"{t:.0%}" for t in thirds)} by thirds)'


def _scale(norm: np.ndarray, names: Sequence[str]) -> tuple[float, str]:
  """The median ratio of the largest to the smallest norm, and what is to be said of it."""
  positive = np.where(norm > 0, norm, np.nan)
  known = positive[np.isfinite(positive).sum(axis=1) > 1]
  if not len(known):
    return np.nan, 'no two tasks have gradients in one step'
  ratio = float(np.median(np.nanmax(known, axis=1) / np.nanmin(known, axis=1)))
  with np.errstate(all='ignore'):
    middle = np.array(
      [np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in positive.T]
    )
  largest, smallest = names[int(np.nanargmax(middle))], names[int(np.nanargmin(middle))]
  if ratio < SCALE:
    return ratio, f'the gradients are of like size (largest to smallest {ratio:.1f}, median)'
  return ratio, (
    f'the gradients differ {ratio:.0f}-fold in size (median): {largest} has the largest, '
    f'{smallest} the smallest'
  )


def _direction(improved: np.ndarray) -> tuple[float, str]:
  """The share of tasks that the direction makes worse, and what is to be said of it."""
  known = improved[np.isfinite(improved)]
  if not len(known):
    return np.nan, ''
  worse = float(1 - known.mean())
  steps = float((known < 1).mean())
  return worse, (
    f'a step lowers the losses of {1 - worse:.0%} of the tasks; in {steps:.0%} of the steps it '
    'raises one or more'
  )


def _advice(rate: float, ratio: float, worse: float) -> str:
  scales = ratio >= SCALE
  if worse >= WORSENED:
    how = 'by scale first (gradnorm, normalize_task_gradients, imtl_l), then ' if scales else ''
    return f'balancing is likely to matter: {how}by direction (pcgrad, cagrad, upgrad)'
  if scales:
    return (
      'scales may matter: the small gradients have little say; try gradnorm, '
      'normalize_task_gradients or loss weights, beside the plain sum'
    )
  if rate >= OFTEN:
    return 'directions may matter: try pcgrad, cagrad or upgrad beside the plain sum'
  return 'balancing is not likely to matter: the plain sum serves the tasks alike'
