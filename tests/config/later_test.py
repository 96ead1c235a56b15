"""Options that came later: refused where they do not fit, left out of runs that do without."""

import json

import pytest

from mtl_jax import config as config_lib
from mtl_jax import errors, train
from mtl_jax.plain import leaves
from tests.config.config_test import _config
from tests.train_test import compiled, config, config_file  # noqa: F401  (fixtures)


def paths(run):
  return {path for path, _ in leaves(run)}


def test_a_run_that_has_no_use_for_them_is_as_before():
  (run,) = config_lib.resolve(_config())
  assert not {'weight_column', 'class_weights', 'batch_size'} & set(run['tasks']['pos'])
  assert not {'train.accumulate', 'dataset.rates', 'dataset.stride'} & paths(run)
  (run,) = config_lib.resolve(_config(**{'train.accumulate': 2}))
  assert 'train.accumulate' in paths(run)
  again = config_lib.plain(config_lib.default())
  assert 'accumulate' in again['train']
  assert again['tasks'] == {}


CASES = [
  ({'tasks.pos.batch_size': -1}, 'tasks.pos.batch_size: need 0 or more'),
  ({'train.accumulate': 0}, 'train.accumulate: need 1 or more, not 0'),
  (
    {'train.accumulate': 2, 'balance.name': 'pcgrad', 'balance.at': 'representation'},
    "balance: accumulate=2: at='representation'",
  ),
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


def losses(run):
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  return [(x['step'], x['split'], x['loss']) for x in lines]


def test_accumulated_batches_train_as_the_large_one(config, tmp_path):  # noqa: F811
  """The same numbers but for rounding, and to the bit when stopped and gone on with."""
  config = config.copy_and_resolve_references()
  config.train.update(steps=4, eval_every=4, log_every=1)
  config.encoder.name = 'cnn'
  config.encoder.embedding.dropout = 0.0
  config.encoder.cnn.update(features=8, dropout=0.0)
  train.run(config, tmp_path / 'large')
  config.train.update(batch_size=4, accumulate=4)
  train.run(config, tmp_path / 'parts')
  asked = iter([False] * 3 + [True])
  with pytest.raises(train.Interrupted):
    train.run(config, tmp_path / 'stopped', should_stop=lambda: next(asked))
  train.run(config, tmp_path / 'stopped')
  found = [losses(tmp_path / name / 'default' / 'seed_0') for name in ('large', 'parts', 'stopped')]
  assert found[2] == found[1]
  for large, parts in zip(found[0], found[1], strict=True):
    assert large[:2] == parts[:2]
    assert parts[2] == pytest.approx(large[2], rel=1e-3)


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


def test_rates_by_task_or_in_their_order():
  plain = config_lib.plain(_config())
  plain['dataset'] |= {'own_batches': True, 'mixing': 'one'}
  for rates in ((1, 2, 3), {'pos': 1, 'lemma': 0.5}):
    plain['dataset']['rates'] = rates
    (run,) = config_lib.resolve(plain)
    assert run['dataset']['rates'] == rates
