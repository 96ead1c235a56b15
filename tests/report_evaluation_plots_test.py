"""Plots of an evaluation: what stands in them. How they look is for eyes."""

import warnings

import numpy as np
import pytest

from mtl_jax import evaluate
from mtl_jax.report import _evaluation_plots


@pytest.fixture(autouse=True)
def _no_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    yield


def matrix(classes, seed=0):
  return np.random.default_rng(seed).integers(0, 9, (classes, classes))


def texts(axis):
  return [text.get_text() for text in axis.texts]


def test_a_matrix_shows_its_counts_and_shares():
  counts = np.array([[8, 2], [0, 5], [1, 3]])
  figure = _evaluation_plots._confusion(counts, ('no', 'yes'), 'answers')
  axis = figure.axes[0]
  assert [label.get_text() for label in axis.get_xticklabels()] == ['no', 'yes']
  assert [label.get_text() for label in axis.get_yticklabels()] == ['no', 'yes', '(unknown)']
  assert sorted(texts(axis)) == sorted(['8', '2', '5', '1', '3'])  # a zero stays blank
  np.testing.assert_allclose(axis.images[0].get_array(), counts / counts.sum(axis=1)[:, None])
  assert axis.get_title() == 'answers'


@pytest.mark.parametrize(('classes', 'annotated'), [(20, True), (21, False), (30, False)])
def test_more_than_twenty_classes_have_no_counts(classes, annotated):
  counts = matrix(classes)
  names = [f'class {i}' for i in range(classes)]
  axis = _evaluation_plots._confusion(counts, names, 't').axes[0]
  assert len(texts(axis)) == (np.count_nonzero(counts) if annotated else 0)
  assert axis.images[0].get_array().shape == (classes, classes)
  assert axis.get_title() == 't'


def test_of_many_classes_the_most_frequent_are_shown():
  counts = matrix(40)
  counts[5:15] = 0  # ten classes without a label
  counts[0, 7] = 50  # taken for one of them, which is not shown
  figure = _evaluation_plots._confusion(counts, [f'c{i}' for i in range(40)], 't')
  axis = figure.axes[0]
  kept = [i for i in range(40) if not 5 <= i < 15]
  assert [label.get_text() for label in axis.get_yticklabels()] == [f'c{i}' for i in kept]
  shown = counts[np.ix_(kept, kept)]
  shares = shown / np.maximum(counts[kept].sum(axis=1, keepdims=True), 1)
  np.testing.assert_allclose(axis.images[0].get_array(), shares)
  note = f'the 30 most frequent of 40 classes: {shown.sum()} of {counts.sum()} labels'
  assert axis.get_title() == f't\n{note}'


def test_names_of_all_sorts_are_drawn():
  names = ('$x_1$ and $y', '标签', 'a\nb', '', 'an excessively long name of a class', '_x', '100%')
  png = _evaluation_plots.confusion(matrix(7), names, 'ticket$ of 50% $')
  assert png.startswith(b'\x89PNG')
  labels = _evaluation_plots._confusion(matrix(7), names, '').axes[0].get_yticklabels()
  assert [label.get_text() for label in labels][2:5] == ['a b', '', 'an excessively long nam…']
  zeros = np.zeros((1, 1), int)
  assert _evaluation_plots.confusion(zeros, ('only',), 'none').startswith(b'\x89PNG')


@pytest.mark.parametrize(('shape', 'classes'), [((2, 3), 3), ((3, 3), 2), ((5, 3), 3), ((0, 0), 0)])
def test_a_matrix_that_does_not_fit(shape, classes):
  with pytest.raises(ValueError, match='a matrix of shape'):
    _evaluation_plots.confusion(np.zeros(shape, int), [''] * classes, 't')


def test_a_reliability_diagram_shows_accuracy_and_shares():
  rng = np.random.default_rng(0)
  probabilities, targets = rng.dirichlet(np.ones(3), 100), rng.integers(0, 3, 100)
  found = evaluate.calibration(probabilities, targets, bins=10)
  assert 0 in found.counts
  figure = _evaluation_plots._reliability(found, 'intents')
  above, below = figure.axes
  heights = [bar.get_height() for bar in above.patches]
  np.testing.assert_allclose(heights, np.nan_to_num(found.accuracy))
  np.testing.assert_allclose([bar.get_height() for bar in below.patches], found.counts / 100)
  assert [bar.get_x() for bar in below.patches] == pytest.approx(found.edges[:-1].tolist())
  assert above.get_title().startswith(f'intents\nECE {found.expected_error:.3f}')
  assert _evaluation_plots.reliability(found, 'intents').startswith(b'\x89PNG')
