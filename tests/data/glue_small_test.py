"""Six kinds of files become examples of one shape; damaged ones are named with file and line."""

import collections
import gzip
import hashlib
import math
from pathlib import Path

import pytest

from mtl_jax import errors, metrics
from mtl_jax.data import prepare
from mtl_jax.data.builders import glue_small

# The files here are not the published ones.
pytestmark = pytest.mark.filterwarnings('ignore:.*not the published split')

SHARED = Path(__file__).parents[2].parent / 'shared' / 'data' / 'glue-small'

PAIR_HEADER = 'index\tsentence1\tsentence2\tlabel\n'
STSB_HEADER = (
  'index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n'
)
MRPC_HEADER = '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n'
MRPC_TRAIN = [(number % 2, f'Sentence {number}.', f'"Phrase {number}.') for number in range(400)]
FILES = {
  'CoLA/train.tsv': 'gj04\t1\t\tIt sank.\nks08\t0\t*\tSank it the.\n',
  'CoLA/val.tsv': 'ks08\t0\t??\tIt sank he.\n',
  'CoLA/dev.tsv': 'ks08\t1\t\tHe sank.',
  'SST-2/train.tsv': 'sentence\tlabel\na "joy \t1\n',
  'SST-2/dev.tsv': 'sentence\tlabel\ndull \t0\n',
  'SST-2/test.tsv': 'sentence\tlabel\nbright\t1\n',
  'MRPC/train.tsv': MRPC_HEADER
  + ''.join(f'{label}\t7\t8\t{first}\t{second}\n' for label, first, second in MRPC_TRAIN),
  'MRPC/dev.tsv': MRPC_HEADER + '1\t7\t8\tHe said "yes.\tYes, he said.\r\n',
  'STS-B/train.tsv': '0\tnews\tf\t2012\t1\tnone\tnone\tÉa runs.\tShe runs.\t3.750\n',
  'STS-B/dev.tsv': '4\tnews\tf\t2012\t9\tnone\tnone\tA dog.\tA cat.\t0.000\n',
  'STS-B/test.tsv': STSB_HEADER + '0\tnews\tf\t2012\t0\tnone\tnone\tA dog.\tThe dog.\t5.000\n',
  'RTE/train.tsv': PAIR_HEADER + '3\tIt rained.\tIt was wet.\tentailment\n',
  'RTE/val.tsv': '9\tIt rained.\tIt was dry.\tnot_entailment\n',
  'RTE/dev.tsv': PAIR_HEADER + '0\tIt froze.\tIt was cold.\tentailment\n',
  'WNLI/train.tsv': PAIR_HEADER + '1\tIt fell on it.\tThe cup fell.\t1\n',
  'WNLI/val.tsv': '0\tIt fell on it.\tThe mat fell.\t0\n',
  'WNLI/dev.tsv': PAIR_HEADER + '0\tHe saw him.\tBob saw him.\t1\n',
}


@pytest.fixture
def raw(tmp_path):
  for name, content in FILES.items():
    path = tmp_path / 'raw' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
  return tmp_path / 'raw'


def example(task, text, pair='', label='', score=math.nan):
  return {
    'task': task,
    'text': text,
    'pair': pair,
    'label': label,
    'score': pytest.approx(score, nan_ok=True),
  }


def _text(item):
  return item['text']


def by_task(source):
  examples = collections.defaultdict(list)
  for item in source:
    examples[item['task']].append(item)
  return examples


def test_examples(raw, tmp_path):
  data = tmp_path / 'data'
  assert prepare.prepare('glue_small', data, raw).new
  splits = {
    split: by_task(prepare.load_source('glue_small', split, data))
    for split in ('train', 'validation', 'test')
  }
  mrpc = {split: tasks.pop('mrpc') for split, tasks in splits.items()}
  assert sorted(splits['train'].pop('cola'), key=_text) == [
    example('cola', 'It sank.', label='acceptable'),
    example('cola', 'Sank it the.', label='unacceptable'),
  ]
  assert splits == {
    'train': {
      'sst2': [example('sst2', 'a "joy', label='positive')],
      'stsb': [example('stsb', 'Éa runs.', 'She runs.', score=3.75)],
      'rte': [example('rte', 'It rained.', 'It was wet.', 'entailment')],
      'wnli': [example('wnli', 'It fell on it.', 'The cup fell.', 'entailment')],
    },
    'validation': {
      'cola': [example('cola', 'It sank he.', label='unacceptable')],
      'sst2': [example('sst2', 'dull', label='negative')],
      'stsb': [example('stsb', 'A dog.', 'A cat.', score=0)],
      'rte': [example('rte', 'It rained.', 'It was dry.', 'not_entailment')],
      'wnli': [example('wnli', 'It fell on it.', 'The mat fell.', 'not_entailment')],
    },
    'test': {
      'cola': [example('cola', 'He sank.', label='acceptable')],
      'sst2': [example('sst2', 'bright', label='positive')],
      'stsb': [example('stsb', 'A dog.', 'The dog.', score=5)],
      'rte': [example('rte', 'It froze.', 'It was cold.', 'entailment')],
      'wnli': [example('wnli', 'He saw him.', 'Bob saw him.', 'entailment')],
    },
  }
  # The first digits decide, in hexadecimal: 1999... is a tenth.
  held_out = {
    first
    for _, first, second in MRPC_TRAIN
    if hashlib.sha256(f'{first}\t{second}'.encode()).hexdigest() < '1' + '9' * 63
  }
  labels = ('not_equivalent', 'equivalent')
  expected = [example('mrpc', a, b, labels[label]) for label, a, b in MRPC_TRAIN]
  assert 20 < len(held_out) < 60
  for split, inside in (('validation', True), ('train', False)):
    rows = [item for item in expected if (item['text'] in held_out) == inside]
    assert sorted(mrpc[split], key=_text) == sorted(rows, key=_text)
  assert mrpc['test'] == [example('mrpc', 'He said "yes.', 'Yes, he said.', 'equivalent')]


def test_gzipped_files_are_the_same_sources(raw):
  plain = glue_small.GlueSmall(data_dir=raw.parent, manual_dir=raw)
  paths = {name: raw / name for name in FILES}
  sources, examples = plain.manual_sources(), plain.read(paths)
  assert sources == {
    name: hashlib.sha256(text.encode()).hexdigest() for name, text in FILES.items()
  }
  for name in FILES:
    path = raw / name
    path.with_name(path.name + '.gz').write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
  assert plain.manual_sources() == sources
  assert str(plain.read(paths)) == str(examples)  # NaN does not equal itself
  (raw / 'RTE' / 'dev.tsv.gz').write_bytes(b'not gzip')
  with pytest.raises(errors.DataError, match=r'RTE/dev.tsv.gz: truncated or damaged gzip'):
    plain.manual_sources()


@pytest.mark.parametrize(
  ('name', 'content', 'match'),
  [
    ('CoLA/val.tsv', None, r'CoLA/val.tsv: no such file'),
    (
      'CoLA/train.tsv',
      FILES['CoLA/train.tsv'] + 'gj04\t1\tIt sank.\n',
      r'CoLA/train.tsv, line 3: expected the 4 columns source, label, note, sentence, got 3: .gj04',
    ),
    ('CoLA/dev.tsv', 'gj04\t2\t\tIt sank.\n', r"dev.tsv, line 1: no label '2'; Valid: 0, 1"),
    ('SST-2/test.tsv', 'sentence\tlabel\n \t1\n', r'line 2: no text in the column sentence'),
    ('SST-2/dev.tsv', 'sentence\tlabel\nfine \t1\n\n', r'line 3: expected the 2 .*, got 1: '),
    ('SST-2/train.tsv', 'sentence\tlabel\n', r'SST-2/train.tsv: no examples'),
    ('MRPC/train.tsv', MRPC_HEADER + '1\t7\t8\tA.\t\n', r'line 2: no text in the column #2 String'),
    ('STS-B/dev.tsv', '0\tn\tf\t1\t1\tn\tn\tA.\tB.\tx\n', r"a score from 0 to 5, got 'x'"),
    ('STS-B/dev.tsv', '0\tn\tf\t1\t1\tn\tn\tA.\tB.\t5.1\n', r"a score from 0 to 5, got '5.1'"),
    ('STS-B/dev.tsv', '0\tn\tf\t1\t1\tn\tn\tA.\tB.\tnan\n', r"a score from 0 to 5, got 'nan'"),
    (
      'RTE/dev.tsv',
      PAIR_HEADER + '0\tA.\tB.\tentailed\n',
      r"RTE/dev.tsv, line 2: no label 'entailed'; did you mean 'entailment'",
    ),
    ('WNLI/val.tsv', b'0\tA.\t\xff.\t1\n', r'val.tsv, line 1: byte 0xff at offset 5 is not UTF-8'),
  ],
)
def test_bad_files(raw, name, content, match):
  path = raw / name
  if content is None:
    path.unlink()
  else:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
  builder = glue_small.GlueSmall(data_dir=raw.parent)
  with pytest.raises(errors.DataError, match=match):
    builder.read({name: raw / name for name in FILES})


def test_description():
  builder = glue_small.GlueSmall
  assert set(builder.RAW) == set(FILES) == set(builder.PUBLISHED) == set(glue_small._URLS)
  for name, url in glue_small._URLS.items():
    assert url.startswith('https://')
    assert url.endswith(f'/{name}')
    assert builder.FILES[url].checksum == builder.PUBLISHED[name]
  for task, spec in builder.TASKS.items():
    assert task.isidentifier()
    metrics.check(task, spec.kind, spec.metrics, spec.labels)


def test_no_download_unless_asked_for(tmp_path):
  with pytest.raises(errors.DataError, match=r'data.prepare glue_small --download'):
    prepare.prepare('glue_small', tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason='the GLUE files are not beside the repository')
def test_the_real_files(tmp_path):
  builder = glue_small.GlueSmall(data_dir=tmp_path, manual_dir=SHARED)
  assert builder.manual_sources() == builder.PUBLISHED
  for name, (size, _) in glue_small._CHECKSUMS.items():
    assert len(gzip.decompress((SHARED / f'{name}.gz').read_bytes())) == size
  splits = builder.read({name: SHARED / name for name in builder.RAW})
  counts = {
    split: collections.Counter(item['task'] for _, item in items) for split, items in splits.items()
  }
  # The sizes of GLUE's own splits; its train set is in two parts here.
  train = {'cola': 8551, 'sst2': 67349, 'mrpc': 3668, 'stsb': 5749, 'rte': 2490, 'wnli': 635}
  assert counts['train'] + counts['validation'] == train
  parts = {'cola': 1301, 'sst2': 6735, 'mrpc': 374, 'stsb': 1500, 'rte': 363, 'wnli': 117}
  assert counts['validation'] == parts
  test = {'cola': 1043, 'sst2': 872, 'mrpc': 408, 'stsb': 1500, 'rte': 277, 'wnli': 71}
  assert counts['test'] == test
  # Counted in the files.
  labels = collections.Counter((item['task'], item['label']) for _, item in splits['test'])
  assert labels['cola', 'acceptable'] == 721
  assert labels['sst2', 'positive'] == 444
  assert labels['mrpc', 'equivalent'] == 279
  assert labels['rte', 'entailment'] == 146
  assert labels['wnli', 'entailment'] == 31
  for items in splits.values():
    assert len({key for key, _ in items}) == len(items)
