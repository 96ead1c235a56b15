"""Few labels of a task, and batches of each task's own where tasks share examples.

The examples are those of pipeline_test; what is expected is read off them in plain Python.
"""

import dataclasses
import itertools

import numpy as np
import pytest

from mtl_jax import config as config_lib
from mtl_jax import errors
from tests.data import pipeline_test
from tests.data.pipeline_test import EXAMPLES, TASKS

LABELLED = {
  'intent': lambda label: label != '',
  'slots': lambda label: any(tag != '' for tag in label),
  'topics': lambda label: label is not None,
  'score': lambda label: label is not None,
}


def limited(**limits):
  return {
    name: dataclasses.replace(spec, train_labels=limits.get(name, 0))
    for name, spec in TASKS.items()
  }


def known(split, task):
  """Which examples have a label, by their targets."""
  target = split.targets[task]
  if task == 'slots':
    bounds = target.offsets
    return [bool((target.values[a:b] != -1).any()) for a, b in itertools.pairwise(bounds)]
  if task == 'score':
    return (~np.isnan(target)).tolist()
  return (target.reshape(len(target), -1) != -1).any(axis=1).tolist()


def test_only_the_first_labels_are_left_and_examples_without_any_go():
  limits = {'intent': 7, 'slots': 3, 'topics': 5, 'score': 6}
  data = pipeline_test.data(tasks=limited(**limits))
  keep = {}
  for task, limit in limits.items():
    field = TASKS[task].field
    have = [i for i, e in enumerate(EXAMPLES['train']) if LABELLED[task](e[field])]
    keep[task] = set(have[:limit])
  left = sorted(set.union(*keep.values()))
  split = data.splits['train']
  assert len(split) == len(left) < len(EXAMPLES['train'])
  for task in limits:
    assert known(split, task) == [i in keep[task] for i in left]
  for name in ('validation', 'test'):  # as ever
    assert len(data.splits[name]) == len(EXAMPLES[name])


def test_without_limits_nothing_changes():
  assert len(pipeline_test.data().splits['train']) == len(EXAMPLES['train'])


def test_classes_come_from_the_labels_that_are_left():
  first = next(e['intent'] for e in EXAMPLES['train'] if e['intent'])
  data = pipeline_test.data(tasks=limited(intent=1))
  assert data.label_names['intent'] == (first,)


def test_batches_of_their_own_hold_the_labelled_examples_of_each_task():
  data = pipeline_test.data({'own_batches': True}, batch_size=5, tasks=limited(intent=6))
  assert data.own_inputs
  assert len(data.splits['train/intent']) == 6
  for split, examples in EXAMPLES.items():
    for task, spec in TASKS.items():
      if (split, task) != ('train', 'intent'):
        have = sum(LABELLED[task](e[spec.field]) for e in examples)
        assert len(data.splits[f'{split}/{task}']) == have
  batch = next(data.train())
  assert set(batch) == set(TASKS)
  assert all(part['mask'].all() and len(part['mask']) == 5 for part in batch.values())
  assert data.meetings()['intent', 'score'] == 1.0


def test_the_joint_match_is_not_that_of_batches_of_their_own():
  config = config_lib.default()
  config.dataset.name = 'english_words'
  config.dataset.own_batches = True
  config.tasks = config_lib.tasks({'pos': {}, 'lemma': {'train_labels': 3}})
  config.train.steps = 1
  (run,) = config_lib.resolve(config)
  assert run['tasks']['lemma']['train_labels'] == 3
  config.train.early_stopping.metric = 'joint.exact_match'
  with pytest.raises(errors.ConfigError, match='and those with own_batches do not'):
    config_lib.resolve(config)
