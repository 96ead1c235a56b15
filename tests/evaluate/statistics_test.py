"""Intervals, tests and ranks against enumeration, scipy's bootstrap and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from mtl_jax import evaluate, kinds
from mtl_jax.kinds import ranking


def accuracy(targets, predictions):
  return float(np.mean(targets == predictions))


def error(targets, predictions):
  return float(np.mean(np.square(targets - predictions)))


def area(targets, scores):
  return ranking.roc_auc(targets == 1, scores)


def tokens(targets, predictions):
  return accuracy(np.concatenate(targets), np.concatenate(predictions))


def span_f1(targets, predictions):
  metric = kinds.get('tagging').metrics['f1']
  return metric.function(targets, predictions, ('O', 'B-x', 'I-x'))


def noisy(count, seed=0, share=0.7):
  rng = np.random.default_rng(seed)
  targets = rng.integers(0, 2, count)
  return targets, np.where(rng.random(count) < share, targets, 1 - targets)


# Intervals


@pytest.mark.parametrize(('metric', 'continuous'), [(accuracy, False), (error, True), (area, True)])
def test_the_interval_is_scipys_percentile_interval(metric, continuous):
  targets, predictions = noisy(60)
  if continuous:
    predictions = predictions + np.random.default_rng(1).normal(size=60)
  found = evaluate.bootstrap(metric, targets, predictions, samples=4000, level=0.9, seed=0)
  expected = stats.bootstrap(
    (targets, predictions),
    metric,
    rng=np.random.default_rng(9),
    paired=True,
    vectorized=False,
    n_resamples=4000,
    confidence_level=0.9,
    method='percentile',
  ).confidence_interval
  width = expected.high - expected.low
  assert found.value == metric(targets, predictions)
  assert found.low == pytest.approx(expected.low, abs=0.08 * width)
  assert found.high == pytest.approx(expected.high, abs=0.08 * width)
  assert found.undefined == 0


def test_the_interval_of_three_examples_against_all_27_samples():
  targets, predictions = np.zeros(3), np.sqrt([1.0, 2.0, 5.0])
  every = [np.mean([(1, 2, 5)[i] for i in rows]) for rows in itertools.product(range(3), repeat=3)]
  # Quantiles that no step of the 27 values is near to.
  found = evaluate.bootstrap(error, targets, predictions, samples=20000, level=0.8, seed=1)
  assert found.low == pytest.approx(np.quantile(every, 0.1))
  assert found.high == pytest.approx(np.quantile(every, 0.9))


def test_the_interval_covers_the_truth():
  """Of 300 samples of an accuracy of 0.7, the 90% interval holds it in about 90%."""
  covered = 0
  for trial in range(300):
    targets, predictions = noisy(100, trial)
    found = evaluate.bootstrap(accuracy, targets, predictions, samples=200, level=0.9, seed=trial)
    covered += found.low <= 0.7 <= found.high
  assert 0.84 <= covered / 300 <= 0.95


def test_sentences_are_resampled_whole():
  rng = np.random.default_rng(2)
  lengths = rng.integers(1, 6, 30)
  gold = [rng.integers(0, 3, length) for length in lengths]
  predicted = [np.where(rng.random(len(row)) < 0.6, row, 0) for row in gold]
  found = evaluate.bootstrap(span_f1, gold, predicted, samples=50, seed=0)
  assert 0 <= found.low < found.value < found.high <= 1
  # The same samples as of one array of sentences that are all one token.
  flat = noisy(30)
  lists = [[np.array([token]) for token in side] for side in flat]
  as_lists = evaluate.bootstrap(tokens, *lists, samples=50, seed=0)
  assert as_lists == evaluate.bootstrap(accuracy, *flat, samples=50, seed=0)


def tags(count, seed, names):
  """Labels and two predictions of some sentences; unknown labels among them."""
  rng = np.random.default_rng(seed)
  gold = [rng.integers(0, len(names), length) for length in rng.integers(1, 9, count)]
  found = [[np.where(rng.random(len(y)) < 0.7, y, 0) for y in gold] for _ in range(2)]
  gold[3] = np.full(len(gold[3]), -2)
  return gold, *found


@pytest.mark.parametrize('metric', ['f1', 'precision', 'recall', 'macro_f1'])
@pytest.mark.parametrize(
  'names',
  [
    ('O', 'B-x', 'I-x', 'B-y-z', 'I-y-z'),
    ('O', 'B', 'I'),
    ('O', 'B-x', 'I-x', 'E-x', 'S-x', 'S-y'),  # strictly, as their scheme says
  ],
)
def test_counts_of_sentences_give_what_seqeval_says_of_each_sample(metric, names):
  """seqeval counts the sentences of every sample again; the counts are of all of them, once."""
  rules = kinds.get('tagging').metrics[metric]

  def again(targets, predictions):
    return rules.function(targets, predictions, names)

  counted = evaluate.Counted(again, lambda y, p: rules.counts(y, p, names), rules.of_counts)
  gold, first, second = tags(40, len(names), names)
  rows = rules.counts(gold, first, names)
  assert len(rows) == 40
  rng = np.random.default_rng(0)
  for _ in range(30):
    some = rng.integers(40, size=rng.integers(1, 40))
    expected = again([gold[i] for i in some], [first[i] for i in some])
    assert rules.of_counts(rows[some].sum(axis=0)) == pytest.approx(expected, abs=1e-12)
  found, expected = (
    evaluate.bootstrap(way, gold, first, samples=40, seed=0) for way in (counted, again)
  )
  assert found == pytest.approx(expected, abs=1e-12)
  found, expected = (
    evaluate.paired_test(way, gold, first, second, samples=40, seed=0) for way in (counted, again)
  )
  assert found == pytest.approx(expected, abs=1e-12)


def test_samples_without_a_value_are_left_out_and_counted():
  targets, scores = np.array([1, 0, 0, 0, 0]), np.array([0.6, 0.7, 0.5, 0.1, 0.2])
  found = evaluate.bootstrap(area, targets, scores, samples=3000, seed=0)
  # Neither the positive is always missing, nor is it all there is.
  expected = 3000 * (0.8**5 + 0.2**5)
  assert abs(found.undefined - expected) < 4 * np.sqrt(expected)
  assert found.value == 0.75
  assert 0 <= found.low < found.high <= 1
  nothing = evaluate.bootstrap(area, np.zeros(4, int), scores[:4], samples=7, seed=0)
  assert nothing == (None, None, None, 7)
  assert evaluate.bootstrap(lambda y, p: np.nan, targets, scores, samples=7, seed=0) == nothing


def test_a_seed_settles_the_samples():
  pair = noisy(40)
  first = evaluate.bootstrap(accuracy, *pair, samples=60, seed=3)
  assert first == evaluate.bootstrap(accuracy, *pair, samples=60, seed=3)
  assert first != evaluate.bootstrap(accuracy, *pair, samples=60, seed=4)


# Tests


def shuffled(metric, targets, a, b):
  """The p-value of all 2^N swaps."""
  observed = abs(metric(targets, a) - metric(targets, b))
  at_least = 0
  for swap in itertools.product((False, True), repeat=len(targets)):
    if isinstance(a, np.ndarray):
      x, y = np.where(swap, b, a), np.where(swap, a, b)
    else:
      x = [q if s else p for p, q, s in zip(a, b, swap, strict=True)]
      y = [p if s else q for p, q, s in zip(a, b, swap, strict=True)]
    at_least += abs(metric(targets, x) - metric(targets, y)) >= observed - 1e-12
  return at_least / 2 ** len(targets)


@pytest.mark.parametrize('kind', ['classes', 'numbers', 'scores', 'sentences'])
def test_the_p_value_against_all_swaps(kind):
  rng = np.random.default_rng(5)
  targets = np.array([0, 1, 1, 0, 1, 0, 0, 1])
  if kind == 'classes':
    metric, a, b = accuracy, np.array([0, 1, 1, 0, 1, 0, 1, 0]), np.array([1, 1, 0, 0, 0, 0, 1, 0])
  elif kind == 'numbers':
    metric, a, b = error, targets + 0.5 * rng.normal(size=8), targets + rng.normal(size=8)
  elif kind == 'scores':
    metric, a, b = area, targets + rng.normal(size=8), rng.random(8)
  else:
    metric, targets = tokens, [rng.integers(0, 2, n) for n in rng.integers(1, 4, 8)]
    a = [np.where(rng.random(len(row)) < 0.9, row, 1 - row) for row in targets]
    b = [np.where(rng.random(len(row)) < 0.5, row, 1 - row) for row in targets]
  expected = shuffled(metric, targets, a, b)
  assert 0.01 < expected < 0.9
  found = evaluate.paired_test(metric, targets, a, b, samples=4000, seed=0)
  assert found.difference == pytest.approx(metric(targets, a) - metric(targets, b))
  spread = np.sqrt(expected * (1 - expected) / 4000)
  assert found.p_value == pytest.approx(expected, abs=4 * spread + 1 / 4000)
  assert found.undefined == 0 or kind == 'scores'


def test_p_values_are_uniform_where_nothing_differs():
  """And so below any level at most that often; of 19 shuffles too, whose least is 1/20."""
  for samples in (19, 199):
    p_values = []
    for trial in range(250):
      a, b = np.random.default_rng([samples, trial]).normal(size=(2, 25))
      found = evaluate.paired_test(error, np.zeros(25), a, b, samples=samples, seed=trial)
      p_values.append(found.p_value)
    p_values = np.array(p_values)
    # On multiples of 1/(R + 1), made continuous.
    jitter = np.random.default_rng(0).random(250) / (samples + 1)
    assert stats.kstest(p_values - jitter, 'uniform').pvalue > 0.05
    assert np.mean(p_values <= 0.1) < 0.1 + 3 * np.sqrt(0.09 / 250)


def test_a_clear_difference_and_none():
  targets, good = noisy(200, share=0.95)
  bad = noisy(200, share=0.6)[1]
  found = evaluate.paired_test(accuracy, targets, good, bad, samples=199, seed=0)
  assert found.p_value == 1 / 200
  assert 0.2 < found.low < found.difference < found.high < 0.5
  back = evaluate.paired_test(accuracy, targets, bad, good, samples=199, seed=0)
  assert (back.difference, back.p_value) == (-found.difference, found.p_value)
  assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
  same = evaluate.paired_test(accuracy, targets, good, good.copy(), samples=99, seed=0)
  assert same == (0, 1, 0, 0, 0)


def test_the_interval_of_the_difference_is_scipys():
  rng = np.random.default_rng(6)
  targets = rng.normal(size=50)
  a, b = targets + rng.normal(size=50), targets + rng.normal(size=50)
  found = evaluate.paired_test(error, targets, a, b, samples=4000, level=0.8, seed=0)
  expected = stats.bootstrap(
    (targets, a, b),
    lambda y, a, b: error(y, a) - error(y, b),
    rng=np.random.default_rng(9),
    paired=True,
    vectorized=False,
    n_resamples=4000,
    confidence_level=0.8,
    method='percentile',
  ).confidence_interval
  width = expected.high - expected.low
  assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.08 * width)


def test_a_test_without_a_value():
  scores = np.array([0.1, 0.2, 0.3])
  found = evaluate.paired_test(area, np.zeros(3, int), scores, scores[::-1], samples=5, seed=0)
  assert found == (None, None, None, None, 0)
  # A resample without the only positive has no value; a swap keeps the labels.
  found = evaluate.paired_test(area, np.array([1, 0, 0]), scores, scores[::-1], samples=99, seed=0)
  assert 0 < found.undefined < 99
  assert found.difference == -1


@pytest.mark.parametrize('scale', [1e-12, 1.0, 1e9])
def test_the_scale_of_a_metric_does_not_matter(scale):
  rng = np.random.default_rng(7)
  targets, a, b = rng.normal(size=(3, 12))
  one = evaluate.paired_test(error, targets, a, b, samples=99, seed=0)

  def scaled(targets, predictions):
    return scale * error(targets, predictions)

  other = evaluate.paired_test(scaled, targets, a, b, samples=99, seed=0)
  assert other.p_value == one.p_value
  assert other[0] == pytest.approx(scale * one.difference)


@pytest.mark.parametrize(
  ('counts', 'options', 'message'),
  [
    ((0, 0), {}, r'of one or more, the same: \[0, 0'),
    ((3, 4), {}, r'of one or more, the same: \[3, 4'),
    ((3, 3), {'samples': 0}, 'samples: 0'),
    ((3, 3), {'level': 1.0}, 'level: 1.0'),
    ((3, 3), {'level': 0.0}, 'level: 0.0'),
  ],
)
def test_bad_arguments(counts, options, message):
  y, p = (np.zeros(count) for count in counts)
  with pytest.raises(ValueError, match=message):
    evaluate.bootstrap(error, y, p, seed=0, **options)
  with pytest.raises(ValueError, match=message):
    evaluate.paired_test(error, y, p, p, seed=0, **options)


# Ranks


def test_mean_ranks_by_hand():
  table = {
    'a': {'x.f1': 0.9, 'y.mae': 2.0, 'z.auc': 0.7},
    'b': {'x.f1': 0.8, 'y.mae': 1.0, 'z.auc': None},
    'c': {'x.f1': 0.9, 'y.mae': 3.0, 'z.auc': 0.8, 'more': 1.0},
    'd': {},
  }
  found = evaluate.average_rank(table, {'x.f1': True, 'y.mae': False, 'z.auc': True})
  assert found == {
    'a': pytest.approx((1.5 + 2 + 2) / 3),
    'b': pytest.approx((3 + 1) / 2),
    'c': pytest.approx((1.5 + 3 + 1) / 3),
    'd': None,
  }
  with pytest.raises(ValueError, match=r"no run has the metric 'x\.f2'"):
    evaluate.average_rank(table, {'x.f2': True})
  assert evaluate.average_rank({}, {'x': True}) == {}


def test_mean_ranks_against_counts_of_better_runs():
  rng = np.random.default_rng(8)
  values = rng.integers(0, 4, (5, 6))
  table = {
    f'run{i}': {f't{k}': float(v) for k, v in enumerate(row)} for i, row in enumerate(values)
  }
  higher = {f't{k}': bool(k % 2) for k in range(6)}
  signed = values * np.where([*higher.values()], 1, -1)
  for i, found in enumerate(evaluate.average_rank(table, higher).values()):
    better = (signed > signed[i]).sum(axis=0)
    equal = (signed == signed[i]).sum(axis=0)
    assert found == pytest.approx(np.mean(better + (equal + 1) / 2))


def test_a_metric_of_a_kind_is_taken_with_its_names():
  targets, predictions = noisy(80)
  metric = kinds.get('classification').metrics['macro_f1']
  found = evaluate.bootstrap(
    lambda y, p: metric.function(y, p, ('no', 'yes')), targets, predictions, samples=40, seed=0
  )
  assert found.value == pytest.approx(sklearn.f1_score(targets, predictions, average='macro'))
