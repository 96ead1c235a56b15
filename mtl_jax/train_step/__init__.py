"""The train step and the evaluation step: pure functions of a state and a batch."""

from mtl_jax.train_step._direction import AT, JACOBIAN
from mtl_jax.train_step._direction import check as check_balance
from mtl_jax.train_step.state import TrainState, init_train_state
from mtl_jax.train_step.step import make_eval_step, make_train_step

__all__ = [
  'AT',
  'JACOBIAN',
  'TrainState',
  'check_balance',
  'init_train_state',
  'make_eval_step',
  'make_train_step',
]
