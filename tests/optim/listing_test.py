"""The listing of methods, which the docs and the config are made from."""

import pathlib

import pytest

from mtl_jax import optim
from mtl_jax.optim import __main__ as command
from mtl_jax.optim import _listing

DOCS = pathlib.Path(__file__).parent.parent.parent / 'docs' / 'methods.md'


def test_the_docs_table_is_the_listing():
  """To renew it, put the output of `python -m mtl_jax.optim --markdown` between the markers."""
  text = DOCS.read_text(encoding='utf-8')
  table = text.split('<!-- python -m mtl_jax.optim --markdown -->\n')[1].split('<!-- end -->')[0]
  assert table == _listing.markdown()


def test_every_method_is_described():
  for method in _listing.methods():
    assert method.summary.endswith('.'), method.name
    if method.name not in ('sum_tasks', 'mean_tasks', 'static'):
      assert any(str(year) in method.paper for year in range(1990, 2030)), method.name
    for default in _listing.options(method.name).values():
      assert isinstance(default, bool | int | float | str | tuple), method.name


def test_needs_tell_what_the_step_must_do():
  needs = {method.name: method.needs for method in _listing.methods()}
  assert needs['famo'] == 'losses, a second forward'
  assert needs['modo'] == 'gramian, 3 batches'
  assert needs['auto_lambda'] == 'functions, a validation batch'
  assert needs['graddrop'] == 'jacobian'


def test_the_command(capsys):
  assert command.main([]) == 0
  listed = capsys.readouterr().out
  assert all(name[:10] in listed for name in optim.METHODS)
  assert command.main(['pcgrad']) == 0
  assert 'NeurIPS 2020' in capsys.readouterr().out
  assert command.main(['pc_grad']) == 2
  assert "did you mean 'pcgrad'" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    command.main(['--help'])
  assert '--markdown' in capsys.readouterr().out
