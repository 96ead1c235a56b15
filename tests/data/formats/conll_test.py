"""CoNLL columns and CoNLL-U: what is a word, a comment, a sentence; all lines come back."""

import gzip

import pytest

from mtl_jax import errors
from mtl_jax.data import formats
from tests.data.formats import files

PLAIN = [
  {'column_0': ['I', 'see'], 'column_1': ['O', 'B-x']},
  {'column_0': ['#', 'you'], 'column_1': ['B-y', 'O']},
]
UD = """\
# newdoc id = d
# sent_id = 1
# text = vámonos al mar

# sent_id = 2
# text = a = b
# no pair
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\t_\tMood=Imp\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
2.1\tx\t_\t_\t_\t_\t_\t_\t_\t_
3\t10 000\t10 000\tNUM\t_\t_\t1\tobl\t_\t_

"""


def word(number, form='x', columns=10):
  return '\t'.join([str(number), form, *'_' * (columns - 2)]) + '\n'


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('between', ['\t', ' ', '   ', ' \t'])
@pytest.mark.parametrize('blank', ['', '\t', '  '])
@pytest.mark.parametrize('after', ['', '\n', '\n\n\n'])
def test_words_and_sentences(tmp_path, end, between, blank, after):
  if between == ' \t':
    rows = ['I \tO']  # tabs alone stand between columns where there is one
    expected = [{'column_0': ['I '], 'column_1': ['O']}]
  else:
    rows = ['I O', 'see B-x', '', '', '# B-y', 'you O']
    expected = PLAIN
  text = '\n'.join(row.replace(' ', between, 1) if '\t' not in row else row for row in rows)
  text = text.replace('\n\n', f'\n{blank}\n') + after
  path = files.write(tmp_path, 'x.conll', text.replace('\n', end))
  assert files.fields(path) == expected


def test_places_are_those_of_first_words(tmp_path):
  path = files.write(tmp_path, 'x.bio', '\n# a comment here\nI O\n\n\nyou O\n')
  assert [record.place for record in files.records(path)] == ['line 3', 'line 6']


def test_docstart_is_no_word(tmp_path):
  text = '-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\n-DOCSTART- -X- O O\nGerman JJ B-NP B-MISC\n\n'
  path = files.write(tmp_path, 'x.conll', text)
  found = files.fields(path, columns=('word', 'pos', 'chunk', 'ner'))
  assert [item['word'] for item in found] == [['EU'], ['German']]
  assert files.rewrite(path, {'p': ['O']}).decode() == (
    '-DOCSTART- -X- O O O\n\nEU NNP B-NP B-ORG O\n\n'
    '-DOCSTART- -X- O O O\nGerman JJ B-NP B-MISC O\n\n'
  )


@pytest.mark.parametrize(
  ('text', 'words', 'comments'),
  [
    ('# id = 1\n#\tO\nx\tO\n', ['#', 'x'], {'comment.id': '1'}),
    ('# a b\n#x\tO\n', ['#x'], {}),
    ('x\tO\n#\tO\n', ['x', '#'], {}),
    ('x\tO\n# in between\n# key = value\ny\tO\n', ['x', 'y'], {}),
    ('# = a\n# key =\nx\tO\n', ['x'], {'comment.key': ''}),
    ('# text = a b c d\n# O\nx O\n', ['#', 'x'], {'comment.text': 'a b c d'}),
    ('#begin document (x); part 000\nx O\n', ['x'], {}),
    ('# key=v = w\nx\tO\n', ['x'], {'comment.key': 'v = w'}),
    ('# text = a\tb\nx\tO\n', ['x'], {'comment.text': 'a\tb'}),
    ('# doc = 1\n\n# id = 2\nx\tO\n', ['x'], {'comment.id': '2'}),
  ],
)
def test_comments(tmp_path, text, words, comments):
  path = files.write(tmp_path, 'x.iob2', text)
  [record] = files.records(path)
  fields = dict(record.fields)
  assert fields.pop('column_0') == words
  del fields['column_1']
  assert fields == comments
  assert files.rewrite(path, {}).decode() == text


def test_a_word_that_could_be_a_comment_within_a_sentence_is_a_fault(tmp_path):
  path = files.write(tmp_path, 'x.conll', 'x\tO\n#tag\ny\tO\n\nz\tO\n')
  assert files.faults(path) == [
    ('line 2', '1 column between tabs, expected 2; its sentence, lines 1 to 3, is lost')
  ]


@pytest.mark.parametrize(
  ('row', 'reason'),
  [
    ('y', '1 column between tabs, expected 2'),
    ('y O', '1 column between tabs, expected 2'),
    ('y\tO\tO', '3 columns between tabs, expected 2'),
    ('y\t\0', 'a NUL byte'),
  ],
)
def test_a_fault_loses_its_sentence_alone(tmp_path, row, reason):
  path = files.write(tmp_path, 'x.conll', f'a\tO\n\nx\tO\n{row}\nz\tO\n\nb\tO\n')
  assert files.faults(path) == [('line 4', f'{reason}; its sentence, lines 3 to 5, is lost')]
  good = [item.fields for item in files.read(path) if isinstance(item, formats.Record)]
  assert [item['column_0'] for item in good] == [['a'], ['b']]


def test_columns_that_are_given(tmp_path):
  path = files.write(tmp_path, 'x.iob2', '1\tAl\tB-ORG\t-\tann\n2\t:\tO\n3\tx\n\n')
  assert files.fields(path, columns=('id', 'form')) == [
    {'id': ['1', '2', '3'], 'form': ['Al', ':', 'x']}
  ]
  given = {'columns': ('id', 'form', 'tag')}
  assert files.faults(path, **given) == [
    ('line 3', '2 columns between tabs, expected 3; its sentence, lines 1 to 3, is lost')
  ]
  path = files.write(tmp_path, 'x.iob2', '1\tAl\tB-ORG\t-\tann\n2\t:\tO\n\n')
  assert files.rewrite(path, {'p': ['B', 'O']}, **given).decode() == (
    '1\tAl\tB-ORG\tB\t-\tann\n2\t:\tO\tO\n\n'
  )
  with pytest.raises(errors.DataError, match="two columns are called 'a' in the columns given"):
    files.read(path, columns=('a', 'a'))
  with pytest.raises(errors.DataError, match="delimiter ','"):
    files.read(path, delimiter=',')


def test_universal_dependencies_with_further_columns(tmp_path):
  """CoNLL-U Plus: what is written names all columns in its first line, and is read by these."""
  path, plus = files.write(tmp_path, 'x.conllu', UD), tmp_path / 'plus.conllu'
  files.rewrite(path, {'p': ['A', 'B', 'C'], 'upos': ['X', 'Y', 'Z']}, out=plus)
  [record], [before] = files.records(plus), files.records(path)
  new = {'p': ['A', 'B', 'C'], 'upos_predicted': ['X', 'Y', 'Z']}
  assert {key: v for key, v in record.fields.items() if not key.startswith('comment')} == {
    key: v for key, v in before.fields.items() if not key.startswith('comment')
  } | new
  again = files.rewrite(plus, {'p': ['D', 'E', 'F']}).decode().splitlines()
  assert sum(line.startswith('# global.columns') for line in again) == 1
  assert again[0].endswith(' MISC p upos_predicted p_predicted')
  bad = files.write(tmp_path, 'y.conllu', '# global.columns = FORM ID\na\t1\n\n')
  with pytest.raises(errors.DataError, match='line 1: the first is not ID'):
    files.records(bad)


def test_universal_dependencies(tmp_path):
  path = files.write(tmp_path, 'x.conllu', UD)
  [record] = files.records(path)
  assert record.fields['form'] == ['vamos', 'nos', '10 000']
  assert record.fields['upos'] == ['VERB', 'PRON', 'NUM']
  assert record.fields['head'] == ['0', '1', '1']
  comments = {name: value for name, value in record.fields.items() if name.startswith('comment.')}
  assert comments == {'comment.sent_id': '2', 'comment.text': 'a = b'}
  assert record.place == 'line 9'
  assert files.counted(path) == {'multiword lines and empty nodes': 2}
  assert files.rewrite(path, {}).decode() == UD
  written = files.rewrite(path, {'p': ['A', 'B', 'C'], 'sent_id': 0.5}).decode().splitlines()
  names = 'ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC p'
  assert written[0] == f'# global.columns = {names}'
  assert written[7:14] == [
    '# no pair',
    '# sent_id_predicted = 0.5',
    '1-2\tvámonos' + '\t_' * 9,
    '1\tvamos\tir\tVERB\t_\tMood=Imp\t0\troot\t_\t_\tA',
    '2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_\tB',
    '2.1\tx' + '\t_' * 9,
    '3\t10 000\t10 000\tNUM\t_\t_\t1\tobl\t_\t_\tC',
  ]


@pytest.mark.parametrize(
  ('lines', 'place', 'reason'),
  [
    (word(1) + word(3), 'line 2', 'word 3 follows word 1'),
    (word(2), 'line 1', 'word 2 follows word 0'),
    (word('a'), 'line 1', "'a' is no number of a word"),
    (word(1, columns=9), 'line 1', '9 columns between tabs, expected 10'),
    (word('1-2'), 'line 1', 'no words'),
    ('1 x _ _ _ _ _ _ _ _\n', 'line 1', '1 column between tabs, expected 10'),
  ],
)
def test_faults_of_universal_dependencies(tmp_path, lines, place, reason):
  path = files.write(tmp_path, 'x.conllu', lines + '\n' + word(1))
  [(found, said)] = files.faults(path)
  assert found == place
  assert said.startswith(reason)
  assert len(files.read(path)) == 2


@pytest.mark.parametrize(
  ('content', 'message'),
  [('', 'empty'), ('\n\n', 'holds no word'), ('# a\n\n# b\n', 'holds no word')],
)
def test_files_without_words(tmp_path, content, message):
  path = files.write(tmp_path, 'x.conll', content)
  with pytest.raises(errors.DataError, match=rf'x\.conll: {message}$'):
    files.read(path)
  if content:
    path = files.write(tmp_path, 'x.conllu', content)
    with pytest.raises(errors.DataError, match=r'x\.conllu: holds no sentence$'):
      files.read(path)


def test_what_stands_behind_the_last_sentence_comes_back(tmp_path):
  text = '\n\n#begin of it\n\nx O\n\n\ny O\n\n# the end\n\n'
  path = files.write(tmp_path, 'x.conll', text)
  assert len(files.records(path)) == 2
  assert files.rewrite(path, {}).decode() == text


def test_new_columns_and_comments(tmp_path):
  path = files.write(tmp_path, 'x.conll', '# id = 1\r\nx O \r\ny B\r\n\r\nz O')
  tags = iter([['O', 'B-x'], ['O']])
  written = files.rewrite(
    path, lambda _: {'p': next(tags, None), 'topic': 'a b'}, new=['p', 'topic']
  )
  assert written.decode() == (
    '# id = 1\r\n# topic = a b\r\nx O O\r\ny B B-x\r\n\r\n# topic = a b\r\nz O O\r\n'
  )
  for wrong in (['O'], ['O', 'a b'], ['O', 'a\n']):
    with pytest.raises(errors.DataError, match='line 2: '):
      files.rewrite(path, lambda _, wrong=wrong: {'p': wrong}, new=['p'])


def test_records_from_elsewhere(tmp_path):
  path = files.write(tmp_path, 'x.conll', 'x\tO\n')
  out = tmp_path / 'y.conll'
  fields = {'column_0': ['a', 'b'], 'column_1': ['O', None]}
  with formats.writer(out, path, new=['p']) as writer:
    writer.write(files.records(path)[0], {'p': ['1']})
    writer.write(formats.Record('row 1', fields), {'p': ['2', '3']})
    with pytest.raises(errors.DataError, match="no list of text for the column 'column_0'"):
      writer.write(formats.Record('row 2', {}), {})
  assert out.read_text() == 'x\tO\t1\n\na\tO\t2\nb\t_\t3\n\n'


EWT = ['ud-english-ewt/en_ewt-ud-dev.conllu.gz', 'uner-english-ewt/en_ewt-ud-dev.iob2.gz']


@pytest.mark.parametrize(
  ('name', 'sentences', 'words', 'reading'),
  [
    ('conll2000/train.txt.gz', 8936, 211727, {'format': 'conll'}),
    ('conll2000/test.txt.gz', 2012, 47377, {'format': 'conll'}),
    ('ud-english-ewt/en_ewt-ud-train.conllu.gz', 12543, 204579, {}),
    ('ud-english-ewt/en_ewt-ud-dev.conllu.gz', 2001, 25149, {}),
    ('ud-english-ewt/en_ewt-ud-test.conllu.gz', 2077, 25097, {}),
    (
      'uner-english-ewt/en_ewt-ud-train.0c7ce0d.iob2.gz',
      12543,
      204579,
      {'columns': ('id', 'form', 'tag')},
    ),
    ('uner-english-ewt/en_ewt-ud-dev.iob2.gz', 2001, 25149, {}),
    ('uner-english-ewt/en_ewt-ud-test.iob2.gz', 2077, 25097, {}),
    ('wnut17/wnut17train.conll', 3394, 62730, {}),
    ('wnut17/emerging.dev.conll', 1009, 15733, {}),
    ('wnut17/emerging.test.annotated', 1287, 23394, {'format': 'conll'}),
  ],
)
def test_public_files(name, sentences, words, reading):
  path = files.SHARED / name
  if not path.exists():
    pytest.skip(f'{name} is not beside the repository')
  found = files.read(path, **reading)
  assert [item for item in found if isinstance(item, formats.Fault)] == []
  first = next(iter(found[0].fields))
  assert (len(found), sum(len(item.fields[first]) for item in found)) == (sentences, words)


@pytest.mark.skipif(not (files.SHARED / 'ud-english-ewt').exists(), reason='no EWT beside here')
def test_a_public_file_comes_back_byte_for_byte(tmp_path):
  path = files.SHARED / 'ud-english-ewt' / 'en_ewt-ud-dev.conllu.gz'
  written = files.rewrite(path, {}, out=tmp_path / 'x.conllu.gz', new=[])
  assert gzip.decompress(written) == gzip.decompress(path.read_bytes())


@pytest.mark.skipif(not (files.SHARED / 'uner-english-ewt').exists(), reason='no UNER beside here')
def test_two_public_layers_meet_word_by_word():
  words, tags = (
    {item['comment.sent_id']: item for item in files.fields(files.SHARED / name)} for name in EWT
  )
  assert words.keys() == tags.keys()
  assert all(item['form'] == tags[name]['column_1'] for name, item in words.items())
