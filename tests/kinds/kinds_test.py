"""Kinds of task: labels that are missing, spans of tags, what a prediction reads as."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_jax
from mtl_jax import Task, encoders, heads, kinds, metrics, optim, sharing
from mtl_jax.data import specs
from tests import models

IOBES = ('O', 'B-x', 'I-x', 'E-x', 'S-x', 'B-y', 'E-y', 'S-y')


def spans(tags, scheme):
  """The spans of IOBES or BILOU tags, read off strictly: (class, first, last)."""
  first, inside, last, single = {'IOBES': 'BIES', 'BILOU': 'BILU'}[scheme]
  found, start = set(), None
  for i, tag in enumerate([*tags, 'O']):
    mark, _, name = tag.partition('-')
    if start is not None and (mark not in (inside, last) or name != start[1]):
      start = None
    if mark == single:
      found.add((name, i, i))
    elif mark == first:
      start = i, name
    elif mark == last and start is not None:
      found.add((name, start[0], i))
      start = None
  return found


def score(names, gold, predicted, kind='tagging', metric='f1'):
  accumulator = metrics.Accumulator({'x': (kind, (metric,), names)})
  result = {'loss_sum': [0.0], 'loss_count': [1.0], 'outputs': {'x': np.asarray(predicted)}}
  accumulator.add({'x': np.asarray(gold)}, None, result)
  return accumulator.compute()['metrics']['x'][metric]


def test_a_span_that_does_not_end_as_iobes_says_is_none():
  gold, predicted = [[1, 3, 4]], [[1, 2, 4]]  # B-x E-x S-x; B-x I-x S-x
  assert score(IOBES, gold, predicted) == pytest.approx(0.5 * 2 * 1 / (0.5 + 1))  # 1 of 2, 1 of 1
  assert score(IOBES, gold, predicted, kinds.Tagging('conlleval')) == 1.0
  iob = ('O', 'B-x', 'I-x')  # no scheme is told by these: counted as ever, an I that begins too
  assert score(iob, [[1, 2, 0]], [[2, 2, 0]]) == 1.0
  assert score(iob, [[1, 2, 0]], [[2, 2, 0]], kinds.Tagging('IOB2')) == 0.0


@pytest.mark.parametrize('scheme', ['IOBES', 'BILOU'])
def test_spans_of_random_tags_against_a_reading_by_hand(scheme):
  marks = {'IOBES': 'BIES', 'BILOU': 'BILU'}[scheme]
  names = ('O', *(f'{mark}-{name}' for name in 'xy' for mark in marks))
  rng = np.random.default_rng(0)
  gold, predicted = rng.integers(0, len(names), (2, 40, 6))
  known = [
    ({(i, *s) for s in spans([names[t] for t in gold[i]], scheme)},
     {(i, *s) for s in spans([names[t] for t in predicted[i]], scheme)})
    for i in range(len(gold))
  ]  # fmt: skip
  right = sum(len(a & b) for a, b in known)
  assert right > 0
  expected = 2 * right / sum(len(a) + len(b) for a, b in known)
  assert score(names, gold, predicted) == pytest.approx(expected)


def test_unknown_tags_are_a_span_that_is_missed_in_every_scheme():
  for names in (IOBES, ('O', 'B-x', 'I-x'), ('O', 'B-x', 'I-x', 'L-x', 'U-x')):
    gold = [[1, names.index(names[-1]), 0, -2, -2], [-2, 0, -1, -1, -1]]
    predicted = np.array([[1, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
    assert score(names, gold, predicted, metric='recall') < 1
  assert score(
    ('O', 'B-x', 'I-x'), [[1, 0, -2, -2, 0, -2]], [[1, 0, 0, 0, 0, 0]], metric='recall'
  ) == (pytest.approx(1 / 3))


def test_the_scheme_of_a_task_comes_from_its_options():
  spec = specs.TaskSpec('tagging', 'slots', ('f1',)).with_options({'scheme': 'IOB2'})
  assert spec.rules == kinds.Tagging('IOB2')
  fixed = specs.TaskSpec(kinds.Tagging('IOBES'), 'slots', ('f1',))
  assert fixed.with_options({'scheme': ''}).rules.scheme == 'IOBES'  # what the data set says
  with pytest.raises(ValueError, match="scheme: no 'IOB3'"):
    kinds.get('tagging', scheme='IOB3')
  with pytest.raises(ValueError, match="regression has no option 'scheme'"):
    kinds.get('regression', scheme='IOB2')


@pytest.mark.parametrize(
  ('kind', 'prediction', 'read'),
  [
    ('classification', np.int32(1), 'b'),
    ('multilabel', np.array([True, False, True]), ['a', 'c']),
    ('regression', np.float32(0.5), 0.5),
    ('tagging', np.array([2, 0], np.int32), ['c', 'a']),
  ],
)
def test_what_a_prediction_reads_as(kind, prediction, read):
  assert kinds.get(kind).read(prediction, ('a', 'b', 'c')) == read


def _numbers_model(loss=None):
  head = heads.Regression()
  tasks = [
    Task('a', head, 'regression', loss=loss),
    Task('b', heads.Classification(3)),
  ]
  return sharing.hard(encoders.MLP((4,)), tasks)


@pytest.mark.parametrize(
  'loss', [None, lambda o, t: (jnp.square(o - t), jnp.ones(o.shape, bool))], ids=['kind', 'own']
)
def test_a_number_that_is_nan_is_missing_without_a_mask(loss):
  """One step: neither loss nor any parameter is touched by the missing number."""
  model = _numbers_model(loss)
  x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  labels = {'a': np.array([1.0, np.nan, 2.0, np.nan], np.float32), 'b': np.array([0, 1, 2, 0])}
  labels['b'] = labels['b'].astype(np.int32)
  balance, optimizer = optim.compose(optim.gradnorm(), optim.pcgrad()), optax.sgd(0.1)
  params = models.init(model, {'inputs': x, 'targets': labels})
  losses = model.losses(params, {'inputs': x, 'targets': labels})
  known = {'inputs': x[::2], 'targets': {'a': labels['a'][::2], 'b': labels['b'][::2]}}
  np.testing.assert_allclose(losses[0], model.losses(params, known)[0], rtol=1e-6)
  state = mtl_jax.init_train_state(
    model, balance, optimizer, jax.random.key(0), {'inputs': x, 'targets': labels}
  )
  step = mtl_jax.make_train_step(model, balance, optimizer)
  masked = {'a': np.array([True, False, True, False])}
  filled = {**labels, 'a': np.array([1.0, 7.0, 2.0, -3.0], np.float32)}
  after = {}
  for name, batch in (
    ('nan', {'inputs': x, 'targets': labels}),
    ('mask', {'inputs': x, 'targets': filled, 'mask': masked}),
    ('both', {'inputs': x, 'targets': labels, 'mask': masked}),
  ):
    new, told = step(jax.tree.map(jnp.copy, state), batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new.params)), name
    assert bool(told['present'].all())
    after[name] = new.params
  jax.tree.map(np.testing.assert_array_equal, after['nan'], after['mask'])
  jax.tree.map(np.testing.assert_array_equal, after['nan'], after['both'])
  gone = {**labels, 'a': np.full(4, np.nan, np.float32)}
  new, told = step(state, {'inputs': x, 'targets': gone})
  assert told['present'].tolist() == [False, True]
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new.params))


def test_metrics_of_a_task():
  assert Task('a', None).metrics == ('accuracy',)
  assert Task('a', None, 'tagging', metrics=['recall']).metrics == ('recall',)
  with pytest.raises(ValueError, match="Task 'a': metric 'f1' is not defined for classification"):
    Task('a', None, metrics=('f1',))
  with pytest.raises(ValueError, match="Task 'a': unknown kind 'taging'; did you mean 'tagging'"):
    Task('a', None, 'taging')
