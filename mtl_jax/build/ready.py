"""What is known of a run's data before its first step: faults that would end it, and meetings."""

import logging
from collections.abc import Mapping
from typing import Any

from mtl_jax import errors, metrics
from mtl_jax.data import pipeline

_LOG = logging.getLogger(__name__)
_OFTEN = 0.9  # share of steps in which two tasks meet, below which it is said
_SHOWN = 5  # pairs in a message


def check(run: Mapping[str, Any], data: pipeline.Data) -> None:
  """Finds what evaluations would stumble over, and logs where tasks meet in too few steps.

  Args:
    run: a config from `config.resolve`.
    data: its data set.

  Raises:
    ConfigError: there is no test split for `eval.test`, or the labels are not such as a metric
      needs.
    DataError: there is no validation split, or it has no labels for the metric that selects.
  """
  if 'validation' not in data.num_examples:
    raise errors.DataError(
      f'data set {data.name!r} has no validation split, by which the best parameters are chosen: '
      'add one, such as a part of the training split'
    )
  if run['eval']['test'] and 'test' not in data.num_examples:
    raise errors.ConfigError(
      f'eval.test: data set {data.name!r} has no test split: set it to False, or add one'
    )
  for task, spec in data.specs.items():
    with errors.as_config_errors():
      metrics.check(task, spec.kind, spec.metrics, data.label_names[task] or None)
  metric = run['train']['early_stopping']['metric']
  task = metric.split('.')[0]
  labelled = data.labelled('validation')
  if not labelled.get(task, sum(labelled.values())):
    raise errors.DataError(
      f'the validation split of data set {data.name!r} has no labels that {metric!r} could be '
      'computed from; choose another train.early_stopping.metric'
    )
  _tell_meetings(run, data)


def _tell_meetings(run: Mapping[str, Any], data: pipeline.Data) -> None:
  meetings = data.meetings()
  if meetings and data.own_inputs and run['dataset']['mixing'] == 'one':
    _LOG.info(
      "dataset.mixing='one': each step is of one task, so that no two tasks ever meet in one and "
      'are never balanced against each other'
    )
    return
  never = [pair for pair, share in meetings.items() if not share]
  seldom = sorted((share, pair) for pair, share in meetings.items() if 0 < share < _OFTEN)
  if never:
    _LOG.warning(
      'tasks that never have labels in the same step are never balanced against each other: %s',
      _listed([' and '.join(pair) for pair in never]),
    )
  if seldom:
    _LOG.info(
      'tasks are balanced against each other in the steps in which both have labels: %s',
      _listed([f'{" and ".join(pair)} in {share:.1%}' for share, pair in seldom]),
    )


def _listed(items: list[str]) -> str:
  more = f', and {len(items) - _SHOWN} more pairs' if len(items) > _SHOWN else ''
  return ', '.join(items[:_SHOWN]) + more
