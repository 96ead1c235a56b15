"""Described files: kinds and inputs as the values tell, splits, faults, several files at once."""

import json
import os
import re

import numpy as np
import pytest

from mtl_jax import errors
from mtl_jax.data import described, pipeline
from mtl_jax.data.described import tables

TICKETS = 'text,category,urgency,sentiment,user\n' + ''.join(
  f'"ticket {i}, with a comma",{("billing", "login", "other")[i % 3]},{i / 10},'
  f'{("good", "bad", "")[i % 3]},u{i % 10}\n'
  for i in range(60)
)
REVIEWS = 'label\treview\n' + ''.join(f'{("good", "bad")[i % 2]}\treview {i}\n' for i in range(40))


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'tickets.csv').write_text(TICKETS)
  (tmp_path / 'reviews.tsv').write_text(REVIEWS)
  return tmp_path


def describe(files, tasks):
  return described.describe(files, tasks)


def tickets(**more):
  return {'tickets': {'train': 'tickets.csv', 'input': 'text', **more}}


def test_kinds_metrics_and_input_follow_from_the_values(folder):
  made = describe(tickets(), {'category': {}, 'urgency': {}})
  assert made.tasks['category'].rules.name == 'classification'
  assert made.tasks['category'].metrics == ('accuracy', 'macro_f1')
  assert made.tasks['urgency'].rules.name == 'regression'
  assert made.input.kind == 'text'
  assert made.owner == ''
  examples = made.read()
  assert {split: len(found) for split, found in examples.items()} == {
    'train': 48,
    'validation': 6,
    'test': 6,
  }
  one = next(e for e in examples['train'] if e['input'] == 'ticket 7, with a comma')
  assert (one['category'], one['urgency']) == ('login', 0.7)


def test_what_was_found_out_needs_no_files_again(folder):
  made = describe(tickets(), {'category': {}, 'urgency': {}})
  (folder / 'tickets.csv').unlink()
  again = describe(made.files, made.columns)
  assert again.tasks == made.tasks
  assert again.input == made.input
  assert again.columns == json.loads(json.dumps(made.columns)) or again.columns == made.columns


def test_a_task_of_two_files_and_a_task_of_one(folder):
  files = tickets() | {'reviews': {'train': 'reviews.tsv', 'input': 'review'}}
  tasks = {
    'category': {'files': 'tickets'},
    'mood': {'files': ('tickets', 'reviews'), 'column': 'sentiment'},
  }
  with pytest.raises(errors.DataError, match=r"reviews.tsv has no column 'sentiment'"):
    describe(files, tasks)
  (folder / 'reviews.tsv').write_text(REVIEWS.replace('label', 'sentiment'))
  made = describe(files, tasks)
  assert made.owner == ''
  examples = made.read()
  reviews = [e for e in examples['train'] if e['input'].startswith('review')]
  assert all(e['category'] is None and e['mood'] in ('good', 'bad') for e in reviews)
  missing = [e for e in examples['train'] if e['input'].startswith('ticket') and e['mood'] is None]
  assert 10 < len(missing) < 20


def test_tasks_on_files_of_their_own_have_inputs_of_their_own(folder):
  files = tickets() | {'reviews': {'train': 'reviews.tsv', 'input': 'review'}}
  made = describe(files, {'category': {'files': 'tickets'}, 'label': {'files': 'reviews'}})
  assert made.owner == 'task'
  data = pipeline.load({'files': files}, made.columns, 4, 0, source=made)
  assert data.own_inputs
  assert set(data.train().__next__()) == {'category', 'label'}
  with pytest.raises(errors.ConfigError, match=r'tasks.category.files: say which files it reads'):
    describe(files, {'category': {}, 'label': {'files': 'reviews'}})
  with pytest.raises(errors.ConfigError, match=r'dataset.files.reviews: no task reads it'):
    describe(files, {'category': {'files': 'tickets'}})


def test_splits_by_a_column_by_files_and_grouped(folder):
  made = describe(tickets(group='user', test=0.2), {'category': {}})
  examples = made.read()
  users = {
    split: {int(e['input'].split()[1][:-1]) % 10 for e in found}
    for split, found in examples.items()
  }
  assert not users['train'] & users['test']
  assert len(users['test']) == 2
  lines = TICKETS.splitlines()
  marked = [lines[0] + ',part'] + [
    f'{line},{("train", "train", "train", "dev", "test")[i % 5]}'
    for i, line in enumerate(lines[1:])
  ]
  (folder / 'marked.csv').write_text('\n'.join(marked) + '\n')
  files = {'marked': {'train': 'marked.csv', 'input': 'text', 'split': 'part'}}
  found = describe(files, {'category': {}}).read()
  assert [len(found[split]) for split in ('train', 'validation', 'test')] == [36, 12, 12]
  (folder / 'held.csv').write_text('\n'.join([lines[0], *lines[50:]]))
  found = describe(tickets(test='held.csv'), {'category': {}}).read()
  assert len(found['test']) == 11
  assert len(found['train']) == 54


def test_duplicates_across_splits_are_counted(folder):
  (folder / 'test.csv').write_text('\n'.join(TICKETS.splitlines()[:4]) + '\n')
  made = describe(tickets(test='test.csv', validation=0), {'category': {}})
  made.read()
  assert made.notes == {'examples of test whose input stands in train too': 3}


def test_files_that_changed_after_a_run(folder):
  files = {'tickets': described.file_options('tickets', tickets(test='*.tsv')['tickets'])}
  (folder / 'results.json').write_text('{}')
  for name, time in (('tickets.csv', 10), ('reviews.tsv', 10), ('results.json', 20)):
    os.utime(folder / name, (time, time))
  assert tables.newer(files, folder / 'results.json') == []
  os.utime(folder / 'reviews.tsv', (30, 30))
  assert tables.newer(files, folder / 'results.json') == ['reviews.tsv']
  (folder / 'tickets.csv').unlink()
  assert tables.newer(files, folder / 'results.json') == ['reviews.tsv']


def test_malformed_rows_stop_or_are_counted(folder):
  text = TICKETS + 'short,row\n' + '" ",billing,1,good,u1\n' + 'fine,billing,soon,good,u1\n'
  (folder / 'tickets.csv').write_text(text)
  tasks = {'category': {}, 'urgency': {'kind': 'regression'}}
  with pytest.raises(errors.DataError) as raised:
    describe(tickets(), tasks).read()
  message = str(raised.value)
  assert '3 of 63 rows cannot be used' in message
  assert "line 63: column 'text' is empty" in message
  assert "line 64: column 'urgency', task 'urgency': 'soon' is no number" in message
  assert "on_error = 'skip'" in message
  made = describe(tickets(on_error='skip'), tasks)
  assert sum(map(len, made.read().values())) == 60
  assert made.notes['tickets: malformed rows left out'] == 3


def test_values_that_tell_nothing_are_errors_that_say_what_to_do(folder):
  rows = TICKETS.replace(',0.3,', ',n/a,')
  (folder / 'tickets.csv').write_text(rows)
  with pytest.raises(errors.DataError, match=r"'n/a' \(tickets.csv, line 5\)"):
    describe(tickets(), {'urgency': {}})
  many = re.sub(r',[01]\.[0-9],', ',n/a,', TICKETS)  # a third of the rows
  (folder / 'tickets.csv').write_text(many)
  with pytest.raises(errors.DataError, match=r"40 of 60 .* such as 'n/a' .* in the missing"):
    describe(tickets(), {'urgency': {}})
  made = describe(tickets(missing=['n/a']), {'urgency': {}})
  assert sum(e['urgency'] is None for e in made.read()['train']) <= 1
  with pytest.raises(errors.DataError, match='look like no classes'):
    describe(tickets(input='category'), {'text': {}})
  with pytest.raises(errors.DataError, match="no column 'txt'; did you mean 'text'"):
    describe(tickets(input='txt'), {'category': {}})
  with pytest.raises(errors.DataError, match="no column 'categry'; did you mean 'category'"):
    describe(tickets(), {'categry': {}})


def test_given_labels_are_kept_in_order_and_others_are_faults(folder):
  labels = ('other', 'login', 'billing')
  made = describe(tickets(), {'category': {'labels': labels}})
  data = pipeline.load({'files': tickets()}, made.columns, 4, 0, source=made)
  assert data.label_names['category'] == labels
  made = describe(tickets(), {'category': {'labels': labels[:2]}})
  with pytest.raises(errors.DataError, match="no label 'billing'"):
    made.read()


def test_words_and_tags_of_json_lines(folder):
  rows = [
    {'tokens': ['Anna', 'lives', 'in', 'Rome'], 'ner': ['B-PER', 'O', 'O', 'B-LOC'], 'topics': []},
    {'tokens': ['Rain'], 'ner': ['O'], 'topics': ['weather', 'news']},
  ] * 20
  (folder / 'ner.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  files = {'ner': {'train': 'ner.jsonl', 'input': 'tokens'}}
  made = describe(files, {'ner': {}, 'topics': {}})
  assert made.input.kind == 'words'
  assert {t: s.rules.name for t, s in made.tasks.items()} == {
    'ner': 'tagging',
    'topics': 'multilabel',
  }
  assert made.tasks['ner'].metrics == ('f1', 'token_accuracy')
  data = pipeline.load({'files': files}, made.columns, 4, 0, source=made)
  assert data.label_names['ner'] == ('O', 'B-LOC', 'B-PER')


def test_numbers_with_gaps_are_standardized_by_the_training_split(folder):
  rng = np.random.default_rng(0)
  values = rng.normal(3, 5, (100, 3))
  lines = [
    ','.join(['' if (i + j) % 7 == 0 else f'{x}' for j, x in enumerate(row)] + [str(i % 2)])
    for i, row in enumerate(values)
  ]
  (folder / 'table.csv').write_text('x1,x2,x3,y\n' + '\n'.join(lines) + '\n')
  files = {'table': {'train': 'table.csv', 'input': 'x*'}}
  made = describe(files, {'y': {}})
  text = (folder / 'table.csv').read_text()
  (folder / 'table.csv').write_text(re.sub(r'(?m)^,', 'NA,', text))
  with pytest.raises(errors.DataError, match=r"'x1' has texts, such as 'NA' \(table.csv, line 2\)"):
    describe(files, {'y': {}})
  files['table']['missing'] = 'NA'
  made = describe(files, {'y': {}})
  assert np.isnan(made.example('table', {'x1': 'NA', 'x2': '1', 'x3': ''})['input'][[0, 2]]).all()
  data = pipeline.load({'files': files}, made.columns, 80, 0, source=made)
  inputs = data.example_batch()['inputs']
  gaps = inputs == 0
  assert 5 < gaps.sum() < 60
  known = np.where(gaps, np.nan, inputs)
  np.testing.assert_allclose(np.nanmean(known, axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(np.nanstd(known, axis=0), 1, rtol=1e-5)


def test_pairs_and_scripts_without_blanks(folder):
  pairs = ''.join(f'premise {i}\thypothesis {i}\t{"yn"[i % 2]}\n' for i in range(30))
  (folder / 'pairs.tsv').write_text(f'a\tb\tlabel\n{pairs}')
  made = describe({'p': {'train': 'pairs.tsv', 'input': ['a', 'b']}}, {'label': {}})
  assert made.input.pair == 'second'
  assert made.read()['train'][0]['second'].startswith('hypothesis')
  thai = ''.join(f'สวัสดีครับ{i},{"yn"[i % 2]}\n' for i in range(30))
  (folder / 'thai.csv').write_text(f'text,label\n{thai}')
  made = describe({'t': {'train': 'thai.csv', 'input': 'text'}}, {'label': {}})
  assert made.input.tokenizer == 'characters'


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'train': 'tickets.csv', 'input': 'text', 'tset': 'a'}, "no key 'tset'; did you mean 'test'"),
    ({'input': 'text'}, 'train: name the file'),
    ({'train': 'tickets.csv'}, 'input: name the column'),
    ({'train': 'tickets.csv', 'input': 'text', 'test': 1.5}, 'test: need a path, or a share'),
    ({'train': 'tickets.csv', 'input': 'text', 'test': 0.5, 'validation': 0.5}, 'leave nothing'),
    ({'train': 3, 'input': 'text'}, 'train: need a path'),
    ({'train': 'tickets.csv', 'input': 'text', 'on_error': 'warn'}, "on_error: no 'warn'"),
    ({'train': 'tickets.csv', 'input': 'text', 'group': 'user', 'stratify': 'x'}, 'not both'),
    ('tickets.csv', 'need a section with keys'),
  ],
)
def test_options_that_do_not_fit(given, message):
  with pytest.raises(errors.ConfigError, match=message):
    described.file_options('tickets', given)


def test_classes_that_are_numbers_stand_in_their_order(folder):
  rows = ''.join(f'text {i},{(10, 9, 9, 9, 2)[i % 5]}\n' for i in range(40))
  (folder / 'grades.csv').write_text('text,grade\n' + rows)
  files = {'grades': {'train': 'grades.csv', 'input': 'text'}}
  made = describe(files, {'grade': {}})
  data = pipeline.load({'files': files}, made.columns, 4, 0, source=made)
  assert data.label_names['grade'] == ('2', '9', '10')
