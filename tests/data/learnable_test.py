"""Training splits without a label that could be learned: told at the start, by the task's name."""

import logging

import pytest

from mtl_jax import errors
from mtl_jax.data import pipeline, specs

WORDS = specs.InputSpec('words', 'words', 'words')
KINDS = ('classification', 'multilabel', 'tagging')
METRICS = {'classification': 'accuracy', 'multilabel': 'micro_f1', 'tagging': 'token_accuracy'}


def rows(kind, names):
  shape = {
    'classification': lambda name: name,
    'multilabel': lambda name: [name],
    'tagging': lambda name: [name, name],
  }[kind]
  return [{'words': ['a', 'b'], 'x': shape(name)} for name in names]


def load(examples, kind, vocabularies=None, labels=None, **kwargs):
  metric = METRICS.get(kind, 'mse')
  task = {'x': specs.TaskSpec(kind, 'x', (metric,), labels=labels)}
  return pipeline.from_examples(
    {'train': examples, 'validation': examples}, WORDS, task, {}, 2, 0, vocabularies, **kwargs
  )


@pytest.mark.parametrize('kind', KINDS)
def test_no_label_is_a_class_of_the_earlier_run(kind):
  earlier = load(rows(kind, 'pqpq'), kind).vocabularies
  with pytest.raises(errors.DataError) as caught:
    load(rows(kind, 'rsrr'), kind, earlier, new_tasks=True)
  count = 2 if kind == 'tagging' else 1
  assert str(caught.value) == (
    "data set 'given examples', split 'train', task 'x': no label is a class of the earlier run "
    f"('p', 'q'), so that nothing could be learned; there are 'r' ({3 * count}), 's' ({count}). "
    'Name the labels as there, or leave the task out'
  )


@pytest.mark.parametrize('kind', KINDS)
def test_some_labels_are_no_classes_of_the_earlier_run(kind, caplog):
  earlier = load(rows(kind, 'pqpq'), kind).vocabularies
  with caplog.at_level(logging.INFO, 'mtl_jax'):
    load(rows(kind, 'pqpq'), kind, earlier)
    load(rows(kind, 'rsrr'), kind)
    assert not caplog.records
    load(rows(kind, 'prrs'), kind, earlier)
  ((level, text),) = [(r.levelname, r.getMessage()) for r in caplog.records]
  n = 2 if kind == 'tagging' else 1
  assert level == 'WARNING'
  assert f"task 'x': {3 * n} of {4 * n} labels are no classes of the earlier run" in text
  assert text.endswith(f"not learned: 'r' ({2 * n}), 's' ({n})")


def test_rare_classes_are_left_out_without_a_word(caplog):
  task = {'x': specs.TaskSpec('classification', 'x', ('accuracy',), min_count=2)}
  arguments = {'train': rows('classification', 'ppq')}, WORDS, task, {}, 2, 0
  with caplog.at_level(logging.INFO, 'mtl_jax'):
    first = pipeline.from_examples(*arguments)
    pipeline.from_examples(*arguments, first.vocabularies)  # the same data in a later run
  assert not caplog.records


@pytest.mark.parametrize(
  ('kind', 'labels', 'value'),
  [
    ('classification', ('p', 'q'), ''),
    ('classification', ('p', 'q'), None),
    ('multilabel', ('p', 'q'), None),
    ('tagging', ('p', 'q'), ['', '']),
    ('regression', None, None),
  ],
)
def test_a_task_without_a_label(kind, labels, value):
  examples = [{'words': ['a', 'b'], 'x': value}] * 4
  with pytest.raises(errors.DataError, match=r"split 'train', task 'x': no example has a label"):
    load(examples, kind, labels=labels)
  one = {'classification': 1, 'multilabel': ['q'], 'tagging': ['', 'q'], 'regression': 0.5}
  load([*examples, {'words': ['a', 'b'], 'x': one[kind]}], kind, labels=labels)


def test_labels_beyond_max_length_are_none():
  examples = [{'words': ['a', 'b'], 'x': ['', 'p']}] * 4
  task = {'x': specs.TaskSpec('tagging', 'x', ('token_accuracy',))}
  with pytest.raises(errors.DataError, match='no example has a label'):
    pipeline.from_examples({'train': examples}, WORDS, task, {'max_length': 1}, 2, 0)


def test_of_tasks_with_examples_of_their_own_each_needs_one():
  examples = [{'of': t, 'words': ['a'], 'y': 1.0 if t == 's' else None} for t in 'ststst']
  task = {name: specs.TaskSpec('regression', 'y', ('mse',)) for name in 'st'}
  with pytest.raises(errors.DataError, match="task 't': no example has a label"):
    pipeline.from_examples({'train': examples}, WORDS, task, {}, 2, 0, owner='of')
