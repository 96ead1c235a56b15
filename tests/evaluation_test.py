"""Evaluating a trained run: the numbers of its results, intervals, comparisons, slices, errors."""

import csv
import json

import numpy as np
import pytest

import mtl_jax
from mtl_jax import config as config_lib
from mtl_jax import errors, evaluation, train, trained
from mtl_jax.data import samples
from mtl_jax.evaluate import __main__ as command

ENCODER = {
  'name': 'lstm',
  'lstm': {'features': 8, 'layers': 1},
  'embedding': {'features': 8},
}


def config(name, files, tasks):
  return config_lib.complete(
    {
      'name': name,
      'dataset': {'files': files, 'buckets': 1},
      'tasks': tasks,
      'encoder': ENCODER,
      'optimizer': {'learning_rate': 0.01},
      'train': {'steps': 30, 'eval_every': 30},
    }
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Samples, a run of three kinds on two files, and one of tags."""
  folder = tmp_path_factory.mktemp('evaluation')
  samples.main([str(folder)])
  lines = (folder / 'tickets.csv').read_text().splitlines()
  (folder / 'few.csv').write_text('\n'.join(lines[:121]) + '\n')
  files = {
    'tickets': {'train': str(folder / 'few.csv'), 'input': 'text', 'test': 0.2},
    'topics': {'train': str(folder / 'topics.jsonl'), 'input': 'text', 'test': 0.05},
  }
  tasks = {
    'category': {'files': 'tickets', 'metrics': ('accuracy', 'roc_auc')},
    'urgency': {'files': 'tickets', 'kind': 'regression'},
    'topics': {'files': 'topics', 'metrics': ('micro_f1', 'pr_auc')},
  }
  train.run(config('mixed', files, tasks), folder / 'mixed')
  words = {'s': {'train': str(folder / 'sentences.conll'), 'input': 'word', 'test': 0.05}}
  words['s']['columns'] = ('word', 'pos', 'name')
  train.run(config('tags', words, {'pos': {}, 'name': {}}), folder / 'tags')
  return folder


def load(run, monkeypatch, folder):
  """The run, whose files are beside it: config.json keeps their names alone."""
  monkeypatch.chdir(folder)
  return mtl_jax.load(run)


@pytest.mark.parametrize('name', ['mixed', 'tags'])
def test_the_numbers_of_its_results(folder, monkeypatch, name):
  """Two ways to the same metrics: padded batches in the loop, and arrays of examples here."""
  model = load(name, monkeypatch, folder)
  judged = evaluation.judge(model, evaluation.examples_of(model, 'test'))
  path = folder / name / 'default' / 'seed_0' / 'results.json'
  expected = json.loads(path.read_text())['test']
  for task, values in expected['metrics'].items():
    for metric, value in values.items():
      assert judged[task].value(metric) == pytest.approx(value, rel=1e-5), (task, metric)
    mean = np.mean(judged[task].losses) if judged[task].losses.ndim == 1 else None
    if not judged[task].rules.per_token:
      assert mean == pytest.approx(expected['loss'][task], rel=1e-4)
  assert evaluation.summary(judged) == pytest.approx(expected['mean'], rel=1e-5)


def test_errors_come_by_their_loss(folder, monkeypatch):
  model = load('mixed', monkeypatch, folder)
  examples = evaluation.examples_of(model, 'test')
  one = evaluation.judge(model, examples)['urgency']
  worst = one.worst(5, evaluation.labels_of(model, 'urgency', examples))
  distances = [(e.label - e.predicted) ** 2 for e in worst]
  np.testing.assert_allclose([e.loss for e in worst], distances, rtol=1e-4)
  assert distances == sorted(distances, reverse=True)
  assert examples[worst[0].example]['urgency'] == worst[0].label


def test_other_files_and_slices(folder, monkeypatch):
  model = load('mixed', monkeypatch, folder)
  rows = list(csv.DictReader((folder / 'tickets.csv').read_text().splitlines()))
  with open(folder / 'other.csv', 'w', newline='') as file:
    writer = csv.DictWriter(file, ['text', 'category', 'team'])
    writer.writeheader()
    for i, row in enumerate(rows[200:260]):
      writer.writerow({'text': row['text'], 'category': row['category'], 'team': 'ab'[i % 2]})
  examples = model.source.read_other(['other.csv'], keep=['team'])
  judged = evaluation.judge(model, examples)
  assert len(judged['category'].examples) == 60
  assert not len(judged['urgency'].examples)
  assert judged['urgency'].value('mae') is None
  parts = judged['category'].slices([e['team'] for e in examples], 'accuracy')
  assert {p.value: p.examples for p in parts} == {'a': 30, 'b': 30}
  right = [
    found['category']['label'] == row['category']
    for found, row in zip(
      model.predict([row['text'] for row in rows[200:260]]), rows[200:260], strict=True
    )
  ]
  assert judged['category'].value('accuracy') == pytest.approx(np.mean(right))
  assert model.predict(rows[:3]) == model.predict([row['text'] for row in rows[:3]])
  assert parts[0].metric == pytest.approx(np.mean(right[::2]))


def test_two_runs_on_the_same_examples(folder, monkeypatch):
  model = load('mixed', monkeypatch, folder)
  examples = evaluation.examples_of(model, 'test')
  judged = evaluation.judge(model, examples)
  same = judged['category'].against(judged['category'], 'accuracy', 50)
  assert (same.difference, same.p_value) == (0.0, 1.0)
  assert evaluation.delta_m(judged, judged) == 0.0
  assert judged['category'].against(judged['urgency'], 'accuracy', 50) is None


def test_the_command(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  arguments = [
    '--samples=50',
    '--output=out',
    '--errors=out',
    '--against=mixed',
    '--slice=category',
  ]
  assert command.main(['mixed', *arguments]) == 0
  shown = capsys.readouterr()
  assert 'category.accuracy' in shown.out
  assert shown.err == ''
  found = json.loads((folder / 'out' / 'evaluation.json').read_text())
  interval = found['tasks']['category']['metrics']['roc_auc']
  assert interval['low'] <= interval['value'] <= interval['high']
  assert {p.name for p in (folder / 'out').glob('*.png')} == {
    'confusion_category.png',
    'reliability_category.png',
  }
  assert (folder / 'out' / 'errors_topics.jsonl').exists()
  assert command.main(['tags', '--samples=3', '--output=tagged']) == 0
  assert (folder / 'tagged' / 'confusion_pos.png').exists()


@pytest.mark.parametrize(
  ('arguments', 'code', 'message'),
  [
    (['nowhere'], 4, 'holds no run that was trained'),
    (['mixed', '--split=tets'], 2, "no split 'tets'; did you mean 'test'"),
    (['mixed', '--slice=usr'], 2, "no column 'usr'"),
    (['mixed', '--files=none.csv'], 3, 'none.csv'),
    (['mixed', '--files=measurements.csv'], 2, 'there is no column that is read'),
    (['mixed', '--variant=x'], 2, "no variant 'x'"),
  ],
)
def test_faults(folder, monkeypatch, capsys, arguments, code, message):
  monkeypatch.chdir(folder)
  assert command.main(arguments) == code
  err = capsys.readouterr().err
  assert err.startswith('error: ')
  assert message in err


def test_a_run_is_found(folder, tmp_path):
  with pytest.raises(errors.WorkdirError, match='holds no run'):
    trained.load(tmp_path)
  assert trained.find(folder / 'mixed')[0].name == 'seed_0'
  with pytest.raises(errors.ConfigError, match=r'no seed 7'):
    trained.find(folder / 'mixed', seeds=7)
