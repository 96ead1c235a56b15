"""Parallel files become examples, from a folder or from the network; damaged ones are named."""

import hashlib
import warnings
from pathlib import Path

import pytest

from mtl_jax import errors
from mtl_jax.data import prepare
from mtl_jax.data.builders import snips
from tests.data import served

# The files here are not the published ones; one test looks at the warning.
pytestmark = pytest.mark.filterwarnings('ignore:.*not the published split')

SHARED = Path(__file__).parents[2].parent / 'shared' / 'data' / 'slu-snips'

# Lines end in a blank, as in the original.
SPLITS = {
  'train': {
    'seq.in': 'play a song \nadd it to rock \n',
    'seq.out': 'O O B-music_item \nO O O B-playlist \n',
    'label': 'PlayMusic\nAddToPlaylist\n',
  },
  'valid': {'seq.in': 'play jazz\n', 'seq.out': 'O B-genre\n', 'label': 'PlayMusic\n'},
  'test': {'seq.in': 'play ütopia', 'seq.out': 'O B-genre', 'label': 'PlayMusic'},
}


@pytest.fixture
def raw(tmp_path):
  for folder, files in SPLITS.items():
    (tmp_path / 'raw' / folder).mkdir(parents=True)
    for name, content in files.items():
      (tmp_path / 'raw' / folder / name).write_text(content, encoding='utf-8')
  return tmp_path / 'raw'


def test_examples(raw, tmp_path):
  prepared = prepare.prepare('snips', tmp_path / 'data', raw)
  assert prepared.new
  assert prepared.num_examples == {'train': 2, 'validation': 1, 'test': 1}
  train = prepare.load_source('snips', 'train', tmp_path / 'data')
  assert len(train) == 2
  assert sorted(train, key=str) == [
    {
      'intent': 'AddToPlaylist',
      'slots': ['O', 'O', 'O', 'B-playlist'],
      'words': ['add', 'it', 'to', 'rock'],
    },
    {
      'intent': 'PlayMusic',
      'slots': ['O', 'O', 'B-music_item'],
      'words': ['play', 'a', 'song'],
    },
  ]
  assert train[:2] == [train[0], train[1]]
  test = prepare.load_source('snips', 'test', tmp_path / 'data')
  assert test[0]['words'] == ['play', 'ütopia']


@pytest.mark.parametrize(
  ('name', 'content', 'match'),
  [
    ('seq.out', 'O O\nO O O B-playlist\n', r'train/seq.out, line 1: 2 tags for the 3 words'),
    ('seq.out', 'O O O\nO O O X-playlist\n', r"seq.out, line 2: 'X-playlist' is not an IOB tag"),
    ('seq.out', 'O O O\nO O O B-\n', r"seq.out, line 2: 'B-' is not an IOB tag"),
    (
      'seq.out',
      'O O O\n',
      r'seq.in has 2 lines, .*seq.out 1 and .*label 2: one of them is cut off',
    ),
    (
      'seq.in',
      b'play a song\nadd \xc3 to rock\n',
      r'seq.in, line 2: byte 0xc3 at offset 16 is not',
    ),
    ('seq.in', '\nadd it to rock\n', r'seq.in, line 1: no words'),
    ('label', 'PlayMusic\n\n', r'label, line 2: no intent'),
    ('label', None, r'train/label: no such file'),
  ],
)
def test_bad_files_leave_nothing_and_can_be_mended(raw, tmp_path, name, content, match):
  path = raw / 'train' / name
  original = path.read_bytes()
  if content is None:
    path.unlink()
  else:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(errors.DataError, match=match):
    prepare.prepare('snips', tmp_path / 'data', raw)
  assert not [p for p in (tmp_path / 'data').rglob('*') if p.is_file()]
  path.write_bytes(original)
  assert prepare.prepare('snips', tmp_path / 'data', raw).new


def test_empty_split(raw, tmp_path):
  for name in SPLITS['valid']:
    (raw / 'valid' / name).write_text('')
  with pytest.raises(
    errors.DataError, match=r"'validation' is empty: no line in .*raw/valid/seq\.in, "
  ):
    prepare.prepare('snips', tmp_path / 'data', raw)


@pytest.mark.filterwarnings('default')
def test_files_that_are_not_the_published_ones_are_told(raw, tmp_path, monkeypatch):
  published = {
    str(path.relative_to(raw)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in raw.rglob('*')
    if path.is_file()
  }
  monkeypatch.setattr(snips.Snips, 'PUBLISHED', published)
  with warnings.catch_warnings():
    warnings.filterwarnings('error', '.*not the published split')
    prepare.prepare('snips', tmp_path / 'good', raw)
  for name, content in SPLITS['train'].items():
    (raw / 'train' / name).write_text(content.split('\n')[0] + '\n')
  for new in (
    True,
    False,
  ):  # whoever asks with these files is told, also when they were used before
    with pytest.warns(UserWarning, match='numbers do not compare with the papers') as told:
      prepared = prepare.prepare('snips', tmp_path / 'cut', raw)
    assert prepared.new is new
    assert set(prepared.unpublished) == {'train/seq.in', 'train/seq.out', 'train/label'}
    text = next(str(w.message) for w in told if 'published' in str(w.message))
    assert 'train/label' in text
    assert 'valid/' not in text
    assert next(w for w in told if 'published' in str(w.message)).filename == __file__


def test_no_download_unless_asked_for(tmp_path):
  with pytest.raises(errors.DataError, match=r'data.prepare snips --download'):
    prepare.prepare('snips', tmp_path)


@pytest.fixture
def home(raw, monkeypatch):
  """Serves the small files in place of the public home."""
  with served.home(raw, snips, snips.Snips, monkeypatch):
    yield


@pytest.mark.usefixtures('home')
def test_download(raw, tmp_path):
  prepared = prepare.prepare('snips', tmp_path / 'data', download=True)
  assert prepared.num_examples == {'train': 2, 'validation': 1, 'test': 1}
  # The same files from a folder are the same sources.
  assert not prepare.prepare('snips', tmp_path / 'data', raw).new


@pytest.mark.usefixtures('home')
def test_download_of_another_file(raw, tmp_path):
  label = raw / 'test' / 'label'
  label.write_text('PlayMusik')
  with pytest.raises(errors.DataError, match=r'download failed: .*wrong checksum'):
    prepare.prepare('snips', tmp_path / 'data', download=True)
  label.write_text(SPLITS['test']['label'])
  assert prepare.prepare('snips', tmp_path / 'data', download=True).new


@pytest.mark.usefixtures('home')
def test_download_of_a_missing_file(raw, tmp_path):
  (raw / 'test' / 'label').unlink()
  with pytest.raises(errors.DataError, match=r'download failed: .*404'):
    prepare.prepare('snips', tmp_path / 'data', download=True)


def test_every_file_of_the_public_home_has_a_checksum():
  assert len(snips.Snips.FILES) == 9
  assert all(len(info.checksum) == 64 for info in snips.Snips.FILES.values())
  assert all(url.startswith('https://') for url in snips.Snips.FILES)


@pytest.mark.skipif(not SHARED.is_dir(), reason='the SNIPS files are not beside the repository')
def test_the_real_files(tmp_path):
  for name, (size, digest) in snips._CHECKSUMS.items():
    content = (SHARED / name).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest), name
  with warnings.catch_warnings():
    warnings.filterwarnings('error', '.*not the published split')
    prepared = prepare.prepare('snips', tmp_path, SHARED)
  assert prepared.num_examples == {'train': 13084, 'validation': 700, 'test': 700}
  train = list(prepare.load_source('snips', 'train', tmp_path))
  assert len({example['intent'] for example in train}) == 7
  assert len({tag for example in train for tag in example['slots']}) == 72
