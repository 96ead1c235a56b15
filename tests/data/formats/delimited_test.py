"""CSV and TSV against the rules of RFC 4180 and Python's csv module; bytes made by hand."""

import codecs
import contextlib
import csv
import gzip
import io
import tracemalloc

import pytest

from mtl_jax import errors
from mtl_jax.data import formats
from mtl_jax.data.formats import delimited
from tests.data.formats import files

NO_QUOTES = "if a quote is like other characters in this file, set its quote = ''"
AB = [{'a': '1', 'b': '2'}]


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('last', [True, False])
def test_line_ends(tmp_path, end, last):
  path = files.write(tmp_path, 'x.csv', f'a,b{end}1,2{end}3,4' + (end if last else ''))
  assert files.fields(path) == [{'a': '1', 'b': '2'}, {'a': '3', 'b': '4'}]
  assert [record.place for record in files.records(path)] == ['line 2', 'line 3']


def test_line_ends_at_the_border_of_what_is_read_at_once(tmp_path):
  for shift in range(-3, 4):
    value = 'x' * ((1 << 16) - len('a\r\n') + shift)
    path = files.write(tmp_path, 'x.csv', f'a\r\n{value}\r\ny\r\n')
    assert files.fields(path) == [{'a': value}, {'a': 'y'}]
    assert files.counted(path) == {}  # no line end was taken as two
    path = files.write(tmp_path, 'x.csv', f'a\r{value[1:]}\r\ry\r')
    assert files.fields(path) == [{'a': value[1:]}, {'a': 'y'}]


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('"1",2', ['1', '2']),
    ('"1,5",2', ['1,5', '2']),
    ('"say ""no""",2', ['say "no"', '2']),
    ('"""",2', ['"', '2']),
    ('"",2', ['', '2']),
    (',', ['', '']),
    ('1,', ['1', '']),
    ('1,""', ['1', '']),
    ('"1\n2\r\n3\r4",2', ['1\n2\r\n3\r4', '2']),
    ('"\n",2', ['\n', '2']),
    ('1,"2\n"', ['1', '2\n']),
    ('5" pipe,2', ['5" pipe', '2']),
    (' "1",2', [' "1"', '2']),
    ('1 , 2 ', ['1 ', ' 2 ']),
    ('#1,2', ['#1', '2']),
    ('\x0b\x1c\x85\u2028,2', ['\x0b\x1c\x85\u2028', '2']),
  ],
)
def test_fields(tmp_path, text, expected):
  path = files.write(tmp_path, 'x.csv', f'a,b\n{text}\nx,y\n')
  assert [list(found.values()) for found in files.fields(path)] == [expected, ['x', 'y']]
  if '"' not in text.replace('""', '').strip('"') and '\r' not in text:
    rows = list(csv.reader(io.StringIO(path.read_text(), newline='')))
    assert rows[1] == expected


def test_a_record_is_where_it_begins(tmp_path):
  path = files.write(tmp_path, 'x.csv', 'a,b\n1,"x\ny\n\nz"\n\n2,3\n')
  assert [record.place for record in files.records(path)] == ['line 2', 'line 7']
  assert files.counted(path) == {'blank lines': 1}


@pytest.mark.parametrize(
  ('rows', 'expected'),
  [
    ('1\n3,4\n', [('line 2', '1 field, expected 2')]),
    ('1,2,3\n3,4\n', [('line 2', '3 fields, expected 2')]),
    ('"1\n2"\n3,4\n', [('lines 2 to 3', '1 field, expected 2')]),
    ('1,\0\n3,4\n', [('line 2', 'a NUL byte')]),
    (
      '"1"x,2\n3,4\n',
      [('line 2', f"'x' follows a closing quote in line 2: double quotes inside, or, {NO_QUOTES}")],
    ),
    (
      '3,4\n5,"6\n7,8\n9,10\n',
      [
        (
          'lines 3 to 5',
          f'a quote that opens in line 3 and is not closed up to the end of the file; {NO_QUOTES}',
        )
      ],
    ),
    (
      '3,4\n"a\nb","6\n7,8',
      [
        (
          'lines 3 to 5',
          f'a quote that opens in line 4 and is not closed up to the end of the file; {NO_QUOTES}',
        )
      ],
    ),
  ],
)
def test_faults(tmp_path, rows, expected):
  path = files.write(tmp_path, 'x.csv', f'a,b\n{rows}')
  assert files.faults(path) == expected
  good = [item.fields for item in files.read(path) if isinstance(item, formats.Record)]
  assert good == [{'a': '3', 'b': '4'}]


def test_a_fault_shows_its_line_on_one_line(tmp_path):
  path = files.write(tmp_path, 'x.csv', 'a,b\n"é\t\n\x1b"' + 'x' * 200 + '\n')
  [fault] = files.read(path)
  assert fault.text.startswith(r'"é\t\n\x1b"xxx')
  assert len(fault.text) < 90
  assert fault.path == str(path)


def test_a_quote_that_swallows_too_much_takes_no_memory(tmp_path, monkeypatch):
  monkeypatch.setattr(delimited, 'LONGEST', 100)
  lines = 'x' * 30 + '\n'
  path = files.write(tmp_path, 'x.csv', 'a\n"' + lines * 10 + '"\ny\n"' + lines * 2 + '"\n')
  long, short, last = files.read(path)
  assert long.place == 'lines 2 to 12'
  assert long.reason == 'a quote that opens in line 2 and holds more than 100 characters'
  assert short.fields == {'a': 'y'}
  assert last.fields == {'a': lines * 2}


@pytest.mark.parametrize(
  ('header', 'message'),
  [
    ('a,a', "line 1: the header 'a,a': two columns are called 'a'"),
    (',a', 'column 1 of 2 has no name; name it in the file (pandas: to_csv(index=False)'),
    ('a, ', 'column 2 of 2 has no name'),
    ('"a', 'a quote that opens in line 1 and is not closed'),
    ('a\0,b\0', 'a NUL byte; is it UTF-16'),
    ('{"a": 1, "b": 2}', "this is JSON: name the file .jsonl or .json, or set format to 'jsonl'"),
    ('[', 'this is JSON'),
    ('{', 'this is JSON'),
  ],
)
def test_headers_that_are_none(tmp_path, header, message):
  path = files.write(tmp_path, 'x.csv', f'\n{header}\n1,2\n'.lstrip('\n'))
  with pytest.raises(errors.DataError) as caught:
    files.read(path)
  assert message in str(caught.value)
  assert str(path) in str(caught.value)


def test_blank_lines_before_the_header(tmp_path):
  assert files.fields(files.write(tmp_path, 'x.csv', '\n\r\na,b\n1,2\n')) == AB


@pytest.mark.parametrize('content', ['', '\ufeff'])
def test_empty(tmp_path, content):
  path = files.write(tmp_path, 'x.csv', content)
  with pytest.raises(errors.DataError, match=r'x\.csv: empty$'):
    files.read(path)
  files.write(tmp_path, 'x.csv', content + '\n\n')
  with pytest.raises(errors.DataError, match=r'x\.csv: holds blank lines alone$'):
    files.read(path)


def test_a_header_alone_has_no_records(tmp_path):
  assert files.read(files.write(tmp_path, 'x.csv', 'a,b\n')) == []


def test_a_json_line_among_others(tmp_path):
  path = files.write(tmp_path, 'x.csv', 'a,b\n1,2\n{"a": "3", "b": "4"}\n')
  with pytest.raises(errors.DataError) as caught:
    files.read(path)
  assert str(caught.value) == (
    f'{path}, line 3: a JSON object in a file of CSV: two formats in one file; split it'
  )
  path = files.write(tmp_path, 'x.csv', 'a\n{"a": "3"}\n')  # JSON as the value of a column
  assert files.fields(path) == [{'a': '{"a": "3"}'}]


@pytest.mark.parametrize('delimiter', [',', ';', '\t', '|'])
def test_delimiters_are_found(tmp_path, delimiter):
  path = files.write(tmp_path, 'x.csv', f'a{delimiter}b\n1{delimiter}2\n')
  assert files.fields(path) == AB


def test_delimiters_between_quotes_do_not_count(tmp_path):
  path = files.write(tmp_path, 'x.csv', '"a,b,c";d\n1;2\n')
  assert files.fields(path) == [{'a,b,c': '1', 'd': '2'}]
  path = files.write(tmp_path, 'x.csv', '"a\n,,,";"d,,"\n1;2\n')
  assert files.fields(path) == [{'a\n,,,': '1', 'd,,': '2'}]


def test_a_tsv_has_tabs(tmp_path):
  path = files.write(tmp_path, 'x.tsv', 'a,1;2\tb\n1,2,3\t4\n')
  assert files.fields(path) == [{'a,1;2': '1,2,3', 'b': '4'}]


def test_given_delimiters_and_columns(tmp_path):
  path = files.write(tmp_path, 'x.csv', '1:2\n3:4\n')
  given = {'delimiter': ':', 'columns': ('a', 'b')}
  assert files.fields(path, **given) == [{'a': '1', 'b': '2'}, {'a': '3', 'b': '4'}]
  assert files.records(path, **given)[0].place == 'line 1'
  path = files.write(tmp_path, 'x.csv', 'one; two, three, four\t2\n')
  assert files.fields(path, columns=('a', 'b')) == [{'a': 'one', 'b': ' two, three, four\t2'}]
  for wrong in ('::', '"', '\n'):
    with pytest.raises(errors.DataError, match='is not one character'):
      files.read(path, delimiter=wrong)
  with pytest.raises(errors.DataError, match="two columns are called 'a' in the columns given"):
    files.read(path, columns=('a', 'a'))


@pytest.mark.parametrize(
  ('encoding', 'mark', 'given'),
  [
    ('utf-8', b'', ''),
    ('utf-8', codecs.BOM_UTF8, ''),
    ('utf-8', codecs.BOM_UTF8, 'utf-8'),
    ('utf-16-le', codecs.BOM_UTF16_LE, ''),
    ('utf-16-be', codecs.BOM_UTF16_BE, ''),
    ('utf-16-be', codecs.BOM_UTF16_BE, 'UTF-16'),
    ('utf-16-le', b'', 'utf-16'),
    ('utf-16-le', codecs.BOM_UTF16_LE, 'utf-16-le'),
    ('utf-32-le', codecs.BOM_UTF32_LE, ''),
    ('latin-1', b'', 'latin-1'),
    ('cp1252', b'', 'windows-1252'),
  ],
)
def test_encodings_come_back_as_they_were(tmp_path, encoding, mark, given):
  content = mark + 'a,é\r\n1,"ü, ""ß"""\r\n'.encode(encoding)
  path = files.write(tmp_path, 'x.csv', content)
  assert files.fields(path, encoding=given) == [{'a': '1', 'é': 'ü, "ß"'}]
  written = files.rewrite(path, {'new': 'ä'}, encoding=given)
  assert written == mark + 'a,é,new\r\n1,"ü, ""ß""",ä\r\n'.encode(encoding)


@pytest.mark.parametrize(
  'content',
  [
    'a,b\n1,2\n',
    'a,b\r\n1,2\r\n',
    'a;b\r1;2\r',
    'a\tb\n"1"\t2\n',
    'a|b\n 1 |"2"\n3|\n',
    '"a","b"\n"1","2"\n"x\n\r\ny","say ""no"""\n',
    'a\n""\nx\n',
  ],
)
def test_what_was_there_stays_byte_for_byte(tmp_path, content):
  path = files.write(tmp_path, 'x.csv', content)
  assert files.rewrite(path, {}).decode() == content
  written = files.rewrite(path, {'new': 'y, "z"'})
  assert files.fields(path.with_name('out_x.csv')) == [
    found | {'new': 'y, "z"'} for found in files.fields(path)
  ]
  assert written.decode().replace('"y, ""z"""', '').replace('"new"', '').replace('new', '') != ''


def test_new_columns(tmp_path):
  path = files.write(tmp_path, 'x.csv', 'text,label\na,1\nb,2')
  values = {'label': 'c', 'score': 0.25, 'tags': ['O', 'B-x'], 'none': None}
  assert files.rewrite(path, values).decode() == (
    'text,label,label_predicted,score,tags,none\n'
    'a,1,c,0.25,"[""O"", ""B-x""]",\n'
    'b,2,c,0.25,"[""O"", ""B-x""]",\n'
  )


def test_all_fields_are_quoted_where_all_were(tmp_path):
  path = files.write(tmp_path, 'x.csv', '"text","label"\n"a","1"\n')
  assert files.rewrite(path, {'new': 'c'}).decode() == '"text","label","new"\n"a","1","c"\n'


def test_without_quotes_a_quote_is_a_character_like_others(tmp_path):
  """As Python's csv module reads with QUOTE_NONE; what was read is written as it was."""
  lines = ['a\tb', '"1\t2', 'say "no\t"', '"""\t5" pipe', '"x"\t"y"']
  content = '\n'.join(lines) + '\n'
  path = files.write(tmp_path, 'x.tsv', content)
  table = list(csv.reader(lines, delimiter='\t', quoting=csv.QUOTE_NONE))
  expected = [dict(zip(table[0], row, strict=True)) for row in table[1:]]
  reading = formats.Reading(quote='')
  assert [item.fields for item in formats.read(path, reading)] == expected
  out = io.StringIO()
  with formats.writer(out, path, reading, new=['c']) as writer:
    for record in formats.read(path, reading):
      writer.write(record, {'c': {'a "b"': 0.5}})
    with pytest.raises(errors.DataError, match='and the file has no quotes'):
      writer.write(formats.Record('row 9', {'a': 'x', 'b': '1'}), {'c': 'u\tv'})
  shown = '{"a \\"b\\"": 0.5}'
  new = ['c', *[shown] * 4]
  assert out.getvalue() == ''.join(f'{x}\t{y}\n' for x, y in zip(lines, new, strict=True))


def test_many_records_are_written_as_each_alone(tmp_path):
  path = files.write(tmp_path, 'x.csv', 'a,b\r\n1,"2,3"\r\n4,"say ""no"""\r\n,\r\n')
  columns = {'c': ['x', 'y,z', None], 'd': [0.1, ['O'], {'p': 1e-05}]}
  records = files.records(path)
  whole, single = io.StringIO(), io.StringIO()
  with formats.writer(whole, path, new=['c', 'd', 'e']) as writer:
    writer.write_all(records, columns)
  with formats.writer(single, path, new=['c', 'd', 'e']) as writer:
    for index, record in enumerate(records):
      writer.write(record, {name: values[index] for name, values in columns.items()})
  assert whole.getvalue() == single.getvalue()
  found = list(csv.reader(io.StringIO(whole.getvalue(), newline='')))
  assert found[2] == ['4', 'say "no"', 'y,z', '["O"]', '']


def test_records_from_elsewhere(tmp_path):
  path = files.write(tmp_path, 'x.csv', 'a,b\n1,2\n')
  out = io.StringIO()
  with formats.writer(out, path, new=['c']) as writer:
    writer.write(formats.Record('row 1', {'b': 'x,y', 'a': None}), {'c': 1})
    other = files.write(tmp_path, 'y.csv', 'a;b\n"1,5";2\n')
    writer.write(files.records(other)[0], {})
    with pytest.raises(errors.DataError, match="there is no column 'd'"):
      writer.write(formats.Record('row 2', {'d': 1}), {})
  assert out.getvalue() == 'a,b,c\n,"x,y",1\n"1,5",2,\n'


def test_a_file_takes_its_place_only_when_all_is_written(tmp_path):
  path = files.write(tmp_path, 'x.csv', 'a,b\n1,2\n')
  out = tmp_path / 'out.csv'
  with contextlib.suppress(KeyError), formats.writer(out, path, new=['c']) as writer:
    writer.write(files.records(path)[0], {})
    raise KeyError
  assert [file.name for file in tmp_path.iterdir()] == ['x.csv']
  files.rewrite(path, {'c': '3'}, out=path)
  assert files.fields(path) == [{'a': '1', 'b': '2', 'c': '3'}]


def test_a_character_that_the_encoding_lacks(tmp_path):
  path = files.write(tmp_path, 'x.csv', 'a\nü\n'.encode('latin-1'))
  with pytest.raises(errors.DataError, match=r"'☃' cannot be written in LATIN-1"):
    files.rewrite(path, {'new': '☃'}, encoding='latin-1')


def test_gzipped(tmp_path):
  path = files.write(tmp_path, 'x.csv.gz', gzip.compress(b'a,b\n1,2\n'))
  assert files.fields(path) == AB
  assert gzip.decompress(files.rewrite(path, {'c': '3'})) == b'a,b,c\n1,2,3\n'


@pytest.mark.skipif(not files.SHARED.is_dir(), reason='no public data beside the repository')
@pytest.mark.parametrize(
  ('name', 'rows', 'columns', 'gaps'),
  [
    ('qm8', 21786, 13, 0),
    ('sider', 1427, 28, 0),
    ('muv', 93127, 19, 0.84),  # with a column of names
    ('clintox', 1478, 3, 0),
    ('esol', 1128, 2, 0),
  ],
)
def test_the_files_of_moleculenet(name, rows, columns, gaps):
  path = files.SHARED / 'moleculenet' / f'{name}.csv.gz'
  count = missing = 0
  with gzip.open(path, 'rt', newline='') as file:
    for item, expected in zip(formats.read(path), csv.DictReader(file), strict=True):
      assert item.fields == expected
      count += 1
      missing += sum(not value for value in item.fields.values())
  assert (count, len(expected)) == (rows, columns)
  assert round(missing / count / max(columns - 2, 1), 2) == gaps


def test_memory_is_bounded(tmp_path):
  path = tmp_path / 'x.csv'
  with path.open('w') as file:
    file.write('text,label\n')
    file.writelines(f'"some text, number {number}",{number % 7}\n' for number in range(200_000))
  tracemalloc.start()
  count = sum(1 for _ in formats.read(path))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert count == 200_000
  assert peak < 5e6
