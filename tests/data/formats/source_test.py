"""Trouble with a file as a whole is a DataError with its path, its line, and what to do."""

import gzip
import os
import tracemalloc

import pytest

from mtl_jax import errors
from tests.data.formats import files

TEXT_FILES = ['x.csv', 'x.tsv', 'x.jsonl', 'x.json', 'x.conll', 'x.conllu']
ALL_FILES = [*TEXT_FILES, 'x.npz', 'x.parquet', 'x.arrow']


def message(path, **reading):
  with pytest.raises(errors.DataError) as caught:
    files.read(path, **reading)
  assert str(path) in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('name', ALL_FILES)
def test_missing_with_the_nearest_name(tmp_path, name):
  files.write(tmp_path, 'y.csv', 'a')
  assert 'no such file; ' in message(tmp_path / name)
  assert "did you mean 'y.csv'? Valid: y.csv" in message(tmp_path / 'y.cs', format='csv')
  assert 'there is no folder' in message(tmp_path / 'none' / name)


@pytest.mark.parametrize('name', ALL_FILES)
def test_a_folder_is_no_file(tmp_path, name):
  (tmp_path / name).mkdir()
  kind = {'x.arrow': 'parquet'}.get(name, 'csv' if name == 'x.csv' else name.split('.')[1])
  assert 'no file, but a folder' in message(tmp_path / name, format=kind)


def test_a_pipe_cannot_be_read_twice(tmp_path):
  os.mkfifo(tmp_path / 'x.csv')
  assert 'a pipe or a device, which cannot be read twice' in message(tmp_path / 'x.csv')


def test_without_permission(tmp_path, monkeypatch):
  path = files.write(tmp_path, 'x.csv', 'a\n1\n')

  def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(type(path), 'open', refuse)
  assert 'cannot be read (Permission denied)' in message(path)


@pytest.mark.parametrize('name', ['a\0.csv', '\ud800.csv', 'x' * 5000 + '.csv'])
def test_names_that_are_none(name):
  with pytest.raises(errors.DataError):
    files.read(name)


@pytest.mark.parametrize(
  ('content', 'line', 'byte', 'offset'),
  [
    (b'a,b\n1,2\n3,\xe9\n', 3, 'e9', 10),
    (b'a,b\r1,2\r3,\xe9\r', 3, 'e9', 10),
    (b'a,b\r\n1,2\r\n3,\xe9\r\n', 3, 'e9', 12),
    (b'\xef\xbb\xbfa,b\n1,\xff', 2, 'ff', 9),
    (b'a\n\xe2\x82', 2, 'e2', 2),  # cut off within a character
    (b'a\n' + b'x\n' * 100_000 + b'\x80', 100_002, '80', 200_002),
    (b'a\n' + b'x' * 65533 + b'\xe2\x82\n', 2, 'e2', 65535),  # over two pieces
  ],
)
def test_bytes_that_are_no_text(tmp_path, content, line, byte, offset):
  path = files.write(tmp_path, 'x.csv', content)
  assert message(path) == (
    f'{path}, line {line}: byte 0x{byte} at offset {offset} is not UTF-8; set the encoding it has '
    "('latin-1', 'cp1252', 'utf-16', ...)"
  )


def test_odd_bytes_of_utf_16(tmp_path):
  path = files.write(tmp_path, 'x.csv', '\ufeffa\nb\n'.encode('utf-16-le') + b'x')
  assert 'line 3: byte 0x78 at offset 10 is not UTF-16-LE' in message(path)


def test_records_before_the_trouble_are_read(tmp_path):
  path = files.write(tmp_path, 'x.csv', b'a\n1\n2\n\xff')
  found = []
  with pytest.raises(errors.DataError):
    found.extend(files.formats.read(path))
  assert [record.fields for record in found] == [{'a': '1'}, {'a': '2'}]


@pytest.mark.parametrize('encoding', ['utf-9', 'base64', 'rot13', 'a\0', '\ud800', 'hex'])
def test_unknown_encodings(tmp_path, encoding):
  path = files.write(tmp_path, 'x.csv', 'a\n1\n')
  assert f'unknown encoding {encoding!r}' in message(path, encoding=encoding)


@pytest.mark.parametrize('name', TEXT_FILES)
@pytest.mark.parametrize(
  ('start', 'what'),
  [
    (gzip.compress(b'a,b\n'), 'this is gzipped'),
    (b'PK\x03\x04\x14\0', 'this is a zip file, as .xlsx'),
    (b'%PDF-1.7\n', 'this is a PDF'),
    (b'\n <!DOCTYPE html><html>', 'this is a web page'),
    (b'\xef\xbb\xbf<HTML>', 'this is a web page'),
    (b'PAR1\x15\x04', 'this is a Parquet file'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'this is a pointer of Git LFS'),
  ],
)
def test_files_of_another_kind(tmp_path, name, start, what):
  path = files.write(tmp_path, name, start)
  assert what in message(path)
  path = files.write(tmp_path, f'{name}.gz', gzip.compress(start))
  assert what in message(path)


@pytest.mark.parametrize('name', ALL_FILES)
def test_damaged_gzip(tmp_path, name):
  packed = gzip.compress(b'{"a": 1}\n' * 1000, mtime=0)
  flipped = packed[:40] + bytes([packed[40] ^ 255]) + packed[41:]
  for content in (packed[:-9], packed[:5], flipped, b'a,b\n1,2\n', packed + b'more'):
    path = files.write(tmp_path, f'{name}.gz', content)
    said = message(path)
    if name in TEXT_FILES[2:3]:
      assert 'truncated or damaged gzip file (' in said
      assert said.endswith('; get a fresh copy')


@pytest.mark.parametrize(
  ('name', 'end'), [('x.csv', '\r'), ('x.jsonl', '\n'), ('x.conll', '\n'), ('x.csv.gz', '\n')]
)
def test_memory_is_bounded(tmp_path, name, end):
  line = '{"text": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}' if name == 'x.jsonl' else 'a' * 40
  content = f'{line}{end}{end}'.encode() * 15_000
  path = files.write(tmp_path, name, gzip.compress(content) if name.endswith('.gz') else content)
  del content
  tracemalloc.start()
  count = sum(1 for _ in files.formats.read(path))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert count == 15_000 - (name[2:5] == 'csv')
  assert peak < 1e6


def test_lines_beyond_all_lengths(tmp_path, monkeypatch):
  from mtl_jax.data.formats import _source

  monkeypatch.setattr(_source, 'LONGEST', 100_000)
  path = files.write(tmp_path, 'x.csv', 'a\n' + 'x' * 300_000)
  assert 'line 2: longer than 100,000 characters' in message(path)
