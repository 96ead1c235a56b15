"""Metrics against hand counts and independent formulas. The evaluation step is tested elsewhere."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mtl_jax import kinds, metrics
from mtl_jax.errors import DataError, NonFiniteError

IOB = ('O', 'B-city', 'I-city', 'B-date', 'I-date')


@pytest.fixture(autouse=True)
def _no_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    yield


def evaluate(kind, names, batches, labels=None, masks=None):
  """Returns the metrics of one task over [(targets, predictions[, scores]), ...]."""
  accumulator = metrics.Accumulator({'x': (kind, names, labels)})
  for i, (targets, predictions, *scores) in enumerate(batches):
    result = {'loss_sum': [0.0], 'loss_count': [1.0], 'outputs': {'x': np.asarray(predictions)}}
    if scores:
      result['scores'] = {'x': np.asarray(scores[0])}
    accumulator.add({'x': np.asarray(targets)}, {'x': masks[i]} if masks else None, result)
  out = accumulator.compute()
  json.dumps(out, allow_nan=False)
  return out['metrics']['x']


def f1(tp, fp, fn):
  return 2 * tp / (2 * tp + fp + fn)


def test_classification_by_hand():
  batches = [([0, 0, 1, -1], [0, 1, 1, 2]), ([2, -2, 2, -1], [2, 0, 0, 1])]
  got = evaluate('classification', ('accuracy', 'macro_f1'), batches)
  # Six labelled examples, three right; the unknown label is a false positive of class 0.
  assert got['accuracy'] == pytest.approx(3 / 6)
  assert got['macro_f1'] == pytest.approx(np.mean([f1(1, 2, 1), f1(1, 1, 0), f1(1, 0, 1)]))


def test_binary_f1_is_that_of_the_second_class():
  rng = np.random.default_rng(4)
  y, p = rng.integers(0, 2, (2, 50))
  got = evaluate('classification', ('binary_f1',), [(y, p)], ('no', 'yes'))['binary_f1']
  assert got == pytest.approx(f1(np.sum(y & p), np.sum((1 - y) & p), np.sum(y & (1 - p))))
  assert got == pytest.approx(sklearn.f1_score(y, p))
  assert got != pytest.approx(sklearn.f1_score(1 - y, 1 - p))
  # An unknown label is wrong either way: a false positive and a false negative.
  batches = [([1, -1, -2, -2], [1, 1, 1, 0])]
  assert evaluate('classification', ('binary_f1',), batches)['binary_f1'] == f1(1, 1, 1)
  assert evaluate('classification', ('binary_f1',), [([0, 0], [0, 0])])['binary_f1'] == 0


def test_mcc_binary_formula():
  rng = np.random.default_rng(0)
  y, p = rng.integers(0, 2, (2, 50))
  tp, tn = np.sum(y & p), np.sum((1 - y) & (1 - p))
  fp, fn = np.sum((1 - y) & p), np.sum(y & (1 - p))
  expected = (tp * tn - fp * fn) / np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
  assert evaluate('classification', ('mcc',), [(y, p)])['mcc'] == pytest.approx(expected)


@pytest.mark.parametrize(('y', 'p'), [([1, 1], [1, 1]), ([1, 1], [0, 1]), ([0, 1], [1, 1])])
def test_mcc_of_constants_is_zero(y, p):
  assert evaluate('classification', ('mcc',), [(y, p)])['mcc'] == 0


def test_multilabel_by_hand():
  y = [[1, 0, 0], [1, 1, 0], [0, -1, 0], [-1, -1, -1]]
  p = [[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]]
  got = evaluate(
    'multilabel', ('micro_f1', 'macro_f1', 'exact_match'), [(y[:2], p[:2]), (y[2:], p[2:])]
  )
  # Column 0: tp 1, fp 1, fn 1; column 1: tp 1; column 2 has no positive: not in the macro average.
  assert got['micro_f1'] == pytest.approx(f1(2, 1, 1))
  assert got['macro_f1'] == pytest.approx(np.mean([f1(1, 1, 1), f1(1, 0, 0)]))
  assert got['exact_match'] == pytest.approx(1 / 3)


def test_multilabel_random_against_counts():
  rng = np.random.default_rng(1)
  y = rng.integers(-1, 2, (40, 5))
  p = rng.integers(0, 2, (40, 5)).astype(bool)
  tp = np.sum((y == 1) & p, axis=0)
  fp = np.sum((y == 0) & p, axis=0)
  fn = np.sum((y == 1) & ~p, axis=0)
  got = evaluate('multilabel', ('micro_f1', 'macro_f1'), [(y, p)])
  assert got['micro_f1'] == pytest.approx(f1(tp.sum(), fp.sum(), fn.sum()))
  assert got['macro_f1'] == pytest.approx(np.mean(f1(tp, fp, fn)))


def test_multilabel_single_column():
  got = evaluate('multilabel', ('micro_f1', 'macro_f1'), [([[1], [0], [1]], [[1], [1], [0]])])
  assert got == {'micro_f1': pytest.approx(f1(1, 1, 1)), 'macro_f1': pytest.approx(f1(1, 1, 1))}


def test_multilabel_unknown_entries_are_wrong():
  got = evaluate(
    'multilabel', ('micro_f1', 'exact_match'), [([[1, -2], [1, -2]], [[1, 0], [1, 1]])]
  )
  assert got == {'micro_f1': pytest.approx(f1(2, 1, 1)), 'exact_match': 0}


def test_multilabel_without_positives_is_zero():
  got = evaluate('multilabel', ('micro_f1', 'macro_f1', 'exact_match'), [([[0, 0]], [[0, 0]])])
  assert got == {'micro_f1': 0, 'macro_f1': 0, 'exact_match': 1}


def test_tagging_entities_by_hand():
  # Gold: city(0-1), date(3) | city(0). Predicted: city(0-1), date(3-4) | city(0), city(1).
  batches = [
    ([[1, 2, 0, 3, 0, -1]], [[1, 2, 0, 3, 4, 2]]),
    ([[1, 0, -1], [-1, -1, -1]], [[1, 1, 0], [1, 1, 1]]),
  ]
  got = evaluate('tagging', ('f1', 'precision', 'recall', 'token_accuracy'), batches, IOB)
  assert got['precision'] == pytest.approx(2 / 4)
  assert got['recall'] == pytest.approx(2 / 3)
  assert got['f1'] == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
  assert got['token_accuracy'] == pytest.approx(5 / 7)


def test_tagging_unknown_tokens_are_one_missed_entity():
  got = evaluate('tagging', ('recall', 'token_accuracy'), [([[1, 0, -2, -2]], [[1, 0, 3, 4]])], IOB)
  assert got == {'recall': pytest.approx(1 / 2), 'token_accuracy': pytest.approx(2 / 4)}


def test_tagging_without_entities_is_zero():
  assert evaluate('tagging', ('f1',), [([[0, 0]], [[0, 0]])], IOB) == {'f1': 0}


def test_regression_formulas():
  rng = np.random.default_rng(2)
  y = rng.normal(size=30).astype(np.float32)
  p = (y + rng.normal(size=30)).astype(np.float32)
  mask = np.arange(30) < 20
  y[25:] = np.nan  # masked rows may hold anything
  got = evaluate(
    'regression',
    ('mse', 'mae', 'pearson', 'spearman'),
    [(y[:15], p[:15]), (y[15:], p[15:])],
    masks=[mask[:15], mask[15:]],
  )
  a, b = y[mask].astype(float), p[mask].astype(float)
  rank = [np.argsort(np.argsort(v)).astype(float) for v in (a, b)]
  assert got['mse'] == pytest.approx(np.mean((a - b) ** 2))
  assert got['mae'] == pytest.approx(np.mean(np.abs(a - b)))
  assert got['pearson'] == pytest.approx(np.corrcoef(a, b)[0, 1])
  assert got['spearman'] == pytest.approx(np.corrcoef(*rank)[0, 1])


@pytest.mark.parametrize(
  ('y', 'p'), [([1.0, 1.0], [0.0, 2.0]), ([0.0, 2.0], [1.0, 1.0]), ([3.0], [4.0])]
)
def test_correlation_of_constants_is_zero(y, p):
  assert evaluate('regression', ('pearson', 'spearman'), [(y, p)]) == {'pearson': 0, 'spearman': 0}


@pytest.mark.parametrize(
  ('kind', 'y'), [('classification', [-1]), ('multilabel', [[-1, -1]]), ('tagging', [[-1, -1]])]
)
def test_no_labels_give_none(kind, y):
  names = tuple(kinds.get(kind).metrics)
  labels = IOB if kind == 'tagging' else None
  accumulator = metrics.Accumulator({'x': (kind, names, labels)})
  result = {'loss_sum': [0.0], 'loss_count': [0.0], 'outputs': {'x': np.zeros_like(y)}}
  result['scores'] = {'x': np.full((1, 2), 0.5)}
  accumulator.add({'x': np.asarray(y)}, {'x': np.array([True])}, result)
  got = accumulator.compute()
  assert got == {
    'metrics': {'x': dict.fromkeys(names)},
    'joint': {'exact_match': None},
    'loss': {'x': None},
    'count': {'x': 0},
  }
  assert got == metrics.Accumulator({'x': (kind, names, labels)}).compute()


def test_joint_match_losses_and_counts():
  accumulator = metrics.Accumulator(
    {
      'intent': ('classification', ('accuracy',), None),
      'slots': ('tagging', ('f1',), IOB),
      'topics': ('multilabel', ('exact_match',), None),
      'age': ('regression', ('mae',), None),
    }
  )
  # Rows: all right; a wrong token; only an intent, right; an unknown topic; only an age; padding.
  targets = {
    'intent': np.array([0, 1, 2, 0, -1, -1]),
    'slots': np.array([[1, 0], [1, 2], [-1, -1], [0, -1], [-1, -1], [-1, -1]]),
    'topics': np.array([[1, 0], [0, 0], [1, 1], [-2, 0], [-1, -1], [-1, -1]]),
    'age': np.zeros(6, np.float32),
  }
  masks = {task: np.ones(6, bool) for task in targets}
  masks['topics'] = np.array([True, True, False, True, True, False])
  masks['age'] = np.array([True] * 5 + [False])
  outputs = {
    'intent': np.array([0, 1, 2, 0, 3, 3]),
    'slots': np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 0], [0, 0]]),
    'topics': np.array([[1, 0], [0, 0], [0, 0], [1, 0], [0, 0], [0, 0]], bool),
    'age': np.full(6, 9, np.float32),
  }
  result = {
    'loss_sum': np.array([4, 3, 2, 45.0]),
    'loss_count': np.array([4, 6, 3, 5]),
    'outputs': outputs,
  }
  accumulator.add(targets, masks, result)
  accumulator.add(
    {'intent': np.array([1, 1])},
    {},
    {
      'loss_sum': np.array([2, 0, 0, 0.0]),
      'loss_count': np.array([2, 0, 0, 0]),
      'outputs': {'intent': np.array([1, 0])},
    },
  )
  got = accumulator.compute()
  assert got['joint'] == {'exact_match': pytest.approx(3 / 6)}
  assert got['loss'] == {'intent': 1, 'slots': 0.5, 'topics': pytest.approx(2 / 3), 'age': 9}
  assert got['count'] == {'intent': 6, 'slots': 3, 'topics': 3, 'age': 5}


def test_joint_match_only_where_rows_are_the_same_examples():
  tasks = dict.fromkeys('ab', ('classification', ('accuracy',), None))
  targets = {'a': np.array([0]), 'b': np.array([0, 1])}
  result = {'loss_sum': [0.0, 0.0], 'loss_count': [1, 2], 'outputs': targets}
  with pytest.raises(ValueError, match='joint=False'):
    metrics.Accumulator(tasks).add(targets, None, result)
  accumulator = metrics.Accumulator(tasks, joint=False)
  accumulator.add(targets, None, result)
  assert accumulator.compute()['joint'] == {}
  assert metrics.Accumulator({'x': ('regression', ('mse',), None)}).compute()['joint'] == {}


@pytest.mark.parametrize(
  ('kind', 'names', 'labels', 'message'),
  [
    ('classification', ('acuracy',), None, "unknown metric 'acuracy'; did you mean 'accuracy'"),
    ('regression', ('accuracy',), None, "'accuracy' is not defined for regression"),
    ('taging', ('f1',), None, "unknown kind 'taging'; did you mean 'tagging'"),
    ('tagging', ('f1',), ('NN', 'VB'), "IOB labels .* not 'NN'; use token_accuracy"),
    ('tagging', ('f1',), None, 'need the names of the classes'),
    ('classification', ('binary_f1',), IOB, 'two classes, not of the 5 there are; use macro_f1'),
  ],
)
def test_bad_metrics(kind, names, labels, message):
  with pytest.raises(ValueError, match=f"task 'x': .*{message}"):
    metrics.Accumulator({'x': (kind, names, labels)})


def test_bad_batches():
  def add(kind, name, y, p, mask=None, loss=(0.0,)):
    accumulator = metrics.Accumulator({'x': (kind, (name,), None)})
    result = {'loss_sum': loss, 'loss_count': np.ones(len(loss)), 'outputs': {'x': np.array(p)}}
    accumulator.add({'x': np.array(y)}, {'x': mask}, result)
    accumulator.compute()

  with pytest.raises(ValueError, match=r"task 'x': targets \(2,\) and predictions \(3,\)"):
    add('classification', 'accuracy', [0, 1], [0, 1, 2])
  with pytest.raises(ValueError, match=r'mask \(1,\)'):
    add('classification', 'accuracy', [0, 1], [0, 1], mask=np.array([True]))
  with pytest.raises(ValueError, match=r"\[1\], one entry for each of the tasks \['x'\]"):
    add('classification', 'accuracy', [0], [0], loss=(0.0, 0.0))
  with pytest.raises(DataError, match="'x': a target is infinite"):
    add('regression', 'mse', [np.inf, 1], [0.0, 1])
  with pytest.raises(NonFiniteError, match="'x': 1 of 2 predictions"):
    add('regression', 'mse', [0.0, 1], [np.inf, 1])
  with pytest.raises(NonFiniteError, match="'x': the evaluation loss is nan"):
    add('classification', 'accuracy', [0], [0], loss=(np.nan,))


def test_average_is_signed_and_skips_tasks_without_labels():
  values = {'a': {'accuracy': 0.8, 'mcc': 9.0}, 'b': {'mse': 0.2}, 'c': {'f1': None}}
  main = {'a': 'accuracy', 'b': 'mse', 'c': 'f1'}
  assert metrics.average(values, main) == pytest.approx((0.8 - 0.2) / 2)
  assert metrics.average({'c': {'f1': None}}, {'c': 'f1'}) is None


def test_delta_m():
  # A tenth worse on an accuracy, a fifth better on an error, half better on a negative correlation.
  got = metrics.delta_m([0.45, 4.0, -0.1], [0.5, 5.0, -0.2], [True, False, True])
  assert got == pytest.approx((10 - 20 - 50) / 3)
  with pytest.raises(ValueError, match='metric of 0'):
    metrics.delta_m([1.0], [0.0], [True])
  with pytest.raises(ValueError, match='same number'):
    metrics.delta_m([1.0], [1.0, 2.0], [True])
  with pytest.raises(ValueError, match='same number'):
    metrics.delta_m([], [], [])


def test_mean_interval_against_the_table_of_t():
  # t(0.975) from printed tables: 12.706 with one degree of freedom, 4.303 with two.
  mean, half = metrics.mean_interval([1.0, 2.0, 3.0])
  assert mean == 2
  assert half == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)
  assert metrics.mean_interval([0.0, 2.0])[1] == pytest.approx(12.706, rel=1e-4)
  assert metrics.mean_interval([5.0]) == (5.0, None)
  with pytest.raises(ValueError, match='no values'):
    metrics.mean_interval([])


def test_every_metric_is_tested_for_its_kinds_and_bounded():
  rng = np.random.default_rng(3)
  data = {
    'classification': rng.integers(0, 4, (2, 60)),
    'multilabel': rng.integers(0, 2, (2, 60, 4)),
    'tagging': rng.integers(0, 5, (2, 60, 7)),
    'regression': rng.normal(size=(2, 60)),
  }
  assert set(data) == set(kinds.KINDS)
  best = {
    'classification': np.eye(4)[data['classification'][0]],
    'multilabel': data['multilabel'][0],
  }
  for kind in data:
    for name, metric in kinds.get(kind).metrics.items():
      y, p = data[kind]
      labels = IOB if kind == 'tagging' else None
      scores = best.get(kind, y)
      perfect = evaluate(kind, (name,), [(y, y, scores)], labels)[name]
      other = evaluate(kind, (name,), [(y, p, rng.random(scores.shape))], labels)[name]
      assert perfect == pytest.approx(1.0 if metric.higher_is_better else 0.0)
      assert (other < perfect) == metric.higher_is_better
