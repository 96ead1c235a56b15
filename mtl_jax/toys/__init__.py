"""Published toy problems, on which a method's behaviour is known: `python -m mtl_jax.toys`."""

from mtl_jax.toys.problems import (
  PROBLEMS,
  cagrad_2d,
  distance,
  fonseca,
  get,
  gradnorm_regression,
  gradnorm_regression_10,
  jd_cqf,
  jd_ewq,
  nash_2d,
  pcgrad_2d,
)
from mtl_jax.toys.runs import Problem, Trajectory, run

__all__ = [
  'PROBLEMS',
  'Problem',
  'Trajectory',
  'cagrad_2d',
  'distance',
  'fonseca',
  'get',
  'gradnorm_regression',
  'gradnorm_regression_10',
  'jd_cqf',
  'jd_ewq',
  'nash_2d',
  'pcgrad_2d',
  'run',
]
