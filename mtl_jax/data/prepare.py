"""Writes data sets to disk, once, and reads them: `python -m mtl_jax.data.prepare NAME`.

Their formats are known to the builders; batches are made in `pipeline`.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import os
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from mtl_jax import errors
from mtl_jax.data import builders

if TYPE_CHECKING:
  from mtl_jax.data.builders import _base

_EXIT_CODES_HELP = """\
exit codes:
  0  the data set is prepared
  2  the command line: an unknown flag or data set
  3  the data: raw files missing or damaged, data_dir cannot be written, or the
     data set is there already from other files
"""


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A data set on disk.

  Attributes:
    path: its folder.
    num_examples: split -> number of examples.
    new: whether this call wrote it.
    unpublished: the raw files in `manual_dir` that are not the published ones, by name.
  """

  path: Path
  num_examples: dict[str, int]
  new: bool
  unpublished: tuple[str, ...] = ()


def default_data_dir() -> Path:
  """Returns `$MTL_JAX_DATA`, or `~/.cache/mtl_jax` where that is not set."""
  return Path(os.environ.get('MTL_JAX_DATA') or '~/.cache/mtl_jax').expanduser()


def prepare(
  name: str,
  data_dir: str | Path | None = None,
  manual_dir: str | Path | None = None,
  download: bool = False,
  overwrite: bool = False,
) -> Prepared:
  """Writes a data set to `data_dir`, unless it is there already.

  All raw files are read and checked first; whatever goes wrong, nothing half-written is left that
  a later call could take for the data set.

  Args:
    name: the data set.
    data_dir: where data sets are kept; None: `default_data_dir()`.
    manual_dir: folder of raw files.
    download: raw files may be fetched from the network, each checked against its SHA-256.
    overwrite: a data set that is there already is replaced, once the new one is written in full.

  Raises:
    ConfigError: no data set of this name.
    DataError: raw files are missing or damaged, `data_dir` cannot be written, or the data set is
      there already and was prepared from other files than those in `manual_dir`.

  Warns:
    UserWarning: files in `manual_dir` are not the published ones; they are used all the same.
  """
  prepared = _prepare(name, data_dir, manual_dir, download, overwrite)
  if prepared.unpublished:
    warnings.warn(_unpublished(name, manual_dir, prepared.unpublished), stacklevel=2)
  return prepared


def _prepare(
  name: str,
  data_dir: str | Path | None,
  manual_dir: str | Path | None,
  download: bool,
  overwrite: bool,
) -> Prepared:
  """Does what `prepare` does, but for the warning."""
  builder = _builder(name, data_dir, manual_dir=manual_dir, download=download)
  if manual_dir is not None and not Path(manual_dir).expanduser().is_dir():
    raise errors.DataError(f'manual_dir {str(manual_dir)!r} is not a folder')
  place = Path(builder.data_dir)
  replaces = overwrite and place.exists()
  new = replaces or not _is_prepared(builder)
  if new:
    try:
      if replaces:
        _replace(place, name, Path(builder.data_dir_root), manual_dir, download)
      else:
        _write(builder)
    except OSError as error:
      # Of two processes that prepare at once one comes second, and finds the data set in place.
      new = False
      if replaces or not _is_prepared(builder):
        raise errors.DataError(
          f'cannot write data set {name!r} to {builder.data_dir_root}: {error.strerror or error}; '
          'give a folder with write permission and free space as --data_dir or $MTL_JAX_DATA'
        ) from error
  unpublished: tuple[str, ...] = ()
  if manual_dir is not None:
    # What was written has its own record, so that the files are not read a second time.
    sources = _written_from(place) if new else builder.manual_sources()
    if not new:
      _check_sources(place, sources, command(name, data_dir, manual_dir, overwrite=True))
    unpublished = tuple(
      file for file, digest in builder.PUBLISHED.items() if sources.get(file) != digest
    )
  builder = _builder(name, data_dir)
  counts = {split: info.num_examples for split, info in builder.info.splits.items()}
  return Prepared(place, counts, new, unpublished)


def _written_from(place: Path) -> dict[str, str]:
  return json.loads((place / builders.SOURCES).read_text())


def _check_sources(place: Path, sources: Mapping[str, str], replace_command: str) -> None:
  """Raises DataError where the data set in `place` was prepared from other files."""
  how = (
    f'replace it with\n  {replace_command}\n(in Python: overwrite=True), or give another data_dir'
  )
  try:
    written = _written_from(place)
  except FileNotFoundError:  # prepared before sources were noted
    return
  except (OSError, ValueError) as error:
    raise errors.DataError(f'{place / builders.SOURCES} cannot be read ({error}); {how}') from error
  others = [file for file, digest in sources.items() if written.get(file) != digest]
  if others:
    raise errors.DataError(
      f'{place} holds a data set that was prepared from other files than those in manual_dir, '
      f'which differ in {", ".join(others)}; {how}'
    )


def _unpublished(name: str, manual_dir: str | Path | None, files: Sequence[str]) -> str:
  return (
    f'data set {name!r}: not the published split: numbers do not compare with the papers; '
    f'files in {manual_dir} that differ: {", ".join(files)}'
  )


class Source(Sequence[dict[str, Any]]):
  """The examples of one split by index: text as `str`, sequences as lists, inputs as arrays."""

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


def command(
  name: str,
  data_dir: str | Path | None = None,
  manual_dir: str | Path | None = None,
  overwrite: bool = False,
) -> str:
  """Returns the command line that prepares a data set; for the arguments see `prepare`."""
  words = ['python', '-m', 'mtl_jax.data.prepare', name]
  if manual_dir is not None:
    words += ['--manual_dir', str(manual_dir)]
  elif builders.get(name).NEEDS == 'files':
    words += ['--download']
  if data_dir is not None and Path(data_dir).expanduser() != default_data_dir():
    words += ['--data_dir', str(data_dir)]
  if overwrite:
    words += ['--overwrite']
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


def _replace(
  place: Path, name: str, root: Path, manual_dir: str | Path | None, download: bool
) -> None:
  """Writes a data set beside the one in `place`, then swaps them; a failure leaves the old one."""
  with tempfile.TemporaryDirectory(prefix='.replacing_', dir=root) as folder:
    builder = _builder(name, folder, manual_dir=manual_dir, download=download)
    _write(builder, root / 'downloads')
    old = Path(folder) / 'old'
    try:
      place.rename(old)
      Path(builder.data_dir).rename(place)
    except BaseException:
      if old.exists() and not place.exists():
        old.rename(place)
      raise


def _write(builder: '_base.Builder', download_dir: Path | None = None) -> None:
  import tensorflow_datasets as tfds  # takes a while to import

  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  with _quiet():
    builder.download_and_prepare(
      download_dir=download_dir,  # None: in the data_dir
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
  if getattr(value, 'ndim', 0) and value.dtype in (np.uint8, np.float32):
    return value  # what a model reads; labels are of other types
  if hasattr(value, 'tolist'):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [_to_python(item) for item in value]
  return value


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns its exit code, with the reason on stderr: see `--help`."""
  parser = argparse.ArgumentParser(
    prog='python -m mtl_jax.data.prepare',
    description='Reads the raw files of a data set, checks them, and writes it for training.',
    epilog=f'data sets:\n  {", ".join(sorted(builders.REGISTRY))}\n\n{_EXIT_CODES_HELP}',
    formatter_class=argparse.RawDescriptionHelpFormatter,
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
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='replace a data set that is there already, once the new one is written in full',
  )
  arguments = parser.parse_args(argv)
  name, manual_dir = arguments.name, arguments.manual_dir
  try:
    prepared = _prepare(
      name, arguments.data_dir, manual_dir, arguments.download, arguments.overwrite
    )
  except (errors.ConfigError, errors.DataError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2 if isinstance(error, errors.ConfigError) else 3
  if prepared.unpublished:
    print(f'warning: {_unpublished(name, manual_dir, prepared.unpublished)}', file=sys.stderr)
  print(f'{name}: {"prepared in" if prepared.new else "already prepared in"} {prepared.path}')
  for split, count in prepared.num_examples.items():
    print(f'  {split:<10} {count:>9,} examples')
  return 0


if __name__ == '__main__':
  sys.exit(main())
