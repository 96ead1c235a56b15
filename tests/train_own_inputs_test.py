"""The training command on tasks with examples of their own: two domains of reviews, tiny."""

import json

import pytest

from mtl_jax import config as config_lib
from mtl_jax import errors, train
from tests import train_test
from tests.data import fudan16_test

pytestmark = pytest.mark.filterwarnings('ignore:.*not the published split')
raw, compiled = fudan16_test.raw, train_test.compiled


@pytest.fixture
def config(raw, tmp_path):
  c = config_lib.default()
  c.name = 'tiny'
  c.tasks = config_lib.tasks({'mr': {}, 'video': {}})
  c.dataset.update(name='fudan16', manual_dir=str(raw), data_dir=str(tmp_path / 'data'), buckets=1)
  c.encoder.name = 'cnn'
  c.encoder.embedding.features = 4
  c.encoder.cnn.update(features=3, widths=(2,))
  c.train.update(batch_size=2, steps=6, log_every=1, eval_every=3, checkpoint_every=2)
  c.eval.batch_size = 200
  return c


def _losses(run):
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  return [(line['step'], line['split'], line['loss']) for line in lines]


def test_shared_private_with_unlabelled_text_resumes_to_the_bit(config, tmp_path):
  config.sharing.name = 'shared_private'
  config.dataset.unlabelled = True
  train.run(config, tmp_path / 'whole')
  asked = iter([False] * 3 + [True])
  with pytest.raises(train.Interrupted):
    train.run(config, tmp_path / 'stopped', should_stop=lambda: next(asked))
  (result,) = train.run(config, tmp_path / 'stopped')
  runs = [tmp_path / name / 'default' / 'seed_0' for name in ('whole', 'stopped')]
  assert _losses(runs[0]) == _losses(runs[1])
  assert result['test']['joint'] == {}
  assert result['test']['metrics'].keys() == {'mr', 'video'}


def test_one_task_a_step(config, tmp_path):
  config.dataset.mixing = 'one'
  config.balance.name = 'pcgrad'
  train.run(config, tmp_path)
  losses = _losses(tmp_path / 'default' / 'seed_0')
  trained = [loss for _, split, loss in losses if split == 'train']
  assert all(sum(value is not None for value in loss.values()) == 1 for loss in trained)
  assert {task for loss in trained for task, value in loss.items() if value} == {'mr', 'video'}


def test_joint_exact_match_needs_common_examples(config):
  config.train.early_stopping.metric = 'joint.exact_match'
  with pytest.raises(errors.ConfigError, match="those of 'fudan16' do not"):
    config_lib.resolve(config)
