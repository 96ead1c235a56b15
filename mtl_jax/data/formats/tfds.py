"""Prepared data sets of TensorFlow Datasets: `tfds:NAME[/CONFIG][:VERSION]:SPLIT`.

Read from the disk, without TensorFlow and without the network.
"""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtl_jax import errors
from mtl_jax.data.formats import _base, _objects, _sink

PREFIX = 'tfds:'
_NAME = re.compile(
  r'tfds:(?P<name>[A-Za-z_]\w*(?:/[\w.+-]+)?)(?::(?P<version>\d+\.\d+\.\d+))?:(?P<split>.+)'
)


class Tfds(_base.Format):
  """One split of a data set in array_record files; classes are turned into their names."""

  name = 'tfds'

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the examples: text as `str`, numbers and lists as in Python, images as arrays."""
    del notes
    features, source = self._source()
    kinds = importlib.import_module('tensorflow_datasets').features
    for row in range(len(source)):
      place = f'row {row + 1}'
      try:
        example = source[row]
      # array_record and the decoders of features raise what they stumbled on.
      except Exception as error:
        raise self.error(f'{place} cannot be read ({error}); prepare the data set anew') from error
      try:
        fields = _python(example, features, kinds)
      except UnicodeDecodeError as error:
        yield self.fault(place, f'bytes that are not UTF-8 ({error.reason})', str(error.object))
        continue
      fields = fields if isinstance(fields, dict) else {'value': fields}
      yield _base.Record(place, fields, row)

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer of JSON Lines: the row, the fields that JSON can hold, the new ones."""
    return _Writer(out, new)

  def _source(self) -> tuple[Any, Any]:
    """Returns the features, and the examples by index."""
    found = _NAME.fullmatch(str(self.path))
    if not found:
      raise errors.DataError(
        f"{str(self.path)!r}: give a data set of TFDS as 'tfds:NAME[/CONFIG][:VERSION]:SPLIT', as "
        "in 'tfds:mnist:train'"
      )
    try:
      library = importlib.import_module('tensorflow_datasets')
    except ImportError as error:
      raise self.error('reading it needs tensorflow-datasets') from error
    name = found['name'] + (f':{found["version"]}' if found['version'] else '')
    folder = self.reading.data_dir or None
    try:
      builder = library.builder(name, data_dir=folder, try_gcs=False)
      splits = dict(builder.info.splits)
    # TFDS imports the code of the data set, which may raise anything.
    except Exception as error:
      raise self.error(f'no such data set ({_first(error)}); {_how(name, folder)}') from error
    if not splits:
      raise self.error(f'not prepared in {builder.data_dir}; {_how(name, folder)}')
    split = found['split']
    if '[' not in split and '+' not in split and split not in splits:
      raise self.error(f'no split {split!r}{errors.nearest(split, splits)}')
    try:
      return builder.info.features, builder.as_data_source(split)
    # A wrong part of a split, missing files, files of another kind than array_record.
    except Exception as error:
      raise self.error(f'cannot be read ({_first(error)}); {_how(name, folder)}') from error


def _first(error: Exception) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _how(name: str, folder: str | None) -> str:
  place = f', data_dir={folder!r}' if folder else ''
  return (
    f'prepare it with\n  import tensorflow_datasets as tfds\n  tfds.builder({name!r}{place})'
    ".download_and_prepare(file_format='array_record')"
  )


def _python(value: Any, feature: Any, kinds: Any) -> Any:
  """Returns a value with text as `str` and the names of classes in place of their indices.

  Args:
    value: what TFDS decoded.
    feature: what it is; None: not known.
    kinds: `tensorflow_datasets.features`.
  """
  if isinstance(feature, kinds.ClassLabel) and feature.names:
    return feature.names[int(value)] if int(value) >= 0 else None
  if isinstance(feature, kinds.Sequence):
    inner = feature.feature
    if isinstance(value, Mapping):  # of dicts: a dict of lists
      return {
        key: [_python(item, inner[key], kinds) for item in items] for key, items in value.items()
      }
    if not getattr(value, 'ndim', 0) > 1:
      return [_python(item, inner, kinds) for item in value]
  if isinstance(value, Mapping):
    known = dict(feature.items()) if isinstance(feature, kinds.FeaturesDict) else {}
    return {key: _python(item, known.get(key), kinds) for key, item in value.items()}
  if isinstance(value, bytes):
    return value.decode()
  if hasattr(value, 'ndim') and value.dtype.kind != 'O':
    return value if value.ndim else value.item()
  if hasattr(value, 'tolist'):
    value = value.tolist()
  return [_python(item, None, kinds) for item in value] if isinstance(value, list) else value


class _Writer(_base.Writer):
  def __init__(self, out: _base.Out, new: Sequence[str]):
    self._new = list(new)
    self._sink = _sink.Sink(out)

  def write(self, record: _base.Record, values: Mapping[str, Any]) -> None:
    """Writes one object a line."""
    old = {
      name: value for name, value in record.fields.items() if not getattr(value, 'ndim', 0) > 1
    }
    names = _base.fresh(self._new, ['row', *record.fields])
    more = {names[name]: values.get(name) for name in self._new}
    self._sink.write(_objects.dumps({'row': record.extra, **old, **more}) + '\n')

  def close(self) -> None:
    """Puts the file in its place."""
    self._sink.close()

  def discard(self) -> None:
    """Leaves the file as it was."""
    self._sink.discard()
