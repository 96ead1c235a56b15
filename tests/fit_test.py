"""Training on rows in memory: what it writes, goes on with, and refuses."""

import json

import pytest

import mtl_jax
from mtl_jax import errors


def rows(count=60, start=0):
  return [
    {
      'text': f'{("late", "fine")[i % 2]} delivery {i % 7}',
      'mood': ('bad', 'good')[i % 2],
      'stars': 1 + i % 5 if i % 3 else None,
    }
    for i in range(start, start + count)
  ]


CONFIG = {
  'name': 'moods',
  'dataset': {'buckets': 1, 'files': {'rows': {'input': 'text'}}},
  'tasks': {'mood': {}, 'stars': {'kind': 'regression'}},
  'encoder': {'name': 'cnn', 'embedding': {'features': 4}, 'cnn': {'features': 4, 'widths': (2,)}},
  'train': {'steps': 3, 'batch_size': 8},
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('fit')
  return workdir, mtl_jax.fit(CONFIG, workdir, rows())


def test_rows_become_a_run_that_predicts(trained):
  workdir, (results,) = trained
  assert results['steps'] == 3
  assert set(results['test']['metrics']) == {'mood', 'stars'}
  assert len((workdir / 'data' / 'rows.train.jsonl').read_text().splitlines()) == 60
  found = mtl_jax.load(workdir).predict(['late again', 'fine delivery 3'])
  assert all(row['mood']['label'] in ('bad', 'good') for row in found)
  assert all(isinstance(row['stars']['label'], float) for row in found)


def test_a_second_call_finds_it_finished(trained, capsys):
  workdir, results = trained
  path = workdir / 'moods' if (workdir / 'moods').exists() else workdir / 'default'
  stamps = {p: p.stat().st_mtime_ns for p in path.rglob('*') if p.is_file()}
  again = mtl_jax.fit(CONFIG, workdir, {'rows': rows()})
  assert 'was finished before' in ''.join(capsys.readouterr())
  assert again == json.loads(json.dumps(results))
  assert stamps == {p: p.stat().st_mtime_ns for p in path.rglob('*') if p.is_file()}


def test_other_data_in_the_same_place_are_refused(trained):
  workdir, results = trained
  before = (workdir / 'data' / 'rows.train.jsonl').read_bytes()
  with pytest.raises(errors.WorkdirError, match='trained on other rows'):
    mtl_jax.fit(CONFIG, workdir, rows(start=1))
  assert (workdir / 'data' / 'rows.train.jsonl').read_bytes() == before
  assert mtl_jax.fit(CONFIG, workdir, rows()) == json.loads(json.dumps(results))


def test_given_splits(tmp_path):
  data = {'train': rows(40), 'validation': rows(16, 40), 'test': rows(12, 56)}
  (results,) = mtl_jax.fit(CONFIG, tmp_path, data)
  (run,) = tmp_path.glob('*/seed_0')
  assert {p.name for p in (tmp_path / 'data').iterdir()} == {
    f'rows.{split}.jsonl' for split in data
  }
  files = json.loads((run / 'config.json').read_text())['dataset']['files']['rows']
  assert [path.rsplit('/', 1)[-1] for path in files['test']] == ['rows.test.jsonl']
  assert results['test']['metrics'].keys() == {'mood', 'stars'}


@pytest.mark.parametrize(
  ('config', 'data', 'message'),
  [
    ({}, {'train': rows(), 'dev': rows()}, "no split 'dev'"),
    ({}, [], 'there are no rows'),
    ({}, 'a text', 'str is no list of dicts'),
    ({}, [*rows(), 3], 'row 61: int, and no dict'),
    (
      {'dataset': {'files': {'a': {'input': 'text'}, 'b': {'input': 'text'}}}},
      {'a': rows()},
      'dataset.files has a, b, and data has a',
    ),
    ({'tasks': {'mod': {}}}, rows(), "no column 'mod'; did you mean 'mood'"),
  ],
)
def test_what_does_not_fit(config, data, message, tmp_path):
  with pytest.raises((errors.ConfigError, errors.DataError), match=message):
    mtl_jax.fit(CONFIG | config, tmp_path / 'runs', data)


def test_a_data_frame(tmp_path):
  """Of pandas, or what has its methods: it need not be installed."""

  class Frame:
    columns = ('text', 'mood', 'stars')

    def itertuples(self, index, name):
      assert (index, name) == (False, None)
      return (tuple(row.values()) for row in rows(30))

  from mtl_jax.data.described import in_memory

  found = in_memory.write(tmp_path, 'rows', Frame())
  lines = (tmp_path / 'data' / 'rows.train.jsonl').read_text().splitlines()
  assert found == {'train': str(tmp_path / 'data' / 'rows.train.jsonl')}
  assert [json.loads(line) for line in lines] == rows(30)
