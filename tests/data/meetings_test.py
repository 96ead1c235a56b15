"""Tasks of different lengths meet in batches, as often as is said; the oracle counts batches."""

import collections
import itertools

import numpy as np
import pytest

from mtl_jax.data import _meetings, _ragged, pipeline, specs

TEXT = specs.InputSpec('text', 'text', 'words')
NAMES = ('urgency', 'queue', 'stars', 'topic')
TASKS = {name: specs.TaskSpec('classification', name, ('accuracy',)) for name in NAMES}


def sources(count, short, long, seed=0):
  """Tickets, a third of the examples, and reviews; of two tasks each, one is often missing."""
  rng = np.random.default_rng(seed)
  examples = []
  for i in range(count):
    ticket = i % 3 == 0
    first = f'n{i}'
    length = int(rng.integers(*(short if ticket else long)))
    label = dict.fromkeys(NAMES, '')
    sometimes = 'a' if rng.random() < 0.5 else ''
    if ticket:
      label |= {'urgency': str(rng.choice(['a', 'b'])), 'queue': sometimes}
    else:
      label |= {'stars': str(rng.choice(['a', 'b'])), 'topic': sometimes}
    examples.append({'text': ' '.join([first] + ['w'] * (length - 1)), **label})
  return examples


def data(examples, batch_size=32, seed=0, config=(), tasks=TASKS, **kwargs):
  config = {'buckets': 4, **dict(config)}
  return pipeline.from_examples(
    {'train': examples}, TEXT, tasks, config, batch_size, seed, **kwargs
  )


def counted(batches, names):
  """The share of batches in which both tasks of a pair have a label."""
  masks = [{name: batch['mask'][name].any() for name in names} for batch in batches]
  return {
    pair: np.mean([mask[pair[0]] and mask[pair[1]] for mask in masks])
    for pair in itertools.combinations(names, 2)
  }


APART = sources(4800, (4, 14), (40, 120))


def test_sources_of_different_lengths_meet():
  made = data(APART)
  assert made.steps_per_epoch == 150
  stream = made.train()
  first = [next(stream) for _ in range(150)]
  meetings = made.meetings()
  assert meetings == pytest.approx(counted(first, NAMES))
  assert min(meetings.values()) == 1.0
  for batch in first:  # in proportion
    assert 10 <= batch['mask']['urgency'].sum() <= 11
    assert 21 <= batch['mask']['stars'].sum() <= 22
    width = batch['inputs']['tokens'].shape[1]
    assert width == min(w for w in made.bucket_lengths if w >= batch['inputs']['mask'].sum(1).max())
  # Short ones with short ones: batches are of every length that reviews have.
  widths = collections.Counter(batch['inputs']['tokens'].shape[1] for batch in first)
  assert set(widths) == set(made.bucket_lengths[1:])
  assert max(widths.values()) < 75


def test_an_epoch_is_still_exact_and_any_batch_can_be_resumed():
  examples = sources(250, (4, 14), (40, 120), seed=1)
  made = data(examples, batch_size=12, seed=3)
  assert made._stratum is not None
  orders = set()
  left_out = collections.Counter()
  for epoch in range(30):
    rows = np.concatenate([made._training.rows(epoch * 20 + i) for i in range(20)])
    assert len(set(rows.tolist())) == 240
    left_out.update(set(range(250)) - set(rows.tolist()))
    orders.add(tuple(rows.tolist()))
  assert len(orders) == 30
  assert max(left_out.values()) <= 8  # 300 places among 250 examples
  stream = data(examples, batch_size=12, seed=3).train(start=47)
  expected, got = made._training[47], next(stream)
  for part, arrays in expected.items():
    for name, array in arrays.items():
      np.testing.assert_array_equal(got[part][name], array)
  parts = [
    data(examples, 12, 3, process_index=i, process_count=3)._training[47]['inputs']['tokens']
    for i in range(3)
  ]
  np.testing.assert_array_equal(np.concatenate(parts), expected['inputs']['tokens'])


def test_lengths_that_say_nothing_of_tasks_leave_the_buckets():
  """Whatever labels are missing: batches are those of examples that lack none."""
  rng = np.random.default_rng(4)
  names = [f't{i}' for i in range(12)]
  tasks = {name: specs.TaskSpec('classification', name, ('accuracy',)) for name in names}
  examples = [
    {
      'text': ' '.join(['w'] * int(rng.integers(3, 60))),
      **{name: 'a' if rng.random() < 0.3 else '' for name in names},
    }
    for _ in range(900)
  ]
  made = data(examples, tasks=tasks)
  assert made._stratum is None
  complete = data([e | dict.fromkeys(names, 'a') for e in examples], tasks=tasks)
  for number in range(60):
    np.testing.assert_array_equal(made._training.rows(number), complete._training.rows(number))
  assert set(complete.meetings().values()) == {1.0}


def test_a_task_that_nearly_all_examples_have_meets_the_others_anyway():
  """One in twenty lacks it, all long ones: no batch needs to be longer for that."""
  examples = sources(900, (4, 40), (4, 40))
  for i, example in enumerate(examples):
    example.update(dict.fromkeys(NAMES, 'a'))
    if i % 20 == 0:
      example.update(text=' '.join(['w'] * 60), topic='')
  assert data(examples)._stratum is None


def test_strata_are_the_sources_though_labels_are_missing_at_random():
  rng = np.random.default_rng(5)
  source = rng.integers(0, 3, 3000)
  known = rng.random((3000, 9)) < 0.6
  for task in range(9):
    known[:, task] &= source == task % 3
  bucket = np.minimum(source, 1) * 2 + rng.integers(0, 2, 3000)  # two sources are alike
  found = _meetings.strata(known, bucket)
  labelled = known.any(axis=1)
  short = set(found[(source == 0) & labelled].tolist())
  assert not short & set(found[(source != 0) & labelled].tolist())
  assert len(set(found.tolist())) <= 4  # by its three tasks, and the rest together


def test_labels_that_carry_a_loss():
  ragged = _ragged.from_rows([[-1, 2], [], [-2, -1], [0], [-1, 0, -1]])
  assert _meetings.labelled(ragged).tolist() == [True, False, False, True, True]
  assert _meetings.labelled(np.array([0, 3, -1, -2])).tolist() == [True, True, False, False]
  assert _meetings.labelled(np.array([[-1, -1], [0, 0], [-1, 1]])).tolist() == [False, True, True]
  assert _meetings.labelled(np.array([0.0, np.nan], np.float32)).tolist() == [True, False]


def test_every_stretch_has_its_share_of_each_stratum():
  rng = np.random.default_rng(6)
  stratum = rng.choice(4, 1000, p=[0.6, 0.3, 0.09, 0.01])
  bucket = rng.integers(0, 3, 1000)
  order = rng.permutation(1000)[:960]
  mixed = _meetings.mixed(order, bucket, stratum)
  assert sorted(mixed) == sorted(order)
  whole = np.bincount(stratum[mixed])
  for rows in mixed.reshape(30, 32):
    assert (np.abs(np.bincount(stratum[rows], minlength=4) - whole / 30) < 2).all()
  for number in range(4):
    assert (np.diff(bucket[mixed[stratum[mixed] == number]]) >= 0).all()


OWN = [
  {'task': task, 'text': f'{task} {i}', 'label': 'ab'[i % 2]}
  for task, count in (('big', 64), ('small', 16))
  for i in range(count)
]
OWN_TASKS = {
  name: specs.TaskSpec('classification', 'label', ('accuracy',)) for name in ('big', 'small')
}


def test_tasks_with_examples_of_their_own():
  made = data(OWN, 8, tasks=OWN_TASKS, owner='task')
  assert made.meetings() == {('big', 'small'): 1.0}
  few = [e | ({} if int(e['text'].split()[1]) < 4 else {'label': ''}) for e in OWN]
  made = data(few, 8, tasks=OWN_TASKS, owner='task')
  batches = [made._training[number] for number in range(made.steps_per_epoch)]
  both = np.mean([batch['big']['mask'].any() and batch['small']['mask'].any() for batch in batches])
  assert made.meetings() == {('big', 'small'): both}
  assert both < 1
  made = data(OWN, 8, tasks=OWN_TASKS, owner='task', config={'mixing': 'one'})
  assert made.meetings() == {('big', 'small'): 0.0}


def test_one_task_meets_none():
  assert data(APART[:100], tasks={'urgency': TASKS['urgency']}).meetings() == {}
