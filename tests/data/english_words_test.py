"""The lexicon's tables become the right examples; damaged tables are named with file and line."""

import collections
import gzip
import importlib.util
import subprocess
import sys

import pytest

from mtl_jax import errors
from mtl_jax.data import edit_rules, prepare
from mtl_jax.data.builders import english_words

needs_lexicon = pytest.mark.skipif(
  importlib.util.find_spec('lemminflect') is None, reason='the package lemminflect is not installed'
)

FORMS = """\
walk,verb,walked,,walking,walks
walk,noun,walks
saw,noun,saws
saw,verb,sawed,sawn/sawed,sawing,saws
see,verb,saw,seen,seeing,sees
good,adj,better,best
Paris,noun,
beware,verb,,,,
"""
LEMMAS = """\
walk,noun,walk
walk,verb,walk
walked,verb,walk
walking,verb,walk
walks,noun,walk
walks,verb,walk
saw,noun,saw
saw,verb,see/saw
good,adj,good
better,adj,good
ice cream,noun,ice cream
be,aux,be
paris,noun,paris
"""


def write(folder, forms=FORMS, lemmas=LEMMAS):
  for name, content in (('infl_lu.csv.gz', forms), ('lemma_lu.csv.gz', lemmas)):
    content = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(gzip.compress(content))
  return folder


def read(folder):
  return english_words.read_lexicon(folder / 'infl_lu.csv.gz', folder / 'lemma_lu.csv.gz')


def by_form(splits):
  return {form: example for examples in splits.values() for form, example in examples}


def test_examples(tmp_path):
  words = by_form(read(write(tmp_path)))
  assert words['walked'] == {
    'form': 'walked',
    'upos': ['VERB'],
    'tag': 'VBD|VBN',  # an empty VBN is the VBD
    'lemma': 'walk',
    'rule': ';|--',
  }
  assert words['walks']['upos'] == ['NOUN', 'VERB']
  assert words['walks']['tag'] == 'NNS|VBZ'
  assert words['walk']['tag'] == 'NN|VB'
  assert words['saw'] == {
    'form': 'saw',
    'upos': ['NOUN', 'VERB'],
    'tag': 'NN|VB|VBD',
    'lemma': '',
    'rule': '',
  }
  assert words['sawed']['tag'] == 'VBD|VBN'
  assert words['sawn']['tag'] == 'VBN'
  assert words['best'] == {
    'form': 'best',
    'upos': ['ADJ'],
    'tag': 'JJS',
    'lemma': 'good',
    'rule': ';*good',
  }
  assert words['be']['tag'] == ''
  assert words['beware']['tag'] == 'VB'
  assert words['Paris']['tag'] == 'NN'
  assert 'ice cream' not in words


def test_groups_join_words_that_share_a_lemma():
  lemmas = {
    'saw': {'see', 'saw'},
    'sees': {'see'},
    'sawed': {'saw'},
    'walk': {'walk'},
    'See': {'see'},
  }
  group = english_words._groups(lemmas)
  assert group['sees'] == group['sawed'] == group['see'] == group['saw'] == 'saw'
  assert group['walk'] == 'walk'
  backwards = dict(reversed(lemmas.items()))
  assert english_words._groups(backwards) == group


@pytest.mark.parametrize(
  ('table', 'content', 'match'),
  [
    ('forms', 'walk,verb,walked\n', r'infl_lu.csv.gz, line 1: expected lemma,pos'),
    ('forms', FORMS + 'walk,noun\n', r'infl_lu.csv.gz, line 9: .* cut off'),
    ('forms', 'walk,particle,walks\n', r'line 1: .*noun with 1'),
    ('lemmas', LEMMAS + 'x,interjection,x\n', r'lemma_lu.csv.gz, line 14: expected form,pos,lemma'),
    ('lemmas', LEMMAS + 'x,noun,\n', r'lemma_lu.csv.gz, line 14'),
    (
      'lemmas',
      b'walk,noun,walk\nwa\xffk,noun,walk\n',
      r'line 2: byte 0xff at offset 17 is not UTF-8',
    ),
  ],
)
def test_bad_rows(tmp_path, table, content, match):
  with pytest.raises(errors.DataError, match=match):
    read(write(tmp_path, **{table: content}))


def test_truncated_gzip(tmp_path):
  path = write(tmp_path) / 'lemma_lu.csv.gz'
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(errors.DataError, match=r'lemma_lu.csv.gz: truncated or damaged gzip'):
    read(tmp_path)
  path.write_bytes(b'not gzip at all')
  with pytest.raises(errors.DataError, match='truncated or damaged gzip'):
    read(tmp_path)


def test_an_empty_split_is_an_error_and_leaves_nothing(tmp_path):
  raw = tmp_path / 'raw'
  raw.mkdir()
  write(raw, 'walk,noun,walks\n', 'walk,noun,walk\n')
  with pytest.raises(errors.DataError, match=r"'english_words': the split '.*' is empty"):
    prepare.prepare('english_words', tmp_path / 'data', raw)
  with pytest.raises(errors.DataError, match=r'data.prepare english_words --data_dir'):
    prepare.load_source('english_words', 'train', tmp_path / 'data')


@needs_lexicon
def test_the_package_is_read_without_importing_it():
  code = (
    'import sys\n'
    'from mtl_jax.data.builders import english_words\n'
    'folder = english_words._package_dir()\n'
    'english_words.read_lexicon(folder / "infl_lu.csv.gz", folder / "lemma_lu.csv.gz")\n'
    'print([name for name in ("lemminflect", "tensorflow", "pickle5") if name in sys.modules])\n'
  )
  run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert run.stdout.strip() == '[]'


@pytest.fixture(scope='module')
def lexicon():
  return read(english_words._package_dir())


@needs_lexicon
def test_every_rule_of_the_lexicon_leads_to_its_lemma(lexicon):
  known = 0
  for form, example in by_form(lexicon).items():
    assert (example['lemma'] == '') == (example['rule'] == '')
    if example['lemma']:
      assert edit_rules.apply_rule(form, example['rule']) == example['lemma']
      known += 1
  assert known > 60_000


@needs_lexicon
def test_no_lemma_is_in_two_splits():
  # From the table itself, since an example with several lemmas does not list them.
  folder = english_words._package_dir()
  splits = read(folder)
  split_of = {form: split for split, examples in splits.items() for form, _ in examples}
  found = collections.defaultdict(set)
  for _, (form, _, lemmas) in english_words._rows(folder / 'lemma_lu.csv.gz'):
    for lemma in lemmas.split('/'):
      if form in split_of:
        found[lemma.casefold()].add(split_of[form])
        found[form.casefold()].add(split_of[form])
  for _, (lemma, _, *cells) in english_words._rows(folder / 'infl_lu.csv.gz'):
    for form in '/'.join(cells).split('/'):
      if form in split_of:
        found[lemma.casefold()].add(split_of[form])
  assert len(found) > 60_000
  assert {lemma: where for lemma, where in found.items() if len(where) > 1} == {}


@needs_lexicon
def test_sizes(lexicon):
  sizes = {split: len(examples) for split, examples in lexicon.items()}
  total = sum(sizes.values())
  assert total > 60_000
  assert abs(sizes['train'] / total - 0.8) < 0.01
  assert abs(sizes['validation'] / total - 0.1) < 0.01
