"""Records of Arrow batches and back, for what is stored that way. Imports pyarrow when asked to."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mtl_jax import errors
from mtl_jax.data.formats import _base, _sink

BATCH = 1024  # rows at a time


class _Row(NamedTuple):
  """Where a record stands, so that the writer has the types it had."""

  batch: Any  # pyarrow.RecordBatch
  row: int


def module(name: str, path: Any) -> Any:
  """Returns a module of pyarrow.

  Raises:
    DataError: it is not installed; the message says how to.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise errors.DataError(
      f"{path}: reading it needs pyarrow: pip install 'mtl_jax[parquet]'"
    ) from error


def records(batches: Iterable[Any], start: int = 0) -> Iterator[_base.Record]:
  """Yields the rows of batches, with Python values.

  Args:
    batches: `pyarrow.RecordBatch`es.
    start: how many rows came before.
  """
  for whole in batches:
    for at in range(0, whole.num_rows, BATCH):
      batch = whole.slice(at, BATCH)
      names = batch.schema.names
      columns = [_values(batch.column(index)) for index in range(len(names))]
      for index in range(batch.num_rows):
        start += 1
        fields = {name: column[index] for name, column in zip(names, columns, strict=True)}
        yield _base.Record(f'row {start}', fields, _Row(batch, index))


def _values(column: Any) -> list[Any]:
  try:
    return column.to_pylist()
  except (ValueError, OverflowError):  # nanoseconds, and years that Python's dates do not have
    return column.cast('string').to_pylist()


def check(schema: Any) -> str:
  """Returns what is wrong with the columns of a schema, else ''."""
  return _base.check_names(schema.names)


class Writer(_base.Writer):
  """Writes batches of the types they had, with new columns whose types the first values show."""

  def __init__(
    self,
    path: Any,
    schema: Any,
    begin: Callable[[Any, Any], Any],
    sink: _sink.Sink,
    stream: Any,
    new: Sequence[str],
  ):
    """Opens a writer.

    Args:
      path: of the file that was read, for messages.
      schema: of the old columns.
      begin: `(stream, schema)` to a writer with `write_batch` and `close`.
      sink: where the stream comes from.
      stream: of bytes.
      new: names of columns.
    """
    self._arrow = module('pyarrow', path)
    self._path = path
    self._schema = schema
    self._begin = begin
    self._sink = sink
    self._stream = stream
    self._names = _base.fresh(new, schema.names)
    self._writer: Any = None
    self._records: list[_base.Record] = []
    self._values: list[Mapping[str, Any]] = []

  def write(self, record: _base.Record, values: Mapping[str, Any]) -> None:
    """Keeps the row until a batch is full, then writes that."""
    self._records.append(record)
    self._values.append(dict(values))
    if len(self._records) == BATCH:
      self._flush()

  def _flush(self) -> None:
    rows, self._records = self._records, []
    values, self._values = self._values, []
    new = {
      name: [_base.plain(row.get(column)) for row in values] for column, name in self._names.items()
    }
    try:
      arrays = [self._old(field, rows) for field in self._schema]
      if self._writer is None:
        fields = [self._field(name, column) for name, column in new.items()]
        schema = self._arrow.schema([*self._schema, *fields], self._schema.metadata)
        self._writer = self._begin(self._stream, schema)
        self._types = [field.type for field in fields]
      for column, kind in zip(new.values(), self._types, strict=True):
        arrays.append(self._arrow.array(column, kind))
      schema = self._arrow.schema(
        [*self._schema, *map(self._arrow.field, self._names.values(), self._types)],
        self._schema.metadata,
      )
      if rows:
        self._writer.write_batch(self._arrow.RecordBatch.from_arrays(arrays, schema=schema))
    except (self._arrow.ArrowInvalid, self._arrow.ArrowTypeError) as error:
      raise errors.DataError(
        f'{self._path}: cannot be written with these values: {error}'
      ) from error

  def _field(self, name: str, column: list[Any]) -> Any:
    kind = self._arrow.array(column).type
    return self._arrow.field(name, self._arrow.string() if kind == self._arrow.null() else kind)

  def _old(self, field: Any, rows: list[_base.Record]) -> Any:
    """Returns an old column of some rows: as it was, or made from their fields."""
    parts: list[Any] = []
    at = 0
    while at < len(rows):
      first = rows[at].extra
      if not (isinstance(first, _Row) and first.batch.schema.equals(self._schema)):
        parts.append(self._arrow.array([rows[at].fields.get(field.name)], field.type))
        at += 1
        continue
      indices = []
      while at < len(rows) and getattr(rows[at].extra, 'batch', None) is first.batch:
        indices.append(rows[at].extra.row)
        at += 1
      column = first.batch.column(first.batch.schema.get_field_index(field.name))
      parts.append(column.take(self._arrow.array(indices, 'int64')))
    if not parts:
      return self._arrow.array([], field.type)
    return self._arrow.concat_arrays(parts)

  def close(self) -> None:
    """Writes what is left, and puts the file in its place."""
    try:
      if self._records or self._writer is None:
        self._flush()
      self._writer.close()
    except BaseException:
      self.discard()
      raise
    self._sink.close()

  def discard(self) -> None:
    """Leaves the file as it was."""
    self._sink.discard()
