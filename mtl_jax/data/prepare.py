"""Writes data sets to disk, once, and reads them: `python -m mtl_jax.data.prepare NAME`.

Their formats are known to the builders; batches are made in `pipeline`.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from mtl_jax import errors
from mtl_jax.data import builders

if TYPE_CHECKING:
  from mtl_jax.data.builders import _base


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A data set on disk: its folder, its examples per split, and whether this call wrote it."""

  path: Path
  num_examples: dict[str, int]
  new: bool


def default_data_dir() -> Path:
  """Returns `$MTL_JAX_DATA`, or `~/.cache/mtl_jax` where that is not set."""
  return Path(os.environ.get('MTL_JAX_DATA') or '~/.cache/mtl_jax').expanduser()


def prepare(
  name: str,
  data_dir: str | Path | None = None,
  manual_dir: str | Path | None = None,
  download: bool = False,
) -> Prepared:
  """Writes a data set to `data_dir`, unless it is there already.

  All raw files are read and checked first; whatever goes wrong, nothing half-written is left that
  a later call could take for the data set.

  Args:
    name: the data set.
    data_dir: where data sets are kept; None: `default_data_dir()`.
    manual_dir: folder of raw files.
    download: raw files may be fetched from the network, each checked against its SHA-256.

  Raises:
    ConfigError: no data set of this name.
    DataError: raw files are missing or damaged, or `data_dir` cannot be written.
  """
  builder = _builder(name, data_dir, manual_dir=manual_dir, download=download)
  if manual_dir is not None and not Path(manual_dir).expanduser().is_dir():
    raise errors.DataError(f'manual_dir {str(manual_dir)!r} is not a folder')
  new = not _is_prepared(builder)
  if new:
    try:
      _write(builder)
    except OSError as error:
      # Of two processes that prepare at once one comes second, and finds the data set in place.
      new = False
      if not _is_prepared(builder):
        raise errors.DataError(
          f'cannot write data set {name!r} to {builder.data_dir_root}: {error.strerror or error}; '
          'give a folder with write permission and free space as --data_dir or $MTL_JAX_DATA'
        ) from error
    builder = _builder(name, data_dir)
  counts = {split: info.num_examples for split, info in builder.info.splits.items()}
  return Prepared(Path(builder.data_dir), counts, new)


class Source(Sequence[dict[str, Any]]):
  """The examples of one split by index: text as `str`, sequences as lists."""

  def __init__(self, records: Any):
    self._records = records

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return self._read(range(*index.indices(len(self))))
    return self._read([index])[0]

  def __iter__(self) -> Iterator[dict[str, Any]]:
    for start in range(0, len(self), 1024):
      yield from self[start : start + 1024]

  def _read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
    if not indices:
      return []
    return [_to_python(record) for record in self._records.__getitems__(list(indices))]


def load_source(name: str, split: str, data_dir: str | Path | None = None) -> Source:
  """Returns the examples of one split of a prepared data set.

  Args:
    name: the data set.
    split: `'train'`, `'validation'` or `'test'`.
    data_dir: where data sets are kept; None: `default_data_dir()`.

  Raises:
    ConfigError: no data set, or no split, of this name.
    DataError: the data set has not been prepared; the message says how to.
  """
  builder = _prepared_builder(name, data_dir)
  if split not in builder.info.splits:
    raise errors.ConfigError(
      f'data set {name!r} has no split {split!r}{errors.nearest(split, builder.info.splits)}'
    )
  with _quiet():
    return Source(builder.as_data_source(split))


def read(name: str, data_dir: str | Path | None = None) -> Mapping[str, Sequence[dict[str, Any]]]:
  """Returns all examples of a prepared data set by split, in memory; not to be changed.

  A process that asks again for the same data set gets the same lists, without reading them again.

  Raises:
    ConfigError: no data set of this name.
    DataError: the data set has not been prepared; the message says how to.
  """
  root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
  path = Path(_prepared_builder(name, root).data_dir)
  return _read(name, root, (path / 'dataset_info.json').stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(name: str, root: Path, written: int) -> Mapping[str, Sequence[dict[str, Any]]]:
  del written  # tells a data set from one prepared anew in the same place
  splits = _builder(name, root).info.splits
  return {split: list(load_source(name, split, root)) for split in splits}


def command(name: str, data_dir: str | Path | None = None) -> str:
  """Returns the command line that prepares a data set."""
  words = ['python', '-m', 'mtl_jax.data.prepare', name]
  if builders.get(name).NEEDS == 'files':
    words += ['--download']
  if data_dir is not None:
    words += ['--data_dir', str(data_dir)]
  return shlex.join(words)


def _builder(name: str, data_dir: str | Path | None, **kwargs: Any) -> '_base.Builder':
  root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
  with _quiet():
    return builders.get(name)(data_dir=root, **kwargs)


def _prepared_builder(name: str, data_dir: str | Path | None) -> '_base.Builder':
  builder = _builder(name, data_dir)
  if not _is_prepared(builder):
    raise errors.DataError(
      f'data set {name!r} is not in {builder.data_dir_root}; prepare it with\n'
      f'  {command(name, data_dir)}'
    )
  return builder


def _is_prepared(builder: '_base.Builder') -> bool:
  path = Path(builder.data_dir)
  if not path.exists():
    return False
  # TFDS renames the folder into place when all is written, and takes any folder there as done.
  if not (path / 'dataset_info.json').exists():
    raise errors.DataError(
      f'{path} holds no data set {builder.name!r}: files are missing; remove this folder and '
      'prepare it again'
    )
  return True


def _write(builder: '_base.Builder') -> None:
  import tensorflow_datasets as tfds  # takes a while to import

  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  with _quiet():
    builder.download_and_prepare(
      file_format='array_record',
      download_config=tfds.download.DownloadConfig(
        force_checksums_validation=True, try_download_gcs=False
      ),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Drops TFDS's notes, which it prints and logs; its progress bars and warnings stay."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.WARNING)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


def _to_python(value: Any) -> Any:
  if isinstance(value, bytes):
    return value.decode()
  if isinstance(value, dict):
    return {key: _to_python(item) for key, item in value.items()}
  if hasattr(value, 'tolist'):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [_to_python(item) for item in value]
  return value


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns its exit code: 0, or 2 with the reason on stderr."""
  parser = argparse.ArgumentParser(
    prog='python -m mtl_jax.data.prepare',
    description='Reads the raw files of a data set, checks them, and writes it for training.',
    epilog=f'Data sets: {", ".join(sorted(builders.REGISTRY))}.',
  )
  parser.add_argument('name', metavar='NAME', help='the data set')
  parser.add_argument('--manual_dir', metavar='DIR', help='folder that holds the raw files')
  parser.add_argument(
    '--data_dir',
    metavar='DIR',
    help='where data sets are kept (default: $MTL_JAX_DATA, or ~/.cache/mtl_jax)',
  )
  parser.add_argument(
    '--download',
    action='store_true',
    help='fetch raw files from their public home, each checked against its SHA-256',
  )
  arguments = parser.parse_args(argv)
  try:
    prepared = prepare(arguments.name, arguments.data_dir, arguments.manual_dir, arguments.download)
  except (errors.ConfigError, errors.DataError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(
    f'{arguments.name}: {"prepared in" if prepared.new else "already prepared in"} {prepared.path}'
  )
  for split, count in prepared.num_examples.items():
    print(f'  {split:<10} {count:>9,} examples')
  return 0


if __name__ == '__main__':
  sys.exit(main())
