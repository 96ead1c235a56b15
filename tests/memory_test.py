"""Whether freed memory stays, seen in a process of its own: the setting lasts as long as that."""

import ctypes
import json
import os
import platform
import subprocess
import sys

import jax
import pytest

from mtl_jax import describe, memory, train

glibc = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='a setting of glibc')
MEBIBYTE = 2**20
SCRIPT = f"""
import json, os
import numpy as np
from mtl_jax import memory

def resident():
  with open('/proc/self/statm') as numbers:
    return int(numbers.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / {MEBIBYTE}

kept = memory.keep_freed()
before = resident()
array = np.ones(64 * {MEBIBYTE}, np.uint8)
during = resident()
del array
print(json.dumps({{'kept': kept, 'held': during - before, 'after': resident() - before}}))
"""


def run(**environment):
  plain = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', memory.VARIABLE)}
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT],
    env=plain | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))} | environment,
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


@glibc
def test_freed_memory_stays():
  seen = run(JAX_PLATFORMS='cpu')
  assert seen['kept']  # glibc took every value
  assert seen['held'] > 63
  assert seen['after'] > 63


@glibc
@pytest.mark.parametrize(
  'environment',
  [{memory.VARIABLE: '0', 'JAX_PLATFORMS': 'cpu'}, {'JAX_PLATFORMS': 'cuda,cpu'}],
  ids=['turned off', 'on a GPU'],
)
def test_freed_memory_goes_back(environment):
  seen = run(**environment)
  assert not seen['kept']
  assert seen['held'] > 63
  assert seen['after'] < 32


class Recorder:
  """A C library: what `mallopt` was asked for, and its answers."""

  gnu_get_libc_version = None

  def __init__(self, answers=(1, 1, 1, 1)):
    self.asked, self.answers = [], iter(answers)

  def mallopt(self, number, value):
    self.asked.append((number, value))
    return next(self.answers)


@pytest.fixture
def wanted(monkeypatch):
  monkeypatch.delenv(memory.VARIABLE)  # set in conftest.py

  def use(library):
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: library)

  return use


def test_every_value_is_told_and_a_refused_one_is_reported(wanted):
  library = Recorder()
  wanted(library)
  assert memory.keep_freed()
  assert dict(library.asked) == {-8: 1, -4: 0, -1: -1, -2: 2**28}
  library = Recorder((1, 0, 1, 1))
  wanted(library)
  assert not memory.keep_freed()
  assert len(library.asked) == 4


def test_other_c_libraries_are_left_alone(wanted, monkeypatch):
  wanted(object())  # musl has neither function
  assert not memory.keep_freed()

  class Other:  # such as Android's, with numbers of its own
    def mallopt(self, number, value):
      raise AssertionError('not glibc')

  wanted(Other())
  assert not memory.keep_freed()
  for error in (TypeError, OSError):  # Windows has no library of the process

    def refuse(name, error=error):
      raise error

    monkeypatch.setattr(ctypes, 'CDLL', refuse)
    assert not memory.keep_freed()


@pytest.mark.parametrize(
  ('platforms', 'plugins', 'variable', 'expected'),
  [
    ('cpu', ['cuda'], '', True),
    ('cpu,cuda', [], '', True),
    ('tpu', [], '', False),
    (None, [], '', True),
    (None, ['cuda'], '', False),
    (None, ['cuda'], '1', True),
    ('cpu', [], '0', False),
  ],
)
def test_only_where_jax_computes_on_the_cpu(
  wanted, monkeypatch, platforms, plugins, variable, expected
):
  wanted(Recorder())
  monkeypatch.setenv(memory.VARIABLE, variable)
  monkeypatch.setattr(memory.importlib.metadata, 'entry_points', lambda group: plugins)
  before = jax.config.jax_platforms
  jax.config.update('jax_platforms', platforms)
  try:
    assert memory.keep_freed() == expected
  finally:
    jax.config.update('jax_platforms', before)


@pytest.mark.parametrize('command', [train, describe])
def test_commands_ask_first_and_tell_of_the_variable(command, monkeypatch, capsys):
  asked = []
  monkeypatch.setattr(memory, 'keep_freed', lambda: asked.append(command))
  assert command.main(['command', '--help']) == 0
  assert asked
  assert memory.VARIABLE in capsys.readouterr().out
