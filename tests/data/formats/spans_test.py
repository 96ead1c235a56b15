"""Character spans become word tags by the stated rules, and tags spans again."""

import json

import pytest

from mtl_jax import errors
from mtl_jax.data import formats
from mtl_jax.data.formats import spans
from tests.data.formats import files

TEXT = 'Ann Lee lives  in New-York, USA.'


def write(folder, *values, name='x.jsonl'):
  return files.write(folder, name, ''.join(f'{json.dumps(value)}\n' for value in values))


def tags(folder, text, *given):
  [record] = files.records(write(folder, {'text': text, 'label': list(given)}), format='spans')
  return list(zip(record.fields['words'], record.fields['tags'], strict=True))


@pytest.mark.parametrize('name', ['x.jsonl', 'x.ndjson', 'x.json'])
@pytest.mark.parametrize(
  'layout',
  [
    {'label': [[0, 7, 'PER'], [18, 27, 'LOC']]},
    {'labels': [[0, 7, 'PER'], [18, 27, 'LOC']]},
    {'entities': [[0, 7, 'PER'], [18, 27, 'LOC']]},
    {
      'entities': [
        {'id': 1, 'start_offset': 0, 'end_offset': 7, 'label': 'PER'},
        {'id': 2, 'start_offset': 18, 'end_offset': 27, 'label': 'LOC'},
      ],
      'relations': [],
    },
    {
      'spans': [
        {'start': 0, 'end': 7, 'label': 'PER'},
        {'start': 18, 'end': 27, 'label': 'LOC'},
      ]
    },
  ],
)
def test_layouts_are_found_out(tmp_path, layout, name):
  first = {'id': 0, 'text': 'nothing here', 'label': []}
  path = write(tmp_path, first, {'id': 1, 'text': TEXT, **layout}, name=name)
  empty, found = files.fields(path)
  assert found['words'] == ['Ann', 'Lee', 'lives', 'in', 'New-York,', 'USA.']
  assert found['tags'] == ['B-PER', 'I-PER', 'O', 'O', 'B-LOC', 'O']
  assert found['id'] == 1
  assert found['text'] == TEXT
  assert empty['tags'] == ['O', 'O']


@pytest.mark.parametrize(
  'value',
  [
    {'text': 'a', 'label': ['x', 'y']},
    {'text': 'a', 'label': 'x'},
    {'text': 'a', 'labels': [['x', 'y', 'z']]},
    {'words': 'a', 'label': [[0, 1, 'x']]},
  ],
)
def test_other_lists_are_no_spans(tmp_path, value):
  assert files.fields(write(tmp_path, value)) == [value]


@pytest.mark.parametrize(
  ('given', 'expected', 'notes'),
  [
    ([[0, 3, 'x']], 'B-x O O', {}),
    ([[4, 8, 'x']], 'O B-x O', {'spans that end inside a word': 1}),
    ([[5, 9, 'x']], 'O B-x O', {'spans that begin inside a word': 1}),
    (
      [[1, 5, 'x']],
      'B-x I-x O',
      {'spans that begin inside a word': 1, 'spans that end inside a word': 1},
    ),
    ([[3, 10, 'x']], 'O B-x O', {}),  # with the blanks around it
    ([[0, 3, 'x'], [4, 9, 'x']], 'B-x B-x O', {}),
    ([[0, 3, 'x'], [0, 9, 'y']], 'B-y I-y O', {'spans left out: a longer one has their word': 1}),
    ([[4, 12, 'x'], [0, 8, 'y']], 'B-y I-y O', {
      'spans left out: a longer one has their word': 1, 'spans that end inside a word': 1}),
    ([[4, 6, 'x'], [7, 9, 'y']], 'O B-x O', {
      'spans left out: a longer one has their word': 1, 'spans that end inside a word': 1}),
  ],
)  # fmt: skip
def test_rules(tmp_path, given, expected, notes):
  text = 'abc defgh ij'
  assert [tag for _, tag in tags(tmp_path, text, *given)] == expected.split()
  assert files.counted(tmp_path / 'x.jsonl', format='spans') == notes


def test_offsets_count_characters(tmp_path):
  assert (
    tags(tmp_path, '😀 é́\u3000x', [2, 4, 'a'], [5, 6, 'b'])
    == [
      ('😀', 'O'),
      ('é́', 'B-a'),
      ('x', 'B-b'),
    ]
    or len('é́') != 2
  )


@pytest.mark.parametrize(
  ('value', 'reason'),
  [
    ({'text': 'abc d', 'label': [[0, 6, 'x']]}, 'is outside of the text, which ends at 5'),
    ({'text': 'abc d', 'label': [[-1, 2, 'x']]}, 'is outside of the text'),
    ({'text': 'abc d', 'label': [[2, 2, 'x']]}, 'the span [2, 2, "x"] is empty'),
    ({'text': 'abc d', 'label': [[2, 1, 'x']]}, 'is empty'),
    ({'text': 'abc d', 'label': [[3, 4, 'x']]}, 'holds blanks alone'),
    ({'text': 'abc d', 'label': [[0, 1.5, 'x']]}, 'does not begin and end at whole numbers'),
    ({'text': 'abc d', 'label': [[0, 1, '']]}, 'has no name'),
    ({'text': 'abc d', 'label': [[0, 1, 3]]}, 'has no name'),
    ({'text': 'abc d', 'label': [[0, 1]]}, 'is no span [start, end, name]'),
    ({'text': 'abc d', 'label': ['x']}, '"x" is no span'),
    ({'text': 'abc d', 'label': [{'start': 0, 'label': 'x'}]}, 'is no span'),
    ({'text': 3, 'label': []}, "no field 'text' with a text"),
    ({'label': []}, "no field 'text' with a text"),
    ({'text': 'a', 'tags': []}, "a field 'tags' of its own"),
  ],
)
def test_faults(tmp_path, value, reason):
  path = write(tmp_path, {'text': 'a', 'label': []}, value, {'text': 'b', 'label': [[0, 1, 'x']]})
  [(place, said)] = files.faults(path, format='spans')
  assert place == 'line 2'
  assert reason in said
  assert len(files.read(path, format='spans')) == 3


def test_faults_of_json_stay(tmp_path):
  path = files.write(tmp_path, 'x.jsonl', '{"text": "a", "label": [[0, 1, "x"]]}\nno\n')
  assert files.faults(path) == [('line 2', 'invalid JSON: Expecting value at character 1')]


def test_without_spans_there_are_no_tags(tmp_path):
  path = write(tmp_path, {'text': 'a b'}, {'text': 'a', 'label': None})
  assert [item['tags'] for item in files.fields(path, format='spans')] == [None, None]


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ([[0, 3, 'x']], [[0, 7, 'PER'], [18, 27, 'LOC'], [28, 32, 'LOC']]),
    (
      [{'start': 0, 'end': 3, 'label': 'x'}],
      [
        {'start': 0, 'end': 7, 'label': 'PER'},
        {'start': 18, 'end': 27, 'label': 'LOC'},
        {'start': 28, 'end': 32, 'label': 'LOC'},
      ],
    ),
  ],
)
def test_tags_are_written_as_spans(tmp_path, old, new):
  line = json.dumps({'text': TEXT, 'label': old})
  path = files.write(tmp_path, 'x.jsonl', line + '\n')
  values = {
    'label': ['B-PER', 'I-PER', 'O', 'O', 'I-LOC', 'B-LOC'],
    'topic': 'a',
    'scores': [0.5] * 6,
  }
  written = files.rewrite(path, values).decode()
  assert written.startswith(line[:-1])
  assert json.loads(written) == {
    'text': TEXT,
    'label': old,
    'label_predicted': new,
    'topic': 'a',
    'scores': [0.5] * 6,
  }


def test_tags_and_spans_are_inverse(tmp_path):
  given = [[0, 3, 'a'], [4, 7, 'b'], [8, 17, 'b-c']]
  path = write(tmp_path, {'text': TEXT, 'label': given})
  files.rewrite(path, lambda record: {'p': record.fields['tags']})
  assert json.loads((tmp_path / 'out_x.jsonl').read_text())['p'] == given


def test_an_i_of_another_name_begins_a_span():
  assert spans._spans(
    ['I-a', 'I-b', 'I-b', 'O', 'I-b'], [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
  ) == [
    (0, 1, 'a'),
    (2, 5, 'b'),
    (8, 9, 'b'),
  ]


def test_empty(tmp_path):
  with pytest.raises(errors.DataError, match='empty'):
    files.read(files.write(tmp_path, 'x.jsonl', ''), format='spans')


def test_a_list_in_json(tmp_path):
  path = files.write(tmp_path, 'x.json', json.dumps([{'text': 'a b', 'label': [[2, 3, 'x']]}]))
  [record] = files.records(path)
  assert record.fields['tags'] == ['O', 'B-x']
  files.rewrite(path, {'p': ['B-y', 'O']})
  assert json.loads((tmp_path / 'out_x.json').read_text())[0]['p'] == [[0, 1, 'y']]
  assert isinstance(record, formats.Record)
