"""Calibration, confusion and slices against loops over the definitions, and scikit-learn."""

import collections

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mtl_jax import evaluate


def drawn(count=300, classes=4, seed=0):
  rng = np.random.default_rng(seed)
  probabilities = rng.dirichlet(np.full(classes, 0.6), count).astype(np.float32)
  return probabilities, rng.integers(0, classes, count)


@pytest.mark.parametrize('bins', [1, 5, 15])
def test_calibration_by_its_definition(bins):
  probabilities, targets = drawn()
  probabilities[0], probabilities[1] = [1, 0, 0, 0], [0.25] * 4  # edges: of one bin, of the first
  found = evaluate.calibration(probabilities, targets, bins)
  expected, largest = 0.0, 0.0
  confidences, predictions = probabilities.max(axis=1).astype(float), probabilities.argmax(axis=1)
  for m in range(bins):
    low, high = m / bins, (m + 1) / bins
    rows = [i for i, c in enumerate(confidences) if low < c <= high]
    assert found.counts[m] == len(rows)
    assert found.edges[m + 1] == pytest.approx(high)
    if not rows:
      assert np.isnan(found.confidence[m])
      assert np.isnan(found.accuracy[m])
      continue
    right, sure = np.mean(targets[rows] == predictions[rows]), np.mean(confidences[rows])
    assert (found.accuracy[m], found.confidence[m]) == pytest.approx((right, sure))
    expected += len(rows) / len(targets) * abs(right - sure)
    largest = max(largest, abs(right - sure))
  assert found.expected_error == pytest.approx(expected)
  assert found.maximum_error == pytest.approx(largest)
  truth = np.eye(4)[targets]
  assert found.brier == pytest.approx(np.mean(np.sum((probabilities - truth) ** 2, axis=1)))


def test_brier_is_twice_that_of_one_class_of_two():
  probabilities, targets = drawn(classes=2)
  found = evaluate.calibration(probabilities, targets)
  assert found.brier == pytest.approx(2 * sklearn.brier_score_loss(targets, probabilities[:, 1]))


def test_calibrated_probabilities_have_a_small_error():
  probabilities, _ = drawn(40000)
  rng = np.random.default_rng(1)
  targets = (rng.random((40000, 1)) > np.cumsum(probabilities, axis=1)[:, :-1]).sum(axis=1)
  assert evaluate.calibration(probabilities, targets).expected_error < 0.01
  sure = np.eye(4)[targets]
  found = evaluate.calibration(sure, targets)
  assert (found.expected_error, found.maximum_error, found.brier) == (0, 0, 0)
  assert found.counts.tolist() == [0] * 14 + [40000]


def test_missing_and_unknown_labels_in_calibration():
  probabilities = np.array([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]])
  found = evaluate.calibration(probabilities, np.array([0, -2, -1]), bins=2)
  assert found.counts.tolist() == [0, 2]
  assert found.accuracy[1] == 0.5
  known, unknown = 0.25**2 + 0.25**2, 0.25**2 + 0.75**2 + 1
  assert found.brier == pytest.approx((known + unknown) / 2)


@pytest.mark.parametrize(
  ('probabilities', 'targets', 'bins', 'message'),
  [
    ([[0.5, 0.5]], [-1], 15, 'no example has a label'),
    ([[0.5, 0.5]], [0, 1], 15, r'not \(1, 2\) and \(2,\)'),
    ([0.5], [0], 15, r'not \(1,\)'),
    ([[0.5, 1.5]], [0], 15, 'logits are none'),
    ([[0.5, np.nan]], [0], 15, 'logits are none'),
    ([[0.5, 0.5]], [2], 15, 'targets: no class 2; there are 2'),
    ([[0.5, 0.5]], [0], 0, 'bins: 0'),
  ],
)
def test_bad_calibration(probabilities, targets, bins, message):
  with pytest.raises(ValueError, match=message):
    evaluate.calibration(np.array(probabilities), np.array(targets), bins)


def test_confusion_is_scikit_learns():
  rng = np.random.default_rng(2)
  targets, predictions = rng.integers(0, 5, (2, 200))
  names = tuple('abcdef')  # f: neither label nor prediction
  expected = sklearn.confusion_matrix(targets, predictions, labels=range(6))
  found = evaluate.confusion(targets, predictions, names)
  assert np.issubdtype(found.dtype, np.integer)
  np.testing.assert_array_equal(found, expected)
  shape = (4, 50)
  np.testing.assert_array_equal(
    evaluate.confusion(targets.reshape(shape), predictions.reshape(shape), names), expected
  )
  parts = [
    side.reshape(shape)[:, 10 * i :][:, :10] for side in (targets, predictions) for i in range(5)
  ]
  np.testing.assert_array_equal(evaluate.confusion(parts[:5], parts[5:], names), expected)


def test_missing_and_unknown_labels_in_confusion():
  sentences = [np.array([0, -1, -2]), np.array([1, -2])], [np.array([0, 1, 1]), np.array([0, 1])]
  found = evaluate.confusion(*sentences, ('a', 'b'))
  assert found.tolist() == [[1, 0], [1, 0], [0, 2]]
  assert evaluate.confusion(np.array([-1]), np.array([0]), ('a', 'b')).tolist() == [[0, 0], [0, 0]]
  assert evaluate.confusion([], [], ('a', 'b')).tolist() == [[0, 0], [0, 0]]


def test_bad_confusion():
  with pytest.raises(ValueError, match='2 labels, but 3 predictions'):
    evaluate.confusion(np.zeros(2, int), np.zeros(3, int), ('a',))
  with pytest.raises(ValueError, match='targets: no class 1; there are 1'):
    evaluate.confusion(np.array([1]), np.array([0]), ('a',))
  with pytest.raises(ValueError, match='predictions: no class -2'):
    evaluate.confusion(np.array([0]), np.array([-2]), ('a',))


def accuracy(targets, predictions):
  return float(np.mean(np.asarray(targets) == np.asarray(predictions)))


def test_slices_against_a_loop():
  rng = np.random.default_rng(3)
  column = rng.choice([*'aaaabbbccd', 'rare1', 'rare2', 'rare3'], 200).tolist()
  column[:6], column[6:9] = [None, float('nan')] * 3, ['one', 'two', 'two']
  targets, predictions = rng.integers(0, 2, (2, 200))
  counts = collections.Counter(None if v != v else v for v in column)
  least = sorted(counts.values())[3]
  found = evaluate.by_slice(column, accuracy, targets, predictions, least=least)
  assert [s.examples for s in found[:-1]] == sorted((s.examples for s in found[:-1]), reverse=True)
  assert sum(s.examples for s in found) == 200
  pooled = {value for value, count in counts.items() if count < least}
  assert len(pooled) >= 2
  assert {s.value for s in found[:-1]} == set(counts) - pooled
  assert (found[-1].value, found[-1].pooled) == ('other', len(pooled))
  assert all(s.pooled == 0 for s in found[:-1])
  for s in found:
    values = pooled if s.pooled else {s.value}
    rows = [i for i, value in enumerate(column) if (None if value != value else value) in values]
    assert s.examples == len(rows)
    assert s.metric == pytest.approx(accuracy(targets[rows], predictions[rows]))


def test_slices_of_sentences_and_of_one_rare_value():
  def tokens(targets, predictions):
    assert isinstance(targets, list)
    return accuracy(np.concatenate(targets), np.concatenate(predictions))

  gold = [np.array([0, 1]), np.array([1]), np.array([1, 1])]
  predicted = [np.array([0, 0]), np.array([1]), np.array([0, 1])]
  found = evaluate.by_slice(['x', 'y', 'x'], tokens, gold, predicted, least=2)
  assert found == [('x', 0, 2, 0.5), ('y', 0, 1, 1.0)]  # alone, pooling would hide its name
  found = evaluate.by_slice(np.array([2020, 2021, 2022]), tokens, gold, predicted, least=2)
  assert found == [('other', 3, 3, pytest.approx(3 / 5))]


def test_a_slice_without_a_value():
  def one_class_only(targets, predictions):
    return None if len(set(targets.tolist())) == 1 else accuracy(targets, predictions)

  column = ['x', 'x', 'y', 'y']
  targets = np.array([0, 1, 1, 1])
  found = evaluate.by_slice(column, one_class_only, targets, targets, least=1)
  assert found == [('x', 0, 2, 1.0), ('y', 0, 2, None)]
  with pytest.raises(ValueError, match='the same: '):
    evaluate.by_slice(column[:3], accuracy, targets, targets)
