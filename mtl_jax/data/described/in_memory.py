"""Rows in memory as files of a run, so that all else is as with files of a user's own."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl_jax import errors, files
from mtl_jax.data import formats
from mtl_jax.data.described import options
from mtl_jax.data.formats import plain


def write(workdir: str | os.PathLike[str], name: str, data: Any) -> dict[str, str]:
  """Writes a table to a work directory; what is there and the same stays as it is.

  Args:
    workdir: the directory.
    name: of the table, in `dataset.files`.
    data: rows, or split -> rows: a list of dicts or a pandas DataFrame.

  Returns:
    split -> path of its file.

  Raises:
    ConfigError: another split than train, validation and test.
    DataError: there are no rows, or a row is no dict.
    WorkdirError: runs in the directory were trained on other rows; these stay as they are.
  """
  if not name.isidentifier():
    raise errors.ConfigError(f'dataset.files: {name!r} cannot name a file; use letters and digits')
  by_split = data if isinstance(data, Mapping) else {'train': data}
  folder = Path(workdir).expanduser() / 'data'
  contents: dict[Path, bytes] = {}
  found: dict[str, str] = {}
  begun = any(folder.parent.glob('*/seed_*/config.json'))
  for split, rows in by_split.items():
    if split not in options.ROLES:
      raise errors.ConfigError(
        f'data: table {name!r}: no split {split!r}{errors.nearest(split, options.ROLES)}'
      )
    records = [_fields(name, split, item) for item in formats.from_rows(rows)]
    if not records:
      raise errors.DataError(f'data: table {name!r}, {split}: there are no rows')
    arrays = any(isinstance(value, np.ndarray) for value in records[0].values())
    path = folder / f'{name}.{split}.{"npz" if arrays else "jsonl"}'
    found[split] = str(path)
    content = _packed(records) if arrays else _lines(records)
    if path.is_file():
      if path.read_bytes() == content:
        continue
      if begun:
        raise errors.WorkdirError(
          f'the runs in {folder.parent} were trained on other rows (table {name!r}, {split}). '
          'Choose another workdir, or remove that directory.'
        )
    contents[path] = content
  for path, content in contents.items():
    folder.mkdir(parents=True, exist_ok=True)
    files.write(path, content)
  return found


def _fields(name: str, split: str, item: formats.Record | formats.Fault) -> dict[str, Any]:
  if isinstance(item, formats.Fault):
    raise errors.DataError(f'data: table {name!r}, {split}, {item.place}: {item.reason}')
  return item.fields


def _lines(records: Sequence[Mapping[str, Any]]) -> bytes:
  lines = [json.dumps(plain(record), ensure_ascii=False, allow_nan=False) for record in records]
  return ('\n'.join(lines) + '\n').encode(errors='surrogatepass')


def _packed(records: Sequence[Mapping[str, Any]]) -> bytes:
  buffer = io.BytesIO()
  arrays: dict[str, Any] = {key: np.stack([r[key] for r in records]) for key in records[0]}
  np.savez(buffer, **arrays)
  return buffer.getvalue()
