"""The model of a run: its encoder, its heads and how they share."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from mtl_jax import encoders, errors, kinds
from mtl_jax import sharing as sharing_lib
from mtl_jax.build.encoder import build_encoder
from mtl_jax.data import pipeline
from mtl_jax.data.known import Known
from mtl_jax.model import MultiTaskModel
from mtl_jax.tasks import Task

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
  given = {key: options[key] for key in kinds.head_options_of(spec.rules)}
  head = spec.rules.build_head(data.label_names[name], dtype, **given)
  return Task(
    name,
    head,
    spec.rules,
    metrics=spec.metrics,
    weight=options['weight'],
    class_weights=_class_weights(name, options.get('class_weights', ()), data),
  )


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
