"""The directory of one run: whose it is, and the files in it other than checkpoints.

Only the process with index 0 writes. What is written, and when, is decided by `_loop`.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import tensorboardX

from mtl_jax import config as config_lib
from mtl_jax import errors

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'grain', 'mtl_jax')


class Workdir:
  """The directory of one run (one variant, one seed).

  Attributes:
    path: the directory.
  """

  def __init__(self, path: pathlib.Path, run: config_lib.Plain):
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
      WorkdirError: another config's run is here, or a file cannot be read.
    """
    existing = _read_json(self.path / 'config.json')
    if existing is not None:
      ours = json.loads(config_lib.to_json(self._run))
      changed = config_lib.differences(existing, ours)
      if changed:
        raise errors.WorkdirError(
          f'{self.path} holds the run of another config. These keys differ (there -> now):\n  '
          + '\n  '.join(changed)
          + '\nChoose another --workdir, or remove that directory.'
        )
    return _read_json(self.path / 'results.json')

  @contextlib.contextmanager
  def open(self) -> Iterator[None]:
    """Claims the directory for this process and writes config.json and versions.json.

    Raises:
      WorkdirError: it cannot be written, the disk is full, or another process trains here.
    """
    if not self._writes:
      yield
      return
    with self.guard():
      self.path.mkdir(parents=True, exist_ok=True)
      probe(self.path)
      lock = (self.path / '.lock').open('w')
    with lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system drops it with the process
      except BlockingIOError:
        raise errors.WorkdirError(f'another process is training in {self.path}') from None
      if not (self.path / 'versions.json').exists():
        self.write_json('versions.json', versions())
      self.write('config.json', config_lib.to_json(self._run))
      yield

  def write(self, name: str, text: str) -> None:
    """Writes a file at once: readers see the old content or the new."""
    if not self._writes:
      return
    with self.guard():
      handle, temporary = tempfile.mkstemp(prefix=f'.{name}.', dir=self.path)
      with os.fdopen(handle, 'w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
      pathlib.Path(temporary).chmod(0o644)
      pathlib.Path(temporary).replace(self.path / name)

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
      raise errors.WorkdirError(
        f'Cannot write to {self.path}: {e.strerror or e}. What is there stays as it is.'
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
      self._file = path.open('a', encoding='utf-8')
      self._board = tensorboardX.SummaryWriter(
        str(workdir.path / 'tensorboard'), purge_step=step + 1, write_to_disk=True
      )

  def write(self, record: Mapping[str, Any]) -> None:
    """Appends one record: 'step', 'split', and numbers by name, task or metric."""
    if self._file is None or self._board is None:
      return
    with self._workdir.guard():
      self._file.write(json.dumps(record) + '\n')
      self._file.flush()
      for name, value in _scalars(record):
        self._board.add_scalar(f'{record["split"]}/{name}', value, record['step'])

  def close(self) -> None:
    """Writes out what is buffered."""
    if self._file is not None and self._board is not None:
      with self._workdir.guard():
        self._file.close()
        self._board.close()


def versions() -> dict[str, str]:
  """The versions of what a result depends on, and the kind of device."""
  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = 'not installed'
  return found | {'device': jax.devices()[0].device_kind, 'devices': str(jax.device_count())}


def probe(path: pathlib.Path) -> None:
  """Raises OSError unless a file of 1 MB can be written in `path`."""
  with tempfile.TemporaryFile(dir=path) as file:
    file.write(b'\0' * 2**20)
    file.flush()
    os.fsync(file.fileno())


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as e:
    raise errors.WorkdirError(f'Cannot read {path}: {e}') from e


def _lines_until(path: pathlib.Path, step: int) -> Iterator[str]:
  """The whole lines of steps up to `step`; a killed process may leave half a line at the end."""
  with path.open(encoding='utf-8', errors='replace') as file:
    for line in file:
      if not line.endswith('\n') or json.loads(line)['step'] > step:
        return
      yield line


def _scalars(record: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, float]]:
  for name, value in record.items():
    if isinstance(value, Mapping):
      yield from _scalars(value, f'{prefix}{name}/')
    elif isinstance(value, int | float) and name != 'step':
      yield prefix + name, value
