"""Regression in standard deviations: losses without a unit, predictions in that of the labels."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import heads, kinds, tasks
from mtl_jax.data import pipeline, specs
from mtl_jax.data import vocabularies as vocabularies_lib

LABELS = [200.0, 300.0, None, 700.0]


def made():
  rows = [{'x': np.ones(2, np.float32) * i, 'y': y} for i, y in enumerate(LABELS)]
  task = specs.TaskSpec('regression', 'y', ('mae',)).with_options({'standardize': True})
  spec = specs.InputSpec('x', 'array')
  return pipeline.from_examples({'train': rows}, spec, {'y': task}, {}, 4, 0)


def test_losses_and_predictions_against_numpy():
  data = made()
  rules = data.specs['y'].rules
  known = np.array([y for y in LABELS if y is not None])
  assert (rules.mean, rules.std) == (known.mean(), known.std())
  outputs = np.array([0.5, -1.0, 0.3, 2.0], np.float32)
  targets = np.array([np.nan if y is None else y for y in LABELS], np.float32)
  task = tasks.Task('y', heads.get('regression'), rules)
  loss, count = task.mean_loss(jnp.asarray(outputs), jnp.asarray(targets))
  expected = ((targets.astype(np.float64) - known.mean()) / known.std() - outputs) ** 2
  assert count == 3
  assert loss == pytest.approx(np.nanmean(expected), rel=1e-5)
  predicted = task.predictions(jnp.asarray(outputs))
  np.testing.assert_allclose(predicted, known.mean() + known.std() * outputs, rtol=1e-6)


def test_it_is_kept_with_the_vocabularies(tmp_path):
  data = made()
  data.write(tmp_path)
  found = vocabularies_lib.read(tmp_path)
  assert found.fitted == {'y': {'mean': 400.0, 'std': pytest.approx(np.std([200, 300, 700]))}}
  rows = [{'x': np.ones(2, np.float32), 'y': 1.0}] * 4
  task = specs.TaskSpec('regression', 'y', ('mae',)).with_options({'standardize': True})
  later = pipeline.from_examples(
    {'train': rows}, specs.InputSpec('x', 'array'), {'y': task}, {}, 4, 0, found
  )
  assert later.specs['y'].rules.mean == 400.0


def test_it_is_no_option_of_a_config():
  assert kinds.options_of(kinds.Regression) == {'standardize': False}
