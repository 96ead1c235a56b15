"""What is wrong with a run's data is said before its first step, and how often its tasks meet."""

import logging

import pytest

from mtl_jax import config as config_lib
from mtl_jax import errors, train
from mtl_jax.build import program, ready, start
from mtl_jax.data import pipeline, specs

TEXT = specs.InputSpec('text', 'text', 'words')
WORDS = specs.InputSpec('text', 'words', 'words')
TASKS = {
  'tone': specs.TaskSpec('classification', 'tone', ('accuracy',)),
  'stars': specs.TaskSpec('regression', 'stars', ('mse',)),
}


def items(count, **label):
  label = {'tone': 'ab', 'stars': 1.0} | label
  return [
    {'text': f'w{i}', 'tone': label['tone'] and label['tone'][i % 2], 'stars': label['stars']}
    for i in range(count)
  ]


SPLITS = {'train': items(16), 'validation': items(4), 'test': items(4)}


def data(config=(), tasks=TASKS, given=TEXT, **splits):
  examples = {k: v for k, v in (SPLITS | splits).items() if v is not None}
  return pipeline.from_examples(examples, given, tasks, {'name': 'mine', **dict(config)}, 4, 0)


def run(metric='mean', test=True, mixing='all'):
  return {
    'eval': {'test': test},
    'train': {'early_stopping': {'metric': metric}},
    'dataset': {'mixing': mixing},
  }


def test_splits():
  ready.check(run(), data())
  with pytest.raises(errors.DataError, match="'mine' has no validation split"):
    ready.check(run(), data(validation=None))
  with pytest.raises(errors.ConfigError, match=r"^eval.test: data set 'mine' .* set it to False"):
    ready.check(run(), data(test=None))
  ready.check(run(test=False), data(test=None))


def test_labels_that_the_choice_of_parameters_needs():
  no_tone = data(validation=items(4, tone=''))
  ready.check(run('mean'), no_tone)
  ready.check(run('loss'), no_tone)
  ready.check(run('stars.mse'), no_tone)
  with pytest.raises(errors.DataError, match=r"has no labels that 'tone.accuracy' could"):
    ready.check(run('tone.accuracy'), no_tone)
  nothing = data(validation=items(4, tone='', stars=None))
  for metric in ('mean', 'loss', 'joint.exact_match'):
    with pytest.raises(errors.DataError, match=f'no labels that {metric!r} could'):
      ready.check(run(metric), nothing)


def test_rankings_of_one_class(caplog):
  tasks = {
    'tone': specs.TaskSpec('classification', 'tone', ('pr_auc', 'accuracy')),
    'stars': specs.TaskSpec('regression', 'stars', ('mse',)),
  }
  one = [e | {'tone': 'a'} for e in items(4)]
  alone = data(tasks={'tone': tasks['tone']}, validation=one)
  with pytest.raises(errors.DataError, match=r"of tone are all of one class, so that 'mean' has"):
    ready.check(run(), alone)
  ready.check(run('tone.accuracy'), alone)
  both = data(tasks=tasks, validation=one, test=one)
  with pytest.raises(errors.DataError, match=r"'tone.pr_auc' has no value to choose"):
    ready.check(run('tone.pr_auc'), both)
  assert messages(caplog, run(), both) == [
    (
      'WARNING',
      f'no value on the {split} split, whose labels are all of one class, or unknown: tone.pr_auc',
    )
    for split in ('validation', 'test')
  ]
  ready.check(run('tone.pr_auc'), data(tasks=tasks))


@pytest.mark.parametrize(('tags', 'right'), [('BIO', True), ('XYO', False)])
def test_tags_that_a_metric_cannot_read(tags, right):
  tasks = {'tags': specs.TaskSpec('tagging', 'tags', ('f1',))}
  rows = [{'text': list('abc'), 'tags': list(tags)}] * 8
  made = data(tasks=tasks, given=WORDS, train=rows, validation=rows, test=rows)
  if right:
    ready.check(run(), made)
  else:
    with pytest.raises(errors.ConfigError, match=r"task 'tags': metric 'f1' .* not '[XY]'"):
      ready.check(run(), made)


def messages(caplog, *arguments):
  caplog.clear()
  with caplog.at_level(logging.INFO, 'mtl_jax'):
    ready.check(*arguments)
  return [(r.levelname, r.getMessage()) for r in caplog.records if r.name.startswith('mtl_jax')]


def test_tasks_that_meet_seldom_or_never(caplog):
  assert messages(caplog, run(), data()) == []
  one = specs.TaskSpec('classification', 'tone', ('accuracy',))
  assert messages(caplog, run(), data(tasks={'tone': one})) == []
  rows = items(64, stars=None)
  rows[5]['stars'] = 2.0
  made = data(train=rows)
  assert made.meetings() == {('tone', 'stars'): 1 / 16}
  assert messages(caplog, run(), made) == [
    (
      'INFO',
      'tasks are balanced against each other in the steps in which both have labels: '
      'tone and stars in 6.2%',
    )
  ]
  rows = [e | ({'tone': ''} if i % 8 else {'stars': None}) for i, e in enumerate(items(16))]
  examples = dict.fromkeys(SPLITS, rows)
  made = pipeline.from_examples(examples, TEXT, TASKS, {'name': 'mine'}, 1, 0)
  ((level, text),) = messages(caplog, run(), made)
  assert level == 'WARNING'
  assert text.endswith('never balanced against each other: tone and stars')


def test_one_task_a_step_never_meets_another_by_design(caplog):
  rows = [e | {'of': task} for task in TASKS for e in items(8)]
  made = pipeline.from_examples(
    dict.fromkeys(SPLITS, rows), TEXT, TASKS, {'mixing': 'one'}, 4, 0, owner='of'
  )
  ((level, text),) = messages(caplog, run(mixing='one'), made)
  assert level == 'INFO'
  assert text.startswith(
    "dataset.mixing='one': each step is of one task, so that no two tasks ever"
  )


def test_a_run_ends_before_its_model_is_made(monkeypatch, tmp_path):
  config = config_lib.default()
  config.tasks = config_lib.tasks({'pos': {}})
  config.dataset.name = 'english_words'
  config.train.steps = 1
  monkeypatch.setattr(start, 'load_data', lambda _: data(validation=None))
  monkeypatch.setattr(program, 'program', lambda *_: pytest.fail('the model was made'))
  with pytest.raises(errors.DataError, match='no validation split'):
    train.run(config, tmp_path)
