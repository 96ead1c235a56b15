"""A trained run on labelled examples: metrics with intervals, tests against others, its errors.

What is computed stands here; `judgement` makes tables and pictures of it. The command is
`python -m mtl_jax.evaluate`.
"""

from mtl_jax.evaluation._judge import (
  Error,
  Judged,
  delta_m,
  examples_of,
  judge,
  labels_of,
  summary,
)

__all__ = ['Error', 'Judged', 'delta_m', 'examples_of', 'judge', 'labels_of', 'summary']
