"""The rooms of the package: imports point down only, over at most eight floors.

A room is a folder or a file at the top. What is imported inside a function counts like the rest. A
folder's __main__ is a command: above all rooms, wherever it stands.
"""

import ast
import pathlib
import re

import pytest

import mtl_jax
from mtl_jax import kinds

ROOT = pathlib.Path(mtl_jax.__file__).parent
FILES = sorted(ROOT.rglob('*.py'))
FLAX = {'encoders', 'sharing', 'heads', 'kinds', 'model'}


def room_of(path):
  parts = path.relative_to(ROOT).parts
  return (parts[-1] if parts[-1] == '__main__.py' else parts[0]).removesuffix('.py')


ROOMS = {room_of(path) for path in FILES} - {'__init__', '__main__'}


def imported(path):
  """The full names of what a file imports."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
  return found


@pytest.fixture(scope='module')
def below():
  """Room -> the rooms that it imports."""
  found = {room: set() for room in ROOMS}
  for path in FILES:
    room = room_of(path)
    if room in found:
      names = {name.split('.')[1] for name in imported(path) if name.startswith('mtl_jax.')}
      found[room] |= names & ROOMS - {room}
  return found


def test_at_most_eight_floors_and_no_circle(below):
  floors = {}

  def floor(room, above=()):
    assert room not in above, f'a circle: {" > ".join((*above, room))}'
    if room not in floors:
      floors[room] = 1 + max((floor(other, (*above, room)) for other in below[room]), default=0)
    return floors[room]

  highest = max(below, key=floor)
  assert floors[highest] <= 8, floors


def test_one_run_knows_no_config_and_evaluation_no_run(below):
  assert not below['run'] & {'config', 'train', 'report'}
  assert not below['evaluate'] & {'run', 'build', 'config', 'checkpoint'}


def test_flax_is_for_models():
  for path in FILES:
    layers = {name for name in imported(path) if name.startswith(('flax.linen', 'flax.nnx'))}
    assert room_of(path) in FLAX or not layers, path


def test_kinds_are_told_apart_in_their_room_alone():
  """No other file compares anything with the name of a kind."""
  compared = re.compile(rf'(?:==|!=|\bin|\bis) *\(?[\'"](?:{"|".join(kinds.KINDS)})[\'"]')
  for path in FILES:
    if room_of(path) != 'kinds':
      assert not compared.search(path.read_text(encoding='utf-8')), path


def test_files_are_short():
  for path in FILES:
    assert len(path.read_text(encoding='utf-8').splitlines()) <= 400, path
