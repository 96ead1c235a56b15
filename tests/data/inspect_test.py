"""What the command shows of a data set, against counts of the rows."""

import collections
import json

import pytest

from mtl_jax import config as config_lib
from mtl_jax.build import start
from mtl_jax.data import inspect, sources
from mtl_jax.data.inspect import __main__ as command
from tests import small_runs


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A table with gaps, a duplicate of train in test, and splits by a column."""
  folder = tmp_path_factory.mktemp('inspect')
  rows = small_runs.texts(60)
  for i, row in enumerate(rows):
    row['part'] = ('train', 'train', 'train', 'dev', 'test')[i % 5]
    if i % 4 == 0:
      row['category'] = ''
  rows[4]['text'] = rows[0]['text']
  rows[6]['text'] = 'the ' * 40
  small_runs.write_rows(folder / 'rows.jsonl', rows)
  (folder / 'rows.toml').write_text(
    f"""
name = "rows"
[dataset]
max_length = 30
buckets = 2
[dataset.files.rows]
train = "{folder / 'rows.jsonl'}"
input = "text"
split = "part"
[tasks.category]
[tasks.urgency]
[tasks.topics]
[train]
batch_size = 4
"""
  )
  return folder, rows


@pytest.fixture(scope='module')
def look(folder):
  given = command.command_line.parse(
    ['inspect', f'--config={folder[0] / "rows.toml"}'], '', needs_workdir=False
  )
  (run,) = config_lib.resolve(given.config)
  source = sources.of(run['dataset'], run['tasks'])
  return inspect.look(source, start.load_data(run), run['dataset']['max_length'])


def test_counts_are_those_of_the_rows(folder, look):
  rows = collections.defaultdict(list)
  for row in folder[1]:
    rows[{'dev': 'validation'}.get(row['part'], row['part'])].append(row)
  assert look.examples == {split: len(found) for split, found in rows.items()}
  category = look.tasks['category']
  assert category.kind == 'classification'
  for split, found in rows.items():
    labels = collections.Counter(row['category'] for row in found if row['category'])
    assert category.labelled[split] == sum(labels.values())
    assert category.total[split] == len(found)
    assert {name: c[split] for name, c in category.classes.items() if c[split]} == labels
    topics = collections.Counter(topic for row in found for topic in row['topics'])
    assert {n: c[split] for n, c in look.tasks['topics'].classes.items() if c[split]} == topics
    numbers = [row['urgency'] for row in found if row['urgency'] is not None]
    least, mean, _, most = look.tasks['urgency'].numbers[split]
    assert (least, most) == (min(numbers), max(numbers))
    assert mean == pytest.approx(sum(numbers) / len(numbers))
    lengths = sorted(min(30, len(row['text'].split())) for row in found)
    assert look.lengths[split][-1] == lengths[-1]
    assert look.lengths[split][0] == lengths[len(lengths) // 2]
  assert look.cut == {'train': 1, 'validation': 0, 'test': 0}
  texts = {split: [row['text'] for row in found] for split, found in rows.items()}
  common = {s: sum(text in texts['train'] for text in texts[s]) for s in ('validation', 'test')}
  assert common['test'] >= 1
  for split, count in common.items():
    assert look.notes.get(f'examples of {split} whose input stands in train too', 0) == count
  assert look.unknown['train'] == 0
  assert look.buckets[-1] == 30
  assert len(look.shown) == 10
  inputs = {' | '.join(text.split()[:30]) for text in texts['train']}
  assert all(shown['input'] in inputs for shown in look.shown)
  assert look.shown[0]['category'] == '–'
  assert set(look.meetings) == {
    ('category', 'urgency'),
    ('category', 'topics'),
    ('urgency', 'topics'),
  }
  assert all(0 < share <= 1 for share in look.meetings.values())


def test_the_command_and_its_page(folder, tmp_path, capsys):
  argv = ['inspect', f'--config={folder[0] / "rows.toml"}', f'--html={tmp_path / "page.html"}']
  assert command.main(argv) == 0
  out, err = capsys.readouterr()
  assert err == ''
  page = (tmp_path / 'page.html').read_text()
  for shown in (
    'task category: classification',
    'task urgency: regression',
    'task topics: multilabel',
    'without one',
    'cut at max_length 30',
    'examples of test whose',
    'steps in which both',
    'some training examples',
  ):
    assert shown in out
    assert shown in page
  assert page.startswith('<!DOCTYPE html>')


def test_hints_at_classes_that_may_be_one_and_at_gaps(tmp_path, capsys):
  """The values, how many rows they are in, and what to set; nothing where there is nothing odd."""
  answers = ['yes', 'Yes', 'YES', 'no', 'maybe']
  stars = ['1', '2', '3', 'n/a']
  lines = [f'it is "{i}\t{answers[i % 5]}\t{stars[i % 4]}\t{"ab"[i % 2]}' for i in range(80)]
  (tmp_path / 'rows.tsv').write_text('text\tanswer\tstars\tletter\n' + '\n'.join(lines) + '\n')
  config = tmp_path / 'rows.toml'
  config.write_text(
    f"""
[dataset.files.rows]
train = "{tmp_path / 'rows.tsv'}"
input = "text"
quote = ""
[tasks.answer]
[tasks.stars]
[tasks.letter]
[train]
batch_size = 4
"""
  )
  assert command.main(['inspect', f'--config={config}']) == 0
  out, err = capsys.readouterr()
  assert err == ''
  out = ' '.join(out.replace('│', ' ').split())
  assert "task answer: 3 classes differ only in case: 'YES', 'Yes', 'yes'" in out
  assert "task stars: it looks numeric but for 'n/a' (20 rows)" in out
  assert 'set dataset.files.rows.missing = ["n/a"]' in out
  assert 'rows: read without quotes' in out
  assert 'task letter:' not in out.replace('task letter: classification', '')
  more = '--config.dataset.files.rows.missing=("n/a",)'
  assert command.main(['inspect', f'--config={config}', more]) == 0
  assert 'looks numeric' not in capsys.readouterr().out


def test_errors_have_one_line_and_a_code(folder, tmp_path, capsys):
  for argv, code, message in (
    (['inspect'], 2, '--config'),
    (['inspect', f'--config={tmp_path / "none.toml"}'], 2, 'none.toml'),
    (
      ['inspect', f'--config={folder[0] / "rows.toml"}', '--config.dataset.files.rows.input=txt'],
      3,
      "no column 'txt'",
    ),
    (
      ['inspect', f'--config={folder[0] / "rows.toml"}', f'--html={tmp_path / "no" / "a.html"}'],
      4,
      'No such file or directory',
    ),
  ):
    assert command.main(argv) == code, argv
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert message in err


def test_arrays_and_tasks_with_inputs_of_their_own(small_run):
  made = small_run('apart')
  look = inspect.look(made.source, made.data)
  assert (
    look.tasks['category'].total['train'] + look.tasks['good'].total['train']
    == (look.examples['train'])
  )
  assert {key for row in look.shown for key in row} <= {'input', 'category', 'good'}
  assert list(inspect.tables(look))
  made = small_run('images')
  look = inspect.look(made.source, made.data)
  assert look.lengths == {}
  assert look.vocabulary == 0
  assert look.shown[0]['input'].startswith('uint8 [4, 4, 1]: [')
  assert json.dumps(look.shown[0])
