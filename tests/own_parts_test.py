"""A metric, a loss and a head of a user's own, by their names in a config."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import mtl_jax
from mtl_jax import config as config_lib
from mtl_jax import dotted, errors, kinds, train

PARTS = """
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtl_jax.kinds import Metric


def second(targets, predictions, names):
  return float(np.mean(predictions[targets == 1] == 1)) if (targets == 1).any() else None


worst = Metric(lambda y, p, _: float(np.max(np.abs(y - p))), higher_is_better=False, fraction=False)


def huber(outputs, targets):
  distance = jnp.abs(outputs - targets)
  return jnp.where(distance < 1, distance**2 / 2, distance - 0.5)


class Two(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, features, inputs, train=False):
    x = nn.tanh(nn.Dense(5, name='inner')(features))
    return nn.Dense(self.num_classes, name='outer')(x)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'parts.py').write_text(PARTS)
  rng = np.random.default_rng(0)
  rows = [[*x, 'ab'[int(x[0] > 0)], x[1] + x[2]] for x in rng.normal(size=(200, 3))]
  lines = [','.join(map(str, row)) for row in rows]
  (tmp_path / 't.csv').write_text('x1,x2,x3,side,total\n' + '\n'.join(lines) + '\n')
  return tmp_path


def config(side=None, total=None):
  return config_lib.complete(
    {
      'dataset': {'files': {'t': {'train': 't.csv', 'input': 'x*'}}},
      'tasks': {'side': side or {}, 'total': total or {}},
      'encoder': {'mlp': {'features': [8]}},
      'train': {'steps': 20, 'eval_every': 20},
    }
  )


def test_they_train_evaluate_and_are_loaded(folder):
  given = config(
    {'metrics': ['accuracy', 'parts.py:second'], 'head': 'parts.py:Two'},
    {'metrics': ['parts.py:worst'], 'loss': 'parts.py:huber'},
  )
  given.train.early_stopping.metric = 'side.second'
  (result,) = train.run(given, folder / 'run')
  found = result['test']['metrics']
  assert set(found['side']) == {'accuracy', 'second'}
  assert result['main_metrics'] == {'side': 'accuracy', 'total': 'worst'}
  assert result['directions']['worst'] == {'higher_is_better': False, 'fraction': False}
  assert json.loads((folder / 'run/default/seed_0/results.json').read_text()) == result
  model = mtl_jax.load('run')
  assert set(model.params[0]['tasks']['side']) == {'inner', 'outer'}
  loss, _ = model.model.task('total').mean_loss(jnp.array([0.0, 3.0]), jnp.array([0.5, jnp.nan]))
  assert loss == pytest.approx(0.125)


@pytest.mark.parametrize(
  ('side', 'total', 'message'),
  [
    ({'metrics': ['parts.py:secnd']}, {}, r"parts.py has no 'secnd'; did you mean 'second'"),
    ({'metrics': ['nowhere.py:x']}, {}, "there is no file 'nowhere.py'"),
    ({'head': 'Two'}, {}, "write 'package.module:Name'"),
    ({'head': 'parts.py:second'}, {}, "head 'parts.py:second' cannot be made of num_classes"),
    ({}, {'loss': 'parts.py:PARTS'}, "has no 'PARTS'"),
    ({}, {'metrics': ['accuracy']}, "metric 'accuracy' is not defined for regression"),
  ],
)
def test_faults_before_anything_is_trained(folder, side, total, message):
  with pytest.raises(errors.ConfigError, match=message):
    config_lib.resolve(config(side, total))


def test_a_kind_keeps_its_own_metrics(folder):
  kind, names = kinds.with_metrics(kinds.get('classification'), ['mcc', 'parts.py:second'])
  assert names == ('mcc', 'second')
  assert {'accuracy', 'mcc', 'second'} <= set(kind.metrics)
  assert isinstance(kind, kinds.Classification)
  assert kinds.get(kind) == kind
  assert 'second' not in kinds.get('classification').metrics


def test_a_file_that_fails_says_so(folder):
  (folder / 'bad.py').write_text('1 / 0')
  with pytest.raises(ValueError, match=r'importing bad.py failed: ZeroDivisionError'):
    dotted.load('bad.py:x', 'loss')
