"""Parquet: values as in Python, types and codec as they were."""

import datetime
import gzip
import io
import sys
import tracemalloc

import pytest

from mtl_jax import errors
from mtl_jax.data import formats
from tests.data.formats import files

arrow = pytest.importorskip('pyarrow')
parquet = pytest.importorskip('pyarrow.parquet')

ROWS = [
  {
    'text': 'é',
    'label': 1,
    'tags': ['O', 'B-x'],
    'when': datetime.date(2024, 1, 2),
    'more': {'a': 1},
  },
  {'text': None, 'label': 2, 'tags': [], 'when': None, 'more': None},
]


def save(path, table, **options):
  content = io.BytesIO()
  parquet.write_table(table, content, **options)
  return files.write(path.parent, path.name, content.getvalue())


@pytest.fixture
def path(tmp_path):
  return save(tmp_path / 'x.parquet', arrow.Table.from_pylist(ROWS), compression='zstd')


def test_rows(path):
  found = files.records(path)
  assert [record.fields for record in found] == ROWS
  assert [record.place for record in found] == ['row 1', 'row 2']


def test_types_and_codec_stay(tmp_path, path):
  files.rewrite(
    path, {'label': 'a', 'score': 0.5, 'all': ['x'], 'none': None}, tmp_path / 'y.parquet'
  )
  old, new = parquet.read_table(path), parquet.read_table(tmp_path / 'y.parquet')
  assert new.select(old.column_names).equals(old)
  assert new.column_names[len(old.column_names) :] == ['label_predicted', 'score', 'all', 'none']
  assert new.to_pylist()[1]['label_predicted'] == 'a'
  assert new.to_pylist()[1]['all'] == ['x']
  assert new.schema.field('none').type == arrow.string()
  file = parquet.ParquetFile(tmp_path / 'y.parquet')
  assert file.metadata.row_group(0).column(0).compression == 'ZSTD'


def test_values_that_python_has_not(tmp_path):
  times = arrow.array([1, 2**62], arrow.timestamp('ns'))
  path = save(tmp_path / 'x.parquet', arrow.table({'t': times}))
  assert type(files.fields(path)[0]['t']).__name__ in ('str', 'Timestamp')
  files.rewrite(path, {'p': 1}, tmp_path / 'y.parquet')
  assert parquet.read_table(tmp_path / 'y.parquet')['t'].combine_chunks().equals(times)


def test_many_rows_in_little_memory(tmp_path):
  table = arrow.table({'text': ['some text of a ticket'] * 60_000, 'n': range(60_000)})
  path = save(tmp_path / 'x.parquet', table, row_group_size=10_000)
  tracemalloc.start()
  assert sum(record.fields['n'] for record in formats.read(path)) == sum(range(60_000))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 5e6
  with formats.writer(tmp_path / 'y.parquet', path, new=['p']) as writer:
    for record in formats.read(path):
      if record.fields['n'] % 3:
        writer.write(record, {'p': -record.fields['n']})
  found = parquet.read_table(tmp_path / 'y.parquet').to_pylist()
  assert [row['n'] for row in found] == [n for n in range(60_000) if n % 3]
  assert all(row['n'] == -row['p'] for row in found)


def test_records_from_elsewhere(tmp_path, path):
  out = io.BytesIO()
  with formats.writer(out, path, new=['p']) as writer:
    writer.write(formats.Record('row 1', {'text': 'x', 'label': 3}), {'p': 'a'})
    writer.write(files.records(path)[1], {})
  found = parquet.read_table(arrow.BufferReader(out.getvalue())).to_pylist()
  assert found[0] == {'text': 'x', 'label': 3, 'tags': None, 'when': None, 'more': None, 'p': 'a'}
  assert found[1] == ROWS[1] | {'p': None}


def test_values_of_another_type(tmp_path, path):
  values = iter(['a', 1, 'c'])
  with pytest.raises(errors.DataError, match='cannot be written with these values'):
    files.rewrite(path, lambda _: {'p': next(values)}, new=['p'])
  assert [file.name for file in tmp_path.iterdir()] == ['x.parquet']


def test_no_row(tmp_path, path):
  table = parquet.read_table(path).slice(0, 0)
  empty = save(tmp_path / 'y.parquet', table)
  assert files.read(empty) == []
  with formats.writer(tmp_path / 'z.parquet', empty, new=['p']):
    pass
  assert parquet.read_table(tmp_path / 'z.parquet').column_names[-1] == 'p'


def test_gzipped(tmp_path, path):
  packed = files.write(tmp_path, 'y.parquet.gz', gzip.compress(path.read_bytes()))
  assert files.fields(packed) == ROWS


def test_files_that_are_none(tmp_path, path):
  content = path.read_bytes()
  for wrong, message in (
    (b'', 'empty'),
    (b'a,b\n', 'no Parquet file: it does not begin with PAR1'),
    (content[:-20], 'truncated or damaged Parquet file ('),
    (content[:4] + bytes(len(content) - 300) + content[-296:], 'damaged Parquet file ('),
  ):
    with pytest.raises(errors.DataError) as caught:
      files.read(files.write(tmp_path, 'y.parquet', wrong))
    assert message in str(caught.value)
  with pytest.raises(errors.DataError, match='Parquet is no text'):
    formats.writer(io.StringIO(), path, new=['p'])


def test_two_columns_of_one_name(tmp_path):
  table = arrow.Table.from_arrays([arrow.array([1]), arrow.array([2])], ['a', 'a'])
  with pytest.raises(errors.DataError, match="two columns are called 'a'"):
    files.read(save(tmp_path / 'x.parquet', table))


def test_without_pyarrow(path, monkeypatch):
  for name in [name for name in sys.modules if name.split('.')[0] == 'pyarrow']:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(errors.DataError) as caught:
    files.read(path)
  assert str(caught.value) == f"{path}: reading it needs pyarrow: pip install 'mtl_jax[parquet]'"
