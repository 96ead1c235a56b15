"""Evaluation: a model on the splits of a data set, and the number that runs are judged by.

`statistics` says how sure a number is, `breakdown` what it is made of.
"""

from mtl_jax.evaluate.breakdown import Calibration, Slice, by_slice, calibration, confusion
from mtl_jax.evaluate.evaluator import Evaluator, Prediction
from mtl_jax.evaluate.statistics import (
  Comparison,
  Counted,
  Interval,
  average_rank,
  bootstrap,
  paired_test,
)

__all__ = [
  'Calibration',
  'Comparison',
  'Counted',
  'Evaluator',
  'Interval',
  'Prediction',
  'Slice',
  'average_rank',
  'bootstrap',
  'by_slice',
  'calibration',
  'confusion',
  'paired_test',
]
