"""Users' own data files: read record by record, and written with new columns, in their format.

One file a format, listed in `FORMATS`. What columns mean, splits and labels are not known here.
"""

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path

from mtl_jax.data.formats import (
  _base,
  _paths,
  conll,
  delimited,
  hugging_face,
  images,
  json_lines,
  npz,
  parquet,
  rows,
  spans,
  tfds,
  whole_json,
)

Record = _base.Record
Fault = _base.Fault
Reading = _base.Reading
Writer = _base.Writer
Format = _base.Format
find = _paths.find
plain = _base.plain
from_rows = rows.from_rows

_FOUND_OUT = _base.Reading()

FORMATS: dict[str, type[_base.Format]] = {
  kind.name: kind
  for kind in (
    delimited.Csv,
    delimited.Tsv,
    json_lines.JsonLines,
    whole_json.Json,
    spans.Spans,
    conll.Conll,
    conll.ConllU,
    parquet.Parquet,
    hugging_face.Datasets,
    npz.Npz,
    images.Images,
    tfds.Tfds,
  )
}


def read(
  path: str | Path,
  reading: _base.Reading = _FOUND_OUT,
  notes: collections.Counter[str] | None = None,
) -> Iterator[_base.Record | _base.Fault]:
  """Yields the records of a file, and a fault for each that is none, in their order.

  Delimited files, JSON Lines, CoNLL columns, Parquet, Arrow and TFDS are read in bounded memory; a
  list in JSON, and `.npz`, whole. Any single file may be gzipped, with a name that ends in `.gz`.

  Args:
    path: a file, a folder of images or of Hugging Face's `datasets`, or `tfds:NAME:SPLIT`.
    reading: what is known of its format; the rest is found out.
    notes: counts what was settled by a rule, as `'blank lines'`.

  Raises:
    DataError: the file as a whole cannot be read, with path, line where known and what to do; now
      where its name says no format, else where the reading comes to it.
  """
  found = _paths.format_of(Path(path), reading, FORMATS)
  return found.read(collections.Counter() if notes is None else notes)


def writer(
  out: _base.Out,
  like: str | Path,
  reading: _base.Reading = _FOUND_OUT,
  new: Sequence[str] = (),
) -> _base.Writer:
  """Returns a writer of the format and dialect of a file, with new columns after its own.

  A new column that the file has already gets `_predicted` behind its name. Folders of images are
  answered with CSV, TFDS with JSON Lines, folders of Hugging Face's with an Arrow file.

  Args:
    out: a stream, or the path of a file, which appears when the writer is closed.
    like: the file that the records come from; `out` may be the same path.
    reading: how it was read.
    new: the columns.

  Raises:
    DataError: `like` cannot be read, or its format cannot go to such an `out`.
    OSError: `out` cannot be written.
  """
  found = _paths.format_of(Path(like), reading, FORMATS)
  return found.writer(Path(out) if isinstance(out, str) else out, new)
