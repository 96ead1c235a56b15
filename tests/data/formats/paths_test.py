"""Which files a pattern names, and which format a name says."""

import pathlib

import pytest

from mtl_jax import errors
from mtl_jax.data import formats
from tests.data.formats import files


def test_paths_and_patterns(tmp_path, monkeypatch):
  for name in ('b.csv', 'a.csv', 'c.tsv', 'deep/d.csv', 'x[1].csv', '.hidden.csv'):
    files.write(tmp_path, name, 'a\n1\n')
  monkeypatch.chdir(tmp_path)

  def names(*patterns):
    return [str(path) for path in formats.find(patterns)]

  assert names('c.tsv', '*.csv') == ['c.tsv', 'a.csv', 'b.csv', 'x[1].csv']
  assert names('x[1].csv') == ['x[1].csv']
  assert names('[ab].csv', 'a.csv') == ['a.csv', 'b.csv']
  assert names('**/d.csv', 'deep') == ['deep/d.csv', 'deep']
  assert names('tfds:mnist:train', 'tfds:a/b:1.0.0:train[:80%]') == [
    'tfds:mnist:train',
    'tfds:a/b:1.0.0:train[:80%]',
  ]
  monkeypatch.setenv('HOME', str(tmp_path))
  assert names('~/a.csv') == [str(tmp_path / 'a.csv')]


@pytest.mark.parametrize(
  ('pattern', 'message'),
  [
    ('tikets.csv', "no such file; did you mean 'tickets.csv'? Valid: other.tsv, tickets.csv"),
    ('*.jsonl', 'no file matches; Valid: other.tsv, tickets.csv'),
    ('none/tickets.csv', 'there is no folder'),
    ('', "'' cannot be a path"),
    ('a\0', 'cannot be a path'),
    ('\ud800', 'cannot be a path'),
    ('x' * 5000, 'xxxxx'),
  ],
)
def test_what_is_not_there(tmp_path, monkeypatch, pattern, message):
  for name in ('tickets.csv', 'other.tsv'):
    files.write(tmp_path, name, 'a\n1\n')
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.DataError) as caught:
    formats.find(['tickets.csv', pattern])
  assert message in str(caught.value)
  str(caught.value).encode()


def test_many_names_are_not_all_listed(tmp_path):
  for number in range(30):
    files.write(tmp_path, f'part-{number:02d}.csv', 'a\n1\n')
  with pytest.raises(errors.DataError) as caught:
    formats.find([str(tmp_path / 'part-3.csv')])
  assert f'(of 30 files in {str(tmp_path)!r})' in str(caught.value)


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('x.CSV', {'a': '1'}),
    ('x.csv', {'a': '1'}),
    ('x.y.tsv', {'a': '1'}),
    ('x.conll', {'column_0': ['a', '1']}),
  ],
)
def test_the_suffix_says_the_format(tmp_path, name, expected):
  path = files.write(tmp_path, name, 'a\n1\n')
  assert files.fields(path) == [expected]
  assert files.fields(str(path)) == [expected]


@pytest.mark.parametrize('name', ['x.txt', 'x', 'x.gz', 'x.txt.gz'])
def test_a_suffix_that_says_none(tmp_path, name):
  path = files.write(tmp_path, name, 'a\n1\n')
  with pytest.raises(errors.DataError) as caught:
    formats.read(path)  # at once, before anything is read
  assert 'say' in str(caught.value)
  assert 'or set format to one of conll, conllu, csv' in str(caught.value)
  if not name.endswith('.gz'):
    assert files.fields(path, format='csv') == [{'a': '1'}]


def test_unknown_formats():
  with pytest.raises(errors.DataError, match=r"no format 'cvs'; did you mean 'csv'\? Valid: conll"):
    formats.read('x.csv', formats.Reading('cvs'))


def test_formats_say_their_names():
  suffixes = [suffix for kind in formats.FORMATS.values() for suffix in kind.suffixes]
  assert len(set(suffixes)) == len(suffixes)
  assert all(kind.name == name for name, kind in formats.FORMATS.items())
  assert all(kind.__doc__ for kind in formats.FORMATS.values())
  assert all(suffix == suffix.lower() and suffix[0] == '.' for suffix in suffixes)


def test_out_may_be_text_bytes_or_a_path(tmp_path):
  import io

  path = files.write(tmp_path, 'x.csv', '\ufeffa\r\né\r\n')
  text, content = io.StringIO(), io.BytesIO()
  for out in (text, content, tmp_path / 'y.csv', str(tmp_path / 'z.csv')):
    with formats.writer(out, path, new=['b']) as writer:
      writer.write(files.records(path)[0], {'b': 1})
  assert text.getvalue() == 'a,b\r\né,1\r\n'
  expected = '\ufeffa,b\r\né,1\r\n'.encode()
  assert content.getvalue() == expected
  assert (tmp_path / 'y.csv').read_bytes() == (tmp_path / 'z.csv').read_bytes() == expected
  assert pathlib.Path(tmp_path / 'y.csv').stat().st_mode & 0o777 == path.stat().st_mode & 0o777
