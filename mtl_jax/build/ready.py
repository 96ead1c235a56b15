"""What is known of a run's data before its first step: faults that would end it, and meetings."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl_jax import errors, kinds, metrics
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
    DataError: there is no validation split, or it has no labels for the metric that selects, or
      such as give it no value.
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
  _check_values(metric, data)
  _tell_meetings(run, data)


def _check_values(chosen: str, data: pipeline.Data) -> None:
  """Raises DataError if rankings that select have no value; tells of others that have none."""
  none = {
    split: [t for t, spec in data.specs.items() if _one_sided(data, split, t, spec.metrics[0])]
    for split in ('validation', 'test')
    if split in data.num_examples
  }
  task, _, metric = chosen.partition('.')
  labelled = [name for name, count in data.labelled('validation').items() if count]
  if chosen == 'mean':
    empty = set(labelled) <= set(none['validation'])
  else:
    empty = task in data.specs and _one_sided(data, 'validation', task, metric)
  if empty:
    raise errors.DataError(
      f'the validation labels of {", ".join(none["validation"][:_SHOWN]) or task} are all of one '
      f'class, so that {chosen!r} has no value to choose the best parameters by: hold out more of '
      'the examples, stratify by that column, or choose another train.early_stopping.metric'
    )
  for split, tasks in none.items():
    if tasks:
      _LOG.warning(
        'no value on the %s split, whose labels are all of one class, or unknown: %s',
        split,
        _listed([f'{t}.{data.specs[t].metrics[0]}' for t in tasks], 'tasks'),
      )


def _one_sided(data: pipeline.Data, split: str, task: str, metric: str) -> bool:
  """Whether a ranking has no value on the labels that there are, whatever the scores."""
  rules, names = data.specs[task].rules, data.label_names[task]
  if type(rules) not in kinds.KINDS.values() or not rules.metrics[metric].needs_scores:
    return False
  if not data.labelled(split).get(task):
    return False
  targets = data.targets(split, task)
  targets = targets[rules.labelled(targets)]
  scores = np.zeros((len(targets), len(names)), np.float32)
  return rules.metrics[metric].function(targets, scores, names) is None


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


def _listed(items: list[str], of: str = 'pairs') -> str:
  more = f', and {len(items) - _SHOWN} more {of}' if len(items) > _SHOWN else ''
  return ', '.join(items[:_SHOWN]) + more
