"""Rates and batch sizes of tasks with batches of their own; by size they are in own_inputs_test."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from mtl_jax import errors
from mtl_jax.data import _mixing
from tests.data import pipeline_test
from tests.data.own_inputs_test import SIZES, TASKS, data

ONE = {'mixing': 'one'}


def sized(**sizes):
  return {n: dataclasses.replace(spec, batch_size=sizes.get(n, 0)) for n, spec in TASKS.items()}


def rows_of(batch):
  return {task: len(part['mask']) for task, part in batch.items()}


@pytest.mark.parametrize('rates', [(1, 3, 6), {'pairs': 0.6, 'long': 0.1, 'short': 0.3}])
def test_tasks_are_drawn_at_their_rates(rates):
  made = data(ONE | {'rates': rates})
  batches = itertools.islice(made.train(threads=0), 2000)
  counts = collections.Counter(task for batch in batches for task in batch)
  for task, share in zip(TASKS, (0.1, 0.3, 0.6), strict=True):
    expected = 2000 * share
    assert abs(counts[task] - expected) < 5 * np.sqrt(expected), counts
  again = list(itertools.islice(data(ONE | {'rates': rates}).train(start=7, threads=0), 5))
  assert [list(batch) for batch in again] == [
    list(batch) for batch in itertools.islice(made.train(threads=0), 7, 12)
  ]


def test_shares_of_rates():
  assert _mixing.given_shares((1, 3), ['a', 'b']) == [0.25, 0.75]
  assert _mixing.given_shares({'b': 3, 'a': 1}, ['a', 'b']) == [0.25, 0.75]


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (ONE | {'rates': (1, 2)}, r'rates: need a number above 0 for each of the tasks \(long, short'),
    (ONE | {'rates': (1, 2, 0)}, 'rates: need a number above 0'),
    (ONE | {'rates': (1, 2, 'x')}, 'rates: need a number above 0'),
    (ONE | {'rates': {'long': 1, 'short': 1}}, 'rates: need a number above 0'),
    (ONE | {'rates': {'lon': 1}}, "rates: no task 'lon'; did you mean 'long'"),
    (ONE | {'rates': (1, 2, 3), 'temperature': 2.0}, 'rates: temperature is for tasks that are'),
    (ONE | {'rates': (1, 2, 3), 'size_limit': 9}, 'rates: size_limit is for tasks that are'),
    ({'rates': (1, 2, 3)}, "rates: they say which task a step is of, with mixing='one'"),
  ],
)
def test_rates_that_cannot_be(config, message):
  with pytest.raises(errors.ConfigError, match=message):
    data(config)


def test_a_batch_size_for_each_task():
  made = data(tasks=sized(long=12, short=4))
  assert made.steps_per_epoch == sum(SIZES.values()) // (12 + 4 + 8)
  batches = list(itertools.islice(made.train(), 20))
  for batch in batches:
    assert rows_of(batch) == {'long': 12, 'short': 4, 'pairs': 8}
    assert len({part['inputs']['tokens'].shape[1] for part in batch.values()}) == 1
  assert rows_of(made.example_batch()) == rows_of(batches[0])
  again = next(made.train(start=11))
  np.testing.assert_array_equal(
    again['short']['inputs']['tokens'], batches[11]['short']['inputs']['tokens']
  )
  evaluated = made.evaluation('validation', 8)
  assert evaluated.num_examples == 21


def test_batch_sizes_with_one_task_a_step():
  made = data(ONE | {'rates': (1, 1, 2)}, tasks=sized(long=12, short=4))
  mean = (12 + 4 + 2 * 8) / 4
  assert made.steps_per_epoch == int(sum(SIZES.values()) / mean)
  sizes = {'long': 12, 'short': 4, 'pairs': 8}
  for batch in itertools.islice(made.train(), 20):
    ((task, count),) = rows_of(batch).items()
    assert count == sizes[task]


def test_a_batch_size_of_the_default_changes_nothing():
  plain, made = data(), data(tasks=sized(long=8, short=8, pairs=8))
  for one, other in zip(itertools.islice(plain.train(), 5), made.train(), strict=False):
    for task in TASKS:
      np.testing.assert_array_equal(one[task]['inputs']['tokens'], other[task]['inputs']['tokens'])
  assert plain.steps_per_epoch == made.steps_per_epoch


def test_batch_sizes_that_cannot_be():
  tasks = pipeline_test.TASKS
  tasks = tasks | {'intent': dataclasses.replace(tasks['intent'], batch_size=4)}
  with pytest.raises(errors.ConfigError, match=r"task 'intent': batch_size 4: .*own_batches"):
    pipeline_test.data(tasks=tasks)
  assert pipeline_test.data({'own_batches': True}, tasks=tasks).own_inputs
  with pytest.raises(errors.ConfigError, match=r"batch_size 25 is larger .*'short', 24 examples"):
    data(tasks=sized(short=25))
  with pytest.raises(errors.ConfigError, match='batch_size 5: need a positive multiple of the 2'):
    data(tasks=sized(short=5), process_count=2)
