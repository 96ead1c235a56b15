"""NumPy's `.npz`: rows of arrays with a common first axis, and nothing that could run code."""

import gzip
import io
import zipfile

import numpy as np
import pytest

from mtl_jax import errors
from mtl_jax.data import formats
from tests.data.formats import files


def save(path, compressed=False, **arrays):
  content = io.BytesIO()
  (np.savez_compressed if compressed else np.savez)(content, **arrays)
  return files.write(path.parent, path.name, content.getvalue())


@pytest.fixture
def path(tmp_path):
  return save(
    tmp_path / 'x.npz',
    image=np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
    label=np.array(['a', 'é', 'c']),
    score=np.array([0.5, np.nan, 2], np.float32),
    flag=np.array([True, False, True]),
    code=np.array([b'x', b'\xc3\xa9', b'']),
  )


def test_rows(path):
  found = files.records(path)
  assert [record.place for record in found] == ['row 1', 'row 2', 'row 3']
  fields = found[1].fields
  np.testing.assert_array_equal(fields['image'], np.array([[4, 5], [6, 7]], np.uint8))
  assert fields['image'].dtype == np.uint8
  assert (fields['label'], fields['flag'], fields['code']) == ('é', False, 'é')
  assert type(fields['label']) is str
  assert type(found[0].fields['score']) is float


@pytest.mark.parametrize('compressed', [True, False])
def test_new_arrays(tmp_path, compressed):
  path = save(tmp_path / 'x.npz', compressed, x=np.arange(6.0).reshape(3, 2), y=np.array([1, 2, 3]))
  found = files.records(path)
  out = tmp_path / 'y.npz'
  with formats.writer(out, path, new=['y', 'p', 'q']) as writer:
    for record in found[1:]:
      writer.write(
        record,
        {'y': record.fields['y'] + 1, 'p': [0.5, 1], 'q': None if record.extra == 1 else 'a'},
      )
  with np.load(out) as arrays:
    assert sorted(arrays.files) == ['p', 'q', 'x', 'y', 'y_predicted']
    np.testing.assert_array_equal(arrays['x'], [[2, 3], [4, 5]])
    np.testing.assert_array_equal(arrays['y_predicted'], [3, 4])
    np.testing.assert_array_equal(arrays['p'], [[0.5, 1]] * 2)
    np.testing.assert_array_equal(arrays['q'], ['', 'a'])
  with zipfile.ZipFile(out) as file:
    kinds = {info.compress_type for info in file.infolist()}
  assert kinds == {zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED}


def test_values_of_several_lengths_are_refused(tmp_path, path):
  values = iter([['a'], ['a', 'b'], ['c']])
  with pytest.raises(errors.DataError, match="'p': values of several lengths"):
    files.rewrite(path, lambda _: {'p': next(values)}, new=['p'])
  assert [file.name for file in tmp_path.iterdir()] == ['x.npz']


def test_text_streams_and_strangers_are_refused(path):
  with pytest.raises(errors.DataError, match=r'an \.npz file is no text'):
    formats.writer(io.StringIO(), path, new=['p'])
  with formats.writer(io.BytesIO(), path, new=['p']) as writer, pytest.raises(errors.DataError):
    writer.write(formats.Record('row 1', {}), {})


def test_gzipped(tmp_path, path):
  packed = files.write(tmp_path, 'y.npz.gz', gzip.compress(path.read_bytes()))
  assert len(files.records(packed)) == 3


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    (
      {'x': np.zeros(2), 'y': np.zeros(3)},
      'no common first axis, one entry a record: x [2], y [3]',
    ),
    ({'x': np.zeros(())}, 'no common first axis'),
    ({'x': np.array([{}], object)}, 'Object arrays cannot be loaded'),
    ({'x': np.zeros(2, [('a', int), ('b', float)])}, "the array 'x' is of"),
    ({}, 'holds no array'),
  ],
)
def test_arrays_that_are_no_rows(tmp_path, arrays, message):
  path = save(tmp_path / 'x.npz', **arrays)
  with pytest.raises(errors.DataError) as caught:
    files.read(path)
  assert message in str(caught.value)
  assert str(path) in str(caught.value)


def test_files_that_are_none(tmp_path, path):
  content = path.read_bytes()
  for name, wrong in {
    'empty': b'',
    'no .npz file': b'\x93NUMPY',
    'cannot be read': content[:200],
  }.items():
    with pytest.raises(errors.DataError, match=name):
      files.read(files.write(tmp_path, 'y.npz', wrong))


def test_bytes_that_are_no_text_are_faults(tmp_path):
  path = save(tmp_path / 'x.npz', x=np.array([b'a', b'\xff']))
  assert files.faults(path) == [('row 2', 'bytes that are not UTF-8 (invalid start byte)')]


def test_no_rows(tmp_path):
  assert files.read(save(tmp_path / 'x.npz', x=np.zeros((0, 2)))) == []
