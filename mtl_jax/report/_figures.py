"""Figures without a display, and the PNGs that they become."""

import io
import warnings

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def figure(width: float, height: float) -> Figure:
  """An empty figure of that size in inches."""
  made = Figure(figsize=(width, height), layout='constrained')
  FigureCanvasAgg(made)
  return made


def png(drawn: Figure) -> bytes:
  """The figure as a PNG; letters that the font lacks are boxes, without a warning."""
  buffer = io.BytesIO()
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph .* missing from', UserWarning)
    drawn.savefig(buffer, format='png', dpi=130)
  return buffer.getvalue()
