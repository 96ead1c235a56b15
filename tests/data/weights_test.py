"""Weights of examples, from a field to the batches; of classes, from what a split holds.

What a loss makes of weights is in tasks_test and gradients/weights_test.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from sklearn.utils import class_weight

from mtl_jax import errors, kinds
from mtl_jax.build import model as model_lib
from mtl_jax.data import pipeline, specs
from mtl_jax.run import workdir
from tests.data import arrays_test, own_inputs_test, pipeline_test

WEIGHED = {
  name: dataclasses.replace(spec, weight_field='w' if name in ('intent', 'slots') else '')
  for name, spec in pipeline_test.TASKS.items()
}


def with_weights(examples, weigh):
  return {
    split: [item | {'w': weigh(i)} for i, item in enumerate(items)]
    for split, items in examples.items()
  }


def some(index):
  """0, 0.5, 1, ..., and none."""
  return None if index % 5 == 4 else index / 2


EXAMPLES = with_weights(pipeline_test.EXAMPLES, some)


def data(examples=EXAMPLES, tasks=WEIGHED, config=None, batch_size=8):
  return pipeline_test.data(config, batch_size, examples=examples, tasks=tasks)


def test_batches_of_shared_inputs():
  made = data()
  split = made.splits['train']
  batch = made.train()
  for _ in range(4):
    item = next(batch)
    assert set(item) == {'inputs', 'targets', 'mask', 'weight'}
    assert set(item['weight']) == {'intent', 'slots'}
    assert item['weight']['intent'].dtype == np.float32
  for item in made.evaluation('validation', 4):
    weights = [EXAMPLES['validation'][i]['w'] for i in item.indices]
    expected = [1.0 if w is None else w for w in weights] + [0.0] * (4 - item.count)
    for task in ('intent', 'slots'):
      assert item.batch['weight'][task].tolist() == expected
  rows = made._training.rows(3)
  np.testing.assert_array_equal(item_of(made, 3)['weight']['slots'], split.weights['slots'][rows])


def item_of(made, number):
  return next(made.train(start=number))


def test_batches_of_own_inputs():
  examples = {
    split: [item | {'w': float(i)} for i, item in enumerate(items)]
    for split, items in own_inputs_test.EXAMPLES.items()
  }
  weight_of = {e['text'].split()[0]: e['w'] for e in examples['train']}
  tasks = own_inputs_test.TASKS
  tasks = tasks | {'pairs': dataclasses.replace(tasks['pairs'], weight_field='w')}
  made = own_inputs_test.data(tasks=tasks, examples=examples)
  for batch in itertools.islice(made.train(), 5):
    assert set(batch['long']) == {'inputs', 'targets', 'mask'}
    assert set(batch['pairs']) == {'inputs', 'targets', 'mask', 'weight'}
    names = [row[0] for row in own_inputs_test.texts(made, batch['pairs'])]
    assert batch['pairs']['weight'].tolist() == [weight_of[name] for name in names]


def test_batches_of_arrays():
  tasks = arrays_test.TASKS
  tasks = tasks | {'size': dataclasses.replace(tasks['size'], weight_field='w')}
  examples = with_weights(arrays_test.examples(), float)
  made = pipeline.from_examples(examples, arrays_test.IMAGE, tasks, {}, 8, 0)
  batch = made.example_batch()
  np.testing.assert_array_equal(batch['weight']['size'], batch['targets']['size'])
  assert set(batch['weight']) == {'size'}


def test_without_weights_nothing_changes():
  plain, made = pipeline_test.data(), data(tasks=pipeline_test.TASKS)
  assert workdir.identity(plain) == workdir.identity(made)
  assert set(plain.example_batch()) == {'inputs', 'targets', 'mask'}
  assert workdir.identity(plain) != workdir.identity(data())


def test_what_weighs_nothing_meets_nobody():
  """An example of weight 0 is one without a label, for what tells which tasks meet."""
  lonely = with_weights(pipeline_test.EXAMPLES, lambda i: 0.0 if i else 1.0)
  lonely = {split: [e | {'intent': 'play'} for e in items] for split, items in lonely.items()}
  tasks = {'intent': WEIGHED['intent'], 'topics': WEIGHED['topics']}
  tasks['topics'] = dataclasses.replace(tasks['topics'], field='topics')
  lonely['train'] = [e | {'topics': ['x']} for e in lonely['train']]
  made = data(lonely, tasks, {'buckets': 1})
  assert made.meetings()[('intent', 'topics')] <= 1 / made.steps_per_epoch


@pytest.mark.parametrize(
  'weight', [-0.5, float('nan'), float('inf'), '1.0', True, 1e300, np.float32('nan')]
)
def test_a_weight_that_cannot_be(weight):
  examples = with_weights(pipeline_test.EXAMPLES, lambda i: weight if i == 3 else 1.0)
  with pytest.raises(errors.DataError, match=r"train', task 'intent', example 3: weight .*'w'"):
    data(examples)


def test_a_field_that_is_nowhere_and_weights_that_are_all_0():
  with pytest.raises(errors.DataError, match="task 'intent': no example has the field 'w' of its"):
    data(pipeline_test.EXAMPLES)
  nothing = with_weights(pipeline_test.EXAMPLES, lambda i: 0.0)
  with pytest.raises(errors.DataError, match=r"task 'intent': every example with .* weight 0 in"):
    data(nothing)


def test_the_field_of_the_weights_is_an_option():
  spec = specs.TaskSpec('classification', 'y', ('accuracy',), weight_field='v')
  assert spec.with_options({}).weight_field == 'v'
  assert spec.with_options({'weight_column': ''}).weight_field == 'v'
  assert spec.with_options({'weight_column': 'w'}).weight_field == 'w'


def test_balanced_weights_are_those_of_scikit_learn():
  rng = np.random.default_rng(0)
  labels = rng.choice(4, 200, p=[0.7, 0.2, 0.05, 0.05]).astype(np.int32)
  expected = class_weight.compute_class_weight('balanced', classes=np.arange(4), y=labels)
  given = np.concatenate([labels, [-1, -2, -1]])
  np.testing.assert_allclose(kinds.get('classification').balanced(given, 4), expected)
  found = kinds.get('classification').balanced(given, 6)  # two classes that no example has
  np.testing.assert_allclose(found, [*expected, 1.0, 1.0])
  rows = rng.integers(0, 2, (50, 3))
  rows[:, 2] = 0
  rows[0] = -1
  found = kinds.get('multilabel').balanced(rows, 3)
  for column in range(2):  # the weights of the two labels of a class, scaled so that one is 1
    none, some_ = class_weight.compute_class_weight(
      'balanced', classes=np.arange(2), y=rows[1:, column]
    )
    np.testing.assert_allclose(found[column], some_ / none)
  assert found[2] == 1.0


def test_weights_of_classes_of_a_config():
  made = data()
  find = model_lib._class_weights
  assert find('intent', (), made) is None
  assert find('intent', (1, 2), made) == (1, 2)
  tags = [tag for item in EXAMPLES['train'] for tag in item['slots']]
  expected = class_weight.compute_class_weight(
    'balanced', classes=np.array(made.label_names['slots']), y=np.array(tags)
  )
  np.testing.assert_allclose(find('slots', ('balanced',), made), expected)
  with pytest.raises(
    errors.ConfigError, match=r'class_weights: need 2 numbers, one a class \(\w+, \w+\), not 3'
  ):
    find('intent', (1, 2, 3), made)
