"""What a user's own module raises keeps its trace and names it; what ours say is one line."""

import pathlib
import sys
import traceback
import types

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

import mtl_jax
from mtl_jax import config as config_lib
from mtl_jax import errors, optim, train
from mtl_jax.config import command_line
from tests.train_test import config, config_file  # noqa: F401  (fixtures)


class Broken(nn.Module):
  """Its forward pass has a bug, of a kind told by its field."""

  kind: str = 'value'

  @nn.compact
  def __call__(self, inputs, train=False):
    if self.kind == 'value':
      return int('x')
    if self.kind == 'type':
      return inputs['tokens'] + 'a'
    return jnp.ones((inputs['tokens'].shape[0], 2, 2, 2))  # no head can read it


@pytest.fixture
def own(config, monkeypatch):  # noqa: F811
  module = types.ModuleType('a_users_module')
  module.Broken = Broken
  monkeypatch.setitem(sys.modules, 'a_users_module', module)
  changed = config.copy_and_resolve_references()
  changed.encoder.name = 'a_users_module:Broken'
  return changed


@pytest.mark.parametrize(('kind', 'error'), [('value', ValueError), ('type', TypeError)])
def test_a_bug_keeps_its_trace_and_names_the_encoder(own, kind, error, tmp_path):
  own.encoder.custom.kind = kind
  with pytest.raises(error) as raised:
    train.run(own, tmp_path / 'w')
  assert not isinstance(raised.value, errors.ConfigError)
  shown = ''.join(traceback.format_exception(raised.value))
  assert 'user_code_test.py' in shown
  assert "This was raised by the model: encoder 'a_users_module:Broken', sharing 'hard'." in shown


def frames(error):
  return [pathlib.Path(f.filename) for f in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize('kind', ['value', 'type'])
def test_a_trace_shows_the_users_lines_and_none_of_ours_between(own, kind, tmp_path, monkeypatch):
  """All of them with the environment variable, and where no line is the user's."""
  own.encoder.custom.kind = kind
  package = pathlib.Path(mtl_jax.__file__).parent

  def work():
    return len(train.run(own, tmp_path / 'w'))

  with pytest.raises((ValueError, TypeError)) as raised:
    command_line.quietly(work)
  found = frames(raised.value)
  assert not [path for path in found if package in path.parents]
  assert found[-1] == pathlib.Path(__file__) or kind == 'type'
  assert found.count(pathlib.Path(__file__)) == 3  # this test, `work`, and the encoder
  assert any('MTL_JAX_TRACEBACK=full' in note for note in raised.value.__notes__)
  monkeypatch.setenv('MTL_JAX_TRACEBACK', 'full')
  with pytest.raises((ValueError, TypeError)) as raised:
    command_line.quietly(work)
  assert sum(package in path.parents for path in frames(raised.value)) > 5
  monkeypatch.delenv('MTL_JAX_TRACEBACK')
  with pytest.raises(TypeError) as raised:
    errors.nearest('a', None)
  error = raised.value
  error.__traceback__ = error.__traceback__.tb_next  # without this test's line
  whole = frames(error)
  errors.shorten(error)
  assert frames(error) == whole


def test_what_the_library_says_of_it_is_one_line(own, tmp_path):
  own.encoder.custom.kind = 'shape'
  with pytest.raises(errors.ConfigError, match=r'cannot read features \(16, 2, 2, 2\)'):
    train.run(own, tmp_path / 'w')


def test_a_type_error_inside_a_loss_is_the_users():
  def losses(params, batch):
    return params['w'] + 'a' + batch

  with pytest.raises(TypeError) as raised:
    mtl_jax.init_train_state(
      losses,
      optim.pcgrad(),
      optax.sgd(0.1),
      jax.random.key(0),
      jnp.ones(2),
      params={'w': jnp.ones(2)},
    )
  assert 'user_code_test.py' in ''.join(traceback.format_exception(raised.value))
  assert 'positional argument' not in str(raised.value)


def test_a_loss_with_a_key_is_asked_with_one():
  def losses(params, batch, key):
    return jnp.stack([jnp.sum(params['w'] * batch), jnp.sum(params['w'])]) + 0.0 * key.size

  state = mtl_jax.init_train_state(
    losses,
    optim.pcgrad(),
    optax.sgd(0.1),
    jax.random.key(0),
    jnp.ones(2),
    params={'w': jnp.ones(2)},
  )
  step = mtl_jax.make_train_step(losses, optim.pcgrad(), optax.sgd(0.1))
  _, metrics = step(state, jnp.ones(2))
  assert metrics['loss'].tolist() == [2.0, 2.0]


def test_only_chosen_variants_are_looked_at(config):  # noqa: F811
  changed = config.copy_and_resolve_references()
  changed.variants = config_lib.dotted(
    {'good': {}, 'bad': {'balance.name': 'pcgrid'}, 'worse': {'no.such': 1}}
  )
  (run,) = config_lib.resolve(changed, ['good'])
  assert run['variant'] == 'good'
  with pytest.raises(errors.ConfigError, match=r"^variant 'bad': balance.name: no 'pcgrid'"):
    config_lib.resolve(changed, ['bad'])
  with pytest.raises(errors.ConfigError, match=r"^variants.worse: no key 'no'"):
    config_lib.resolve(changed, ['good', 'worse'])
