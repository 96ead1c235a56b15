"""Arbitrary tables come back; arbitrary damage is a DataError or a fault, and no line is lost."""

import csv
import gzip
import io
import json
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mtl_jax import errors
from mtl_jax.data import formats
from tests.data.formats import conll_test, files

SETTINGS = hypothesis.settings(
  max_examples=100,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
TEXT = st.text(
  st.one_of(
    st.sampled_from('",;\t|\r\n {}[]#\x0b\u2028\ufeff'),
    st.characters(exclude_categories=['Cs'], exclude_characters='\0'),
  ),
  max_size=12,
)
NAMES = st.lists(
  st.text(st.characters(exclude_categories=['Cs', 'Cc', 'Z']), min_size=1, max_size=8).filter(
    lambda name: name.strip() and name[0] not in '{[\ufeff'
  ),
  min_size=1,
  max_size=4,
  unique=True,
)
VALUES = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-(10**20), 10**20)
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(st.characters(exclude_categories=['Cs'])),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\n'), inner, max_size=3),
  max_leaves=6,
)
OBJECTS = st.lists(
  st.dictionaries(st.text(st.characters(exclude_categories=['Cs'])), VALUES, max_size=4),
  min_size=1,
  max_size=5,
)


@SETTINGS
@hypothesis.given(st.data(), NAMES, st.sampled_from([',', ';', '\t', '|', ':']))
def test_tables_come_back(tmp_path, data, names, delimiter):
  rows = data.draw(st.lists(st.tuples(*[TEXT] * len(names)), max_size=5))
  quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
  end = data.draw(st.sampled_from(['\r\n', '\n', '\r'] if quoting else ['\r\n']))
  encoding = data.draw(st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16']))
  out = io.StringIO(newline='')
  writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)
  writer.writerows([names, *rows])
  path = files.write(tmp_path, 'x.csv', out.getvalue().encode(encoding))
  expected = [dict(zip(names, row, strict=True)) for row in rows]
  assert files.fields(path, delimiter=delimiter) == expected
  if rows:
    new = data.draw(TEXT)
    written = files.rewrite(path, {'new column': new}, delimiter=delimiter)
    assert files.fields(tmp_path / 'out_x.csv', delimiter=delimiter) == [
      row | {'new column': new} for row in expected
    ]
    assert files.rewrite(path, {}, delimiter=delimiter) == path.read_bytes()
    text = written.decode('utf-8-sig' if encoding == 'utf-8' else encoding)
    found = list(csv.reader(io.StringIO(text, newline=''), delimiter=delimiter))
    assert [row[-1] for row in found if row] == ['new column', *[new] * len(rows)] or '\r' in new


@SETTINGS
@hypothesis.given(OBJECTS, st.booleans(), st.sampled_from([None, 1]), st.sampled_from([',:', ' ']))
def test_objects_come_back(tmp_path, objects, ascii_only, indent, separators):
  options = {'ensure_ascii': ascii_only}
  if separators != ' ':
    options['separators'] = tuple(separators)
  lines = ''.join(json.dumps(item, **options) + '\n' for item in objects)
  path = files.write(tmp_path, 'x.jsonl', lines)
  assert files.fields(path, format='jsonl') == objects
  assert files.rewrite(path, {}, format='jsonl').decode() == lines
  new = {'a new key': objects}
  files.rewrite(path, new, format='jsonl')
  written = files.fields(tmp_path / 'out_x.jsonl', format='jsonl')
  assert written == [item | new for item in objects]
  whole = json.dumps(objects, indent=indent, **options)
  path = files.write(tmp_path, 'x.json', whole)
  assert files.fields(path, format='json') == objects
  assert files.rewrite(path, {}, format='json').decode() == whole
  files.rewrite(path, new, format='json')
  assert files.fields(tmp_path / 'out_x.json', format='json') == written


def lines_of(content):
  """How many lines a file has: they end with CRLF, LF or CR."""
  text = content.decode()
  return len(re.findall('\r\n|\n|\r', text)) + (not text.endswith(('\n', '\r')))


def covered(item, raw):
  """The numbers of the lines that a record or fault stands for."""
  first, *last = map(int, re.findall(r'\d+', item.place))
  if isinstance(item, formats.Record):
    return range(first, first + len(re.findall('\r\n|\n|\r', raw)) + 1)
  return range(first, (last[0] if last else first) + 1)


def check(path, **reading):
  """Reads what may be damaged: records, faults, or a DataError with its path."""
  found, said = None, str(path)
  try:
    found = files.read(path, **reading)
  except errors.DataError as error:
    said = str(error)
  assert str(path) in said
  said.encode()
  if found is None:
    return None
  for item in found:
    assert isinstance(item, formats.Record | formats.Fault)
    if isinstance(item, formats.Fault):
      assert item.reason
      assert len(item.text.splitlines()) <= 1
      '\n'.join(item).encode()
  return found


def check_lines(path, name, header=0, **reading):
  found = check(path, format=name, **reading)
  if found is None:
    return
  content = path.read_bytes()
  lines = re.split('\r\n|\n|\r', content.decode().removeprefix('\ufeff'))
  blank = {
    at for at, line in enumerate(lines, start=1) if not (line.strip() if header == 0 else line)
  }
  seen = [
    line
    for item in found
    for line in covered(item, item.extra.text if isinstance(item, formats.Record) else '')
  ]
  assert len(set(seen)) == len(seen)
  missing = set(range(1, lines_of(content) + 1)) - blank - set(seen)
  if header == 0:
    assert not missing
  else:  # the header may span lines, but all are in front
    assert len(missing) >= 1
    assert not seen or max(missing) < min(seen)


CSV = 'a,"b, c",d\r\n1,"x ""y""",\r\n\r\n2,"p\nq",é\r\n3,4,5\r\n'
JSONL = '{"a": 1, "b": "é\\u00e9"}\n\n{"a": [1, {"x": null}]}\r\n{"a": 2.5e3}\n'
SPANS = '{"text": "Ann lives in Rome", "label": [[0, 3, "PER"], [13, 17, "LOC"]]}\n' * 2
CONLL = '-DOCSTART- O\n\n# id = 1\nAnn\tB-PER\nlives\tO\n\n#\tO\nx\tO\n'


def npz():
  content = io.BytesIO()
  np.savez(content, x=np.arange(6.0).reshape(3, 2), y=np.array(['a', 'b', 'c']))
  return content.getvalue()


def columnar(name):
  arrow, parquet = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
  table = arrow.table({'a': ['x', 'y', None], 'b': [1, 2, 3], 'c': [[1], [], [2, 3]]})
  content = io.BytesIO()
  if name == 'x.parquet':
    parquet.write_table(table, content)
  else:
    with arrow.ipc.new_stream(content, table.schema) as writer:
      writer.write_table(table)
  return content.getvalue()


VALID = {
  'x.csv': CSV.encode(),
  'x.tsv': CSV.replace(',', '\t').encode(),
  'x.jsonl': JSONL.encode(),
  'spans.jsonl': SPANS.encode(),
  'x.json': json.dumps([{'a': 1}, {'b': ['é']}], indent=1).encode(),
  'data.json': json.dumps({'v': 1, 'data': [{'a': 1}, {'b': ['é']}]}).encode(),
  'x.conll': CONLL.encode(),
  'x.conllu': conll_test.UD.encode(),
  'x.csv.gz': gzip.compress(CSV.encode(), mtime=0),
  'x.npz': npz(),
  'x.parquet': None,
  'x.arrow': None,
}
EDITS = st.lists(
  st.tuples(
    st.sampled_from(['flip', 'delete', 'insert', 'cut', 'double']),
    st.floats(0, 1),
    st.one_of(st.sampled_from([*b'",\n\r\t{}[]#\0\xff']), st.integers(0, 255)),
  ),
  min_size=1,
  max_size=4,
)


def damaged(content, edits):
  content = bytearray(content)
  for kind, where, byte in edits:
    at = int(where * len(content))
    if kind == 'flip' and at < len(content):
      content[at] = byte
    elif kind == 'delete':
      del content[at : at + 1 + byte % 8]
    elif kind == 'insert':
      content[at:at] = bytes([byte])
    elif kind == 'cut':
      del content[max(at, len(content) // 2) :]
    else:
      content[at:at] = content[at : at + byte]
  return bytes(content)


@pytest.mark.parametrize('name', VALID)
@SETTINGS
@hypothesis.given(edits=EDITS)
def test_damage_is_told(tmp_path, name, edits):
  content = columnar(name) if VALID[name] is None else VALID[name]
  path = files.write(tmp_path, name, damaged(content, edits))
  check(path)
  if name == 'x.csv':
    check_lines(path, 'csv', header=1)
  if name == 'x.jsonl':
    check_lines(path, 'jsonl')


@pytest.mark.parametrize('name', ['state.json', 'dataset_info.json', 'dataset_dict.json'])
@SETTINGS
@hypothesis.given(edits=EDITS)
def test_damage_to_a_saved_data_set_is_told(tmp_path, name, edits):
  label = {'names': ['no', 'yes', 'so', 'all'], '_type': 'ClassLabel'}
  whole = {
    'state.json': {'_data_files': [{'filename': 'x.arrow'}]},
    'dataset_info.json': {'features': {'b': label, 'c': {'feature': label, '_type': 'List'}}},
    'dataset_dict.json': {'splits': ['train']},
  }
  for file, value in whole.items():
    content = json.dumps(value).encode()
    folder = '' if file == 'dataset_dict.json' else 'train/'
    files.write(tmp_path, folder + file, damaged(content, edits) if file == name else content)
  files.write(tmp_path, 'train/x.arrow', columnar('x.arrow'))
  found, said = None, ''
  try:
    found = files.fields(f'{tmp_path}:train')
  except errors.DataError as error:
    said = str(error)
  assert found or str(tmp_path) in said


@pytest.mark.parametrize('name', VALID)
def test_what_is_damaged_was_whole(tmp_path, name):
  content = columnar(name) if VALID[name] is None else VALID[name]
  assert len(files.records(files.write(tmp_path, name, content))) in (1, 2, 3)


@SETTINGS
@hypothesis.given(
  st.binary(max_size=200) | st.text(max_size=100).map(lambda x: x.encode('utf-8', 'replace'))
)
def test_bytes_of_any_kind(tmp_path, content):
  for name in ('csv', 'tsv', 'jsonl', 'json', 'spans', 'conll', 'conllu', 'npz'):
    path = files.write(tmp_path, 'x', content)
    check(path, format=name)
  check_lines(path, 'csv', header=1)
  check_lines(path, 'jsonl')


@SETTINGS
@hypothesis.given(
  st.lists(
    st.lists(TEXT.filter(lambda x: not re.search('[\t\r\n]', x)), min_size=2, max_size=4),
    max_size=8,
  )
)
def test_columns_come_back(tmp_path, sentences):
  sentences = [[word.strip() or 'x' for word in words] for words in sentences]
  text = ''.join(
    ''.join(f'{word}\tO\n' for word in words) + '\n' for words in [['first'], *sentences]
  )
  path = files.write(tmp_path, 'x.conll', text)
  expected = [words for words in sentences if not words[0].startswith('-DOCSTART-')]
  hypothesis.assume(
    not any(word.startswith(('# ', '-DOCSTART-')) for words in sentences for word in words)
  )
  assert [item['column_0'] for item in files.fields(path)] == [['first'], *expected]
  assert files.rewrite(path, {}).decode() == text
