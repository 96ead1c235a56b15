"""What every builder shares: where raw files come from, and how they are written. No format."""

import abc
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from mtl_jax import errors
from mtl_jax.data import specs
from mtl_jax.data.builders import SOURCES, _raw

Examples = Mapping[str, list[tuple[str, dict[str, Any]]]]  # split -> (key, example) in any order


class Builder(tfds.core.GeneratorBasedBuilder):
  """A TFDS builder that reads and checks all of its raw files before anything is written.

  Attributes:
    INPUT: what a model reads.
    TASKS: the tasks by name.
    OWNER: the feature that names the task an example belongs to, where tasks have examples of their
      own; `''`: every example is an input of all tasks.
    NEEDS: `'package'`, raw files that an installed package brings, so that preparing needs no
      consent; or `'files'`, raw files from `manual_dir` or, when asked for, from the network.
    FILES: URL -> TFDS `UrlInfo` (size, SHA-256) of the raw files on the network.
    RAW: the names of the raw files, relative to `manual_dir`.
    PUBLISHED: name -> SHA-256 of the raw files that papers report on, where these are known.
  """

  INPUT: ClassVar[specs.InputSpec]
  TASKS: ClassVar[Mapping[str, specs.TaskSpec]]
  OWNER: ClassVar[str] = ''
  NEEDS: ClassVar[Literal['package', 'files']]
  FILES: ClassVar[Mapping[str, checksums.UrlInfo]] = {}
  RAW: ClassVar[tuple[str, ...]]
  PUBLISHED: ClassVar[Mapping[str, str]] = {}

  def __init__(
    self,
    *,
    manual_dir: str | Path | None = None,
    download: bool = False,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    self.manual_dir = None if manual_dir is None else Path(manual_dir).expanduser()
    self.download = download

  # TFDS reads these from a file beside the module; a class attribute needs no package data.
  @tfds.core.utils.classproperty
  @classmethod
  def url_infos(cls) -> dict[str, Any]:
    """The checksums of `FILES`, for the download manager."""
    return dict(cls.FILES)

  def manual_sources(self) -> dict[str, str]:
    """Returns name -> SHA-256 of the raw files in `manual_dir`; empty without one.

    Raises:
      DataError: a raw file is missing or cannot be read.
    """
    if self.manual_dir is None:
      return {}
    return _sources({name: self.manual_dir / name for name in self.RAW})

  def _locate(self, dl_manager: Any) -> dict[str, Path]:
    """Returns the path of each raw file by name."""
    if self.manual_dir is not None:
      return {name: self.manual_dir / name for name in self.RAW}
    return {name: Path(path) for name, path in self.find(dl_manager).items()}

  @abc.abstractmethod
  def find(self, dl_manager: Any) -> Mapping[str, str | Path]:
    """Returns the path of each raw file by name, where there is no `manual_dir`.

    Raises:
      DataError: there is no such file, or downloading failed.
    """

  @abc.abstractmethod
  def read(self, paths: Mapping[str, Path]) -> Examples:
    """Returns the examples of each split from the raw files by name.

    Raises:
      DataError: a raw file is missing or is not what its format says.
    """

  def fetch(self, dl_manager: Any, urls: Any) -> Any:
    """Returns the paths of downloaded files, each checked against its SHA-256.

    Args:
      dl_manager: TFDS's download manager.
      urls: a nested structure of addresses, all of them in `FILES`.

    Raises:
      DataError: downloading was not asked for, failed, or brought another file than expected.
    """
    if not self.download:
      raise errors.DataError(
        f'data set {self.name!r} needs its raw files: run\n'
        f'  python -m mtl_jax.data.prepare {self.name} --download\n'
        'to fetch them from their public home, or give --manual_dir with a folder that holds them'
      )
    try:
      return dl_manager.download(urls)
    except Exception as error:  # requests, TFDS and the file system each have their own
      raise errors.DataError(f'data set {self.name!r}: download failed: {error}') from error

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    paths = self._locate(dl_manager)
    self._written_from = _sources(paths)
    splits = self.read(paths)
    for split, examples in splits.items():
      if not examples:
        raise errors.DataError(f'data set {self.name!r}: the split {split!r} is empty')
      for key, example in examples:
        for field, value in example.items():
          if complaint := errors.no_text(value):
            raise errors.DataError(
              f'data set {self.name!r}, split {split!r}, example {key!r}: field {field!r} '
              f'{complaint}'
            )
    return {split: self._generate_examples(examples) for split, examples in splits.items()}

  def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
    super()._download_and_prepare(dl_manager, download_config)
    # Still the incomplete folder, which TFDS renames when all is written.
    (Path(self.data_dir) / SOURCES).write_text(json.dumps(self._written_from, indent=1) + '\n')

  def _generate_examples(
    self, examples: list[tuple[str, dict[str, Any]]]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from examples


def _sources(paths: Mapping[str, Path]) -> dict[str, str]:
  # A raw file that is gzipped by name counts as it is, any other by what it holds.
  return {
    name: _raw.sha256(path, unpack=not name.endswith('.gz')) for name, path in sorted(paths.items())
  }
