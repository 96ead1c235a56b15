"""The picture of many toy runs: a row a method, a column a problem."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtl_jax.toys import runs

# Okabe and Ito's palette, told apart by the colour-blind; its yellow is too pale for a line.
_STARTS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_PANEL, _MARGIN = 2.0, 0.42  # inches
_FRACTIONS = (0, 0.5, 1)
_ROWS_A_TITLE = 6  # so that a column's name is in sight in a long picture

Results = Mapping[tuple[str, str], runs.Trajectory | str]
"""(method, problem) -> what the run saw, or why there was none."""


def grid(methods: Sequence[str], toys: Sequence[runs.Problem], results: Results) -> bytes:
  """A PNG with a panel for each run: the way through the parameters, or the losses.

  Args:
    methods: rows.
    toys: columns.
    results: of every (method, problem).
  """
  width, height = _PANEL * len(toys) + 0.6, _PANEL * len(methods) + 1.3
  figure = Figure(figsize=(width, height))
  FigureCanvasAgg(figure)
  # Placed by hand: a constrained layout of hundreds of panels takes minutes.
  axes = figure.subplots(len(methods), len(toys), squeeze=False)
  figure.subplots_adjust(
    left=0.75 / width,
    right=1 - 0.08 / width,
    bottom=0.75 / height,
    top=1 - 0.42 / height,
    wspace=_MARGIN / (_PANEL - _MARGIN),
    hspace=_MARGIN * 0.75 / (_PANEL - _MARGIN * 0.75),
  )
  for column, problem in zip(axes.T, toys, strict=True):
    landscape = None if problem.box is None else _landscape(problem)
    for axis, method in zip(column, methods, strict=True):
      _panel(axis, problem, results[method, problem.name], landscape)
    for axis in column[::_ROWS_A_TITLE]:
      axis.set_title(problem.name, fontsize=9, fontweight='bold', pad=4)
    column[-1].set_xlabel(_x_label(problem), fontsize=8)
  for axis, method in zip(axes[:, 0], methods, strict=True):
    axis.annotate(
      method,
      (0, 0.5),
      xytext=(-0.58 * 72, 0),
      xycoords='axes fraction',
      textcoords='offset points',
      rotation=90,
      va='center',
      ha='center',
      fontsize=9,
      fontweight='bold',
    )
  figure.text(
    0.5,
    0.12 / height,
    'dot: start; star: end; black: Pareto set; grey: mean loss over tasks, lower is lighter',
    ha='center',
    fontsize=8,
  )
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=110)
  return buffer.getvalue()


def _x_label(problem: runs.Problem) -> str:
  if problem.box is not None:
    return 'x₁ (upwards: x₂)'
  if problem.pareto_set is not None:
    return 'f₁ (upwards: f₂)'
  return 'step (upwards: Lᵢ/Lᵢ(0),\nblack: mean over tasks)'


def _panel(
  axis: Axes,
  problem: runs.Problem,
  way: runs.Trajectory | str,
  landscape: np.ndarray | None,
) -> None:
  axis.tick_params(labelsize=6, length=2, pad=1.5)
  if isinstance(way, str):
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_facecolor('#f4f4f4')
    axis.text(0.5, 0.5, textwrap.fill(way, 26), ha='center', va='center', fontsize=7)
    return
  losses = np.asarray(way.losses)
  if problem.box is not None:
    assert landscape is not None
    _draw_landscape(axis, problem, landscape)
    _draw_ways(axis, np.asarray(way.points), 1.1)
    axis.set(xlim=problem.box[0], ylim=problem.box[1])
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
  elif problem.pareto_set is not None:
    front = np.asarray(jax.vmap(lambda x: problem.losses(x, None))(jnp.asarray(problem.pareto_set)))
    axis.plot(*front.T, color='black', linewidth=1.6)
    _draw_ways(axis, losses, 0.8)
    axis.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), xticks=_FRACTIONS, yticks=_FRACTIONS)
  else:
    relative = losses[0] / losses[0, :1]  # [K + 1, T]
    for i, task in enumerate(relative.T):
      axis.plot(way.steps, task, color=_STARTS[i % len(_STARTS)], linewidth=0.9)
    axis.plot(way.steps, relative.mean(1), color='black', linewidth=1.6)
    axis.set_ylim(0, 2.2)
    axis.grid(alpha=0.3, linewidth=0.5)


def _draw_ways(axis: Axes, ways: np.ndarray, linewidth: float) -> None:
  """Draws ways `[S, K + 1, 2]` from a dot to a star."""
  for i, way in enumerate(ways):
    color = _STARTS[i % len(_STARTS)]
    axis.plot(*way.T, color=color, linewidth=linewidth, zorder=3)
    axis.plot(*way[0], 'o', color=color, markersize=3.5, markeredgecolor='white', mew=0.5, zorder=4)
    axis.plot(*way[-1], '*', color=color, markersize=9, markeredgecolor='black', mew=0.5, zorder=5)


def _landscape(problem: runs.Problem) -> np.ndarray:
  """The mean loss on a grid over the box, as ranks in [0, 1], so that valleys of a log show."""
  assert problem.box is not None
  x, y = (np.linspace(*ends, 160, dtype=np.float32) for ends in problem.box)
  points = jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
  mean = np.asarray(jax.vmap(lambda x: jnp.mean(problem.losses(x, None)))(points))
  ranks = np.empty(mean.size)
  ranks[np.argsort(mean)] = np.linspace(0, 1, mean.size)
  return ranks.reshape(len(y), len(x))


def _draw_landscape(axis: Axes, problem: runs.Problem, landscape: np.ndarray) -> None:
  assert problem.box is not None
  assert problem.pareto_set is not None
  (left, right), (low, high) = problem.box
  extent = (left, right, low, high)
  axis.imshow(landscape, 'Greys', vmin=-0.1, vmax=2.8, aspect='auto', extent=extent, origin='lower')
  axis.contour(
    landscape, levels=8, colors='#777777', linewidths=0.35, extent=extent, origin='lower'
  )
  marker = 's' if len(problem.pareto_set) == 1 else None
  axis.plot(*problem.pareto_set.T, color='black', linewidth=2.0, marker=marker, markersize=5)
