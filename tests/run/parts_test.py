"""The parts of training that need no data set: optimizer, early stopping, means of step metrics."""

import io
import json
import logging
import pathlib
import re
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich.console
from tensorboardX.proto import event_pb2

from mtl_jax import checkpoint, encoders, errors, heads, optim, sharding, sharing
from mtl_jax import config as config_lib
from mtl_jax.build import balance as balance_lib
from mtl_jax.build import layers as layers_lib
from mtl_jax.build import optimizer
from mtl_jax.run import console as console_lib
from mtl_jax.run import early_stopping
from mtl_jax.run import window as window_lib
from mtl_jax.run import workdir as workdir_lib
from mtl_jax.tasks import Task


@pytest.fixture
def standard_promotion():
  """What the train step grants to optax, which counts on it."""
  with jax.numpy_dtype_promotion('standard'):
    yield


def _run(**changes):
  config = config_lib.default()
  config.dataset.name = 'english_words'
  config.tasks = config_lib.tasks({'pos': {}, 'lemma': {}})
  config.train.steps = 100
  config.update_from_flattened_dict(changes)
  return config_lib.resolve(config)[0]


PARTS = layers_lib.Parts({}, undecayed=frozenset({'shared/b'}))  # of these parameters


def _params():
  keys = jax.random.split(jax.random.key(0), 3)
  return {
    'shared': {'w': jax.random.normal(keys[0], (3, 2)), 'b': jax.random.normal(keys[1], (2,))},
    'tasks': {'lemma': {'v': jnp.ones((2, 2))}, 'pos': {'v': jax.random.normal(keys[2], (2, 2))}},
  }


@pytest.mark.usefixtures('standard_promotion')
def test_l2_is_the_gradient_of_the_penalty_and_is_added_before_clipping():
  rates = {'optimizer.l2_shared': 0.3, 'tasks.pos.l2': 0.2, 'optimizer.clip_norm': 0.5}
  choice = {'optimizer.name': 'sgd', 'optimizer.sgd.momentum': 0.0, 'optimizer.learning_rate': 2.0}
  run = _run(**rates, **choice, **{'optimizer.schedule.name': 'constant'})
  params = _params()

  def loss(params, penalty):
    squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(params['shared'])]
    l2 = 0.3 * sum(squares) + 0.2 * jnp.sum(params['tasks']['pos']['v'] ** 2)
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(params)) + penalty * l2

  whole = jax.tree.map(np.asarray, jax.grad(loss)(params, 1.0))
  norm = np.sqrt(sum(np.sum(leaf.astype(np.float64) ** 2) for leaf in jax.tree.leaves(whole)))
  assert norm > 0.5
  expected = jax.tree.map(lambda g: -2.0 * g * 0.5 / norm, whole)
  tx = optimizer.build(run, optimizer.build_schedule(run, 100), PARTS)
  updates, _ = jax.jit(tx.update)(jax.grad(loss)(params, 0.0), tx.init(params), params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)


@pytest.mark.usefixtures('standard_promotion')
def test_weight_decay_leaves_alone_what_is_spared():
  run = _run(**{'optimizer.adamw.weight_decay': 0.1, 'optimizer.schedule.name': 'constant'})
  tx = optimizer.build(run, optimizer.build_schedule(run, 100), PARTS)
  params = _params()
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  np.testing.assert_allclose(updates['shared']['w'], -1e-3 * 0.1 * params['shared']['w'], rtol=1e-5)
  np.testing.assert_array_equal(updates['shared']['b'], 0)


@pytest.mark.usefixtures('standard_promotion')
@pytest.mark.parametrize(
  ('name', 'spared'),
  [
    ('cross_stitch', r'bias|scale|^shared/stitches'),
    ('ltb', r'bias|scale|parent'),
    ('dselect_k', r'bias|scale|codes|shares'),
    ('hyper_adapters', r'bias|LayerNorm_\d/scale'),
  ],
)
def test_weight_decay_spares_what_is_a_vector_in_each_column(name, spared):
  encoder = encoders.Transformer(encoders.Embedding(9, 8), 8, 1, 2, 8, max_length=5)
  tasks = [Task(task, heads.Classification(2)) for task in ('pos', 'lemma')]
  inputs = {'tokens': jnp.ones((2, 5), jnp.int32), 'mask': jnp.ones((2, 5), bool)}
  batch = {'inputs': inputs, 'targets': {task.name: jnp.zeros(2, jnp.int32) for task in tasks}}
  model = sharing.get(name)(encoder, tasks)
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
  params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
  parts = layers_lib.parts_of(model, batch)
  tx = optimizer.build(_run(), optax.constant_schedule(1.0), parts)
  updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    where = sharding.path_of(path)
    whole = update.ndim > 1 and not re.search(spared, where)
    assert np.all(np.asarray(update) == 0) == (not whole), where


@pytest.mark.usefixtures('standard_promotion')
@pytest.mark.parametrize('name', optimizer.OPTIMIZERS)
def test_every_optimizer_goes_down(name):
  run = _run(**{'optimizer.name': name})
  tx = optimizer.build(run, optimizer.build_schedule(run, 100), PARTS)
  params = _params()
  updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
  assert (
    sum(jnp.vdot(u, p) for u, p in zip(*map(jax.tree.leaves, (updates, params)), strict=True)) < 0
  )


@pytest.mark.parametrize(
  ('name', 'options', 'expected'),
  [
    ('constant', {}, {9: 0.9, 10: 1.0, 55: 1.0, 100: 1.0}),
    ('cosine', {'cosine.final': 0.2}, {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.6, 100: 0.2}),
    ('linear', {'linear.final': 0.1}, {10: 1.0, 55: 0.55, 100: 0.1}),
    (
      'exponential',
      {'exponential.rate': 0.5, 'exponential.every': 30},
      {10: 1.0, 40: 0.5, 70: 0.25},
    ),
  ],
)
def test_schedules(name, options, expected):
  changes = {f'optimizer.schedule.{key}': value for key, value in options.items()}
  changes |= {'optimizer.schedule.name': name, 'optimizer.schedule.warmup_steps': 10}
  schedule = optimizer.build_schedule(_run(**changes, **{'optimizer.learning_rate': 3.0}), 100)
  for step, share in expected.items():
    assert float(jax.jit(schedule)(step)) == pytest.approx(3.0 * share, rel=1e-5)


def test_warmup_as_a_share_of_training():
  changes = {'optimizer.schedule.name': 'constant', 'optimizer.schedule.warmup_share': 0.25}
  for steps, expected in ((100, 25), (20, 5), (1, 0)):
    assert optimizer.warmup_steps(_run(**changes), steps) == expected
  schedule = optimizer.build_schedule(_run(**changes, **{'optimizer.learning_rate': 4.0}), 20)
  assert [float(schedule(step)) for step in (0, 1, 5, 19)] == pytest.approx([0.0, 0.8, 4.0, 4.0])
  run = _run(**changes, **{'optimizer.schedule.warmup_steps': 7})
  assert optimizer.warmup_steps(run, 20) == 7
  with pytest.raises(errors.ConfigError, match='warmup_steps: 7 is more than the 6 steps'):
    optimizer.build_schedule(run, 6)


def test_scalings_alone_are_followed_by_the_sum():
  for name in ('gradnorm', 'normalize_task_gradients', 'gradnorm+pcgrad', 'mean_tasks'):
    balance = balance_lib.build_balance(_run(**{'balance.name': name}))
    assert isinstance(balance, optim.Balancer)


def test_early_stopping():
  stopping = early_stopping.EarlyStopping(True, patience=2, min_delta=0.1)
  found = []
  for step, value in enumerate([0.5, 0.55, 0.62, 0.6, 0.65]):
    found.append((stopping.update(step, value), stopping.should_stop))
    copy = early_stopping.EarlyStopping(True, patience=2, min_delta=0.1)
    copy.load(stopping.state())
    assert copy == stopping
  # 0.55 is the best, but no gain above 0.1; 0.62 is one over 0.5; then two without.
  assert found == [(True, False), (True, False), (True, False), (False, False), (True, True)]
  assert (stopping.best, stopping.best_step) == (0.65, 4)


def test_early_stopping_on_a_loss_and_without_patience():
  stopping = early_stopping.EarlyStopping(False)
  assert [stopping.update(i, value) for i, value in enumerate([2.0, 1.0, 1.0, 3.0])] == [
    True,
    True,
    False,
    False,
  ]
  assert not stopping.should_stop


def _metrics(loss, present=(True, True), **others):
  cosine = np.eye(2, dtype=np.float32)
  return {'loss': np.float32(loss), 'present': np.array(present), 'cosine': cosine, **others}


def test_means_leave_absent_tasks_out_and_survive_a_restart():
  window = window_lib.Window(('a', 'b'))
  window.add(_metrics([1.0, 5.0]))
  other = window_lib.Window(('a', 'b'))
  other.load(window.state())
  for w in (window, other):
    w.add(_metrics([2.0, np.nan], (True, False)))
    means = w.means()
    assert means['loss'] == {'a': 1.5, 'b': 5.0}
    assert means['cosine'] == [[1.0, 0.0], [0.0, 1.0]]
  window.clear()
  window.add(_metrics([2.0, np.nan], (True, False)))
  assert window.means()['loss'] == {'a': 2.0, 'b': None}
  assert window.means()['cosine'] == [[1.0, None], [None, None]]


def test_means_leave_out_what_a_step_had_no_use_for():
  """Steps that hold their weights have no cosines; what is monitored is one number a step."""
  window = window_lib.Window(('a', 'b'))
  held = {'cosine': np.full((2, 2), np.nan), 'conflict': np.float32('nan')}
  window.add(_metrics([1.0, 1.0], conflict=np.float32(1.0)))
  window.add(_metrics([3.0, 1.0]) | held)
  means = window.means()
  assert means['cosine'] == [[1.0, 0.0], [0.0, 1.0]]
  assert means['conflict'] == 1.0
  assert means['loss'] == {'a': 2.0, 'b': 1.0}


def test_the_nan_of_an_absent_task_is_skipped(tmp_path):
  """In the mean, the check, metrics.jsonl, TensorBoard and on the console."""
  window = window_lib.Window(('a', 'b'))
  nan = np.float32('nan')
  step = _metrics([1.0, nan], (True, False), weight=np.array([1.0, nan]), penalty=nan)
  step |= {'finite': np.array([True, False]), 'update_norm': np.float32(1)}
  window_lib.check_finite(3, step, ('a', 'b'))
  window.add(step)
  window.add(step | {'loss': np.float32([2.0, nan])})
  means = window.means()
  assert means['loss'] == {'a': 1.5, 'b': None}
  assert means['weight'] == {'a': 1.0, 'b': None}
  assert means['penalty'] is None
  out = io.StringIO()
  inner = rich.console.Console(file=out, force_terminal=False, width=200)
  with console_lib.Console(1, console=inner) as console:
    console.start('x', 0, 10)
    console.progress(2, 1.0, means['loss'])
    console.progress(2, 1.0, {'c': float('nan')})
  assert 'loss: a 1.5000  b -' in out.getvalue()
  log = workdir_lib.Metrics(workdir_lib.Workdir(tmp_path, _run()), 0)
  log.write({'step': 2, 'split': 'train', **means, 'other': float('nan')})
  log.close()
  line = json.loads((tmp_path / 'metrics.jsonl').read_text())
  assert line['loss'] == {'a': 1.5, 'b': None}
  tags = [value.tag for event in _events(tmp_path)[2:] for value in event.summary.value]
  assert tags == ['train/loss/a', 'train/weight/a']
  with pytest.raises(errors.NonFiniteError, match='of task b is'):
    window_lib.check_finite(3, step | {'present': np.array([True, True])}, ('a', 'b'))


def test_what_is_not_finite_is_named():
  names = ('a', 'b')
  good = {'finite': np.array([True, True]), 'loss': np.ones(2), 'update_norm': np.float32(1)}
  good['present'] = np.array([True, True])
  window_lib.check_finite(3, good, names)
  window_lib.check_finite(3, good | {'loss': np.array([1.0, np.nan])}, names)  # b is absent
  with pytest.raises(errors.NonFiniteError, match=r'step 3: .* of task b is NaN .*loss: b 1.0'):
    window_lib.check_finite(3, good | {'finite': np.array([True, False])}, names)
  with pytest.raises(errors.NonFiniteError, match='of tasks a, b is'):
    window_lib.check_finite(3, good | {'finite': np.array([False, False])}, names)
  with pytest.raises(errors.NonFiniteError, match='the update of the parameters is not'):
    window_lib.check_finite(3, good | {'update_norm': np.float32('inf')}, names)


@pytest.mark.parametrize('terminal', [True, False])
def test_console_shows_runs(terminal):
  out = io.StringIO()
  inner = rich.console.Console(file=out, force_terminal=terminal, width=200)
  with console_lib.Console(2, console=inner) as console:
    console.start('sum seed 0', 0, 100)
    console.progress(10, 5.0, {'pos': 0.5, 'lemma': None})
    console.evaluated(10, 'mean', 0.25, 0.25, True)
    console._progress.refresh()
    console.finish('100 steps')
  text = out.getvalue()
  parts = ['sum seed 0: 100 steps', 'pos 0.5000', '5.0']
  parts += ['best mean 0.2500'] if terminal else ['step 10/100', '0:18 left', 'mean 0.2500 (best)']
  for part in parts:
    assert part in text
  assert ('\x1b[' in text) is terminal


def test_console_shows_what_the_library_logs():
  out = io.StringIO()
  inner = rich.console.Console(file=out, width=200)
  with console_lib.Console(1, console=inner) as console, console_lib.log_to(console):
    logging.getLogger('mtl_jax').info('gradients are stacked')
  logging.getLogger('mtl_jax').info('nobody listens')
  assert out.getvalue() == 'gradients are stacked\n'


def test_eighty_columns_hold_what_matters():
  out = io.StringIO()
  inner = rich.console.Console(file=out, force_terminal=True, width=80)
  with console_lib.Console(15, console=inner) as console:
    console.start('gradnorm_pcgrad seed 0', 0, 12000)
    losses = {f'task_with_a_long_name_{i}': 0.5 for i in range(4)}
    console.progress(8500, 1234.5, losses)
    console.evaluated(8000, 'joint.exact_match', 0.25, 0.25, True)
    console.step(8501)
    lines = [str(line) for line in _lines(inner, console._progress)]
  row = next(line for line in lines if 'gradnorm' in line)
  for part in ('gradnorm_pcgrad seed 0', '8501/12000', '1234.5/s', '0:03 left'):
    assert part in row
  assert 'best joint.exact_match 0.2500' in lines[-1]


def _lines(console, progress):
  rendered = console.render_lines(progress.get_renderable(), pad=False)
  return [''.join(segment.text for segment in line) for line in rendered]


def test_compiling_is_shown_until_there_is_a_rate():
  inner = rich.console.Console(file=io.StringIO(), force_terminal=True, width=80)
  with console_lib.Console(1, console=inner) as console:
    console.start('x', 0, 10)
    console.step(1)
    assert '1/10' in (line := _lines(inner, console._progress)[0])
    assert 'compiling' in line


def _metrics_lines(path):
  return [json.loads(line)['step'] for line in (path / 'metrics.jsonl').read_text().splitlines()]


def test_metrics_go_on_before_a_damaged_line(tmp_path):
  workdir = workdir_lib.Workdir(tmp_path, _run())
  text = '{"step": 1}\n{"step": 2}\n%s\n{"step": 4}\n'
  for damage in ('garbage', '[]', '3', '{}', '{"step": "x"}'):
    (tmp_path / 'metrics.jsonl').write_text(text % damage)
    log = workdir_lib.Metrics(workdir, 9)
    log.write({'step': 10, 'split': 'train', 'loss': {'pos': 0.5}})
    log.close()
    assert _metrics_lines(tmp_path) == [1, 2, 10]


def _events(run):
  (path,) = (run / 'tensorboard').iterdir()
  data, events = path.read_bytes(), []
  while data:  # length, its checksum, the event, its checksum
    (size,) = struct.unpack('<Q', data[:8])
    events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  return events


def test_tensorboard_reads_the_events(tmp_path):
  log = workdir_lib.Metrics(workdir_lib.Workdir(tmp_path, _run()), 9)
  cosine = [[1.0, -0.25], [-0.25, 1.0]]
  log.write({'step': 10, 'split': 'train', 'loss': {'pos': 0.5, 'lemma': None}, 'cosine': cosine})
  log.close()
  events = _events(tmp_path)
  assert events[0].file_version == 'brain.Event:2'
  assert (events[1].step, events[1].session_log.status) == (10, event_pb2.SessionLog.START)
  value, pair = events[2].summary.value
  assert (pair.tag, pair.simple_value) == ('train/cosine/pos/lemma', -0.25)
  assert (events[2].step, value.tag, value.simple_value) == (10, 'train/loss/pos', 0.5)


@pytest.mark.skipif(not pathlib.Path('/dev/full').exists(), reason='needs /dev/full')
def test_a_full_disk_is_one_error(tmp_path):
  log = workdir_lib.Metrics(workdir_lib.Workdir(tmp_path, _run()), 0)
  log._file.close()
  with pathlib.Path('/dev/full').open('a') as log._file:
    with pytest.raises(errors.WorkdirError, match='No space left'):
      log.write({'step': 1, 'split': 'train'})
    log.close()


def test_a_damaged_checkpoint_says_what_to_remove(tmp_path):
  state = {'w': jnp.arange(5000.0)}  # large enough for a file of its own
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {}, best=True)
    checkpoints.save(2, state, {})
  shutil.rmtree(tmp_path / '2' / 'host')
  with pytest.raises(errors.WorkdirError, match=r'Remove \S+/2 to go on from step 1\.'):
    checkpoint.Checkpoints(tmp_path)
  shutil.rmtree(tmp_path / '2')
  for path in (tmp_path / '1' / 'state').glob('ocdbt*/d/*'):  # the arrays
    path.write_bytes(b'garbage')
  with (
    checkpoint.Checkpoints(tmp_path) as checkpoints,
    pytest.raises(errors.WorkdirError, match=r'Remove \S+ to train from the start'),
  ):
    checkpoints.restore(state)


def test_a_quiet_console_shows_nothing(capsys):
  with console_lib.for_process(1, process_index=1) as console:
    console.start('x', 0, 1)
    console.message('text')
    console.finish('done')
  assert capsys.readouterr().out == ''
