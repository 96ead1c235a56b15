"""The command line, and that only whole data sets are ever found on disk."""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtl_jax import errors
from mtl_jax.data import builders, prepare
from mtl_jax.data.builders import _base

# The files here are not the published ones; `test_command` and snips_test.py look at the warning.
pytestmark = pytest.mark.filterwarnings('ignore:.*not the published split')

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
  assert output.err.startswith(
    "warning: data set 'snips': not the published split: numbers do not compare with the papers"
  )
  assert len(output.err.splitlines()) == 1
  assert 'train/seq.in, train/seq.out, train/label, valid/seq.in' in output.err
  files = {file: file.stat().st_mtime_ns for file in path.iterdir()}
  assert prepare.main(arguments) == 0
  assert f'snips: already prepared in {path}' in capsys.readouterr().out
  assert files == {file: file.stat().st_mtime_ns for file in path.iterdir()}


@pytest.mark.parametrize(
  ('arguments', 'code', 'message'),
  [
    (['snip'], 2, "no data set 'snip'; did you mean 'snips'? Valid: english_words, fudan16, "),
    (['snips', '--manual_dir', 'nowhere'], 3, "manual_dir 'nowhere' is not a folder"),
    (['snips'], 3, 'python -m mtl_jax.data.prepare snips --download'),
  ],
)
def test_command_errors(arguments, code, message, tmp_path, capsys):
  assert prepare.main([*arguments, '--data_dir', str(tmp_path / 'data')]) == code
  output = capsys.readouterr()
  assert message in output.err
  assert output.out == ''


def test_as_a_module(tmp_path):
  command = [sys.executable, '-m', 'mtl_jax.data.prepare']
  helped = subprocess.run([*command, '--help'], capture_output=True, text=True, check=True)
  flags = ('--manual_dir', '--data_dir', '--download', '--overwrite')
  for word in (*flags, 'english_words', 'snips', 'exit codes:', '\n  3  '):
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
  assert [result.returncode for result in results] == [0] * 3
  for result in results:
    assert [line.split(':')[0] for line in result.stderr.splitlines()] == ['warning']
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


def test_the_default_data_dir_is_left_out_of_the_command(tmp_path, monkeypatch):
  monkeypatch.setenv('MTL_JAX_DATA', str(tmp_path))
  for call in (prepare.read, lambda name: prepare.load_source(name, 'train')):
    with pytest.raises(errors.DataError, match=r'data\.prepare snips --download$'):
      call('snips')


def change(raw):
  """Gives the training split a second example."""
  for name, content in LINES.items():
    (raw / 'train' / name).write_text(content * 2)


def test_sources_are_kept(raw, tmp_path):
  prepared = prepare.prepare('snips', tmp_path / 'data', raw)
  assert json.loads((prepared.path / 'sources.json').read_text()) == {
    f'{folder}/{name}': hashlib.sha256(content.encode()).hexdigest()
    for folder in ('train', 'valid', 'test')
    for name, content in LINES.items()
  }


def test_other_sources_need_overwrite(raw, tmp_path, capsys):
  data = tmp_path / 'data'
  arguments = ['snips', '--manual_dir', str(raw), '--data_dir', str(data)]
  assert prepare.main(arguments) == 0
  assert len(prepare.read('snips', data)['train']) == 1
  change(raw)
  capsys.readouterr()
  assert prepare.main(arguments) == 3
  error = capsys.readouterr().err
  assert 'other files than those in manual_dir, which differ in train/' in error
  assert 'valid/' not in error
  assert f'--manual_dir {raw} --data_dir {data} --overwrite\n' in error
  assert len(prepare.read('snips', data)['train']) == 1
  assert prepare.main([*arguments, '--overwrite']) == 0
  assert len(prepare.read('snips', data)['train']) == 2
  assert prepare.main(arguments) == 0  # the sources were replaced too
  assert [path.name for path in data.iterdir() if path.name.startswith('.')] == []


def test_a_set_without_sources_counts_as_matching(raw, tmp_path):
  prepared = prepare.prepare('snips', tmp_path / 'data', raw)
  sources = prepared.path / 'sources.json'
  sources.write_text('{"train')
  with pytest.raises(errors.DataError, match=r'sources\.json cannot be read .*replace it with'):
    prepare.prepare('snips', tmp_path / 'data', raw)
  sources.unlink()
  change(raw)
  assert not prepare.prepare('snips', tmp_path / 'data', raw).new


def _bad_files(raw, patch):
  del patch
  (raw / 'test' / 'label').unlink()


def _full_disk(raw, patch):
  del raw

  def examples(self, items):
    yield items[0]
    raise OSError(28, 'No space left on device')

  patch.setattr(_base.Builder, '_generate_examples', examples)


def _swap_fails(raw, patch):
  del raw
  rename = Path.rename

  def fails(self, target):
    if '.replacing_' in str(self) and self.name == '1.0.0':
      raise OSError(5, 'Input/output error')
    return rename(self, target)

  patch.setattr(Path, 'rename', fails)


@pytest.mark.parametrize('fault', [_bad_files, _full_disk, _swap_fails])
def test_a_failed_overwrite_leaves_the_old_one(raw, tmp_path, monkeypatch, fault):
  data = tmp_path / 'data'
  path = prepare.prepare('snips', data, raw).path
  before = {file: file.read_bytes() for file in path.iterdir()}
  change(raw)
  with monkeypatch.context() as patch:
    fault(raw, patch)
    with pytest.raises(errors.DataError, match=r'no such file|No space|Input/output'):
      prepare.prepare('snips', data, raw, overwrite=True)
  assert {file: file.read_bytes() for file in path.iterdir()} == before
  assert [path.name for path in data.iterdir() if path.name.startswith('.')] == []


def test_read_once(raw, tmp_path):
  prepare.prepare('snips', tmp_path, raw)
  assert prepare.read('snips', tmp_path) is prepare.read('snips', str(tmp_path))
  assert set(prepare.read('snips', tmp_path)) == {'train', 'validation', 'test'}
