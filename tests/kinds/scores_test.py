"""Metrics on scores against scikit-learn and counts over pairs, and how scores come to them.

What a split gives no value is None, on all the way to the report.
"""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn

import mtl_jax
from mtl_jax import (
  Task,
  encoders,
  errors,
  evaluate,
  heads,
  kinds,
  metrics,
  report,
  results,
  sharing,
)
from mtl_jax.data import pipeline
from mtl_jax.kinds import ranking
from tests.data import pipeline_test

RANKED = ('roc_auc', 'pr_auc')


@pytest.fixture(autouse=True)
def _no_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    yield


def score(kind, names, targets, scores=None, predictions=None, labels=None):
  """The metrics of one task, in two batches where there are examples for two."""
  targets = np.asarray(targets)
  predictions = np.zeros_like(targets) if predictions is None else np.asarray(predictions)
  accumulator = metrics.Accumulator({'x': (kind, names, labels)})
  half = len(targets) // 2
  for rows in (slice(half), slice(half, None)) if half else (slice(None),):
    result = {'loss_sum': [0.0], 'loss_count': [1.0], 'outputs': {'x': predictions[rows]}}
    if scores is not None:
      result['scores'] = {'x': np.asarray(scores)[rows]}
    accumulator.add({'x': targets[rows]}, None, result)
  found = accumulator.compute()
  json.dumps(found, allow_nan=False)
  return found['metrics']['x']


def auc_of_pairs(positive, scores):
  """P(positive above negative) + ½ P(equal), over all pairs in float64."""
  positive, scores = np.asarray(positive, bool), np.asarray(scores, np.float64)
  gaps = scores[positive][:, None] - scores[~positive][None]
  return np.mean(gaps > 0) + 0.5 * np.mean(gaps == 0)


def precision_by_thresholds(positive, scores):
  """Σ (gain in recall) · precision, threshold after threshold."""
  total, before = 0.0, 0.0
  for threshold in sorted(set(scores.tolist()), reverse=True):
    called = scores >= threshold
    recall = np.sum(positive & called) / np.sum(positive)
    total += (recall - before) * np.sum(positive & called) / np.sum(called)
    before = recall
  return total


@pytest.mark.parametrize('digits', [0, 1, 8])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_rankings_with_ties_against_pairs_and_scikit_learn(digits, dtype):
  rng = np.random.default_rng(digits)
  for size in (2, 3, 10, 200):
    positive = rng.random(size) < 0.3
    positive[:2] = True, False
    scores = np.round(rng.random(size), digits).astype(dtype)
    found = ranking.roc_auc(positive, scores)
    assert found == pytest.approx(auc_of_pairs(positive, scores), abs=1e-12)
    assert found == pytest.approx(sklearn.roc_auc_score(positive, scores), abs=1e-12)
    found = ranking.average_precision(positive, scores)
    assert found == pytest.approx(precision_by_thresholds(positive, scores), abs=1e-12)
    assert found == pytest.approx(sklearn.average_precision_score(positive, scores), abs=1e-12)


def test_two_classes_by_hand():
  second = np.array([0.1, 0.4, 0.35, 0.8])
  got = score('classification', RANKED, [0, 0, 1, 1], np.stack([1 - second, second], axis=1))
  assert got == pytest.approx({'roc_auc': 0.75, 'pr_auc': 5 / 6})  # as in scikit-learn's docs
  # A label that is missing counts nowhere, an unknown one as a negative, here above a positive.
  second = np.array([0.1, 0.4, 0.35, 0.8, 0.9, 0.5])
  scores = np.stack([1 - second, second], axis=1)
  got = score('classification', RANKED, [0, 0, 1, 1, -1, -2], scores)
  negatives, positives = [0.1, 0.4, 0.5], [0.35, 0.8]
  pairs = [p > n for p in positives for n in negatives]
  assert got == pytest.approx({'roc_auc': np.mean(pairs), 'pr_auc': 0.5 * (1 + 2 / 4)})


def test_many_classes_are_a_mean_of_each_against_the_rest():
  rng = np.random.default_rng(0)
  targets = rng.choice([-2, -1, 0, 1, 3], 80)  # no label is of class 2
  scores = rng.dirichlet(np.ones(4), 80).round(2)
  got = score('classification', RANKED, targets, scores)
  known = targets != -1
  aucs = [auc_of_pairs(targets[known] == c, scores[known, c]) for c in (0, 1, 3)]
  areas = [
    sklearn.average_precision_score(targets[known] == c, scores[known, c]) for c in (0, 1, 3)
  ]
  assert got == pytest.approx({'roc_auc': np.mean(aucs), 'pr_auc': np.mean(areas)})
  targets, scores = rng.integers(0, 4, 80), rng.dirichlet(np.ones(4), 80)
  got = score('classification', ('roc_auc',), targets, scores)['roc_auc']
  assert got == pytest.approx(sklearn.roc_auc_score(targets, scores, multi_class='ovr'))


def test_labels_are_a_mean_over_those_that_vary():
  rng = np.random.default_rng(1)
  targets = rng.integers(0, 2, (60, 4))
  scores = rng.random((60, 4)).round(1)
  got = score('multilabel', RANKED, targets, scores)
  assert got == pytest.approx({
    'roc_auc': sklearn.roc_auc_score(targets, scores, average='macro'),
    'pr_auc': sklearn.average_precision_score(targets, scores, average='macro'),
  })  # fmt: skip
  targets[:, 0], targets[:, 2] = 0, np.where(rng.random(60) < 0.5, -1, 1)  # none, and all labelled
  targets[rng.random(60) < 0.3, 1] = -1
  targets[5, 3] = -2
  got = score('multilabel', RANKED, targets, scores)
  known = targets[:, 1] >= 0
  pairs = [(targets[known, 1] == 1, scores[known, 1]), (targets[:, 3] == 1, scores[:, 3])]
  assert got == pytest.approx({
    'roc_auc': np.mean([auc_of_pairs(*pair) for pair in pairs]),
    'pr_auc': np.mean([precision_by_thresholds(*pair) for pair in pairs]),
  })  # fmt: skip


@pytest.mark.parametrize(
  ('kind', 'targets', 'width'),
  [
    ('classification', [1, 1, 1, -1], 2),
    ('classification', [0, 0], 2),
    ('classification', [2, 2, -1], 3),
    ('classification', [-2, -2], 3),
    ('classification', [0, 0], 1),
    ('multilabel', [[0, 1], [0, 1], [-1, -1]], 2),
  ],
)
def test_one_value_only_gives_no_value(kind, targets, width):
  scores = np.random.default_rng(0).random((len(targets), width))
  assert score(kind, RANKED, targets, scores) == {'roc_auc': None, 'pr_auc': None}


def test_tasks_without_a_value_are_left_out_of_the_average():
  scores = np.array([[0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
  tasks = {
    'a': ('classification', ('roc_auc', 'accuracy'), None),
    'b': ('classification', ('accuracy',), None),
    'c': ('multilabel', ('pr_auc',), None),
  }
  accumulator = metrics.Accumulator(tasks)
  accumulator.add(
    {'a': np.array([1, 1, 1]), 'b': np.array([0, 1, 1]), 'c': np.array([[1, 0], [0, 0], [-1, -1]])},
    None,
    {
      'loss_sum': np.ones(3),
      'loss_count': np.ones(3),
      'outputs': {
        'a': np.array([0, 1, 0]),
        'b': np.array([0, 1, 0]),
        'c': np.zeros((3, 2), bool),
      },
      'scores': {'a': scores, 'c': scores},
    },
  )
  found = accumulator.compute()['metrics']
  assert found == {
    'a': {'roc_auc': None, 'accuracy': pytest.approx(1 / 3)},
    'b': {'accuracy': pytest.approx(2 / 3)},
    'c': {'pr_auc': 1.0},
  }
  main = {'a': 'roc_auc', 'b': 'accuracy', 'c': 'pr_auc'}
  assert metrics.average(found, main) == pytest.approx((2 / 3 + 1) / 2)
  assert metrics.average({'a': found['a']}, {'a': 'roc_auc'}) is None


def test_reports_take_metrics_without_a_value(tmp_path):
  for seed, values in enumerate([(None, 0.75), (None, 0.25)]):
    split = {
      'metrics': {'a': {'roc_auc': values[0]}, 'b': {'pr_auc': values[1]}},
      'joint': {'exact_match': None},
      'mean': values[1],
    }
    content = {
      'name': 'n',
      'variant': 'v',
      'seed': seed,
      'tasks': ['a', 'b'],
      'main_metrics': {'a': 'roc_auc', 'b': 'pr_auc'},
      'validation': split,
      'test': split,
    }
    assert results.check(content) is content
    folder = tmp_path / 'v' / f'seed_{seed}'
    folder.mkdir(parents=True)
    (folder / 'results.json').write_text(json.dumps(content))
    record = {'step': 1, 'split': 'validation', **split}
    (folder / 'metrics.jsonl').write_text(json.dumps(record) + '\n')
  (table,) = report.report([tmp_path], tmp_path / 'out')
  (row,) = table.rows
  assert 'a.roc_auc' not in row.cells
  assert row.cells['b.pr_auc'].mean == row.cells['mean'].mean == 0.5
  assert (tmp_path / 'out' / 'curves.png').exists()


def test_bad_scores():
  def add(**more):
    accumulator = metrics.Accumulator({'x': ('classification', ('accuracy', 'roc_auc'), None)})
    outputs = {'x': np.array([0, 1, 0])}
    result = {'loss_sum': [0.0], 'loss_count': [1.0], 'outputs': outputs, **more}
    accumulator.add({'x': np.array([0, 1, -1])}, None, result)
    return accumulator.compute()['metrics']['x']

  for more in ({}, {'scores': {'y': np.zeros((3, 2))}}):
    with pytest.raises(ValueError, match="task 'x': its metrics need scores"):
      add(**more)
  with pytest.raises(ValueError, match=r"task 'x': scores \(2, 2\) for 3 targets"):
    add(scores={'x': np.zeros((2, 2))})
  scores = np.array([[0.5, 0.5], [0.25, 0.75], [np.nan, np.nan]])
  assert add(scores={'x': scores}) == {'accuracy': 1, 'roc_auc': 1}  # the odd one has no label
  with pytest.raises(errors.NonFiniteError, match="task 'x': 2 of 4 scores not finite"):
    add(scores={'x': scores[::-1]})


def model_of(*tasks, dtype=jnp.float32):
  return sharing.hard(encoders.MLP((8,), dtype=dtype), tasks)


def of(name, kind, count, *names, dtype=jnp.float32):
  options = {} if kind == 'regression' else {'num_classes': count}
  return Task(name, heads.get(kind, dtype=dtype, **options), kind, metrics=names)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_evaluation_step_gives_scores_where_a_metric_needs_them(dtype):
  x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  targets = {
    'a': np.array([0, 1, 2, 0, -1, 1], np.int32),
    'b': np.array([0, 1, 2, 0, -1, 1], np.int32),
    'c': np.ones((6, 4), np.int32),
    'd': np.zeros(6, np.float32),
  }
  batch = {'inputs': jnp.asarray(x, dtype), 'targets': targets}
  plain = model_of(
    of('a', 'classification', 3, 'accuracy', dtype=dtype),
    of('b', 'classification', 3, dtype=dtype),
    of('c', 'multilabel', 4, dtype=dtype),
    of('d', 'regression', 1, dtype=dtype),
    dtype=dtype,
  )
  ranked = model_of(
    of('a', 'classification', 3, 'accuracy', 'roc_auc', dtype=dtype),
    of('b', 'classification', 3, dtype=dtype),
    of('c', 'multilabel', 4, 'pr_auc', dtype=dtype),
    of('d', 'regression', 1, dtype=dtype),
    dtype=dtype,
  )
  params = plain.init(jax.random.key(0), batch)
  without = mtl_jax.make_eval_step(plain)(params, batch)
  assert set(without) == {'loss_sum', 'loss_count', 'outputs'}
  found = mtl_jax.make_eval_step(ranked)(params, batch)
  scores = found.pop('scores')
  jax.tree.map(np.testing.assert_array_equal, found, without)
  assert {name: (s.shape, s.dtype.name) for name, s in scores.items()} == {
    'a': ((6, 3), 'float32'),
    'c': ((6, 4), 'float32'),
  }
  outputs = jax.tree.map(lambda o: np.asarray(o, np.float64), ranked.outputs(params, batch))
  odds = np.exp(outputs['a'])
  loose = 1e-5 if dtype == jnp.float32 else 2e-2
  np.testing.assert_allclose(scores['a'], odds / odds.sum(axis=1, keepdims=True), rtol=loose)
  np.testing.assert_allclose(scores['c'], 1 / (1 + np.exp(-outputs['c'])), rtol=loose)
  own = {'b': {'inputs': batch['inputs'], 'targets': targets['b']}}
  assert 'scores' not in mtl_jax.make_eval_step(ranked)(params, own)
  with pytest.raises(ValueError, match="metric 'roc_auc' is not defined for regression"):
    of('d', 'regression', 1, 'roc_auc')


def test_an_evaluator_ranks_the_labelled_examples_of_a_split():
  tasks = {
    'intent': dataclasses.replace(pipeline_test.TASKS['intent'], metrics=('accuracy', *RANKED)),
    'topics': dataclasses.replace(pipeline_test.TASKS['topics'], metrics=('roc_auc',)),
    'score': dataclasses.replace(pipeline_test.TASKS['score'], metrics=('rmse', 'r2')),
  }
  examples = pipeline_test.EXAMPLES | {'test': pipeline_test.make(40, 2)}
  data = pipeline.from_examples(examples, pipeline_test.WORDS, tasks, {'buckets': 3}, 8, 0)
  names = data.label_names
  made = [
    Task(n, s.rules.build_head(names[n], np.float32), s.kind, metrics=s.metrics)
    for n, s in data.specs.items()
  ]
  model = sharing.hard(encoders.BiLSTM(encoders.Embedding(data.vocab_size, 8), 8), made)
  params = jax.jit(model.init)(jax.random.key(0), data.example_batch())
  outputs_of = jax.jit(model.outputs)
  found = evaluate.Evaluator(model, data).evaluate(params, 'test')
  probabilities, targets = {'intent': [], 'topics': []}, {'intent': [], 'topics': []}
  for item in data.evaluation('test', 1):
    outputs = outputs_of(params, {'inputs': item.batch['inputs']})
    example = examples['test'][int(item.indices[0])]
    for name in probabilities:
      if example[name] is not None and example[name] != '':
        label = example[name]
        known = names[name].index(label) if name == 'intent' else [int(t in label) for t in 'xyz']
        targets[name].append(known)
        probabilities[name].append(model.task(name).rules.probabilities(outputs[name])[0])
  intent = np.array(targets['intent']), np.array(probabilities['intent'])[:, 1]
  topics = np.array(targets['topics']), np.array(probabilities['topics'])
  assert found['metrics']['intent']['roc_auc'] == pytest.approx(
    sklearn.roc_auc_score(*intent), abs=1e-5
  )
  assert found['metrics']['intent']['pr_auc'] == pytest.approx(
    sklearn.average_precision_score(*intent), abs=1e-5
  )
  assert found['metrics']['topics']['roc_auc'] == pytest.approx(
    sklearn.roc_auc_score(*topics), abs=1e-5
  )
  accuracy, rmse = found['metrics']['intent']['accuracy'], found['metrics']['score']['rmse']
  main = [accuracy, found['metrics']['topics']['roc_auc'], -rmse]
  assert found['mean'] == pytest.approx(np.mean(main))


def test_scores_of_tags_are_those_of_labelled_tokens():
  @dataclasses.dataclass(frozen=True)
  class Sure(kinds.Tagging):
    @property
    def metrics(self):
      def sure(targets, scores, _):
        picked = [row[np.arange(len(row)), y] for y, row in zip(targets, scores, strict=True)]
        return np.mean(np.concatenate(picked))

      return {'sure': kinds.Metric(sure, needs_scores=True)}

  targets = np.array([[0, 1, -1], [1, -1, -1]])
  scores = np.array([[[0.9, 0.1], [0.2, 0.8], [0, 1]], [[0.5, 0.5], [0, 1], [0, 1]]], np.float32)
  got = score(Sure(), ('sure',), targets, scores)
  assert got['sure'] == pytest.approx((0.9 + 0.8 + 0.5) / 3)
