"""Folders as `datasets.save_to_disk` writes them, made by hand: that package is not needed."""

import json

import pytest

from mtl_jax import errors
from mtl_jax.data import formats
from tests.data.formats import files

arrow = pytest.importorskip('pyarrow')
ipc = pytest.importorskip('pyarrow.ipc')

LABEL = {'names': ['no', 'yes'], '_type': 'ClassLabel'}
TAG = {'names': ['O', 'B-x'], '_type': 'ClassLabel'}
FEATURES = {
  'text': {'dtype': 'string', '_type': 'Value'},
  'label': LABEL,
  'tags': {'feature': TAG, '_type': 'Sequence'},
  'layers': {'feature': TAG, '_type': 'List'},
  'lists': [TAG],
  'spans': {
    'feature': {'kind': LABEL, 'at': {'dtype': 'int64', '_type': 'Value'}},
    '_type': 'Sequence',
  },
  'inner': {'kind': LABEL},
}
STORED = [
  {
    'text': 'a',
    'label': 1,
    'tags': [0, 1],
    'layers': [1],
    'lists': [0],
    'spans': {'kind': [0, 1], 'at': [3, 4]},
    'inner': {'kind': 0},
  },
  {'text': 'b', 'label': -1, 'tags': [], 'layers': None, 'lists': [], 'spans': None, 'inner': None},
]
READ = [
  {
    'text': 'a',
    'label': 'yes',
    'tags': ['O', 'B-x'],
    'layers': ['B-x'],
    'lists': ['O'],
    'spans': {'kind': ['no', 'yes'], 'at': [3, 4]},
    'inner': {'kind': 'no'},
  },
  {
    'text': 'b',
    'label': None,
    'tags': [],
    'layers': None,
    'lists': [],
    'spans': None,
    'inner': None,
  },
]


def write_arrow(path, table, begin=ipc.new_stream):
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('wb') as file, begin(file, table.schema) as writer:
    writer.write_table(table, 1)


def save(folder, table=None, features=FEATURES, shards=2):
  table = arrow.Table.from_pylist(STORED) if table is None else table
  names = [f'data-{index:05d}-of-{shards:05d}.arrow' for index in range(shards)]
  for index, name in enumerate(names):
    write_arrow(folder / name, table.slice(index * len(table) // shards, len(table) // shards))
  state = {'_data_files': [{'filename': name} for name in names], '_split': 'train'}
  files.write(folder, 'state.json', json.dumps(state))
  files.write(folder, 'dataset_info.json', json.dumps({'features': features}))
  return folder


def test_classes_become_names(tmp_path):
  path = save(tmp_path / 'mine')
  found = files.records(path)
  assert [record.fields for record in found] == READ
  assert [record.place for record in found] == ['row 1', 'row 2']


@pytest.mark.parametrize('name', ['both:test', 'both/test'])
def test_a_split_is_named(tmp_path, name):
  files.write(tmp_path / 'both', 'dataset_dict.json', '{"splits": ["train", "test"]}')
  for split in ('train', 'test'):
    save(tmp_path / 'both' / split)
  assert formats.find([str(tmp_path / name)]) == [tmp_path / name]
  assert files.fields(tmp_path / name) == READ


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('both', 'several splits; name one of train, test, as in'),
    ('both:tset', "no split 'tset'; did you mean 'test'? Valid: test, train"),
  ],
)
def test_splits_that_are_none(tmp_path, name, message):
  files.write(tmp_path / 'both', 'dataset_dict.json', '{"splits": ["train", "test"]}')
  with pytest.raises(errors.DataError) as caught:
    files.read(tmp_path / name)
  assert message in str(caught.value)


@pytest.mark.parametrize('begin', [ipc.new_stream, ipc.new_file])
def test_an_arrow_file_alone(tmp_path, begin):
  info = json.dumps({'info': {'features': FEATURES}})
  table = arrow.Table.from_pylist(STORED).replace_schema_metadata({'huggingface': info})
  write_arrow(tmp_path / 'x.arrow', table, begin)
  assert files.fields(tmp_path / 'x.arrow') == READ
  table = table.replace_schema_metadata({})
  write_arrow(tmp_path / 'x.arrow', table, begin)
  assert files.fields(tmp_path / 'x.arrow') == STORED


def test_new_columns(tmp_path):
  path = save(tmp_path / 'mine')
  files.rewrite(path, {'label': 'no', 'tags': ['O']}, tmp_path / 'y.arrow')
  assert files.fields(tmp_path / 'y.arrow') == [
    row | {'label_predicted': 'no', 'tags_predicted': ['O']} for row in READ
  ]


def test_a_first_batch_without_values_has_the_types_of_all(tmp_path):
  path = save(tmp_path / 'mine', arrow.Table.from_pylist(STORED).take([1, 0]))
  files.rewrite(path, {'p': 1}, tmp_path / 'y.arrow')
  assert files.fields(tmp_path / 'y.arrow') == [row | {'p': 1} for row in READ[::-1]]


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('state.json', '{}', "state.json names no '_data_files'"),
    ('state.json', '[]', 'no JSON object'),
    ('state.json', '{', 'invalid JSON'),
    ('state.json', '{"_data_files": []}', 'holds no row'),
    ('state.json', '{"_data_files": [{"filename": "none.arrow"}]}', 'none.arrow: no such file'),
    ('state.json', '{"_indices_files": [1], "_data_files": []}', 'save it anew'),
    ('dataset_info.json', '{', 'invalid JSON'),
    (
      'dataset_info.json',
      '{"features": {"label": {"_type": "ClassLabel", "names": []}}}',
      'does not fit its features',
    ),
    ('data-00000-of-00002.arrow', 'x', 'truncated or damaged Arrow file'),
    ('data-00000-of-00002.arrow', '', 'empty'),
  ],
)
def test_folders_that_are_none(tmp_path, name, content, message):
  path = save(tmp_path / 'mine')
  files.write(path, name, content)
  with pytest.raises(errors.DataError) as caught:
    files.read(path, format='datasets')
  assert message in str(caught.value)
