"""Per-task gradients of any functions of parameters, and what is computed from them.

Nothing here knows a balancing method, an optimizer or Flax.
"""

from mtl_jax.gradients import accumulated
from mtl_jax.gradients.binding import bind, rebind, state_of
from mtl_jax.gradients.by_task import linearize_any, losses_and_gradients, task_gradients
from mtl_jax.gradients.functions import Extra, Losses, as_losses, check_params
from mtl_jax.gradients.jacobian import Jacobian, LossFunctions, is_split, linearize
from mtl_jax.gradients.stacked import combine, cosines, gramian, norms
from mtl_jax.protocols import TwoHalves, has_two_halves

__all__ = [
  'Extra',
  'Jacobian',
  'LossFunctions',
  'Losses',
  'TwoHalves',
  'accumulated',
  'as_losses',
  'bind',
  'check_params',
  'combine',
  'cosines',
  'gramian',
  'has_two_halves',
  'is_split',
  'linearize',
  'linearize_any',
  'losses_and_gradients',
  'norms',
  'rebind',
  'state_of',
  'task_gradients',
]
