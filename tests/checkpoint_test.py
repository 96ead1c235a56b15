"""Checkpoints are complete or absent, exact for every leaf, and refuse what does not fit."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mtl_jax import checkpoint, errors, optim


def _state(seed=0):
  k1, k2 = jax.random.split(jax.random.key(seed))
  params = {
    'shared': {'layer.a/b': jax.random.normal(k1, (8, 4)), 'half': jnp.ones((3,), jnp.bfloat16)},
    'tasks': {'pos': {}, 'lemma': {'bias': jax.random.normal(k2, (5,))}},
  }
  return {
    'params': params,
    'opt_state': optax.adamw(1e-3).init(params),
    'balance_state': (optax.EmptyState(), {'key': jax.random.key(7)}),
    'step': jnp.asarray(3, jnp.int32),
    'key': jax.random.key(seed + 1, impl='rbg'),
  }


def _bits(tree):
  leaves = jax.tree.leaves(tree)
  is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
  return [
    np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes()
    for leaf, key in zip(leaves, is_key, strict=True)
  ]


def test_restores_every_bit(tmp_path):
  state, extra = _state(), {'data': {'next_index': 12}, 'best': [0.1 + 0.2, None], 'text': 'é'}
  with checkpoint.Checkpoints(tmp_path / 'c') as checkpoints:
    assert checkpoints.restore(state) is None
    assert checkpoints.restore_best(state) is None
    checkpoints.save(3, state, extra)
  with checkpoint.Checkpoints(tmp_path / 'c') as checkpoints:
    restored, restored_extra = checkpoints.restore(jax.eval_shape(_state))
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert _bits(restored) == _bits(state)
  assert restored_extra == extra
  assert jax.random.bits(restored['key']) == jax.random.bits(state['key'])


def test_restores_the_state_of_every_balancing_method(tmp_path):
  """All of them in one tree, after an update on random gradients."""
  params, grads = {'w': jnp.zeros(3)}, {'w': jax.random.normal(jax.random.key(0), (4, 3))}
  known = {'losses': jnp.arange(1.0, 5.0), 'present': jnp.ones(4, bool)}
  states = {}
  for name in optim.METHODS:
    method = optim.get(name)
    state = method.init_tasks(params, 4)
    if method.needs != 'functions':
      _, state = jax.jit(method.update)(grads, state, params, **known)
    states[name] = state
  for name, wrapped in {
    'every_k': optim.every_k(optim.mgda(), 2),
    'warm-up, smoothed': optim.with_warmup(optim.ema_weights(optim.pcgrad()), 2),
    'by group': optim.by_group(optim.gradvac(), 'matrix'),
  }.items():
    states[name] = wrapped.init_tasks(params, 4)
  with checkpoint.Checkpoints(tmp_path / 'c') as checkpoints:
    checkpoints.save(1, states, {})
  with checkpoint.Checkpoints(tmp_path / 'c') as checkpoints:
    restored, _ = checkpoints.restore(jax.eval_shape(lambda: states))
  assert jax.tree.structure(restored) == jax.tree.structure(states)
  assert _bits(restored) == _bits(states)


def test_keeps_the_best_and_the_last(tmp_path):
  states = {step: _state(step) for step in (1, 2, 3, 4)}
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    for step, state in states.items():
      checkpoints.save(step, state, {'step': step}, best=step == 2)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['2', '4']
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert (checkpoints.best_step, checkpoints.last_step) == (2, 4)
    best, extra = checkpoints.restore_best(states[1])
    assert _bits(best) == _bits(states[2])
    assert extra == {'step': 2}
    assert _bits(checkpoints.restore(states[1])[0]) == _bits(states[4])
    checkpoints.save(5, states[1], {}, best=True)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['5']


def test_sharded_state_restores_into_another_sharding(tmp_path):
  mesh = jax.make_mesh((4, 2), ('data', 'fsdp'))
  sharded = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
  other = NamedSharding(mesh, PartitionSpec('fsdp', 'data'))
  values = np.arange(64, dtype=np.float32).reshape(8, 8)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'w': jax.device_put(values, sharded)}, {})
    target = {'w': jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=other)}
    restored, _ = checkpoints.restore(target)
  assert restored['w'].sharding == other
  np.testing.assert_array_equal(np.asarray(restored['w']), values)


def test_a_half_written_checkpoint_is_never_restored(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, _state(1), {'step': 1})
  half = tmp_path / '2.orbax-checkpoint-tmp'
  (half / 'state').mkdir(parents=True)
  (half / 'state' / 'manifest.ocdbt').write_bytes(b'half')
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.last_step == 1
    checkpoints.save(2, _state(2), {'step': 2})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert _bits(checkpoints.restore(_state())[0]) == _bits(_state(2))


def test_a_damaged_checkpoint_is_an_error(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, _state(1), {})
  for path in (tmp_path / '1' / 'state').rglob('*'):
    if path.is_file() and path.parent.name == 'd':
      path.write_bytes(path.read_bytes()[:10])
  with (
    checkpoint.Checkpoints(tmp_path) as checkpoints,
    pytest.raises(errors.WorkdirError, match='Cannot read the checkpoint of step 1'),
  ):
    checkpoints.restore(_state())


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # of tensorstore
def test_a_flipped_bit_changes_nothing_or_is_an_error(tmp_path):
  """In every file of a checkpoint, at its ends and elsewhere; arrays whole and sharded."""
  mesh = jax.make_mesh((8,), ('x',))
  split = NamedSharding(mesh, PartitionSpec('x'))
  state = _state() | {'split': jax.device_put(jnp.arange(800.0).reshape(8, 100), split)}
  extra = {'data': {'next_index': 12}, 'best': [0.1 + 0.2, None], 'text': 'é'}
  with checkpoint.Checkpoints(tmp_path / 'whole') as checkpoints:
    checkpoints.save(7, state, extra, best=True)
  names = [
    p.relative_to(tmp_path / 'whole') for p in (tmp_path / 'whole').rglob('*') if p.is_file()
  ]
  leaves = {name: np.asarray(leaf) for name, leaf in checkpoint._flatten(state).items()}
  rng, errors_of, files = random.Random(0), {}, 0
  for name in sorted(names):
    content = (tmp_path / 'whole' / name).read_bytes()
    files += bool(content)
    for place in {0, len(content) - 1, rng.randrange(len(content))} if content else ():
      copy = tmp_path / 'copy'
      shutil.copytree(tmp_path / 'whole', copy)
      damaged = bytearray(content)
      damaged[place] ^= 1 << rng.randrange(8)
      (copy / name).write_bytes(damaged)
      try:
        with checkpoint.Checkpoints(copy) as checkpoints:
          restored, restored_extra = checkpoints.restore(state)
          assert checkpoints.best_step == 7
        assert _bits(restored) == _bits(state), (name, place)
        assert restored_extra == extra, (name, place)
        found = checkpoint.read_best(copy)
        assert found.keys() == leaves.keys()
        assert all(found[key].tobytes() == leaf.tobytes() for key, leaf in leaves.items())
      except errors.WorkdirError as e:
        errors_of[name] = str(e)
      shutil.rmtree(copy)
  assert files > 8  # their number depends on the version of orbax
  wrong = [e for e in errors_of.values() if 'Cannot read the checkpoint of step 7' not in e]
  assert not wrong
  assert any('SHA-256' in e for e in errors_of.values())


@pytest.mark.parametrize('part', ['state', 'host'])
def test_arrays_and_memory_of_another_checkpoint_are_refused(part, tmp_path):
  """What is readable, but not what was saved: as after a bit flipped in uncompressed numbers."""
  for name, step in (('a', 0), ('b', 1)):
    with checkpoint.Checkpoints(tmp_path / name) as checkpoints:
      checkpoints.save(3, _state(step), {'step': step})
  shutil.rmtree(tmp_path / 'a' / '3' / part)
  shutil.copytree(tmp_path / 'b' / '3' / part, tmp_path / 'a' / '3' / part)
  message = 'Cannot read the checkpoint of step 3 .*: the arrays are not what was saved'
  with (
    checkpoint.Checkpoints(tmp_path / 'a') as checkpoints,
    pytest.raises(errors.WorkdirError, match=message),
  ):
    checkpoints.restore(_state())
  with pytest.raises(errors.WorkdirError, match=message):
    checkpoint.read_best(tmp_path / 'a')


_TWO_PROCESSES = """
import json, os, pathlib, sys
import jax
index, port, directory = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
jax.distributed.initialize(f'localhost:{port}', 2, index)
import jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from mtl_jax import checkpoint, errors
mesh = jax.make_mesh((4,), ('x',))
value = np.arange(24, dtype=np.float32).reshape(8, 3)
split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (('x',), ()))
place = lambda sharding: jax.make_array_from_callback((8, 3), sharding, lambda i: value[i])
state = {'split': place(split), 'whole': place(whole)}
with checkpoint.Checkpoints(directory) as checkpoints:
  checkpoints.save(1, state, {'step': 1})
with checkpoint.Checkpoints(directory) as checkpoints:
  restored, extra = checkpoints.restore(state)
assert extra == {'step': 1}
for leaf in restored.values():
  for shard in leaf.addressable_shards:
    assert (np.asarray(shard.data) == value[shard.index]).all()
jax.experimental.multihost_utils.sync_global_devices('read')
if index == 0:
  path = directory / '1' / 'host' / 'metadata'
  host = json.loads(path.read_text())
  host['state'] = '0' * 64
  host['digest'] = checkpoint._digest_host(host)
  path.write_text(json.dumps(host))
jax.experimental.multihost_utils.sync_global_devices('changed')
try:
  checkpoint.Checkpoints(directory).restore(state)
except errors.WorkdirError as e:
  assert 'the arrays are not what was saved' in str(e)
  print('refused')
"""


def test_two_processes_agree_on_the_digest(tmp_path):
  """Each holds half of an array; both restore, and both refuse; one process reads it too."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  flags = {'XLA_FLAGS': '--xla_force_host_platform_device_count=2', 'JAX_PLATFORMS': 'cpu'}
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', _TWO_PROCESSES, str(index), port, tmp_path / 'c'],
      env=os.environ | flags,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  try:
    for process in processes:
      out, err = process.communicate(timeout=200)
      assert process.returncode == 0, err
      assert out.endswith('refused\n')
  finally:
    for process in processes:
      process.kill()
  value = np.arange(24, dtype=np.float32).reshape(8, 3)
  host = json.loads((tmp_path / 'c' / '1' / 'host' / 'metadata').read_text())
  assert host['state'] == '0' * 64
  host['state'] = checkpoint._digest_state({'split': value, 'whole': value})
  host['digest'] = checkpoint._digest_host(host)
  _edit_host(tmp_path / 'c', 1, lambda _: host)
  found = checkpoint.read_best(tmp_path / 'c')
  assert all((leaf == value).all() for leaf in found.values())


def _edit_host(directory, step, edit):
  path = directory / str(step) / 'host' / 'metadata'
  path.write_text(json.dumps(edit(json.loads(path.read_text()))))


def test_checkpoints_without_digests_are_read(tmp_path):
  state = _state()
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, state, {'step': 3})
  _edit_host(tmp_path, 3, lambda host: {key: host[key] for key in ('best_step', 'extra')})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    restored, extra = checkpoints.restore(state)
  assert _bits(restored) == _bits(state)
  assert extra == {'step': 3}
  assert checkpoint.read_best(tmp_path).keys() == checkpoint._flatten(state).keys()


@pytest.mark.parametrize(
  'host',
  [
    [],
    {},
    {'best_step': None},
    {'best_step': 'x', 'extra': {}},
    {'best_step': True, 'extra': {}},
    {'best_step': None, 'extra': []},
    {'best_step': None, 'extra': {}, 'digset': ''},
  ],
)
def test_a_host_part_of_another_form_is_refused(host, tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, {'w': jnp.ones(2)}, {})
  _edit_host(tmp_path, 3, lambda _: host)
  for read in (checkpoint.Checkpoints, checkpoint.read_best):
    with pytest.raises(errors.WorkdirError, match='Cannot read the checkpoint of step 3'):
      read(tmp_path)


def test_another_model_is_an_error_that_names_the_leaves(tmp_path):
  state = {'params': {'w': jnp.ones((2, 3)), 'old': jnp.ones(2)}}
  target = {'params': {'w': jnp.ones((2, 4)), 'new': jnp.ones(2)}}
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {})
    with pytest.raises(errors.WorkdirError, match='another model') as error:
      checkpoints.restore(target)
  for part in (
    'params/new is not in the checkpoint',
    'params/old is in the checkpoint alone',
    'params/w is (2, 3) float32 there and (2, 4) float32 here',
  ):
    assert part in str(error.value)


def test_a_step_is_not_saved_twice(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, _state(), {})
    with pytest.raises(errors.WorkdirError, match='step 2'):
      checkpoints.save(2, _state(), {})


_FULL_DISK = """
import resource, sys
import jax.numpy as jnp, numpy as np
from mtl_jax import checkpoint, errors, optim
noise = jnp.asarray(np.random.default_rng(0).random((300, 300), np.float32))
checkpoints = checkpoint.Checkpoints(sys.argv[1])
checkpoints.save(1, {'w': noise}, {'step': 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file can grow beyond this
try:
  checkpoints.save(2, {'w': noise + 1}, {'step': 2})
except errors.WorkdirError as e:
  print(e)
restored = checkpoint.Checkpoints(sys.argv[1]).restore({'w': noise})
assert restored[1] == {'step': 1} and (restored[0]['w'] == noise).all()
"""


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
  process = subprocess.run(
    [sys.executable, '-c', _FULL_DISK, tmp_path], capture_output=True, text=True, check=False
  )
  assert process.returncode == 0, process.stderr
  assert 'Cannot write the checkpoint of step 2' in process.stdout
  assert 'step 1 stands' in process.stdout


_SAVE_FOREVER = """
import itertools, sys
import jax.numpy as jnp
from mtl_jax import checkpoint
target = {str(i): jnp.zeros((50, 50)) for i in range(20)}
checkpoints = checkpoint.Checkpoints(sys.argv[1])
restored = checkpoints.restore(target)
start = 0
if restored:
  state, extra = restored
  start = extra['step']
  assert all((leaf == start).all() for leaf in state.values()), 'torn'
  assert checkpoints.best_step == (start - start % 3 or None)
print(start, flush=True)
for step in itertools.count(start + 1):
  state = {name: leaf + step for name, leaf in target.items()}
  checkpoints.save(step, state, {'step': step}, best=step % 3 == 0)
"""


def test_killed_while_saving(tmp_path):
  """SIGKILL at random moments of back-to-back saves: what is there is whole, newer each time."""
  rng, starts = random.Random(0), []
  for _ in range(4):
    process = subprocess.Popen(
      [sys.executable, '-c', _SAVE_FOREVER, tmp_path],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    line = process.stdout.readline()
    assert line.strip().isdigit(), process.stderr.read()
    starts.append(int(line))
    time.sleep(0.3 + rng.random() / 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
  assert starts == sorted(set(starts))


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_an_unreadable_directory(tmp_path):
  (tmp_path / 'c').mkdir(mode=0)
  with pytest.raises(errors.WorkdirError):
    checkpoint.Checkpoints(tmp_path / 'c')


def test_a_file_in_place_of_the_directory(tmp_path):
  path = pathlib.Path(tmp_path / 'c')
  path.write_text('')
  with pytest.raises(errors.WorkdirError, match='Cannot open'):
    checkpoint.Checkpoints(path)
