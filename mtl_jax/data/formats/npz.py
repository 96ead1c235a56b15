"""NumPy's `.npz`: named arrays with a common first axis, a record a row. Read whole."""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from mtl_jax import errors
from mtl_jax.data.formats import _base, _sink, _source


class Npz(_base.Format):
  """A file of arrays `[N, ...]`; arrays of Python objects are refused, as they could run code."""

  name = 'npz'
  suffixes = ('.npz',)

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the rows: numbers and text as in Python, the rest as arrays."""
    del notes
    arrays = self.arrays()
    for row in range(len(next(iter(arrays.values())))):
      place = f'row {row + 1}'
      try:
        fields = {name: _value(array[row]) for name, array in arrays.items()}
      except UnicodeDecodeError as error:
        yield self.fault(place, f'bytes that are not UTF-8 ({error.reason})', str(error.object))
        continue
      yield _base.Record(place, fields, row)

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer of the same arrays, of the rows that are written, with new ones."""
    return _Writer(self, out, new)

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the arrays by name.

    Raises:
      DataError: the file cannot be read, or they have no common first axis.
    """
    content = _source.content(self.path)
    if not content:
      raise self.error('empty')
    if not content.startswith(b'PK'):
      raise self.error(
        'no .npz file: it does not begin as one; numpy.savez(path, name=array, ...) makes one'
      )
    arrays = {}
    try:
      with np.load(io.BytesIO(content), allow_pickle=False) as file:
        for name in file.files:
          arrays[name] = np.asarray(file[name])
    # What zipfile and NumPy raise about a damaged file is of a dozen types.
    except Exception as error:
      which = f'the array after {list(arrays)}: ' if arrays else ''
      raise self.error(f'cannot be read: {which}{error}') from error
    if not arrays:
      raise self.error('holds no array')
    lengths = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
      shapes = ', '.join(f'{name} {list(array.shape)}' for name, array in arrays.items())
      raise self.error(f'the arrays have no common first axis, one entry a record: {shapes}')
    for name, array in arrays.items():
      if array.dtype.hasobject or array.dtype.names:
        raise self.error(f'the array {name!r} is of {array.dtype}: numbers and text can be read')
    return arrays

  def packed(self) -> bool:
    """Whether its arrays are compressed."""
    with zipfile.ZipFile(io.BytesIO(_source.content(self.path))) as file:
      return any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist())


def _value(item: Any) -> Any:
  if isinstance(item, np.ndarray):
    return item
  value = item.item() if item.dtype.kind in 'biufUS' else item
  return value.decode() if isinstance(value, bytes) else value


def _saved(arrays: Mapping[str, np.ndarray], packed: bool) -> bytes:
  """Returns what numpy.savez writes, also of arrays with names of its arguments."""
  content = io.BytesIO()
  kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
  with zipfile.ZipFile(content, 'w', kind) as file:
    for name, array in arrays.items():
      with file.open(f'{name}.npy', 'w', force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)
  return content.getvalue()


class _Writer(_base.Writer):
  def __init__(self, source: Npz, out: _base.Out, new: Sequence[str]):
    self._source = source
    self._arrays = source.arrays()
    self._names = _base.fresh(new, self._arrays)
    self._rows: list[int] = []
    self._values: dict[str, list[Any]] = {name: [] for name in self._names}
    self._sink = _sink.Sink(out)
    self._out: BinaryIO = self._sink.binary('an .npz file')

  def write(self, record: _base.Record, values: Mapping[str, Any]) -> None:
    """Keeps the row and the new values until the end: arrays are written whole."""
    if not isinstance(record.extra, int):
      raise self._source.error(f'{record.place}: no row of this file')
    self._rows.append(record.extra)
    for name, column in self._values.items():
      column.append(values.get(name))

  def close(self) -> None:
    """Writes the arrays, and puts the file in its place."""
    try:
      arrays = {name: array[self._rows] for name, array in self._arrays.items()}
      for name, column in self._values.items():
        arrays[self._names[name]] = self._array(name, column)
      self._out.write(_saved(arrays, self._source.packed()))
    except BaseException:
      self.discard()
      raise
    self._sink.close()

  def _array(self, name: str, column: list[Any]) -> np.ndarray:
    filled = column
    if any(value is None for value in column):
      texts = any(isinstance(value, str) for value in column)
      filled = [('' if texts else np.nan) if value is None else value for value in column]
    try:
      array = np.asarray(filled)
    except ValueError:
      array = np.empty(0, object)
    if array.dtype.hasobject:
      raise errors.DataError(
        f'{name!r}: values of several lengths or types are no array; write another format'
      )
    return array

  def discard(self) -> None:
    """Leaves the file as it was."""
    self._sink.discard()
