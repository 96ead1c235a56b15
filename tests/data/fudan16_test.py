"""Sixteen domains of reviews become examples; odd encodings are read, damaged files named."""

import collections
import gzip
import hashlib
from pathlib import Path

import pytest

from mtl_jax import errors, metrics
from mtl_jax.data import prepare
from mtl_jax.data.builders import fudan16

# The files here are not the published ones.
pytestmark = pytest.mark.filterwarnings('ignore:.*not the published split')

SHARED = Path(__file__).parents[2].parent / 'shared' / 'data' / 'fdu-mtl'

DOMAINS = (
  *('apparel', 'baby', 'books', 'camera_photo', 'dvd', 'electronics', 'health_personal_care'),
  *('imdb', 'kitchen_housewares', 'magazines', 'MR', 'music', 'software', 'sports_outdoors'),
  *('toys_games', 'video'),
)
TRAIN = 203  # lines


def read(folder):
  builder = fudan16.Fudan16(data_dir=folder.parent)
  return builder.read({name: folder / name for name in builder.RAW})


@pytest.fixture
def raw(tmp_path):
  folder = tmp_path / 'raw'
  folder.mkdir()
  for domain in DOMAINS:
    train = ''.join(f'{number % 2}\t{domain} no . {number}\n' for number in range(TRAIN))
    (folder / f'{domain}.task.train').write_text(train)
    (folder / f'{domain}.task.test').write_text(f'1\tgood {domain} !\n0\tbad "{domain}\n')
    (folder / f'{domain}.task.unlabel').write_text(f'The {domain}. ')
  return folder


def test_examples(raw, tmp_path):
  data = tmp_path / 'data'
  prepared = prepare.prepare('fudan16', data, raw)
  assert prepared.num_examples == {
    'train': 16 * (TRAIN - 200),
    'validation': 16 * 200,
    'test': 16 * 2,
    'unlabelled': 16,
  }
  test = sorted(prepare.load_source('fudan16', 'test', data), key=lambda item: item['text'])
  assert [item for item in test if item['task'] == 'mr'] == [
    {'task': 'mr', 'text': 'bad "MR', 'label': 'negative'},
    {'task': 'mr', 'text': 'good MR !', 'label': 'positive'},
  ]
  unlabelled = list(prepare.load_source('fudan16', 'unlabelled', data))
  assert {'task': 'video', 'text': 'The video.', 'label': ''} in unlabelled
  train = list(prepare.load_source('fudan16', 'train', data))
  for domain in DOMAINS:
    texts = [f'{domain} no . {number}' for number in range(TRAIN)]
    largest = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())[200:]
    expected = {text: ('negative', 'positive')[int(text.split()[-1]) % 2] for text in largest}
    got = {item['text']: item['label'] for item in train if item['task'] == domain.lower()}
    assert got == expected


def test_encodings(raw):
  (raw / 'MR.task.test').write_bytes(b'1\tfianc\xe9e \x96 a joy\n')
  (raw / 'books.task.test').write_bytes('1\tfiancée – a joy\n'.encode())
  train = (raw / 'dvd.task.train').read_bytes()
  (raw / 'dvd.task.train').write_bytes(b"0\tclich\xef\xbf ''\n" + train)
  splits = read(raw)
  test = {item['task']: item['text'] for _, item in splits['test']}
  assert test['mr'] == test['books'] == 'fiancée – a joy'
  dvd = {
    item['text']
    for split in ('train', 'validation')
    for _, item in splits[split]
    if item['task'] == 'dvd'
  }
  assert "clich\ufffd ''" in dvd
  (raw / 'MR.task.test').write_bytes(b'1\tgood\n1\t\x81\n')
  with pytest.raises(errors.DataError, match=r'test, line 2: byte 0x81 at offset 9 is not CP1252'):
    read(raw)


def test_the_line_that_has_no_text(raw):
  lines = ''.join(f'{number % 2}\tgood {number}\n' for number in range(1120))
  (raw / 'sports_outdoors.task.train').write_text(lines + '0\t\n1\tgood\n')
  assert len(read(raw)['train']) == 15 * (TRAIN - 200) + 1121 - 200


def test_equal_texts_stay_together(raw):
  # 199 lines of one text each are the smallest, then comes one that is there twice.
  texts = sorted(
    (f'good {number}' for number in range(TRAIN)),
    key=lambda text: hashlib.sha256(text.encode()).hexdigest(),
  )
  lines = [f'1\t{text}\n' for text in (*texts, texts[199])]
  (raw / 'music.task.train').write_text(''.join(lines))
  splits = read(raw)
  held_out, kept = (
    sorted(item['text'] for _, item in splits[split] if item['task'] == 'music')
    for split in ('validation', 'train')
  )
  assert held_out == sorted([*texts[:199], texts[200]])
  assert kept == sorted([texts[199], texts[199], *texts[201:]])


@pytest.mark.parametrize(
  ('name', 'content', 'match'),
  [
    ('imdb.task.unlabel', None, r'imdb.task.unlabel: no such file'),
    ('baby.task.test', '1 good\n', r'baby.task.test, line 1: expected label<TAB>text, got 1 col'),
    ('baby.task.test', '1\tso\tgood\n', r'line 1: expected label<TAB>text, got 3 columns'),
    ('baby.task.unlabel', 'so\n1\tgood\n', r'unlabel, line 2: expected text without a tab, got 2'),
    ('video.task.test', '1\tgood\n2\tbad\n', r"video.task.test, line 2: .* label 0 .*, got '2'"),
    ('video.task.test', '1\tgood\n1\t \n', r'video.task.test, line 2: no text'),
    ('sports_outdoors.task.train', '1\tgood\n1\t\n', r'train, line 2: no text'),
    ('apparel.task.test', '', r'apparel.task.test: no lines'),
    ('books.task.train', '1\tgood\n' * 200, r'books.task.train: 200 examples, of which 200 are'),
    ('books.task.train', b'1\tgood\n1\t\xe9\n', r'line 2: byte 0xe9 at offset 9 is not UTF-8'),
  ],
)
def test_bad_files(raw, name, content, match):
  path = raw / name
  if content is None:
    path.unlink()
  else:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(errors.DataError, match=match):
    read(raw)


def test_description():
  builder = fudan16.Fudan16
  assert set(builder.TASKS) == {domain.lower() for domain in DOMAINS}
  assert len(builder.RAW) == len(builder.FILES) == len(builder.PUBLISHED) == 48
  for name, digest in builder.PUBLISHED.items():
    assert builder.FILES[f'{fudan16._HOME}/{name}'].checksum == digest
  for task, spec in builder.TASKS.items():
    assert task.isidentifier()
    metrics.check(task, spec.kind, spec.metrics, spec.labels)


@pytest.mark.skipif(not SHARED.is_dir(), reason='the FDU-MTL files are not beside the repository')
def test_the_real_files(tmp_path):
  builder = fudan16.Fudan16(data_dir=tmp_path, manual_dir=SHARED)
  assert builder.manual_sources() == builder.PUBLISHED
  for name, (size, _) in fudan16._RAW.items():
    assert len(gzip.decompress((SHARED / f'{name}.gz').read_bytes())) == size
  splits = builder.read({name: SHARED / name for name in builder.RAW})
  counts = {
    split: collections.Counter(item['task'] for _, item in items) for split, items in splits.items()
  }
  # Where a domain differs from 1600 train lines; one line of sports_outdoors has no text.
  lines = {'baby': 1500, 'camera_photo': 1597, 'electronics': 1598, 'magazines': 1570}
  lines |= {'software': 1515, 'sports_outdoors': 1599}
  tasks = [domain.lower() for domain in DOMAINS]
  assert counts['train'] == {task: lines.get(task, 1600) - 200 for task in tasks}
  assert counts['validation'] == dict.fromkeys(tasks, 200)
  assert counts['test'] == dict.fromkeys(tasks, 400)
  assert counts['unlabelled'] == dict.fromkeys(tasks, 2000) | {'software': 475}
  assert sum(counts['train'].values()) == 22_179
  labels = collections.Counter(
    (item['task'], item['label']) for split in ('train', 'validation') for _, item in splits[split]
  )
  assert (labels['software', 'negative'], labels['software', 'positive']) == (727, 788)
  assert (labels['mr', 'negative'], labels['mr', 'positive']) == (822, 778)
  texts = {
    split: {(item['task'], item['text']) for _, item in items} for split, items in splits.items()
  }
  assert not texts['train'] & texts['validation']
  # Counted with grep: test lines that are also in the train file of their domain.
  seen = texts['train'] | texts['validation']
  twice = collections.Counter(
    item['task'] for _, item in splits['test'] if (item['task'], item['text']) in seen
  )
  assert twice.most_common(3) == [('magazines', 169), ('video', 99), ('camera_photo', 72)]
  assert twice.total() == 539
  # No byte of Windows-1252 was taken for a control character of Latin-1.
  mr = ''.join(text for items in texts.values() for task, text in items if task == 'mr')
  assert not any('\x7f' < sign < '\xa0' for sign in mr)
  assert mr.count('–') == 13
