"""Multi-task learning in JAX: train one model on many tasks, fast and exactly."""

from typing import TYPE_CHECKING, Any

from mtl_jax import encoders, heads, memory, monitor, optim, sharding, sharing
from mtl_jax.gradients import combine, cosines, gramian, task_gradients
from mtl_jax.model import MultiTaskModel
from mtl_jax.tasks import Task
from mtl_jax.train_step import TrainState, init_train_state, make_eval_step, make_train_step

if TYPE_CHECKING:
  from mtl_jax.train import fit
  from mtl_jax.trained import load

__version__ = '0.1.0'

__all__ = [
  'MultiTaskModel',
  'Task',
  'TrainState',
  'combine',
  'cosines',
  'encoders',
  'fit',
  'gramian',
  'heads',
  'init_train_state',
  'load',
  'make_eval_step',
  'make_train_step',
  'memory',
  'monitor',
  'optim',
  'sharding',
  'sharing',
  'task_gradients',
]

_LATER = {'fit': 'mtl_jax.train', 'load': 'mtl_jax.trained'}


def __getattr__(name: str) -> Any:
  """What needs the data libraries, imported when it is first asked for."""
  import importlib

  if name not in _LATER:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_LATER[name]), name)
