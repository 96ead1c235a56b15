"""Multi-task learning in JAX: train one model on many tasks, fast and exactly."""

from mtl_jax import encoders, heads, memory, optim, sharding, sharing
from mtl_jax.gradients import combine, cosines, gramian, task_gradients
from mtl_jax.model import MultiTaskModel
from mtl_jax.tasks import Task
from mtl_jax.train_step import TrainState, init_train_state, make_eval_step, make_train_step

__version__ = '0.1.0'

__all__ = [
  'MultiTaskModel',
  'Task',
  'TrainState',
  'combine',
  'cosines',
  'encoders',
  'gramian',
  'heads',
  'init_train_state',
  'make_eval_step',
  'make_train_step',
  'memory',
  'optim',
  'sharding',
  'sharing',
  'task_gradients',
]
