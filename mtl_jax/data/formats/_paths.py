"""Which files are meant, and which format each has."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtl_jax import errors
from mtl_jax.data.formats import _base, _source, hugging_face, json_lines, spans, tfds, whole_json


def find(patterns: Sequence[str]) -> list[Path]:
  """Returns the files that paths and patterns name, in the order of these.

  `*`, `?`, `[...]` and `**` are expanded, sorted; a name that is there as it stands is no pattern.
  A file that two patterns name comes once.

  Args:
    patterns: of files and folders; `tfds:NAME:SPLIT`, and a split of a folder that Hugging Face's
      `datasets` saved (`folder:train`), pass through.

  Raises:
    DataError: a pattern or path names nothing; with the nearest name in its folder.
  """
  found: dict[Path, None] = {}
  for pattern in patterns:
    found |= dict.fromkeys(_expanded(pattern))
  return list(found)


def _expanded(pattern: str) -> list[Path]:
  wrong = errors.no_text(pattern) or ('has a NUL' if '\0' in pattern else '')
  if wrong or not pattern:
    raise errors.DataError(f'{pattern!r} cannot be a path{f": it {wrong}" if wrong else ""}')
  try:
    path = Path(pattern) if pattern.startswith(tfds.PREFIX) else Path(pattern).expanduser()
    if pattern.startswith(tfds.PREFIX) or path.exists() or _split_of(path):
      return [path]
    names = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(pattern) else []
  except (OSError, RuntimeError) as error:  # too long; ~ of nobody
    raise errors.DataError(f'{pattern!r} cannot be a path ({error})') from error
  if not names:
    what = 'no file matches' if glob.has_magic(pattern) else 'no such file'
    raise errors.DataError(f'{path}: {what}{_source.near(path)}')
  return [Path(name) for name in names]


def _split_of(path: Path) -> bool:
  """Whether it is a split of a saved DatasetDict: `folder:train`."""
  folder, colon, _ = str(path).rpartition(':')
  return bool(colon) and (Path(folder) / hugging_face.INFOS[0]).is_file()


def format_of(
  path: Path, reading: _base.Reading, formats: Mapping[str, type[_base.Format]]
) -> _base.Format:
  """Returns the file as its format.

  Raises:
    DataError: there is no such format, the suffix says none, or there is no such file.
  """
  if reading.format:
    if reading.format not in formats:
      hint = errors.nearest(reading.format, formats)
      raise errors.DataError(f'{path}: there is no format {reading.format!r}{hint}')
    return formats[reading.format](path, reading)
  name = _name(path, formats)
  found = formats[name](path, reading)
  if isinstance(found, json_lines.JsonLines | whole_json.Json) and _is_spans(found):
    return formats[spans.Spans.name](path, reading)
  return found


def _name(path: Path, formats: Mapping[str, type[_base.Format]]) -> str:
  if str(path).startswith(tfds.PREFIX):
    return tfds.Tfds.name
  try:
    if path.is_dir():
      saved = any((path / name).is_file() for name in hugging_face.INFOS)
      return hugging_face.Datasets.name if saved else 'images'
    if _split_of(path):
      return hugging_face.Datasets.name
  except OSError as error:
    raise errors.DataError(f'{path}: cannot be read ({error.strerror})') from error
  suffixes = {suffix: name for name, kind in formats.items() for suffix in kind.suffixes}
  suffix = Path(path.stem if path.suffix.lower() == '.gz' else path.name).suffix.lower()
  if suffix in suffixes:
    return suffixes[suffix]
  with _source.opened(path):  # a file that is not there has no other trouble
    pass
  said = (
    f'the suffix {suffix!r} says no format' if suffix else 'no suffix, which would say a format'
  )
  raise errors.DataError(
    f'{path}: {said}; rename the file ({", ".join(sorted(suffixes))}), or set format to one of '
    f'{", ".join(sorted(formats))}'
  )


def _is_spans(source: json_lines.JsonLines | whole_json.Json) -> bool:
  return spans.is_spans(source.read(_base.Notes()))
