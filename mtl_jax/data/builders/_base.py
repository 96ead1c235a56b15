"""What every builder shares: where raw files come from, and how they are written. No format."""

import abc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from mtl_jax import errors
from mtl_jax.data import specs

Examples = Mapping[str, list[tuple[str, dict[str, Any]]]]  # split -> (key, example) in any order


class Builder(tfds.core.GeneratorBasedBuilder):
  """A TFDS builder that reads and checks all of its raw files before anything is written.

  Attributes:
    INPUT: what a model reads.
    TASKS: the tasks by name.
    NEEDS: `'package'`, raw files that an installed package brings, so that preparing needs no
      consent; or `'files'`, raw files from `manual_dir` or, when asked for, from the network.
    FILES: URL -> TFDS `UrlInfo` (size, SHA-256) of the raw files on the network.
  """

  INPUT: ClassVar[specs.InputSpec]
  TASKS: ClassVar[Mapping[str, specs.TaskSpec]]
  NEEDS: ClassVar[Literal['package', 'files']]
  FILES: ClassVar[Mapping[str, checksums.UrlInfo]] = {}

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

  @abc.abstractmethod
  def read(self, dl_manager: Any) -> Examples:
    """Returns the examples of each split.

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
    splits = self.read(dl_manager)
    for split, examples in splits.items():
      if not examples:
        raise errors.DataError(f'data set {self.name!r}: the split {split!r} is empty')
    return {split: self._generate_examples(examples) for split, examples in splits.items()}

  def _generate_examples(
    self, examples: list[tuple[str, dict[str, Any]]]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from examples
