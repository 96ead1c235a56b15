"""The directory of a run: who may use it, what is read there, and under which versions it went on.

Training in it is tested in `train_test`.
"""

import json
import os

import pytest

from mtl_jax import config as config_lib
from mtl_jax import errors
from mtl_jax.run import workdir as workdir_lib

DATA = {'name': 'english_words', 'examples': {'train': 3}, 'fingerprint': 'a'}
RESULTS = {
  'name': 'run',
  'variant': 'default',
  'seed': 0,
  'tasks': ['pos'],
  'main_metrics': {'pos': 'micro_f1'},
  'validation': {'metrics': {'pos': {'micro_f1': 0.5}}},
  'best_step': 1,
  'steps': 2,
  'seconds': 3.0,
}


def _run(rate=1e-3):
  config = config_lib.default()
  config.dataset.name = 'english_words'
  config.tasks = config_lib.tasks({'pos': {}, 'lemma': {}})
  config.train.steps = 100
  config.optimizer.learning_rate = rate
  return config_lib.resolve(config)[0]


def _checkpoint(path, step):
  (path / 'checkpoints' / str(step)).mkdir(parents=True)


def test_what_another_command_did_since_the_first_look_is_seen(tmp_path):
  """Two commands with different rates begin at once; while one prepares its data, one trains."""
  one, other = (workdir_lib.Workdir(tmp_path, _run(rate)) for rate in (1e-3, 1e-2))
  assert one.check() is None
  assert other.check() is None
  with one.open(DATA) as results:
    assert results is None
    _checkpoint(tmp_path, 3)
    with pytest.raises(errors.WorkdirError, match='another process is training'), other.open(DATA):
      pass
  with (
    pytest.raises(errors.WorkdirError, match=r'learning_rate: 0\.001 -> 0\.01'),
    other.open(DATA),
  ):
    pass
  assert json.loads((tmp_path / 'config.json').read_text())['optimizer']['learning_rate'] == 1e-3


def test_a_run_that_another_command_finished_is_left_alone(tmp_path):
  workdir = workdir_lib.Workdir(tmp_path, _run())
  with workdir.open(DATA):
    workdir.write_json('results.json', RESULTS)
  before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
  with workdir.open(DATA | {'fingerprint': 'b'}) as results:
    assert results == RESULTS
  assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_checkpoints_without_a_config_are_nobodys(tmp_path):
  workdir = workdir_lib.Workdir(tmp_path, _run())
  _checkpoint(tmp_path, 3)
  for use in (workdir.check, workdir.open(DATA).__enter__):
    with pytest.raises(errors.WorkdirError, match=r'without its config\.json.*Bring that file'):
      use()


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('config.json', '{"name": '),
    ('config.json', '[]'),
    ('config.json', '{"name": "run"}'),
    ('config.json', '[' * 100_000),
    ('results.json', '{}'),
    ('results.json', RESULTS | {'tasks': {'pos': 1}}),
    ('results.json', RESULTS | {'tasks': []}),
    ('results.json', RESULTS | {'seed': '0'}),
    ('results.json', RESULTS | {'steps': None}),
    ('results.json', RESULTS | {'seconds': 'x'}),
    ('results.json', RESULTS | {'main_metrics': ['pos']}),
    ('results.json', RESULTS | {'main_metrics': {}}),
    ('results.json', RESULTS | {'main_metrics': {'pos': []}}),
    ('results.json', RESULTS | {'validation': None}),
    ('results.json', RESULTS | {'validation': {'metrics': []}}),
    ('results.json', RESULTS | {'validation': {'metrics': {'pos': 0.5}}}),
    ('results.json', RESULTS | {'validation': {'metrics': {'pos': {'micro_f1': 'x'}}}}),
    ('results.json', RESULTS | {'test': []}),
    ('versions.json', '[]'),
    ('versions.json', {'data': 'x'}),
    ('versions.json', {'data': DATA, 'continued': {}}),
    ('versions.json', {'data': DATA, 'continued': ['x']}),
  ],
)
def test_files_of_another_content_are_named(name, content, tmp_path):
  workdir = workdir_lib.Workdir(tmp_path, _run())
  with workdir.open(DATA):
    _checkpoint(tmp_path, 3)
  (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
  with (
    pytest.raises(errors.WorkdirError, match=rf'Cannot read .*{name}: .*remove'),
    workdir.open(DATA),
  ):
    pass


@pytest.mark.parametrize('name', ['a\udcff', 'a' * 300, 'a/' * 3000, 'a\0b', 'file/a'])
def test_what_can_be_no_directory(name, tmp_path):
  (tmp_path / 'file').touch()
  workdir = workdir_lib.Workdir(tmp_path / name, _run())
  for use in (workdir.check, workdir.open(DATA).__enter__):
    with pytest.raises(errors.WorkdirError, match=r'can be no directory: .* Choose'):
      use()
  assert os.listdir(tmp_path) == ['file']


def test_a_config_of_another_form_differs(tmp_path):
  workdir = workdir_lib.Workdir(tmp_path, _run())
  with workdir.open(DATA):
    _checkpoint(tmp_path, 3)
  config = json.loads((tmp_path / 'config.json').read_text())
  config |= {'encoder': ['x'], 'dataset': 'x', 'init_from': 3}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(errors.WorkdirError, match='another config'):
    workdir.check()


@pytest.mark.parametrize('name', ['.lock', 'metrics.jsonl'])
def test_a_link_in_the_place_of_a_file_is_not_followed(name, tmp_path):
  target = tmp_path / 'target'
  target.write_text('precious\n')
  run = tmp_path / 'run'
  run.mkdir()
  (run / name).symlink_to(target)
  workdir = workdir_lib.Workdir(run, _run())
  if name == '.lock':
    with pytest.raises(errors.WorkdirError, match=r'\.lock is a symbolic link'), workdir.open(DATA):
      pass
  else:
    log = workdir_lib.Metrics(workdir, 0)
    log.write({'step': 1, 'split': 'train'})
    log.close()
  assert target.read_text() == 'precious\n'


def test_files_honour_the_umask(tmp_path):
  workdir = workdir_lib.Workdir(tmp_path, _run())
  before = os.umask(0o027)
  try:
    with workdir.open(DATA):
      workdir.write_json('results.json', RESULTS)
  finally:
    os.umask(before)
  modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
  names = ('.lock', 'config.json', 'results.json', 'versions.json')
  assert modes == dict.fromkeys(names, 0o640)


def test_other_versions_are_said_and_noted(tmp_path, monkeypatch, caplog):
  workdir = workdir_lib.Workdir(tmp_path, _run())
  versions = {'jax': '0.10.1', 'flax': '0.12', 'device': 'cpu'}
  monkeypatch.setattr(workdir_lib, '_versions', lambda: dict(versions))
  for step, changes in (
    (3, {}),
    (6, {'jax': '0.10.2'}),
    (9, {}),
    (12, {'jax': '0.11', 'new': '1'}),
  ):
    caplog.clear()
    versions |= changes
    with workdir.open(DATA):
      _checkpoint(tmp_path, step)
    assert bool(caplog.messages) == bool(changes)
  assert caplog.messages == [
    'from step 9 on under other versions than before: jax 0.10.2 -> 0.11, new (unknown) -> 1'
  ]
  assert json.loads((tmp_path / 'versions.json').read_text()) == {
    'jax': '0.10.1',
    'flax': '0.12',
    'device': 'cpu',
    'data': DATA,
    'continued': [
      {'after_step': 3, 'jax': '0.10.2'},
      {'after_step': 9, 'jax': '0.11', 'new': '1'},
    ],
  }
