"""Kappa, balanced accuracy, R² and macro F1 of spans against scikit-learn and counts by hand.

Metrics on scores are in scores_test, the others in tests/metrics_test.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mtl_jax import kinds
from tests.kinds.scores_test import _no_warnings, score  # noqa: F401  (a fixture)
from tests.kinds.spans_test import entities


@pytest.mark.parametrize(('metric', 'weights'), [('kappa', None), ('quadratic_kappa', 'quadratic')])
def test_kappa_against_scikit_learn(metric, weights):
  rng = np.random.default_rng(2)
  targets = rng.integers(0, 5, 60)
  predictions = np.where(rng.random(60) < 0.5, targets, rng.integers(0, 5, 60))
  expected = sklearn.cohen_kappa_score(targets, predictions, weights=weights)
  names = ('c', 'a', 'e', 'b', 'd')  # no numbers: in the order of the indices
  for labels in (None, names):
    got = score('classification', (metric,), targets, predictions=predictions, labels=labels)
    assert got[metric] == pytest.approx(expected)
  # Classes 2 to 4 that do not occur change nothing, and one class only is no agreement.
  few = targets % 2, predictions % 2
  got = score('classification', (metric,), few[0], predictions=few[1], labels=names)[metric]
  assert got == pytest.approx(sklearn.cohen_kappa_score(*few, weights=weights))
  assert score('classification', (metric,), [1, 1], predictions=[1, 1]) == {metric: 0}
  assert score('classification', (metric,), [1, 1], predictions=[0, 1]) == {metric: 0}


def test_kappa_of_unknown_labels_by_hand():
  targets, predictions = [0, 1, 2, -2], [0, 1, 1, 2]
  got = score('classification', ('kappa', 'quadratic_kappa'), targets, predictions=predictions)
  # Agreement 2/4; by chance, of labels ¼ each and predictions (¼, ½, ¼): (¼ + ½ + ¼)/4.
  assert got['kappa'] == pytest.approx((1 / 2 - 1 / 4) / (1 - 1 / 4))
  # The unknown label is 2² from every class. By chance, over all pairs of label and prediction:
  by_chance = [(y - p) ** 2 if y >= 0 else 4 for y in targets for p in predictions]
  assert got['quadratic_kappa'] == pytest.approx(1 - np.mean([0, 0, 1, 4]) / np.mean(by_chance))


def test_quadratic_kappa_has_numbers_in_their_order():
  rng = np.random.default_rng(3)
  stars = rng.integers(1, 6, (2, 70))
  names = ('3', '5', '1', '4', '2')  # as they may come from counts
  index = {int(name): i for i, name in enumerate(names)}
  targets, predictions = ([index[star] for star in row] for row in stars.tolist())
  got = score(
    'classification', ('quadratic_kappa',), targets, predictions=predictions, labels=names
  )
  expected = sklearn.cohen_kappa_score(*stars, weights='quadratic')
  assert got['quadratic_kappa'] == pytest.approx(expected)
  odd = ('3', '5', '1', '4', 'none')
  got = score('classification', ('quadratic_kappa',), targets, predictions=predictions, labels=odd)
  assert got['quadratic_kappa'] != pytest.approx(expected)


def test_balanced_accuracy():
  rng = np.random.default_rng(4)
  targets = rng.choice([0, 1, 1, 1, 2], 60)
  predictions = np.where(rng.random(60) < 0.6, targets, rng.integers(0, 3, 60))
  names = ('balanced_accuracy',)
  got = score('classification', names, targets, predictions=predictions)
  assert got[names[0]] == pytest.approx(sklearn.balanced_accuracy_score(targets, predictions))
  got = score('classification', names, [0, 0, 1, -2, -2, -1], predictions=[0, 1, 1, 0, 1, 2])
  assert got[names[0]] == pytest.approx((1 / 2 + 1 + 0) / 3)  # class 2 is no label


def test_errors_of_numbers():
  rng = np.random.default_rng(5)
  targets, predictions = rng.normal(3, 2, (2, 40))
  got = score('regression', ('rmse', 'r2'), targets, predictions=predictions)
  assert got['rmse'] == pytest.approx(np.sqrt(np.mean((targets - predictions) ** 2)))
  assert got['r2'] == pytest.approx(sklearn.r2_score(targets, predictions))
  assert got['r2'] < 0
  got = score('regression', ('rmse', 'r2'), [2.0, 2.0, np.nan], predictions=[2.0, 2.0, 9.0])
  assert got == {'rmse': 0, 'r2': None}
  assert score('regression', ('r2',), [1.0], predictions=[2.0]) == {'r2': None}


def test_macro_f1_of_spans():
  names = ('O', 'B-a', 'I-a', 'B-b', 'I-b', 'B-c')
  rng = np.random.default_rng(6)
  targets = rng.integers(0, 5, (40, 8))
  predictions = np.where(rng.random((40, 8)) < 0.7, targets, rng.integers(0, 6, (40, 8)))
  found = [
    {(i, *span) for i, row in enumerate(side) for span in entities([names[t] for t in row])}
    for side in (targets, predictions)
  ]
  of = []
  for kind in 'abc':
    gold, predicted = ({span for span in side if span[3] == kind} for side in found)
    of.append(2 * len(gold & predicted) / (len(gold) + len(predicted)))
  assert of[2] == 0  # never a label, but predicted
  got = score('tagging', ('f1', 'macro_f1'), targets, predictions=predictions, labels=names)
  assert got['macro_f1'] == pytest.approx(np.mean(of))
  assert got['f1'] != pytest.approx(np.mean(of))
  nothing = np.zeros((3, 4), int)
  for rules in ('tagging', kinds.Tagging('IOB2')):
    got = score(rules, ('macro_f1',), nothing, predictions=nothing, labels=names)
    assert got == {'macro_f1': 0}
    got = score(rules, ('macro_f1',), [[1, 2, 0, -2]], predictions=[[1, 2, 0, 0]], labels=names)
    assert got == {'macro_f1': pytest.approx(1 / 2)}  # a class of its own, of which none is found


def test_the_page_lists_every_metric():
  page = (Path(__file__).parents[2] / 'docs' / 'evaluation.md').read_text(encoding='utf-8')
  for name in kinds.KINDS:
    (line,) = re.findall(rf'^\| `{name}` \|(.*)\|$', page, re.MULTILINE)
    known = kinds.get(name).metrics
    assert set(re.findall(r'`(\w+)`', line)) == set(known)
    assert re.findall(r'\*\*`(\w+)`\*\*', line) == [next(iter(known))]
