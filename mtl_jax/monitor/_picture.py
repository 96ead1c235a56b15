"""A picture of what was measured."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtl_jax import errors
from mtl_jax.monitor._measure import Measures
from mtl_jax.monitor._verdict import stacked


def picture(
  seen: Measures | Sequence[Measures],
  path: str | os.PathLike[str],
  *,
  names: Sequence[str] = (),
  every: int = 1,
) -> None:
  """Writes a PNG of four panels: norms, mean cosines, conflict and improvement, effective rank.

  Args:
    seen: as for `verdict`.
    path: of the file.
    names: as for `verdict`.
    every: as given to `watch`, for the axis of steps.

  Raises:
    ValueError: nothing was measured, or `path` does not end in .png.
  """
  path = pathlib.Path(path)
  if path.suffix != '.png':
    raise ValueError(f'{str(path)!r}: the picture is a PNG file, so its name must end in .png')
  import matplotlib.figure

  norm, cosine = stacked(seen, 'norm'), stacked(seen, 'cosine')
  first = seen if isinstance(seen, Measures) else seen[0]
  known = tuple(names) or first.names or tuple(map(str, range(norm.shape[-1])))
  steps = np.arange(len(norm)) * every
  figure = matplotlib.figure.Figure(figsize=(10, 7), layout='constrained')
  top, bottom = figure.subplots(2, 2)
  for task, name in enumerate(known):
    top[0].plot(steps, norm[:, task], label=name)
  top[0].set(yscale='log', xlabel='step', title='norms of the gradients')
  if len(known) <= 10:
    top[0].legend(fontsize='small')
  _matrix(figure, top[1], cosine, known)
  for name, label in (('conflict', 'pairs in conflict'), ('improved', 'tasks that improve')):
    bottom[0].plot(steps, stacked(seen, name), label=label)
  bottom[0].set(ylim=(-0.02, 1.02), xlabel='step', title='shares')
  bottom[0].legend(fontsize='small')
  bottom[1].plot(steps, stacked(seen, 'rank'))
  bottom[1].set(ylim=(0.9, len(known) + 0.1), xlabel='step', title='effective rank of the Jacobian')
  try:
    figure.savefig(path, dpi=150)
  except OSError as error:
    raise errors.WorkdirError(f'Cannot write {path}: {error.strerror or error}') from error


def _matrix(figure: Any, axes: Any, cosine: np.ndarray, names: Sequence[str]) -> None:
  count = np.isfinite(cosine).sum(axis=0)
  mean = np.where(count > 0, np.nansum(cosine, axis=0) / np.maximum(count, 1), np.nan)
  image = axes.imshow(mean, vmin=-1, vmax=1, cmap='RdBu')
  figure.colorbar(image, ax=axes)
  if len(names) <= 20:
    axes.set_xticks(range(len(names)), names, rotation=45, ha='right', fontsize='small')
    axes.set_yticks(range(len(names)), names, fontsize='small')
  axes.set(title='mean cosines')
