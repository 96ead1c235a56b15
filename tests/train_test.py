"""The training command on a tiny lexicon: exact resumption after SIGKILL and signals, errors.

The display on a real terminal is not tested here.
"""

import contextlib
import dataclasses
import fcntl
import gzip
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from mtl_jax import errors, train
from mtl_jax.build import program as program_lib
from mtl_jax.config import command_line
from mtl_jax.run import workdir

_REPOSITORY = pathlib.Path(train.__file__).parents[1]
_CONFIG = """
from mtl_jax import config as config_lib

def get_config(data=''):
  c = config_lib.default()
  c.name = 'tiny'
  c.tasks = config_lib.tasks({{'pos': {{}}, 'inflection': {{}}, 'lemma': {{}}}})
  c.dataset.name = 'english_words'
  c.dataset.manual_dir = {manual_dir!r}
  c.dataset.data_dir = {data_dir!r}
  c.dataset.buckets = 1
  c.encoder.name = 'transformer'
  c.encoder.embedding.features = 8
  c.encoder.transformer.update(features=8, layers=1, heads=2, mlp_features=8)
  c.balance.name = 'gradnorm+pcgrad'
  c.train.batch_size = 16
  c.train.steps = 40
  c.train.log_every = 7
  c.train.eval_every = 10
  c.train.checkpoint_every = 3
  c.eval.batch_size = 64
  return c
"""
_TIMINGS = ('seconds', 'steps_per_second', 'data_wait', 'compilations')


@pytest.fixture(scope='module', autouse=True)
def compiled(tmp_path_factory):
  """Compiles each program of this file once: tests of the same model differ in other things."""
  path = tmp_path_factory.mktemp('compiled')
  options = {
    'jax_compilation_cache_dir': str(path),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
    'jax_persistent_cache_min_entry_size_bytes': 0,
  }
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  """A config on a lexicon of some hundred regular words."""
  root = tmp_path_factory.mktemp('tiny')
  rng = random.Random(0)
  forms, lemmas = [], []
  for _ in range(120):
    word = ''.join(rng.choice('bdklmnrt') + rng.choice('aiou') for _ in range(rng.randint(2, 3)))
    noun, verb = word + 'k', word + 'rt'
    forms += [f'{noun},noun,{noun}s', f'{verb},verb,{verb}ed,,{verb}ing,{verb}s']
    lemmas += [f'{noun}s,noun,{noun}', f'{verb}ed,verb,{verb}', f'{verb}ing,verb,{verb}']
  for name, rows in (('infl_lu.csv.gz', forms), ('lemma_lu.csv.gz', lemmas)):
    with gzip.open(root / name, 'wt', encoding='utf-8') as file:
      file.write('\n'.join(dict.fromkeys(rows)) + '\n')
  path = root / 'tiny.py'
  path.write_text(_CONFIG.format(manual_dir=str(root), data_dir=str(root / 'data')))
  return path


@pytest.fixture(scope='module')
def config(config_file):
  return command_line.load(str(config_file))


@pytest.fixture(scope='module')
def finished(config, tmp_path_factory):
  """The directory of an uninterrupted run with two seeds."""
  workdir = tmp_path_factory.mktemp('finished')
  changed = config.copy_and_resolve_references()
  changed.seeds = (0, 1)
  train.run(changed, workdir)
  return workdir


@pytest.fixture
def start(config_file, tmp_path_factory):
  """Starts the command in a process of its own."""
  cache = tmp_path_factory.getbasetemp() / 'compiled'
  environment = os.environ | {
    'PYTHONPATH': str(_REPOSITORY),
    'XLA_FLAGS': '',
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  processes = []
  logs = tmp_path_factory.mktemp('logs')

  def start(workdir, *flags, cached=True):
    command = [sys.executable, '-m', 'mtl_jax.train', f'--config={config_file}']
    log = logs / f'{len(processes)}'
    with log.open('w') as file:  # a pipe that nobody reads would stop the process when it is full
      process = subprocess.Popen(
        [*command, f'--workdir={workdir}', *flags],
        env=environment if cached else environment | {'JAX_ENABLE_COMPILATION_CACHE': 'false'},
        stdout=file,
        stderr=subprocess.STDOUT,
      )
    processes.append(process)
    return _Command(process, log)

  yield start
  for process in processes:
    process.kill()
    process.wait()


class _Command(NamedTuple):
  """A command that runs, and where its output goes."""

  process: subprocess.Popen
  log: pathlib.Path

  def finish(self):
    """Its exit code, once it has ended, and its output."""
    return self.process.wait(timeout=300), self.log.read_text()

  def wait_for_step(self, run, step):
    """Returns once it has written the checkpoint of a step."""
    self._wait(lambda: _last_step(run) >= step)

  def wait_for(self, text):
    """Returns once it has printed a text."""
    self._wait(lambda: text in self.log.read_text())

  def _wait(self, condition):
    deadline = time.monotonic() + 300
    while not condition():
      assert self.process.poll() is None, self.log.read_text()
      assert time.monotonic() < deadline, self.log.read_text()
      time.sleep(0.01)


def _last_step(run):
  steps = [int(p.name) for p in (run / 'checkpoints').glob('*') if p.name.isdigit()]
  return max(steps, default=0)


def _contents(run):
  """Everything that a resumed run must have in common with one that was never stopped."""
  results = json.loads((run / 'results.json').read_text())
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  for record in (results, *lines):
    for name in _TIMINGS:
      record.pop(name, None)
  manager = ocp.CheckpointManager((run / 'checkpoints').absolute())
  arrays = {}
  for step in sorted(manager.all_steps()):
    state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
    arrays[step] = {k: np.asarray(v).tobytes() for k, v in state['state'].items()}
  return results, lines, arrays


def _assert_same(run, other):
  results, lines, arrays = _contents(run)
  expected_results, expected_lines, expected_arrays = _contents(other)
  assert results == expected_results
  assert lines == expected_lines
  assert arrays.keys() == expected_arrays.keys()
  for step, leaves in expected_arrays.items():
    assert len(leaves) > 20
    assert [name for name in leaves if leaves[name] != arrays[step][name]] == []


@pytest.fixture
def whole(start, tmp_path_factory):
  """The directory of a command that was never stopped."""
  workdir = tmp_path_factory.getbasetemp() / 'whole'
  if not workdir.exists():
    code, output = start(workdir).finish()
    assert code == 0, output
  return workdir


def test_sigkill_at_any_moment_changes_nothing(start, whole, tmp_path):
  """Kills while training and while checkpoints are written (one every three steps)."""
  rng = random.Random(1)
  run = tmp_path / 'killed' / 'default' / 'seed_0'
  for step in (3, 12, 24):
    command = start(tmp_path / 'killed')
    command.wait_for_step(run, step)
    time.sleep(rng.random() * 0.05)
    command.process.kill()
    command.finish()
    assert not (run / 'results.json').exists()
  code, output = start(tmp_path / 'killed').finish()
  assert code == 0, output
  assert 'goes on from step' in output
  _assert_same(run, whole / 'default' / 'seed_0')


def test_signals_at_any_moment_end_the_command_with_their_codes(start, whole, tmp_path):
  """While data are prepared, while XLA compiles, while training, and two signals."""
  run = tmp_path / 'default' / 'seed_0'
  for moment, delay, number, code in (
    ('preparing data', 0.0, signal.SIGINT, 130),
    ('jacobian=', 1.5, signal.SIGTERM, 143),
    ('jacobian=', 0.5, signal.SIGINT, 130),
  ):
    command = start(tmp_path, cached=False)
    command.wait_for(moment)
    time.sleep(delay)
    command.process.send_signal(number)
    ended, output = command.finish()
    assert ended == code, output
    assert output.endswith('stopped at once: no trained step was lost; the same command goes on\n')
    assert 'Traceback' not in output
    assert not _last_step(run)
  for numbers, code in (
    ([signal.SIGTERM], 143),
    ([signal.SIGINT] * 2, 130),
    ([signal.SIGTERM] * 3, 143),
  ):
    before = _last_step(run)
    command = start(tmp_path)
    command.wait_for_step(run, before + 1)  # it trains by now
    for number in numbers:
      command.process.send_signal(number)
      time.sleep(0.02)
    ended, output = command.finish()
    assert ended == code, output
    assert 'Traceback' not in output
    last = output.splitlines()[-1]
    assert 'stopped at once; the same' in last if len(numbers) > 1 else 'stopped after' in last
  code, output = start(tmp_path).finish()
  assert code == 0, output
  _assert_same(run, whole / 'default' / 'seed_0')


def test_signals_save_and_exit_with_their_codes(start, tmp_path):
  run = tmp_path / 'stopped' / 'default' / 'seed_0'
  for step, number, code in ((3, signal.SIGTERM, 143), (15, signal.SIGINT, 130)):
    command = start(tmp_path / 'stopped', '--config.train.steps=400')
    command.wait_for_step(run, step)
    command.process.send_signal(number)
    ended, output = command.finish()
    assert ended == code, output
    stopped = int(output.split('stopped after step ')[1].split(';')[0])
    assert _last_step(run) == stopped
    assert 'Traceback' not in output


def test_stopping_between_logs_changes_nothing(config, finished, tmp_path):
  """Stops after step 11, between two logs, evaluations and checkpoints, then after the last."""
  for last in (11, 40):
    asked = iter(range(1000))
    before = _last_step(tmp_path / 'default' / 'seed_0')
    with pytest.raises(train.Interrupted) if last < 40 else contextlib.nullcontext():
      train.run(config, tmp_path, should_stop=lambda n=asked, b=before, s=last: next(n) + b >= s)
  _assert_same(tmp_path / 'default' / 'seed_0', finished / 'default' / 'seed_0')


def test_the_files_of_a_run(finished):
  run = finished / 'default' / 'seed_1'
  results = json.loads((run / 'results.json').read_text())
  assert results['tasks'] == ['pos', 'inflection', 'lemma']
  assert results['meetings'].keys() == {'pos/inflection', 'pos/lemma', 'inflection/lemma'}
  assert 0.9 < min(results['meetings'].values()) <= 1
  assert results['steps'] == 40
  assert results['seed'] == 1
  assert 0 <= results['test']['metrics']['pos']['micro_f1'] <= 1
  assert results['validation']['joint'].keys() == {'exact_match'}
  assert results['compilations'] == 1  # one length of batches, and the step of seed 0 is reused
  versions = json.loads((run / 'versions.json').read_text())
  assert versions['jax'] == jax.__version__
  assert {'python', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'device'} <= set(
    versions
  )
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  training = [line for line in lines if line['split'] == 'train']
  assert [line['step'] for line in training] == [7, 14, 21, 28, 35, 40]
  assert [line['step'] for line in lines if line['split'] == 'validation'] == [10, 20, 30, 40]
  assert set(training[0]) == {
    *('step', 'split', 'epoch', 'loss', 'weight', 'gradient_norm', 'cosine'),
    *('learning_rate', 'steps_per_second', 'data_wait'),
  }
  assert (run / 'vocabulary.json').exists()
  assert list((run / 'tensorboard').iterdir())
  assert json.loads((run / 'config.json').read_text())['seed'] == 1
  best = [line for line in lines if line['step'] == results['best_step']][-1]
  assert best['metrics'] == results['validation']['metrics']
  other = json.loads((finished / 'default' / 'seed_0' / 'results.json').read_text())
  assert other['validation'] != results['validation']


def test_a_finished_run_is_left_alone(config, finished, capsys):
  run = finished / 'default' / 'seed_0'
  before = {p: p.stat().st_mtime_ns for p in run.rglob('*')}
  (result,) = train.run(config, finished)
  assert 'finished before' in capsys.readouterr().out
  assert result == json.loads((run / 'results.json').read_text())
  assert {p: p.stat().st_mtime_ns for p in run.rglob('*')} == before


def test_another_configs_run_is_not_touched(config_file, finished, tmp_path, capsys):
  shutil.copytree(finished, tmp_path / 'w')
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'w').rglob('*')}
  flags = ['--config.train.batch_size=8', '--config.optimizer.name=sgd', '--config.seeds=1,2']
  code = train.main(['train', f'--config={config_file}', f'--workdir={tmp_path / "w"}', *flags])
  assert code == 4
  message = capsys.readouterr().err
  assert 'train.batch_size: 16 -> 8' in message
  assert "optimizer.name: 'adamw' -> 'sgd'" in message
  assert {p: p.stat().st_mtime_ns for p in (tmp_path / 'w').rglob('*')} == before


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--config.encoder.transformer.heads=3'], '3 heads do not divide 8 features'),
    (['--config.optimizer.schedule.warmup_steps=41'], 'warmup_steps: 41 is more than the 40'),
    (['--config.mesh.data=3', '--config.mesh.fsdp=3'], 'needs 9 devices'),
    (['--config.mesh.data=3'], 'train.batch_size: 16 examples cannot be split over 3 devices'),
  ],
)
def test_values_that_do_not_fit_data_or_devices(config_file, flags, message, tmp_path, capsys):
  code = train.main(['train', f'--config={config_file}', f'--workdir={tmp_path / "w"}', *flags])
  assert code == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'w').exists()


def test_a_refused_run_does_not_own_a_directory(config, finished, tmp_path):
  shutil.copytree(finished / 'default', tmp_path / 'default')
  run = tmp_path / 'default' / 'seed_0'
  (run / 'results.json').unlink()
  versions = json.loads((run / 'versions.json').read_text())
  versions['data']['fingerprint'] = 'x'
  (run / 'versions.json').write_text(json.dumps(versions))
  with pytest.raises(errors.WorkdirError, match=r"data changed.*\n  fingerprint: 'x' -> "):
    train.run(config, tmp_path)
  shutil.rmtree(run / 'checkpoints')
  other = config.copy_and_resolve_references()
  other.eval.test = False
  (result,) = train.run(other, tmp_path)
  assert 'test' not in result
  assert json.loads((run / 'versions.json').read_text())['data']['fingerprint'] != 'x'


def test_workdirs_that_cannot_be_used(config, tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.WorkdirError, match='Not a directory'):
    train.run(config, tmp_path / 'file')
  with monkeypatch.context() as patch:
    patch.setattr(workdir.shutil, 'disk_usage', lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(errors.WorkdirError, match='the checkpoints need about'):
      train.run(config, tmp_path / 'small')
  with monkeypatch.context() as patch:

    def full(path):
      raise OSError(28, 'No space left on device')

    patch.setattr(workdir, 'probe', full)
    with pytest.raises(errors.WorkdirError, match='No space left on device'):
      train.run(config, tmp_path / 'full')
  run = tmp_path / 'locked' / 'default' / 'seed_0'
  run.mkdir(parents=True)
  with (run / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(errors.WorkdirError, match='another process is training'):
      train.run(config, tmp_path / 'locked')
  (run / 'config.json').write_text('{"name": ')
  with pytest.raises(errors.WorkdirError, match='Cannot read'):
    train.run(config, tmp_path / 'locked')


def test_texts_that_could_name_nothing(config_file, tmp_path, capsys):
  """The workdir's name, the run's, a variant's: one line, the right code, and nothing is left."""
  for flags, code in (
    ([f'--workdir={tmp_path}/w\udcff'], 2),
    ([f'--workdir={tmp_path}/{"w" * 300}'], 4),
    ([f'--workdir={tmp_path}/w', '--config.name=\udcff'], 2),
    ([f'--workdir={tmp_path}/w', '--variants=\udcff'], 2),
  ):
    assert train.main(['train', f'--config={config_file}', *flags]) == code
    assert capsys.readouterr().err.count('\n') == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('part', 'value'),
  [
    ('data', []),
    ('data', {}),
    ('data', {'next_index': 'x'}),
    ('stopping', []),
    ('stopping', {'best': 0.1}),
    ('stopping', {'best': 'x', 'best_step': None, 'reference': None, 'waited': 0}),
    ('best_validation', 3),
    ('window', {'sums': {}}),
    ('window', {'sums': [], 'counts': {'loss': 'x'}}),
    ('window', {'sums': {'loss': [1.0]}, 'counts': {'loss': [1.0]}}),
    ('timing', {'total': 'x'}),
    ('timing', {'sum': 1.0}),
    ('logged', None),
    (None, None),
  ],
)
def test_what_the_host_remembers_is_of_another_form(part, value, config, finished, tmp_path):
  """As in a checkpoint from before digests, or by another program."""
  shutil.copytree(finished / 'default' / 'seed_0', tmp_path / 'default' / 'seed_0')
  run = tmp_path / 'default' / 'seed_0'
  (run / 'results.json').unlink()
  path = run / 'checkpoints' / '40' / 'host' / 'metadata'
  host = json.loads(path.read_text())
  extra = host['extra'] | {part: value} if part else {}
  path.write_text(json.dumps({'best_step': host['best_step'], 'extra': extra}))
  with pytest.raises(errors.WorkdirError, match=r'the checkpoint of step 40 .* another form'):
    train.run(config, tmp_path)


def test_a_data_set_that_is_not_prepared(config_file, tmp_path, capsys):
  flags = [f'--config.dataset.data_dir={tmp_path}', '--config.dataset.name=snips']
  flags += ['--config.dataset.manual_dir=', '--config.only=()']
  text = config_file.read_text().replace("'pos': {}, 'inflection': {}, 'lemma': {}", "'intent': {}")
  (tmp_path / 'c.py').write_text(text)
  arguments = ['train', f'--config={tmp_path / "c.py"}', f'--workdir={tmp_path / "w"}', *flags]
  assert train.main(arguments) == 3
  assert 'mtl_jax.data.prepare snips' in capsys.readouterr().err


def test_nan_names_task_and_step_and_leaves_the_last_checkpoint(config, tmp_path, monkeypatch):
  build = program_lib.program

  def poisoned(run, data, steps):
    program = build(run, data, steps)

    def step(state, batch):
      if int(state.step) == 13:  # so step 14 is the first to see it
        head = jax.tree.map(lambda leaf: leaf * np.float32('nan'), state.params['tasks']['lemma'])
        tasks = state.params['tasks'] | {'lemma': head}
        state = state.replace(params=state.params | {'tasks': tasks})
      return program.step(state, batch)

    return dataclasses.replace(program, step=step)

  monkeypatch.setattr(program_lib, 'program', poisoned)
  with pytest.raises(errors.NonFiniteError, match=r'step 14: .* task lemma is NaN'):
    train.run(config, tmp_path)
  run = tmp_path / 'default' / 'seed_0'
  assert _last_step(run) == 12
  manager = ocp.CheckpointManager(run / 'checkpoints')
  state = manager.restore(12, args=ocp.args.Composite(state=ocp.args.StandardRestore()))['state']
  params = {name: leaf for name, leaf in state.items() if name.startswith('params/')}
  assert params
  assert all(np.isfinite(leaf).all() for leaf in params.values())


def test_divergence_ends_the_command_with_its_code(config_file, tmp_path, capsys):
  flags = ['--config.optimizer.name=sgd', '--config.optimizer.learning_rate=1e30']
  flags += ['--config.optimizer.clip_norm=0.0', '--config.optimizer.schedule.name=constant']
  arguments = ['train', f'--config={config_file}', f'--workdir={tmp_path / "w"}', *flags]
  assert train.main(arguments) == 5
  assert 'step ' in capsys.readouterr().err


def test_early_stopping_keeps_the_best(config, tmp_path):
  changed = config.copy_and_resolve_references()
  changed.train.early_stopping.metric = 'loss'
  changed.train.early_stopping.patience = 2
  changed.train.early_stopping.min_delta = 100.0
  (result,) = train.run(changed, tmp_path)
  assert result['steps'] == 30
  lines = (tmp_path / 'default' / 'seed_0' / 'metrics.jsonl').read_text().splitlines()
  losses = {
    line['step']: sum(line['loss'].values())
    for line in map(json.loads, lines)
    if line['split'] == 'validation'
  }
  assert result['best_step'] == min(losses, key=losses.get)


def test_a_mesh_gives_the_same_numbers(config, finished, tmp_path):
  changed = config.copy_and_resolve_references()
  changed.mesh.data = 2
  changed.mesh.fsdp = 4
  changed.encoder.embedding.dropout = changed.encoder.transformer.dropout = 0.0
  (result,) = train.run(changed, tmp_path / 'mesh')
  changed.mesh.data = changed.mesh.fsdp = 1
  (alone,) = train.run(changed, tmp_path / 'alone')
  assert result['validation']['loss'] == pytest.approx(alone['validation']['loss'], rel=1e-3)
