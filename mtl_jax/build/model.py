"""The model of a run: its encoder, its heads and how they share."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import dotted, encoders, errors, kinds
from mtl_jax import sharing as sharing_lib
from mtl_jax.build.encoder import build_encoder
from mtl_jax.data import pipeline
from mtl_jax.data.known import Known
from mtl_jax.model import MultiTaskModel
from mtl_jax.tasks import ElementwiseLoss, Task

Run = Mapping[str, Any]

BALANCED = ('balanced',)
"""In place of the numbers of `tasks.NAME.class_weights`."""


def build_model(run: Run, data: Known) -> MultiTaskModel:
  """The encoder, the heads and how they share."""
  dtype = jnp.dtype(run['dtype'])
  tasks = [_task(name, run, data, dtype) for name in run['tasks']]
  return _share(run, build_encoder(run, data), tasks)


def _share(run: Run, encoder: Any, tasks: list[Task]) -> MultiTaskModel:
  name = run['sharing']['name']
  return sharing_lib.get(name)(encoder, tasks, **run['sharing'].get(name, {}))


def check_sharing(run: Run) -> None:
  """Raises ConfigError unless the tasks can share as they are told to."""
  with errors.as_config_errors('sharing.'):
    _share(run, encoders.MLP(), [Task(name, None) for name in run['tasks']])


def _task(name: str, run: Run, data: Known, dtype: Any) -> Task:
  options, spec = run['tasks'][name], data.specs[name]
  names = data.label_names[name]
  if options.get('head'):
    head = _own_head(options['head'], spec.rules.width(names), dtype)
  else:
    given = {key: options[key] for key in kinds.head_options_of(spec.rules)}
    head = spec.rules.build_head(names, dtype, **given)
  return Task(
    name,
    head,
    spec.rules,
    _own_loss(options['loss']) if options.get('loss') else None,
    metrics=spec.metrics,
    weight=options['weight'],
    class_weights=_class_weights(name, options.get('class_weights', ()), data),
  )


def check_own(options: Mapping[str, Any]) -> None:
  """Raises ValueError for a head or a loss of a user's own that is none."""
  if options.get('head'):
    _own_head(options['head'], 1, jnp.float32)
  if options.get('loss'):
    _own_loss(options['loss'])


def _own_head(name: str, width: int, dtype: Any) -> Any:
  """The head of a user's own that a config names, a Flax module."""
  found = dotted.load(name, 'head')
  if not callable(found):
    raise ValueError(
      f'head {name!r} is no Flax module class, and no function that returns a module'
    )
  offered = {'num_classes': width, 'dtype': dtype}
  taken = inspect.signature(found).parameters
  try:
    made = found(**{key: value for key, value in offered.items() if key in taken})
  except TypeError as error:
    raise ValueError(f'head {name!r} cannot be made of num_classes and dtype: {error}') from error
  if not (hasattr(made, 'init') and hasattr(made, 'apply')):
    raise ValueError(f'head {name!r} made {made!r}, which is no Flax module')
  return made


def _own_loss(name: str) -> ElementwiseLoss:
  """The loss of a user's own that a config names."""
  function = dotted.load(name, 'loss')
  if not callable(function):
    raise ValueError(f'loss: {name!r} is no function of outputs and targets')

  def loss(outputs: Any, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    found = function(outputs, targets)
    # Without its own word, a value counts where there is a label: the task masks the others.
    return found if isinstance(found, tuple) else (found, jnp.ones(jnp.shape(found), bool))

  return loss


def _class_weights(name: str, given: Sequence[Any], data: Known) -> tuple[float, ...] | None:
  """What the config gives, or the weights that balance the training split."""
  names = data.label_names[name]
  if not given or not isinstance(data, pipeline.Data):  # without examples nothing is trained
    return None
  if tuple(given) == BALANCED:
    return data.specs[name].rules.balanced(data.targets('train', name), len(names))
  if len(given) != len(names):
    raise errors.ConfigError(
      f'tasks.{name}.class_weights: need {len(names)} numbers, one a class '
      f'({", ".join(names)}), not {len(given)}'
    )
  return tuple(given)
