"""The command line, and that only whole data sets are ever found on disk."""

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtl_jax import errors
from mtl_jax.data import builders, prepare
from mtl_jax.data.builders import _base

LINES = {'seq.in': 'play a song\n', 'seq.out': 'O O B-music_item\n', 'label': 'PlayMusic\n'}


@pytest.fixture
def raw(tmp_path):
  for folder in ('train', 'valid', 'test'):
    (tmp_path / 'raw' / folder).mkdir(parents=True)
    for name, content in LINES.items():
      (tmp_path / 'raw' / folder / name).write_text(content)
  return tmp_path / 'raw'


def test_command(raw, tmp_path, capsys):
  arguments = ['snips', '--manual_dir', str(raw), '--data_dir', str(tmp_path / 'data')]
  assert prepare.main(arguments) == 0
  output = capsys.readouterr()
  path = tmp_path / 'data' / 'snips' / '1.0.0'
  assert output.out.splitlines() == [
    f'snips: prepared in {path}',
    '  train              1 examples',
    '  validation         1 examples',
    '  test               1 examples',
  ]
  assert output.err == ''
  files = {file: file.stat().st_mtime_ns for file in path.iterdir()}
  assert prepare.main(arguments) == 0
  assert f'snips: already prepared in {path}' in capsys.readouterr().out
  assert files == {file: file.stat().st_mtime_ns for file in path.iterdir()}


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['snip'], "no data set 'snip'; did you mean 'snips'? Valid: english_words, snips"),
    (['snips', '--manual_dir', 'nowhere'], "manual_dir 'nowhere' is not a folder"),
    (['snips'], 'python -m mtl_jax.data.prepare snips --download'),
  ],
)
def test_command_errors(arguments, message, tmp_path, capsys):
  assert prepare.main([*arguments, '--data_dir', str(tmp_path / 'data')]) == 2
  output = capsys.readouterr()
  assert message in output.err
  assert output.out == ''


def test_as_a_module(tmp_path):
  command = [sys.executable, '-m', 'mtl_jax.data.prepare']
  helped = subprocess.run([*command, '--help'], capture_output=True, text=True, check=True)
  for word in ('--manual_dir', '--data_dir', '--download', 'english_words', 'snips'):
    assert word in helped.stdout
  failed = subprocess.run([*command, 'snip'], capture_output=True, text=True, check=False)
  assert failed.returncode == 2
  assert failed.stderr.startswith('error: ')
  assert 'Traceback' not in failed.stderr


def test_default_data_dir(monkeypatch):
  monkeypatch.setenv('MTL_JAX_DATA', '/somewhere/else')
  assert prepare.default_data_dir() == Path('/somewhere/else')
  monkeypatch.delenv('MTL_JAX_DATA')
  assert prepare.default_data_dir() == Path.home() / '.cache' / 'mtl_jax'


def test_data_dir_that_cannot_be_written(raw, tmp_path):
  (tmp_path / 'file').write_text('in the way')
  with pytest.raises(
    errors.DataError, match=r"cannot write data set 'snips' to .*file.*--data_dir"
  ):
    prepare.prepare('snips', tmp_path / 'file' / 'data', raw)


def test_full_disk_leaves_nothing(raw, tmp_path, monkeypatch):
  def examples(self, items):
    yield items[0]
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(_base.Builder, '_generate_examples', examples)
    with pytest.raises(errors.DataError, match='No space left on device'):
      prepare.prepare('snips', tmp_path / 'data', raw)
  assert not [path for path in (tmp_path / 'data').rglob('*') if path.is_file()]
  assert prepare.prepare('snips', tmp_path / 'data', raw).new


def test_killed_while_writing(raw, tmp_path):
  code = (
    'import os, signal, sys\n'
    'from mtl_jax.data import prepare\n'
    'from mtl_jax.data.builders import _base\n'
    'def examples(self, items):\n'
    '  yield items[0]\n'
    '  os.kill(os.getpid(), signal.SIGKILL)\n'
    '_base.Builder._generate_examples = examples\n'
    'prepare.prepare("snips", sys.argv[1], sys.argv[2])\n'
  )
  data = tmp_path / 'data'
  run = subprocess.run([sys.executable, '-c', code, str(data), str(raw)], check=False)
  assert run.returncode == -9
  with pytest.raises(errors.DataError, match='prepare it with'):
    prepare.load_source('snips', 'train', data)
  assert prepare.prepare('snips', data, raw).new
  assert len(prepare.load_source('snips', 'train', data)) == 1


def test_a_damaged_data_set_is_not_used(raw, tmp_path):
  prepared = prepare.prepare('snips', tmp_path / 'data', raw)
  os.remove(prepared.path / 'dataset_info.json')
  for call in (prepare.prepare, prepare.load_source):
    with pytest.raises(errors.DataError, match='files are missing; remove this folder'):
      call(
        'snips',
        **({'split': 'train'} if call is prepare.load_source else {}),
        data_dir=tmp_path / 'data',
      )


def test_two_at_once(raw, tmp_path):
  def run(_):
    command = [sys.executable, '-m', 'mtl_jax.data.prepare', 'snips', '--manual_dir', str(raw)]
    command += ['--data_dir', str(tmp_path / 'data')]
    return subprocess.run(command, capture_output=True, text=True, check=False)

  with concurrent.futures.ThreadPoolExecutor() as pool:
    results = list(pool.map(run, range(3)))
  assert [(result.returncode, result.stderr) for result in results] == [(0, '')] * 3
  assert len(prepare.load_source('snips', 'train', tmp_path / 'data')) == 1


def test_second_of_two_finds_the_data_set(raw, tmp_path, monkeypatch):
  # The first finishes while the second writes: its rename then fails.
  write = prepare._write

  def late(builder):
    write(builders.get('snips')(data_dir=tmp_path / 'data', manual_dir=raw))
    write_again = builders.get('snips')(data_dir=tmp_path / 'data2', manual_dir=raw)
    write(write_again)
    Path(write_again.data_dir).rename(builder.data_dir)

  monkeypatch.setattr(prepare, '_write', late)
  prepared = prepare.prepare('snips', tmp_path / 'data', raw)
  assert prepared.num_examples['train'] == 1
  assert not prepared.new


def test_missing_data_set_and_split(raw, tmp_path):
  with pytest.raises(errors.DataError, match=r'data\.prepare snips --download --data_dir'):
    prepare.load_source('snips', 'train', tmp_path)
  prepare.prepare('snips', tmp_path, raw)
  with pytest.raises(errors.ConfigError, match="no split 'tests'; did you mean 'test'"):
    prepare.load_source('snips', 'tests', tmp_path)


def test_read_once(raw, tmp_path):
  prepare.prepare('snips', tmp_path, raw)
  assert prepare.read('snips', tmp_path) is prepare.read('snips', str(tmp_path))
  assert set(prepare.read('snips', tmp_path)) == {'train', 'validation', 'test'}
