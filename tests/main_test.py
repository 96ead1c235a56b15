"""The list of commands, and how one is run from it."""

import importlib
import subprocess
import sys

import pytest

from mtl_jax import __main__ as main_lib


def test_the_commands_are_listed_with_a_line_each(capsys):
  for argv in (['mtl_jax'], ['mtl_jax', '--help']):
    assert main_lib.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(main_lib.COMMANDS)
    for line, name in zip(lines, main_lib.COMMANDS, strict=True):
      module = importlib.import_module(f'mtl_jax.{name}')
      if hasattr(module, '__path__'):  # a folder: its command
        module = importlib.import_module(f'mtl_jax.{name}.__main__')
      assert line.split(maxsplit=1)[1] == module.__doc__.split('\n')[0]


def test_an_unknown_command(capsys):
  assert main_lib.main(['mtl_jax', 'trian']) == 2
  assert "no command 'trian'; did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize('name', main_lib.COMMANDS)
def test_every_command_runs(name, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['before'])
  try:
    code = main_lib.main(['mtl_jax', name, '--help'])
  except SystemExit as e:  # argparse prints its help so
    code = e.code
  assert code == 0
  assert f'mtl_jax.{name}' in capsys.readouterr().out


def test_exit_codes_are_those_of_the_command():
  done = subprocess.run(
    [sys.executable, '-m', 'mtl_jax', 'optim', 'pcgrd'], capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert done.stderr.startswith("error: no method 'pcgrd'")
