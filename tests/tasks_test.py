"""Weights of examples and classes in a task's loss, against the formulas in float64.

How a task's head, kind and metrics work is in model_test and kinds.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_jax
from mtl_jax import Task

RNG = np.random.default_rng(0)
LABELS = np.array([0, 2, -1, 1, 2, -2, 0], np.int32)
LOGITS = RNG.normal(size=(7, 3)).astype(np.float32)
WEIGHT = np.array([1.5, 0.0, 9.0, 2.0, 0.25, 9.0, 0.5], np.float32)
CLASSES = (0.5, 2.0, 3.0)


def cross_entropy(logits, labels):
  """−log p of the labels, float64; 0 for none."""
  logits = logits.astype(np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], -1)[..., 0]


@pytest.mark.parametrize('weight', [None, WEIGHT])
@pytest.mark.parametrize('classes', [None, CLASSES])
def test_the_loss_is_the_weighted_mean(weight, classes):
  """With weights of classes alone: PyTorch's CrossEntropyLoss(weight=w), Σ w_y·l / Σ w_y."""
  w = np.where(LABELS >= 0, 1.0, 0.0)
  w *= 1.0 if weight is None else weight
  w *= 1.0 if classes is None else np.array(classes)[np.maximum(LABELS, 0)]
  task = Task('t', None, weight=2.0, class_weights=classes)
  loss, count = task.mean_loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), None, weight)
  np.testing.assert_allclose(loss, 2 * (w * cross_entropy(LOGITS, LABELS)).sum() / w.sum(), 1e-6)
  np.testing.assert_allclose(count, w.sum(), 1e-6)


def test_labels_of_tokens_have_the_weight_of_their_example():
  logits = RNG.normal(size=(4, 5, 3)).astype(np.float32)
  labels = RNG.integers(-1, 3, (4, 5)).astype(np.int32)
  weight = np.array([1.0, 0.0, 3.0, 0.5], np.float32)
  w = np.where(labels >= 0, weight[:, None] * np.array(CLASSES)[labels], 0.0)
  task = Task('t', None, kind='tagging', class_weights=CLASSES)
  mask = np.array([True, True, True, False])
  w *= mask[:, None]
  loss, count = task.mean_loss(jnp.asarray(logits), jnp.asarray(labels), mask, weight)
  np.testing.assert_allclose(loss, (w * cross_entropy(logits, labels)).sum() / w.sum(), 1e-6)
  np.testing.assert_allclose(count, w.sum(), 1e-6)


def test_weights_of_several_labels_are_of_those_that_hold():
  """p·y·−log σ(x) + (1 − y)·−log σ(−x), as `BCEWithLogitsLoss(pos_weight=p)`, by Σ of weights."""
  labels = RNG.integers(-1, 2, (7, 3)).astype(np.int32)
  x = LOGITS.astype(np.float64)
  losses = np.where(labels == 1, np.log1p(np.exp(-x)), np.log1p(np.exp(x)))
  w = np.where(labels == 1, np.array(CLASSES), 1.0) * (labels >= 0) * WEIGHT[:, None]
  task = Task('t', None, kind='multilabel', class_weights=CLASSES)
  loss, count = task.mean_loss(jnp.asarray(LOGITS), jnp.asarray(labels), None, WEIGHT)
  np.testing.assert_allclose(loss, (w * losses).sum() / w.sum(), 1e-6)
  np.testing.assert_allclose(count, w.sum(), 1e-6)


def test_weights_of_numbers():
  outputs, targets = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.5, np.nan, 1.0])
  weight = np.array([1.0, 3.0, 5.0, 0.0])
  loss, count = Task('t', None, kind='regression').mean_loss(
    *(jnp.asarray(a, jnp.float32) for a in (outputs, targets)), None, weight.astype(np.float32)
  )
  np.testing.assert_allclose([loss, count], [(1.0 + 3 * 1.5**2) / 4, 4.0], 1e-6)


def test_an_example_of_weight_0_is_one_without_a_label():
  """Whatever its values: an infinite loss times 0 would be NaN, and so would its gradient."""
  task = Task('t', None, kind='regression')
  targets = jnp.array([0.0, np.inf])
  weight = jnp.array([2.0, 0.0])
  (loss, count), slope = jax.value_and_grad(task.mean_loss, has_aux=True)(
    jnp.array([1.0, 5.0]), targets, None, weight
  )
  assert (float(loss), float(count)) == (1.0, 2.0)
  np.testing.assert_array_equal(slope, [2.0, 0.0])
  loss, count = task.mean_loss(jnp.array([1.0, 5.0]), targets, None, jnp.zeros(2))
  assert (float(loss), float(count)) == (0.0, 0.0)
  loss, _ = task.mean_loss(jnp.array([1.0, 5.0]), jnp.zeros(2), None, jnp.array([1.0, np.nan]))
  assert np.isnan(loss)  # a weight that is none is told by the loss


@dataclasses.dataclass(frozen=True)
class Plain(Task):
  """The mean without weights, as a formula."""

  def mean_loss(self, outputs, targets, mask=None, weight=None):
    assert weight is None
    values, valid = self.elements(outputs, targets, mask)
    count = jnp.sum(valid, dtype=jnp.float32)
    return self.weight * jnp.sum(values) / jnp.maximum(count, 1.0), count


def test_without_weights_no_operation_is_added():
  """The same program, equation by equation."""
  programs = [
    str(jax.make_jaxpr(made('t', None).mean_loss)(LOGITS, LABELS, LABELS > 0))
    for made in (Task, Plain)
  ]
  assert programs[0] == programs[1]
  programs.append(
    str(jax.make_jaxpr(Task('t', None).mean_loss)(LOGITS, LABELS, LABELS > 0, WEIGHT))
  )
  assert programs[2] != programs[0]


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'kind': 'regression', 'class_weights': (1.0,)}, 'regression has no classes'),
    ({'class_weights': (1.0, -1.0)}, 'finite numbers from 0 on'),
    ({'class_weights': (1.0, float('nan'))}, 'finite numbers from 0 on'),
    ({'class_weights': (0.0, 0.0)}, 'not all of them 0'),
  ],
)
def test_weights_of_classes_that_cannot_be(kwargs, message):
  with pytest.raises(ValueError, match=message):
    Task('t', None, **kwargs)


def test_shapes_that_do_not_fit():
  logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
  with pytest.raises(ValueError, match=r'weights of examples are \[B\]'):
    Task('t', None).mean_loss(logits, labels, None, jnp.ones((7, 1)))
  with pytest.raises(ValueError, match='2 class_weights do not fit'):
    Task('t', None, class_weights=(1.0, 2.0)).mean_loss(logits, labels)

  def of_example(outputs, targets):
    return jnp.zeros(7), jnp.ones(7, bool)

  task = Task('t', None, kind='multilabel', loss=of_example, class_weights=CLASSES)
  with pytest.raises(ValueError, match='a value for each label'):
    task.mean_loss(logits, jnp.zeros((7, 3), jnp.int32))


def test_weights_of_tasks_that_a_batch_names_wrongly():
  model = mtl_jax.sharing.hard(mtl_jax.encoders.MLP((4,)), [Task('t', mtl_jax.heads.Regression())])
  batch = {'inputs': np.ones((2, 3)), 'targets': {'t': np.zeros(2)}, 'weight': {'u': np.ones(2)}}
  with pytest.raises(ValueError, match=r"weights for \['u'\]"):
    model.losses({}, batch)
