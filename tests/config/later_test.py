"""Options that came later: refused where they do not fit, left out of runs that do without."""

import json

import pytest

from mtl_jax import config as config_lib
from mtl_jax import errors, train
from tests.config.config_test import _config
from tests.train_test import compiled, config, config_file  # noqa: F401  (fixtures)


def test_a_run_that_has_no_use_for_them_is_as_before():
  (run,) = config_lib.resolve(_config())
  assert not {'weight_column', 'class_weights'} & set(run['tasks']['pos'])


CASES = [
  (
    {'tasks.pos.class_weights': ('balance',)},
    r"tasks.pos.class_weights: need a number .*'balanced'",
  ),
  ({'tasks.pos.class_weights': (1.0, -1.0)}, 'tasks.pos.class_weights: need a number from 0 on'),
  ({'tasks.pos.class_weights': (0.0, 0.0)}, 'not all of them 0'),
]


@pytest.mark.parametrize(('changes', 'message'), CASES)
def test_values_that_do_not_fit(changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    config_lib.resolve(_config(**changes))


def test_balanced_classes_train(config, tmp_path):  # noqa: F811
  config = config.copy_and_resolve_references()
  config.train.update(steps=2, eval_every=2, log_every=1)
  config.tasks.inflection.class_weights = ('balanced',)
  config.tasks.pos.class_weights = ('balanced',)
  train.run(config, tmp_path)
  saved = json.loads((tmp_path / 'default' / 'seed_0' / 'config.json').read_text())
  assert saved['tasks']['inflection']['class_weights'] == ['balanced']
  assert 'class_weights' not in saved['tasks']['lemma']
  config.tasks.pos.class_weights = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
  with pytest.raises(errors.ConfigError, match=r'tasks.pos.class_weights: need \d numbers'):
    train.run(config, tmp_path / 'other')
