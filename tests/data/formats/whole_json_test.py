"""JSON in one piece, and objects one a line under the same suffix."""

import json

import pytest

from mtl_jax import errors
from tests.data.formats import files

ROWS = [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'ü'}]
LAYOUTS = [
  json.dumps(ROWS),
  json.dumps(ROWS, separators=(',', ':')),
  json.dumps(ROWS, indent=2) + '\n',
  json.dumps(ROWS, indent='\t', ensure_ascii=False),
  '\ufeff' + json.dumps(ROWS, indent=4).replace('\n', '\r\n'),
  json.dumps({'data': ROWS}),
  json.dumps({'version': '1', 'data': ROWS, 'more': {'data': [1]}}, indent=2),
  '\n'.join(map(json.dumps, ROWS)) + '\n',
  '\n'.join(map(json.dumps, ROWS)),
]


@pytest.mark.parametrize('content', LAYOUTS)
def test_layouts(tmp_path, content):
  path = files.write(tmp_path, 'x.json', content)
  assert files.fields(path) == ROWS


@pytest.mark.parametrize('content', LAYOUTS)
def test_the_layout_stays(tmp_path, content):
  path = files.write(tmp_path, 'x.json', content)
  assert files.rewrite(path, {}).decode().rstrip('\n') == content.rstrip('\n')
  written = files.rewrite(path, {'p': [0.5]}).decode()
  assert files.fields(tmp_path / 'out_x.json') == [row | {'p': [0.5]} for row in ROWS]
  assert written.count('\n') - content.count('\n') in (0, 1, 2)
  if content == LAYOUTS[2]:
    assert '  {\n    "a": 1,\n    "b": "x",\n    "p": [0.5]\n  },\n' in written
  if content == LAYOUTS[1]:
    assert '{"a":1,"b":"x","p":[0.5]}' in written


def test_places(tmp_path):
  path = files.write(tmp_path, 'x.json', '[\n {"a": 1},\n\n {"a":\n 2}]')
  assert [item.place for item in files.records(path)] == ['item 1, line 2', 'item 2, line 4']


def test_one_object_a_line_without_line_end(tmp_path):
  assert files.fields(files.write(tmp_path, 'x.json', '{"a": 1}')) == [{'a': 1}]
  path = files.write(tmp_path, 'x.json', '{"data": [1]}\n{"data": [2]}\n')
  assert files.fields(path) == [{'data': [1]}, {'data': [2]}]
  path = files.write(tmp_path, 'x.json', '{"a": 1\n{"a": 2}\n')
  assert [place for place, _ in files.faults(path)] == ['line 1']


def test_an_empty_list(tmp_path):
  path = files.write(tmp_path, 'x.json', ' [ ] ')
  assert files.read(path) == []
  path = files.write(tmp_path, 'x.json', '{"data": []}')
  assert files.read(path) == []


def test_faults_are_of_items(tmp_path):
  path = files.write(tmp_path, 'x.json', '[{"a": 1}, 2, {"a": NaN},\n{"a": 1, "a": 2}, {"a": 3}]')
  assert files.faults(path) == [
    ('item 2, line 1', 'a number, and no JSON object'),
    ('item 3, line 1', 'NaN is no JSON: leave the key out, or write null'),
    ('item 4, line 2', "the key 'a' stands there twice"),
  ]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('', 'x.json: empty'),
    (' \n', 'x.json: holds blank lines alone'),
    ('[{"a": 1}', "line 1: invalid JSON: expected a comma or the end of the list at ''"),
    ('[{"a": 1},]', "a comma before the end of the list at ']'"),
    ('[{"a": 1}]\n x', "line 2: invalid JSON: more after the end of the list at 'x'"),
    ('[{"a": 1}\n {"a": 2}]', 'line 2: invalid JSON: expected a comma or the end'),
    ('[{"a" 1}]', "line 1: invalid JSON: Expecting ':' delimiter at '1}]'"),
    ('[{"a": 1}, ', "invalid JSON: Expecting value at ''"),
    ('[' * 100_000, 'nested too deeply'),
    ('hello', "no JSON list of objects: it begins with 'hello'"),
    ('{\n"text": {"0": "a"}}', "one JSON object with the keys ['text'] and no list of objects"),
    ('{\n"data": {"0": "a"}}', 'no list of objects under "data"'),
    ('{\n"data": [{"a": 1}]} x', "line 2: invalid JSON: more after the end of the object at 'x'"),
    ('{\n"data": [{"a": 1}', 'line 2: invalid JSON'),
  ],
)
def test_files_that_are_none(tmp_path, content, message):
  path = files.write(tmp_path, 'x.json', content)
  with pytest.raises(errors.DataError) as caught:
    files.read(path)
  assert message in str(caught.value)
