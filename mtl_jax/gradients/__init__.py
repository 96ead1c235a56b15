"""Per-task gradients of any functions of parameters, and what is computed from them.

Nothing here knows a balancing method, an optimizer or Flax.
"""

from mtl_jax.gradients import accumulated
from mtl_jax.gradients.by_task import losses_and_gradients, task_gradients
from mtl_jax.gradients.jacobian import (
  Jacobian,
  LossFunctions,
  as_function,
  is_split,
  linearize,
)
from mtl_jax.gradients.stacked import combine, cosines, gramian, norms
from mtl_jax.protocols import TwoHalves, has_two_halves

__all__ = [
  'Jacobian',
  'LossFunctions',
  'TwoHalves',
  'accumulated',
  'as_function',
  'combine',
  'cosines',
  'gramian',
  'has_two_halves',
  'is_split',
  'linearize',
  'losses_and_gradients',
  'norms',
  'task_gradients',
]
