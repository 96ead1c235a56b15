"""Data sets that Hugging Face's `datasets` saved to disk: folders of Arrow files, or one such file.

Read with pyarrow alone (`pip install 'mtl_jax[parquet]'`). Classes are turned into their names;
the index -1, for none, into None. Of a `DatasetDict` a split is named: `folder/train`, or
`folder:train`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_jax import errors
from mtl_jax.data.formats import _arrow, _base, _sink, _source

INFOS = ('dataset_dict.json', 'dataset_info.json', 'state.json')
"""A folder that has one of these files is such a data set."""


_LISTS = ('Sequence', 'List', 'LargeList')


class Datasets(_base.Format):
  """A folder with `state.json`, or one Arrow file; a batch of rows is in memory."""

  name = 'datasets'
  suffixes = ('.arrow',)

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the rows, with Python values."""
    del notes
    yield from _arrow.records(self._named())

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer of an Arrow stream, which `Dataset.from_file` reads, with new columns."""
    ipc = _arrow.module('pyarrow.ipc', self.path)
    batch = next(self._named(), None)
    if batch is None:
      raise self.error('holds no row')
    sink = _sink.Sink(out)
    stream = sink.binary('an Arrow file')
    return _arrow.Writer(self.path, batch.schema, ipc.new_stream, sink, stream, new)

  def folder(self) -> Path:
    """Returns the folder, or file, of the split.

    Raises:
      DataError: there is none.
    """
    path, name = self.path, ''
    if not path.exists():
      before, colon, name = str(path).rpartition(':')
      path = Path(before) if colon else path
      if not path.is_dir():
        raise errors.DataError(f'{self.path}: no such file{_source.near(self.path)}')
    if not name and not (path / INFOS[0]).exists():
      return path
    splits = self._json(path / INFOS[0]).get('splits')
    splits = splits if isinstance(splits, list) else []
    if name not in splits:
      said = (
        f'no split {name!r}{errors.nearest(name, splits)}'
        if name
        else (
          f'several splits; name one of {", ".join(map(str, splits))}, as in {path}:{splits[0]}'
          if splits
          else 'no splits'
        )
      )
      raise errors.DataError(f'{path}: {said}')
    return path / name

  def _files(self, folder: Path) -> list[Path]:
    """Returns the Arrow files of a folder, in order."""
    if folder.is_file():
      return [folder]
    state = self._json(folder / 'state.json')
    if state.get('_indices_files') or state.get('_indices_data_files'):
      raise self.error('saved with an index by an old release of datasets: save it anew')
    try:
      files = [folder / Path(entry['filename']).name for entry in state['_data_files']]
    except (KeyError, TypeError) as error:
      raise self.error("state.json names no '_data_files'") from error
    if not files:
      raise self.error('holds no row')
    return files

  def _json(self, path: Path) -> dict[str, Any]:
    try:
      value = json.loads(_source.content(path))
    except (ValueError, RecursionError) as error:
      if isinstance(error, errors.DataError):
        raise
      raise errors.DataError(f'{path}: invalid JSON ({error})') from error
    if not isinstance(value, dict):
      raise errors.DataError(f'{path}: no JSON object')
    return value

  def _named(self) -> Iterator[Any]:
    """Yields batches with the names of classes in place of their indices."""
    arrow = _arrow.module('pyarrow', self.path)
    folder = self.folder()
    info = folder / 'dataset_info.json'
    features = self._json(info).get('features') if folder.is_dir() and info.exists() else None
    for path in self._files(folder):
      for batch in self._batches(path):
        found = features if isinstance(features, Mapping) else _features(batch.schema)
        yield self._with_names(arrow, batch, found)

  def _batches(self, path: Path) -> Iterator[Any]:
    arrow = _arrow.module('pyarrow', self.path)
    ipc = _arrow.module('pyarrow.ipc', self.path)
    with _source.opened(path) as stream:
      start = stream.read(6)
      if not start:
        raise errors.DataError(f'{path}: empty')
      stream.seek(0)
      try:
        if start == b'ARROW1':
          file = ipc.open_file(arrow.BufferReader(stream.read()))
          batches = (file.get_batch(index) for index in range(file.num_record_batches))
        else:
          batches = iter(ipc.open_stream(stream))
        for batch in batches:
          batch.validate(full=True)
          wrong = _arrow.check(batch.schema) if batch.schema.names else 'it has no columns'
          if wrong:
            raise errors.DataError(f'{path}: {wrong}')
          yield batch
      except errors.DataError:
        raise
      # pyarrow says of a damaged file what it stumbled on, in any of its types of errors.
      except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise errors.DataError(
          f'{path}: truncated or damaged Arrow file ({said}); get a fresh copy'
        ) from error

  def _with_names(self, arrow: Any, batch: Any, features: Mapping[str, Any]) -> Any:
    wrong = (AttributeError, LookupError, TypeError, RecursionError, arrow.ArrowException)
    for index, name in enumerate(batch.schema.names):
      feature = features.get(name)
      try:
        if _has_classes(feature):
          kind = _kind(arrow, batch.schema.types[index], feature)
          values = [_named(value, feature) for value in batch.column(index).to_pylist()]
          column = arrow.array(values, kind)
          batch = batch.set_column(index, arrow.field(name, kind), column)
      except wrong as error:
        raise self.error(f'the column {name!r} does not fit its features ({error})') from error
    return batch.replace_schema_metadata(None)


def _features(schema: Any) -> Mapping[str, Any]:
  """Returns the features that an Arrow file itself names."""
  try:
    features = json.loads((schema.metadata or {})[b'huggingface'])['info']['features']
  except (KeyError, TypeError, ValueError):
    return {}
  return features if isinstance(features, Mapping) else {}


def _has_classes(feature: Any) -> bool:
  if isinstance(feature, Mapping):
    return feature.get('_type') == 'ClassLabel' or any(map(_has_classes, feature.values()))
  return isinstance(feature, list) and any(map(_has_classes, feature))


def _kind(arrow: Any, kind: Any, feature: Any) -> Any:
  """Returns an Arrow type with text in place of the indices of classes."""
  if not _has_classes(feature):
    return kind
  if isinstance(feature, list):
    return arrow.list_(_kind(arrow, kind.value_type, feature[0]))
  if feature.get('_type') == 'ClassLabel':
    return arrow.string()
  if feature.get('_type') not in _LISTS:
    return arrow.struct(
      [field.with_type(_kind(arrow, field.type, feature.get(field.name))) for field in kind]
    )
  inner = feature['feature']
  if arrow.types.is_struct(kind):  # of dicts: stored as a dict of lists
    return arrow.struct(
      [
        field.with_type(arrow.list_(_kind(arrow, field.type.value_type, inner[field.name])))
        for field in kind
      ]
    )
  return arrow.list_(_kind(arrow, kind.value_type, inner))


def _named(value: Any, feature: Any) -> Any:
  """Returns a value with the names of classes in place of their indices."""
  if value is None or not _has_classes(feature):
    return value
  if isinstance(feature, list):
    return [_named(item, feature[0]) for item in value]
  if feature.get('_type') == 'ClassLabel':
    if value < -1:
      raise IndexError(f'index {value}')
    return feature['names'][value] if value >= 0 else None
  if feature.get('_type') in _LISTS:
    inner = feature['feature']
    if isinstance(value, Mapping):  # of dicts
      return {key: [_named(item, inner[key]) for item in items] for key, items in value.items()}
    return [_named(item, inner) for item in value]
  return {key: _named(item, feature.get(key)) for key, item in value.items()}
