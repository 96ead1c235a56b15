"""Parquet files, a batch of rows at a time. Needs pyarrow: `pip install 'mtl_jax[parquet]'`."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

from mtl_jax.data.formats import _arrow, _base, _sink, _source


class Parquet(_base.Format):
  """A Parquet file; only a batch of its rows is in memory."""

  name = 'parquet'
  suffixes = ('.parquet', '.pq')

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the rows, with Python values."""
    del notes
    with _source.opened(self.path) as stream:
      file = self._opened(stream)
      yield from _arrow.records(self._batches(file))

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer of Parquet with the same columns and types, and new ones."""
    parquet = _arrow.module('pyarrow.parquet', self.path)
    with _source.opened(self.path) as stream:
      file = self._opened(stream)
      schema = file.schema_arrow
      groups = file.metadata.num_row_groups and file.metadata.num_columns
      kind = file.metadata.row_group(0).column(0).compression if groups else 'SNAPPY'

    def begin(stream: Any, schema: Any) -> Any:
      return parquet.ParquetWriter(
        stream, schema, compression='NONE' if kind == 'UNCOMPRESSED' else kind
      )

    sink = _sink.Sink(out)
    return _arrow.Writer(self.path, schema, begin, sink, sink.binary('Parquet'), new)

  def _opened(self, stream: Any) -> Any:
    """Returns the `pyarrow.parquet.ParquetFile` of a stream."""
    parquet = _arrow.module('pyarrow.parquet', self.path)
    start = stream.read(4)
    if not start:
      raise self.error('empty')
    if start != b'PAR1':
      raise self.error('no Parquet file: it does not begin with PAR1')
    if self.path.suffix.lower() == '.gz':
      stream = io.BytesIO(start + stream.read())  # Parquet is read from its end
    stream.seek(0)
    try:
      file = parquet.ParquetFile(stream)
      schema = file.schema_arrow
    # pyarrow says of a damaged file what it stumbled on, in any of its types of errors.
    except Exception as error:
      raise self._damaged(error) from error
    wrong = _arrow.check(schema) if schema.names else 'it has no columns'
    if wrong:
      raise self.error(wrong)
    return file

  def _batches(self, file: Any) -> Iterator[Any]:
    batches = file.iter_batches(batch_size=_arrow.BATCH)
    while True:
      try:
        batch = next(batches)
        batch.validate(full=True)
      except StopIteration:
        return
      except Exception as error:
        raise self._damaged(error) from error
      yield batch

  def _damaged(self, error: Exception) -> Exception:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return self.error(f'truncated or damaged Parquet file ({said}); get a fresh copy')
