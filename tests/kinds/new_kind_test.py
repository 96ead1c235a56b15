"""A kind of task that is defined here alone: through the command, from labels to the report."""

import dataclasses
import json
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mtl_jax import kinds, report, train
from mtl_jax.data import specs
from mtl_jax.data.builders import english_words
from tests.train_test import config_file  # noqa: F401  (a fixture)


class Thresholds(nn.Module):
  """One score an example against ordered thresholds (Frank & Hall 2001, in one model)."""

  num_classes: int
  scale: float = 1.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, features, inputs, train=False):
    mask = inputs['mask'][..., None]
    mean = jnp.where(mask, features, 0).sum(axis=1) / mask.sum(axis=1).astype(features.dtype)
    score = nn.Dense(1, dtype=self.dtype)(mean) * jnp.asarray(self.scale, self.dtype)
    return score - self.param('thresholds', nn.initializers.normal(), (1, self.num_classes))


@dataclasses.dataclass(frozen=True)
class Ordinal(kinds.Classification):
  """Ordered classes: logits `[B, C − 1]` that the label is above each but the last."""

  least: int = 0
  name: ClassVar[str] = 'ordinal'
  head: ClassVar[type[nn.Module]] = Thresholds

  def width(self, names):
    return len(names) - 1

  def targets_shape(self, outputs):
    return outputs.shape[:1]

  def loss(self, outputs, targets):
    above = targets[:, None] > jnp.arange(outputs.shape[1])[None]
    values, _ = kinds.sigmoid_cross_entropy(outputs, above.astype(jnp.int32))
    return values.sum(axis=1), targets >= 0

  def predict(self, outputs):
    return jnp.maximum(jnp.sum(outputs > 0, axis=1, dtype=jnp.int32), self.least)

  @property
  def metrics(self):
    return {
      'distance': kinds.Metric(lambda y, p, _: np.mean(np.abs(y - p)), False, False),
      'near': kinds.Metric(lambda y, p, _: np.mean(np.abs(y - p) <= 1)),
    }


@pytest.fixture
def trained(config_file, tmp_path, monkeypatch):  # noqa: F811
  monkeypatch.setitem(kinds.KINDS, 'ordinal', Ordinal)
  tasks = english_words.EnglishWords.TASKS
  ordinal = specs.TaskSpec('ordinal', 'tag', ('distance', 'near'), min_count=1)
  monkeypatch.setattr(english_words.EnglishWords, 'TASKS', tasks | {'rank': ordinal})
  text = config_file.read_text().replace("'lemma': {}", "'rank': {'scale': 2.0, 'least': 1}")
  (tmp_path / 'c.py').write_text(text)
  code = train.main(['train', f'--config={tmp_path / "c.py"}', f'--workdir={tmp_path / "w"}'])
  assert code == 0
  return tmp_path / 'w'


def test_a_kind_of_ones_own_trains_evaluates_and_reports(trained, monkeypatch):
  run = trained / 'default' / 'seed_0'
  config = json.loads((run / 'config.json').read_text())
  assert config['tasks']['rank'] == {
    'weight': 1.0,
    'l2': 0.0,
    'train_labels': 0,
    'scale': 2.0,
    'least': 1,
  }
  results = json.loads((run / 'results.json').read_text())
  assert results['main_metrics']['rank'] == 'distance'
  assert 0 <= results['test']['metrics']['rank']['distance'] < 10
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  losses = [line['loss']['rank'] for line in lines if line['split'] == 'validation']
  assert losses[-1] < losses[0]
  table = (trained / 'table.md').read_text()
  assert 'rank.distance ↓' in table
  monkeypatch.undo()  # a report by a process that knows nothing of the kind
  (again,) = report.tables(report.load([trained]))
  column = next(column for column in again.columns if column.key == 'rank.distance')
  assert not column.higher_is_better


def test_options_of_another_kind_are_refused(config_file, tmp_path, capsys):  # noqa: F811
  flags = ['--config.tasks.pos.sentence=mean', '--config.tasks.pos.scheme=IOBES']
  for flag, option in zip(flags, ('sentence', 'scheme'), strict=True):
    code = train.main(['train', f'--config={config_file}', f'--workdir={tmp_path / "w"}', flag])
    assert code == 2
    message = capsys.readouterr().err
    assert f'tasks.pos.{option}: a task of kind multilabel has no such option' in message
