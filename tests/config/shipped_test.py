"""Configs that ship, by name; that a wheel holds them is seen where the wheel is tested."""

import pathlib

import pytest

from mtl_jax import errors
from mtl_jax.config import command_line, shipped


def test_every_config_of_the_repository_ships():
  folder = pathlib.Path(__file__).parents[2] / 'configs'
  assert set(shipped.found()) == {
    path.relative_to(folder).with_suffix('').as_posix() for path in folder.rglob('*.py')
  }


def test_a_config_is_found_from_any_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert command_line.load('mtl_jax:quickstart').name == 'quickstart'
  assert len(command_line.load('mtl_jax:sharing').variants) > 1
  assert list(command_line.load('mtl_jax:sharing:mmoe').variants) == ['mmoe']


def test_a_wrong_name_lists_those_that_ship():
  with pytest.raises(errors.ConfigError, match=r"no config 'quikstart' ships; did you mean 'quick"):
    command_line.load('mtl_jax:quikstart')
  with pytest.raises(errors.ConfigError, match=r"no config '' ships; Valid: fudan16, .*snips"):
    command_line.load('mtl_jax')


def test_an_installation_has_its_own_folder(tmp_path, monkeypatch):
  """It comes before one beside the package, which is another's there."""
  monkeypatch.setattr(shipped, '_PACKAGE', tmp_path / 'mtl_jax')
  assert shipped.found() == {}
  for path in ('configs/other.py', 'mtl_jax/configs/papers/a.toml', 'mtl_jax/configs/b.py'):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
  assert list(shipped.found()) == ['b', 'papers/a']
  assert shipped.split('mtl_jax:papers/a:x:y') == (
    str(tmp_path / 'mtl_jax/configs/papers/a.toml'),
    'x:y',
  )
  assert shipped.split('dir/c.py:x') == ('dir/c.py', 'x')
