"""The directory of one run: whose it is, and the files in it other than checkpoints.

Only the process with index 0 writes. What is written, and when, is decided by `loop`.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import itertools
import json
import logging
import math
import os
import pathlib
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2, summary_pb2

from mtl_jax import errors, files, plain
from mtl_jax import results as results_lib
from mtl_jax.data import pipeline

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'grain', 'mtl_jax')
_LOG = logging.getLogger(__name__)


class Workdir:
  """The directory of one run (one variant, one seed).

  Attributes:
    path: the directory.
  """

  def __init__(self, path: pathlib.Path, run: plain.Plain):
    self.path = path
    self._run = run
    self._writes = jax.process_index() == 0

  @property
  def checkpoints(self) -> pathlib.Path:
    """Where the checkpoints are."""
    return self.path / 'checkpoints'

  def check(self) -> dict[str, Any] | None:
    """Looks whether this run may use the directory, and changes nothing.

    Returns:
      the results if the run is finished, else None.

    Raises:
      WorkdirError: another config's run is here, a file cannot be read, or config.json is missing
        beside what was trained.
    """
    self._check_path()
    existing = self._read('config.json', _check_config)
    results = self._read('results.json', _check_results)
    begun = self._begun()
    if existing is None and begun:
      raise errors.WorkdirError(
        f'{self.path} holds a run without its config.json: nothing tells whether it is this one. '
        'Bring that file back, choose another --workdir, or remove that directory.'
      )
    if existing is not None and begun:
      ours = json.loads(plain.to_json(self._run))
      changed = plain.differences(plain.portable(existing), ours)
      if changed:
        raise errors.WorkdirError(
          f'{self.path} holds the run of another config. These keys differ (there -> now):\n  '
          + '\n  '.join(changed)
          + '\nChoose another --workdir, or remove that directory.'
        )
    return results

  @contextlib.contextmanager
  def open(self, data: plain.Plain) -> Iterator[dict[str, Any] | None]:
    """Claims the directory for this process and writes config.json and versions.json.

    What is there is checked again: another command may have trained here since the first look.
    Where a run goes on under other versions of what it depends on, the log says so, and
    versions.json lists them under 'continued', with the step that they begin after.

    Args:
      data: `identity` of the data.

    Yields:
      the results if another command has finished the run; then nothing is written.

    Raises:
      WorkdirError: as `check`; or it cannot be written, the disk is full, another process trains
        here, or the run that is here began on other data.
    """
    self._check_path()
    with self._claimed():
      results = self.check()
      if results is None:
        self._begin(data)
      yield results

  @contextlib.contextmanager
  def _claimed(self) -> Iterator[None]:
    if not self._writes:
      yield
      return
    with self.guard():
      self.path.mkdir(parents=True, exist_ok=True)
      probe(self.path)
      lock = files.open_here(self.path / '.lock', os.O_RDWR)
    try:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system drops it with the process
      except BlockingIOError:
        raise errors.WorkdirError(f'another process is training in {self.path}') from None
      yield
    finally:
      os.close(lock)

  def _begin(self, data: plain.Plain) -> None:
    now = _versions()
    versions = self._read('versions.json', _check_versions) if self._begun() else None
    if versions is None:
      self.write_json('versions.json', now | {'data': data})
    else:
      before = versions.get('data', data)
      if before != data:
        raise errors.WorkdirError(
          f'{self.path}: the data changed since the run began:\n  '
          + '\n  '.join(plain.differences(before, data))
          + '\nBring the old data back, choose another --workdir, or remove that directory.'
        )
      last = dict(versions)
      for later in versions.get('continued', ()):
        last |= later
      changed = {name: version for name, version in now.items() if last.get(name) != version}
      if changed:
        step = max(self._steps(), default=0)
        shown = ', '.join(f'{n} {last.get(n, "(unknown)")} -> {v}' for n, v in changed.items())
        _LOG.warning('from step %d on under other versions than before: %s', step, shown)
        continued = [*versions.get('continued', ()), {'after_step': step, **changed}]
        self.write_json('versions.json', versions | {'continued': continued})
    self.write('config.json', plain.to_json(self._run))

  def _check_path(self) -> None:
    """Raises WorkdirError for what could be no directory: no text, too long, below a file."""
    try:
      reason = None if plain.is_text(str(self.path)) else 'it is no text in UTF-8'
      if not reason:
        self.path.stat()
    except FileNotFoundError:
      return
    except OSError as e:
      reason = e.strerror or str(e)
    if reason:
      raise errors.WorkdirError(
        f'{str(self.path)!r} can be no directory: {reason}. Choose another --workdir.'
      )

  def _begun(self) -> bool:
    """Whether anything was trained here: a directory that a refused run left is free to take."""
    return (self.path / 'results.json').exists() or bool(self._steps())

  def _steps(self) -> list[int]:
    """The steps of the checkpoints."""
    return [int(p.name) for p in self.checkpoints.glob('*') if p.name.isdecimal()]

  def _read(self, name: str, check: Callable[[dict[str, Any]], object]) -> dict[str, Any] | None:
    """The JSON object of a file that `check` raises no ValueError for; None if there is none."""
    path = self.path / name
    try:
      value = json.loads(path.read_text(encoding='utf-8'))
      if not isinstance(value, dict):
        raise ValueError('not a JSON object')
      check(value)
    except FileNotFoundError:
      return None
    except (OSError, ValueError, RecursionError) as e:
      raise errors.WorkdirError(
        f'Cannot read {path}: {e}. Bring the file back, or remove {self.path} to train this run '
        'again.'
      ) from e
    return value

  def write(self, name: str, text: str) -> None:
    """Writes a file at once: readers see the old content or the new."""
    if self._writes:
      with self.guard():
        files.write(self.path / name, text)

  def write_json(self, name: str, value: Any) -> None:
    """Writes JSON; see `write`."""
    self.write(name, json.dumps(value, indent=2, ensure_ascii=False) + '\n')

  def check_space(self, needed: int) -> None:
    """Raises WorkdirError unless `needed` bytes are free."""
    free = shutil.disk_usage(self.path).free
    if self._writes and free < needed:
      raise errors.WorkdirError(
        f'{self.path}: the checkpoints need about {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB '
        'are free'
      )

  @contextlib.contextmanager
  def guard(self) -> Iterator[None]:
    """Turns an OSError into a WorkdirError."""
    try:
      yield
    except OSError as e:
      reason = e.strerror or str(e)
      if e.errno == errno.ELOOP:
        reason = f'{e.filename} is a symbolic link'
      raise errors.WorkdirError(
        f'Cannot write to {self.path}: {reason}. What is there stays as it is.'
      ) from e


class Metrics:
  """metrics.jsonl and the TensorBoard events of one run."""

  def __init__(self, workdir: Workdir, step: int):
    """Opens both for a run that goes on after `step`: what was logged beyond it is dropped."""
    self._workdir = workdir
    self._file, self._board = None, None
    if jax.process_index() != 0:
      return
    path = workdir.path / 'metrics.jsonl'
    with workdir.guard():
      if path.exists():
        workdir.write('metrics.jsonl', ''.join(_lines_until(path, step)))
      self._file = os.fdopen(
        files.open_here(path, os.O_WRONLY | os.O_APPEND), 'a', encoding='utf-8'
      )
      board = workdir.path / 'tensorboard'
      board.mkdir(exist_ok=True)
      # Not SummaryWriter: its thread and exit handler would speak after us when the disk is full.
      self._board = event_file_writer.EventsWriter(str(board / 'events'))
      restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._add(step + 1, session_log=restart)  # hides what was logged beyond `step`

  def write(self, record: Mapping[str, Any]) -> None:
    """Appends one record: 'step', 'split', and numbers by name, task or metric."""
    if self._file is None or self._board is None:
      return
    with self._workdir.guard():
      self._file.write(json.dumps(record) + '\n')
      self._file.flush()
      values = [
        value
        for name, number in _scalars(record)
        for value in summary.scalar(f'{record["split"]}/{name}', number).value
      ]
      self._add(record['step'], summary=summary_pb2.Summary(value=values))

  def close(self) -> None:
    """Closes the files; each record was written out when it came."""
    if self._file is not None and self._board is not None:
      with contextlib.suppress(OSError):  # a full disk was reported by `write`
        self._file.close()
        self._board.close()

  def _add(self, step: int, **content: Any) -> None:
    assert self._board is not None
    self._board.write_event(event_pb2.Event(step=step, wall_time=time.time(), **content))
    self._board.flush()


def _versions() -> dict[str, str]:
  """The versions of what a result depends on, and the kind of device."""
  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = 'not installed'
  return found | {'device': jax.devices()[0].device_kind, 'devices': str(jax.device_count())}


def identity(data: pipeline.Data) -> dict[str, Any]:
  """What tells data apart: name, examples a split, and a hash of all that was encoded."""
  digest = hashlib.sha256(json.dumps(data.label_names).encode())
  for name, split in sorted(data.splits.items()):
    digest.update(f'{name} {len(split)}'.encode())
    for array in jax.tree.leaves(split.content):
      digest.update(f'{array.dtype} {array.shape}'.encode())
      digest.update(np.ascontiguousarray(array).data)
  return {
    'name': data.name,
    'examples': dict(data.num_examples),
    'fingerprint': digest.hexdigest(),
  }


def _check_config(content: Mapping[str, Any]) -> None:
  missing = [key for key in ('name', 'variant', 'seed') if key not in content]
  if missing:
    raise ValueError(f'it lacks {", ".join(missing)}')


def _check_results(content: Mapping[str, Any]) -> None:
  results_lib.check(content, ('validation', 'best_step', 'steps', 'seconds'))


def _check_versions(content: Mapping[str, Any]) -> None:
  continued = content.get('continued', [])
  if not isinstance(continued, list) or not all(isinstance(later, dict) for later in continued):
    raise ValueError(f'continued is {continued!r}')
  if not isinstance(content.get('data', {}), dict):
    raise ValueError(f'data is {content["data"]!r}')


def probe(path: pathlib.Path) -> None:
  """Raises OSError unless a file of 1 MB can be written in `path`."""
  with tempfile.TemporaryFile(dir=path) as file:
    file.write(b'\0' * 2**20)
    file.flush()
    os.fsync(file.fileno())


def _lines_until(path: pathlib.Path, step: int) -> Iterator[str]:
  """The lines of steps up to `step`, or up to one that is damaged, as by a killed process."""
  with path.open(encoding='utf-8', errors='replace') as file:
    for line in file:
      try:
        if not line.endswith('\n') or json.loads(line)['step'] > step:
          return
      except (ValueError, KeyError, TypeError):
        return
      yield line


def _scalars(record: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, float]]:
  for name, value in record.items():
    if isinstance(value, Mapping):
      yield from _scalars(value, f'{prefix}{name}/')
    elif isinstance(value, int | float) and not math.isnan(value) and name != 'step':
      yield prefix + name, value
    elif name == 'cosine':
      yield from _pairs(tuple(record['loss']), value)


def _pairs(
  tasks: Sequence[str], matrix: Sequence[Sequence[float | None]]
) -> Iterator[tuple[str, float]]:
  for (i, first), (j, second) in itertools.combinations(enumerate(tasks), 2):
    value = matrix[i][j]
    if value is not None:
      yield f'cosine/{first}/{second}', value
