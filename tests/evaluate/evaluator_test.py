"""The evaluator against predictions made one example at a time. The loop is tested elsewhere."""

import jax
import numpy as np
import pytest

from mtl_jax import Task, encoders, errors, evaluate, heads, kinds, sharing
from mtl_jax.data import pipeline, specs, text
from mtl_jax.evaluate import selection
from tests import models
from tests.data import pipeline_test


def made(tokenizer=None, **options):
  """Data, a model of four kinds of task, and its parameters."""
  data = pipeline.from_examples(
    pipeline_test.EXAMPLES, pipeline_test.WORDS, pipeline_test.TASKS, options, 8, 0, None, tokenizer
  )
  tasks = [
    Task(name, spec.rules.build_head(data.label_names[name], np.float32), spec.kind, metrics=m)
    for (name, spec), m in zip(
      data.specs.items(), [('accuracy',), ('token_accuracy', 'f1'), (), ('mae',)], strict=True
    )
  ]
  embedding = encoders.Embedding(data.vocab_size, 8)
  model = sharing.hard(encoders.BiLSTM(embedding, 8), tasks)
  return data, model, models.init(model, data.example_batch())


def one_by_one(data, model, params, split):
  """example -> task -> class numbers or number, from batches of one."""
  found, outputs_of = {}, jax.jit(model.outputs)
  for item in data.evaluation(split, 1):
    outputs = outputs_of(params, {'inputs': item.batch['inputs']})
    found[int(item.indices[0])] = {
      name: np.asarray(model.task(name).predictions(out))[0] for name, out in outputs.items()
    }
  return found


def test_metrics_are_those_of_the_tasks():
  data, model, params = made()
  values = evaluate.Evaluator(model, data).evaluate(params, 'validation')
  assert {name: list(m) for name, m in values['metrics'].items()} == {
    'intent': ['accuracy'],
    'slots': ['token_accuracy', 'f1'],
    'topics': ['micro_f1'],
    'score': ['mae'],
  }
  examples = pipeline_test.EXAMPLES['validation']
  alone = one_by_one(data, model, params, 'validation')
  scores = [
    (alone[i]['score'], e['score']) for i, e in enumerate(examples) if e['score'] is not None
  ]
  expected = np.mean([abs(p - y) for p, y in scores])
  assert values['metrics']['score']['mae'] == pytest.approx(expected, rel=1e-5)
  names = data.label_names['intent']
  hits = [names[alone[i]['intent']] == e['intent'] for i, e in enumerate(examples) if e['intent']]
  assert values['metrics']['intent']['accuracy'] == pytest.approx(np.mean(hits))
  main = [values['metrics'][n][m] for n, m in (('intent', 'accuracy'), ('slots', 'token_accuracy'))]
  main += [values['metrics']['topics']['micro_f1'], -values['metrics']['score']['mae']]
  assert values['mean'] == pytest.approx(np.mean(main))


def trained_bpe():
  """Pieces of words, with a token before and after each text."""
  words = [word for e in pipeline_test.EXAMPLES['train'] for word in e['words']]
  made = text.train('wordpiece', words, 30, 1, False, True, False)
  return made


@pytest.mark.parametrize('pieces', [False, True])
def test_predictions_are_one_a_word(pieces):
  tokenizer = trained_bpe() if pieces else None
  data, model, params = made(tokenizer, buckets=3)
  examples = pipeline_test.EXAMPLES['test']
  alone = one_by_one(data, model, params, 'test')
  split = data.splits['test']
  seen = set()
  for prediction in evaluate.Evaluator(model, data).predict(params, 'test'):
    i, words = prediction.example, examples[prediction.example]['words']
    seen.add(i)
    first = split.word_starts([i])[0]
    assert len(first) == len(words) == len(prediction.tasks['slots'])
    names = data.label_names
    assert prediction.tasks['slots'] == [names['slots'][alone[i]['slots'][k]] for k in first]
    assert prediction.tasks['intent'] == names['intent'][alone[i]['intent']]
    chosen = [name for name, on in zip(names['topics'], alone[i]['topics'], strict=True) if on]
    assert prediction.tasks['topics'] == chosen
    assert prediction.tasks['score'] == pytest.approx(float(alone[i]['score']), rel=1e-4)
  assert seen == set(range(len(examples)))
  if pieces:
    assert len(split.tokens.values) > sum(len(e['words']) for e in examples)


def test_words_that_are_cut_off_have_no_prediction():
  data, model, params = made(max_length=3)
  for prediction in evaluate.Evaluator(model, data).predict(params, 'test'):
    words = pipeline_test.EXAMPLES['test'][prediction.example]['words']
    assert len(prediction.tasks['slots']) == min(3, len(words))


def test_tasks_with_inputs_of_their_own():
  examples = {
    split: [e | {'owner': ('intent', 'score')[i % 2]} for i, e in enumerate(items)]
    for split, items in pipeline_test.EXAMPLES.items()
  }
  chosen = {name: pipeline_test.TASKS[name] for name in ('intent', 'score')}
  data = pipeline.from_examples(examples, pipeline_test.WORDS, chosen, {}, 4, 0, owner='owner')
  tasks = [
    Task('intent', heads.Classification(len(data.label_names['intent']))),
    Task('score', heads.Regression(), 'regression'),
  ]
  model = sharing.hard(encoders.LSTM(encoders.Embedding(data.vocab_size, 8), 8), tasks)
  params = models.init(model, data.example_batch())
  found = list(evaluate.Evaluator(model, data).predict(params, 'test'))
  assert sum('intent' in p.tasks for p in found) == len(data.splits['test/intent'])
  assert sum('score' in p.tasks for p in found) == len(data.splits['test/score'])
  assert all(len(p.tasks) == 1 for p in found)


def test_what_can_be_selected():
  tasks = [Task('a', None), Task('age', None, 'regression', metrics=('mae',))]
  names = ['mean', 'loss', 'joint.exact_match', 'a.accuracy', 'age.mae']
  assert selection.choices({task.name: task.metrics for task in tasks}) == names
  directions = [selection.higher_is_better(name, tasks) for name in names]
  assert directions == [True, False, True, True, False]
  results = {
    'loss': {'a': 1.0, 'age': None},
    'mean': 0.5,
    'joint': {},
    'metrics': {'a': {'accuracy': 0.25}, 'age': {'mae': None}},
  }
  assert [selection.value(name, results) for name in ('mean', 'loss', 'a.accuracy')] == [
    0.5,
    1,
    0.25,
  ]
  for name in ('joint.exact_match', 'age.mae'):
    with pytest.raises(errors.DataError, match=f"no labels that '{name}'"):
      selection.value(name, results)


def test_kinds_are_read_by_name_or_as_they_are():
  assert specs.TaskSpec(kinds.Regression(), 'x', ('mse',)) == specs.TaskSpec(
    'regression', 'x', ('mse',)
  )
