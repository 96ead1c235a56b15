"""JSON Lines: what JSON does not have is a fault of its line; old text stays as it was."""

import json

import pytest

from mtl_jax import errors
from mtl_jax.data import formats
from tests.data.formats import files


def test_values_are_those_of_json(tmp_path):
  path = files.write(
    tmp_path, 'x.jsonl', '{"a": "é\\u00e9\\ud83d\\ude00", "b": [1, 2.5, null, true]}\r\n\n {} \n'
  )
  first, second = files.records(path)
  assert first.fields == {'a': 'éé😀', 'b': [1, 2.5, None, True]}
  assert second.fields == {}
  assert (first.place, second.place) == ('line 1', 'line 3')
  assert files.counted(path) == {'blank lines': 1}


@pytest.mark.parametrize(
  ('line', 'reason'),
  [
    ('{"a": 1', "invalid JSON: Expecting ',' delimiter at character 8"),
    ('a,b', 'invalid JSON: Expecting value at character 1'),
    ('{"a": 1} {"a": 2}', 'invalid JSON: Extra data at character 10'),
    ('[1]', 'a list, and no JSON object'),
    ('"a"', 'a text, and no JSON object'),
    ('null', 'null, and no JSON object'),
    ('true', 'true or false, and no JSON object'),
    ('1', 'a number, and no JSON object'),
    ('{"a": NaN}', 'NaN is no JSON: leave the key out, or write null'),
    ('{"a": [-Infinity]}', '-Infinity is no JSON: leave the key out, or write null'),
    ('{"a": 1e999}', '1e999 is beyond all floats'),
    ('{"a": 1, "a": 2}', "the key 'a' stands there twice"),
    ('{"b": {"a": 1, "a": 2}}', "the key 'a' stands there twice"),
    ('[' * 100_000, 'invalid JSON: nested too deeply'),
    ("{'a': 1}", 'invalid JSON: Expecting property name enclosed in double quotes at character 2'),
  ],
)
def test_faults(tmp_path, line, reason):
  path = files.write(tmp_path, 'x.jsonl', '{"a": 3}\n' + line + '\n{"a": 4}\n')
  assert files.faults(path) == [('line 2', reason)]
  good = [item.fields for item in files.read(path) if isinstance(item, formats.Record)]
  assert good == [{'a': 3}, {'a': 4}]


@pytest.mark.parametrize('line', [r'{"a": "x\ud800"}', r'{"\udc00": 1}', r'{"a": ["\uD83Dx"]}'])
def test_half_a_character_is_a_fault(tmp_path, line):
  path = files.write(tmp_path, 'x.jsonl', line)
  [(place, reason)] = files.faults(path)
  assert place == 'line 1'
  assert 'it has a lone surrogate, half of a character' in reason


def test_huge_integers(tmp_path):
  path = files.write(tmp_path, 'x.jsonl', '{"a": ' + '1' * 5000 + '}')
  [(_, reason)] = files.faults(path)
  assert reason.startswith('invalid JSON: Exceeds the limit')


@pytest.mark.parametrize(
  'text', ['[\n{"a": 1}\n]\n', '[{\n"a": 1}]', '[{"a": 1}]', ' [ {"a": 1} ]']
)
def test_one_list_is_another_format(text, tmp_path):
  path = files.write(tmp_path, 'x.jsonl', text)
  with pytest.raises(errors.DataError, match=r'this is one JSON list: name it \.json'):
    files.read(path)
  assert files.fields(path, format='json') == [{'a': 1}]


@pytest.mark.parametrize(
  ('content', 'reason'), [('', 'empty'), (' \n\n', 'holds blank lines alone')]
)
def test_empty(tmp_path, content, reason):
  with pytest.raises(errors.DataError, match=rf'x\.ndjson: {reason}$'):
    files.read(files.write(tmp_path, 'x.ndjson', content))


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ('{"a": 1.0, "b": 1e5}', '{"a": 1.0, "b": 1e5, "p": "é"}'),
    ('{"a":1.0,"b":"\\u00e9"}', '{"a":1.0,"b":"\\u00e9","p":"é"}'),
    ('  { "a" : 1 }  ', '{ "a" : 1, "p": "é" }'),
    ('{}', '{"p": "é"}'),
    ('{ }', '{"p": "é"}'),
    ('{"p": 2}', '{"p": 2, "p_predicted": "é"}'),
    ('{"p": 2, "p_predicted": 3}', '{"p": 2, "p_predicted": 3, "p_predicted_2": "é"}'),
  ],
)
def test_what_was_there_stays(tmp_path, old, new):
  path = files.write(tmp_path, 'x.jsonl', f'{old}\r\n')
  written = files.rewrite(path, {'p': 'é'}).decode()
  assert written == f'{new}\r\n'
  json.loads(written, object_pairs_hook=lambda pairs: [*pairs] and dict(pairs))


def test_a_key_that_only_a_later_line_has_is_not_doubled(tmp_path):
  path = files.write(tmp_path, 'x.jsonl', '{"a": 1}\n{"p": 2}\n')
  files.rewrite(path, {'p': 3})
  assert files.fields(tmp_path / 'out_x.jsonl') == [{'a': 1, 'p': 3}, {'p': 2, 'p_predicted': 3}]


def test_values_of_any_kind(tmp_path):
  numpy = pytest.importorskip('numpy')
  path = files.write(tmp_path, 'x.jsonl', '{"a": 1}\n')
  values = {'x': numpy.float32(0.5), 'y': numpy.arange(2), 'z': float('nan'), 'l': ['a', None]}
  files.rewrite(path, values)
  assert files.fields(tmp_path / 'out_x.jsonl') == [
    {'a': 1, 'x': 0.5, 'y': [0, 1], 'z': None, 'l': ['a', None]}
  ]


def test_records_from_elsewhere(tmp_path):
  path = files.write(tmp_path, 'x.jsonl', '{"a": 1}\n')
  with formats.writer(tmp_path / 'y.jsonl', path, new=['p']) as writer:
    writer.write(formats.Record('row 1', {'b': 'x'}), {'p': 2})
  assert (tmp_path / 'y.jsonl').read_text() == '{"b": "x", "p": 2}\n'
