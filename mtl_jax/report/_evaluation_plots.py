"""Plots of one evaluation: which classes are taken for which, how far confidence can be trusted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mtl_jax.evaluate import Calibration
from mtl_jax.report import _figures

_ANNOTATED, _SHOWN = 20, 30  # classes with a number in each cell, and classes at all
_LETTERS = 24  # of a class's name
_BARS, _LINE = '#0072B2', '#444444'


def confusion(matrix: np.ndarray, names: Sequence[str], title: str) -> bytes:
  """A PNG of a confusion matrix, coloured by the share of each label's examples.

  Cells have their counts for up to 20 classes; of more than 30, those are shown that labels are
  most often of, with a note.

  Args:
    matrix: counts `[C, C]`, or `[C + 1, C]` with a last row for unknown labels, as
      `evaluate.confusion` makes it.
    names: of the C classes.
    title: what stands above.

  Raises:
    ValueError: the matrix does not fit the names, or there are none.
  """
  return _figures.png(_confusion(matrix, names, title))


def reliability(calibration: Calibration, title: str) -> bytes:
  """A PNG of accuracy over confidence, and of how many examples have which confidence.

  Args:
    calibration: what `evaluate.calibration` returned.
    title: what stands above.
  """
  return _figures.png(_reliability(calibration, title))


def _confusion(matrix: np.ndarray, names: Sequence[str], title: str) -> Figure:
  count = len(names)
  if not count or matrix.shape not in ((count, count), (count + 1, count)):
    raise ValueError(f'a matrix of shape {matrix.shape} for {count} classes')
  total, kept = matrix.sum(), np.arange(count)
  if count > _SHOWN:
    frequent = np.argsort(-matrix[:count].sum(axis=1), kind='stable')[:_SHOWN]
    kept = np.sort(frequent)  # the order of the classes stays
  sums = matrix.sum(axis=1, keepdims=True)  # over all predictions, shown or not
  rows = [*kept, *range(count, len(matrix))]
  cells = matrix[np.ix_(rows, kept)]
  shares = cells / np.maximum(sums[rows], 1)
  columns = [_short(names[index]) for index in kept.tolist()]
  labels = columns + ['(unknown)'] * (len(rows) - len(kept))
  cell = 0.42 if len(kept) <= _ANNOTATED else 0.26  # inches
  longest = 0.075 * max(map(len, labels))
  figure = _figures.figure(
    max(4.0, cell * len(kept) + longest + 1.4), max(3.2, cell * len(rows) + longest + 1.0)
  )
  axis = figure.subplots()
  norm = Normalize(0, 1)
  axis.imshow(shares, norm=norm, cmap='Blues')
  style: dict[str, Any] = {'fontsize': 8, 'parse_math': False}
  axis.set_xticks(
    range(len(columns)), columns, rotation=45, ha='right', rotation_mode='anchor', **style
  )
  axis.set_yticks(range(len(labels)), labels, **style)
  axis.set_xlabel('predicted', fontsize=9)
  axis.set_ylabel('label', fontsize=9)
  if len(kept) <= _ANNOTATED:
    _annotate(axis, cells, shares)
  if count > _SHOWN:
    title += f'\nthe {_SHOWN} most frequent of {count} classes: {cells.sum()} of {total} labels'
  axis.set_title(title, fontsize=10, parse_math=False)
  bar = figure.colorbar(ScalarMappable(norm, 'Blues'), ax=axis, shrink=0.8)
  bar.set_label('share of the label', fontsize=9)
  bar.ax.tick_params(labelsize=8)
  return figure


def _annotate(axis: Axes, cells: np.ndarray, shares: np.ndarray) -> None:
  for i, j in np.argwhere(cells):
    colour = 'white' if shares[i, j] > 0.6 else 'black'
    # Not in the layout, whose time would grow with C².
    style: dict[str, Any] = {'ha': 'center', 'va': 'center', 'fontsize': 7, 'in_layout': False}
    axis.text(j, i, f'{cells[i, j]}', color=colour, **style)


def _reliability(calibration: Calibration, title: str) -> Figure:
  edges, width = calibration.edges[:-1], np.diff(calibration.edges)
  figure = _figures.figure(4.4, 5.2)
  above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
  bars: dict[str, Any] = {'align': 'edge', 'color': _BARS, 'edgecolor': 'white'}
  above.bar(edges, np.nan_to_num(calibration.accuracy), width, **bars)
  above.plot((0, 1), (0, 1), linestyle='--', color=_LINE, linewidth=1, label='calibrated')
  known = calibration.counts > 0
  above.plot(
    calibration.confidence[known],
    calibration.accuracy[known],
    linestyle='',
    marker='o',
    markersize=4,
    color='#D55E00',
    label='mean confidence of a bin',
  )
  above.set_ylim(0, 1)
  above.set_ylabel('accuracy', fontsize=9)
  figure.legend(loc='outside lower center', ncols=2, frameon=False, fontsize=8)
  below.bar(edges, calibration.counts / calibration.counts.sum(), width, **bars)
  below.set_xlim(0, 1)
  below.set_xlabel('confidence', fontsize=9)
  below.set_ylabel('share', fontsize=9)
  for axis in (above, below):
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[['top', 'right']].set_visible(False)
  errors = f'ECE {calibration.expected_error:.3f}, MCE {calibration.maximum_error:.3f}'
  above.set_title(
    f'{title}\n{errors}, Brier {calibration.brier:.3f}', fontsize=10, parse_math=False
  )
  return figure


def _short(name: str) -> str:
  name = ' '.join(name.split())
  return name if len(name) <= _LETTERS else f'{name[: _LETTERS - 1]}…'
