"""Reports of small synthetic runs: numbers against hand computations, files, errors, plots."""

import ast
import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from mtl_jax import report
from mtl_jax import train as train_lib
from mtl_jax.errors import WorkdirError
from mtl_jax.report import __main__ as command
from mtl_jax.report import _plots, _runs
from tests import train_test

config_file, config = train_test.config_file, train_test.config  # the tiny lexicon

MAIN = {'pos': 'micro_f1', 'rule': 'accuracy', 'age': 'mae'}
POS, RULE, AGE = [0.90, 0.92, 0.94], [0.80, 0.80, 0.80], [2.0, 2.1, 1.9]  # three seeds, alone
PAPER = {
  'source': 'Someone 2018',
  'rows': {'Their_net & co': {'pos.micro_f1': 95.5, 'exact_match': 70.0, 'pos.mcc': 1.0}},
}


def write_run(root, variant, seed, values, *, name='words', joint=None, extra=None, history=()):
  """Writes a run with {task: main metric} and returns its directory."""
  folder = root / variant / f'seed_{seed}'
  folder.mkdir(parents=True)
  scores = {task: {MAIN[task]: value} for task, value in values.items()}
  split = {'metrics': scores, 'joint': {} if joint is None else {'exact_match': joint}, 'loss': {}}
  results = {
    'name': name,
    'variant': variant,
    'seed': seed,
    'tasks': list(values),
    'main_metrics': {task: MAIN[task] for task in values},
    'test': split,
    'validation': split,
    **(extra or {}),
  }
  (folder / 'results.json').write_text(json.dumps(results))
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in history))
  return folder


@pytest.fixture
def root(tmp_path):
  root = tmp_path / 'runs'
  for seed in range(3):
    write_run(root, 'alone_pos', seed, {'pos': POS[seed]}, joint=POS[seed])
    write_run(root, 'alone_rule', seed, {'rule': RULE[seed]})
    write_run(root, 'alone_age', seed, {'age': AGE[seed]})
    both = {'pos': POS[seed] + 0.046, 'rule': 0.76 + 0.02 * seed, 'age': 1.0}
    write_run(root, 'sum_100%', seed, both, joint=0.7 + 0.01 * seed, extra={'paper': PAPER})
  write_run(root, 'part', 0, {'pos': 0.828, 'rule': 0.88}, joint=0.5)
  (root / 'part' / 'seed_1').mkdir()
  (root / 'part' / 'seed_1' / 'metrics.jsonl').touch()
  (root / 'part' / 'seed_0' / 'checkpoints').mkdir()
  (root / 'part' / 'seed_0' / 'checkpoints' / 'results.json').write_text('not a run')
  return root


def rows_of(table):
  return {row.label: row for row in table.rows}


def test_numbers_by_hand(root):
  (table,) = report.tables(report.load([root]))
  rows = rows_of(table)
  assert [c.key for c in table.columns] == [
    'pos.micro_f1', 'rule.accuracy', 'age.mae', 'joint.exact_match', 'delta_m',
  ]  # fmt: skip
  assert list(rows) == ['single task', 'part', 'sum_100%', 'Their_net & co']
  t = 4.302653  # 97.5% of Student's t with two degrees of freedom, printed tables
  single = rows['single task'].cells
  assert single['pos.micro_f1'].mean == pytest.approx(0.92)
  assert single['pos.micro_f1'].half_width == pytest.approx(t * 0.02 / np.sqrt(3), rel=1e-6)
  assert 'joint.exact_match' not in single
  assert single['delta_m'].mean == 0
  ours = rows['sum_100%'].cells
  assert ours['joint.exact_match'].mean == pytest.approx(0.71)
  # 5% better, 2.5% worse (from 0.78 and 0.80), half the error: lower is better.
  assert ours['delta_m'].mean == pytest.approx((-5 + 2.5 - 50) / 3)
  per_seed = [
    (-100 * (POS[s] + 0.046 - 0.92) / 0.92 - 100 * (0.76 + 0.02 * s - 0.8) / 0.8 - 50) / 3
    for s in range(3)
  ]
  expected = t * np.std(per_seed, ddof=1) / np.sqrt(3)
  assert ours['delta_m'].half_width == pytest.approx(expected, rel=1e-6)
  part = rows['part'].cells
  assert part['delta_m'].mean == pytest.approx((10 - 10) / 2)
  assert part['pos.micro_f1'].half_width is None
  assert not {'age.mae', 'joint.exact_match'} & set(part)  # over two of three tasks: not comparable
  assert [rows[name].seeds for name in rows] == ['3', '1', '3', '']
  assert rows['Their_net & co'].cells['joint.exact_match'].mean == pytest.approx(0.7)
  notes = ' '.join(table.notes)
  assert 'Someone 2018' in notes
  assert 'pos.mcc' in notes
  assert 'Unfinished runs, left out: part/seed_1.' in notes


def test_files(root, tmp_path, capsys):
  out = tmp_path / 'new' / 'out'
  report.report([root], out, Console(width=200), plots=False)
  assert sorted(p.name for p in out.iterdir()) == ['table.csv', 'table.md', 'table.tex']
  markdown = (out / 'table.md').read_text()
  assert '| sum\\_100% | **96.60** ± 4.97 | 78.00 ± 4.97 | **1.0000** ± 0.0000 |' in markdown
  assert '| part | 82.80 | **88.00** | — | — | 0.00 | 1 |' in markdown
  assert '| Their\\_net & co † | 95.5 | — | — | 70.0 | — |  |' in markdown
  latex = (out / 'table.tex').read_text()
  assert r'sum\_100\% & \textbf{96.60} {\scriptsize $\pm$ 4.97} &' in latex
  assert r'\textbf{$-$17.50}' in latex
  assert r'Their\_net \& co $^\dagger$ & 95.5 & --- &' in latex
  assert r'\begin{tabular}{lrrrrrr}' in latex
  body = [line for line in latex.splitlines() if line.endswith(r'\\')]
  assert {len(re.findall(r'(?<!\\)&', line)) for line in body} == {6}
  rows = {row['row']: row for row in csv.DictReader(io.StringIO((out / 'table.csv').read_text()))}
  assert float(rows['single task']['pos.micro_f1']) == np.mean(POS)
  assert rows['single task']['joint.exact_match'] == ''
  assert rows['Their_net & co']['source'] == 'published'
  printed = capsys.readouterr().out
  assert '96.60 ± 4.97' in printed
  for text in (markdown, latex, (out / 'table.csv').read_text()):
    assert str(tmp_path) not in text


def test_a_narrow_console_keeps_every_number(root, capsys):
  report.report([root], None, Console(width=70), plots=False, formats=())
  printed = capsys.readouterr().out
  for text in ('96.60', '± 4.97', '1.0000', '-17.50'):
    assert text in printed
  assert '…' not in printed
  assert not list(root.glob('table.*'))


def test_best_counts_ties_as_shown_and_no_lone_value(tmp_path):
  for variant, pos in {'a': 0.90001, 'b': 0.90002, 'c': 0.8}.items():
    values = {'pos': pos} | ({'age': 1.0} if variant == 'a' else {'rule': 0.5})
    write_run(tmp_path, variant, 0, values)
  report.report([tmp_path], plots=False, digits=1, formats=('md',))
  text = (tmp_path / 'table.md').read_text()
  assert '| a | **90.0** | 1.000 | — |' in text
  assert '| b | **90.0** | — | **50.0** |' in text
  assert '| c | 80.0 | — | **50.0** |' in text
  assert 'one seed' in text
  assert 'Δm' not in text


def test_names_cannot_break_a_table(tmp_path):
  paper = {'source': 'a\nb', 'rows': {'[1] ^~<y>': {'pos.micro_f1': 1.0}}}
  write_run(tmp_path, 'a|b [red]*x*', 0, {'pos': 0.5}, name='{x}\n<b>', extra={'paper': paper})
  report.report([tmp_path], plots=False)
  markdown = (tmp_path / 'table.md').read_text()
  assert markdown.startswith('### {x} \\<b>: test\n')
  assert '| a\\|b \\[red]\\*x\\* | **50.00** |' in markdown
  latex = (tmp_path / 'table.tex').read_text()
  assert '% {x} <b>: test\n' in latex
  assert '% † published: a b.\n' in latex
  assert r'a|b {[}red]*x* & \textbf{50.00} & 1 \\' in latex
  assert r'{[}1] \textasciicircum{}\textasciitilde{}\textless{}y\textgreater{} $^\dagger$' in latex


def test_several_configs(root, tmp_path):
  other = tmp_path / 'others'
  write_run(other, 'default', 0, {'pos': 0.5, 'age': 3.0}, name='other')
  words, others = report.report([root, other], tmp_path / 'out', plots=False)
  assert (words.name, others.name) == ('words', 'other')
  assert 'runs/part/seed_1' in words.notes[-1]
  rows = list(csv.DictReader(io.StringIO((tmp_path / 'out' / 'table.csv').read_text())))
  assert [row['config'] for row in rows] == ['words'] * 4 + ['other']
  assert rows[-1]['rule.accuracy'] == ''


def test_overlapping_directories_count_once(root):
  assert len(report.load([root, root / 'part']).finished) == len(report.load([root]).finished)
  assert report.load([root / 'part' / 'seed_0']).finished[0].label == 'seed_0'


def test_single_task_variants_of_one_task_stay_apart(tmp_path):
  for variant in ('lstm', 'cnn'):
    write_run(tmp_path, variant, 0, {'pos': 0.5})
  (table,) = report.tables(report.load([tmp_path]))
  assert list(rows_of(table)) == ['cnn', 'lstm']
  assert [c.key for c in table.columns] == ['pos.micro_f1']
  write_run(tmp_path, 'both', 0, {'pos': 0.5, 'rule': 0.5})
  (table,) = report.tables(report.load([tmp_path]))
  assert list(rows_of(table)) == ['both', 'cnn', 'lstm']
  assert 'No Δm: several single-task variants train the same task (cnn, lstm).' in table.notes


def test_delta_needs_a_reference_for_every_task(tmp_path):
  write_run(tmp_path, 'alone', 0, {'pos': 0.5})
  write_run(tmp_path, 'zero', 0, {'age': 0.0})
  write_run(tmp_path, 'all', 0, {'pos': 0.6, 'rule': 0.5, 'age': 1.0})
  write_run(tmp_path, 'pair', 0, {'pos': 0.6, 'age': None})
  (table,) = report.tables(report.load([tmp_path]))
  assert 'delta_m' not in [c.key for c in table.columns]
  assert 'single-task value other than 0: age, rule.' in ' '.join(table.notes)
  assert 'age.mae' not in rows_of(table)['pair'].cells


def test_the_default_split_is_one_that_all_runs_have(root):
  assert {table.split for table in report.report([root], plots=False)} == {'test'}
  path = root / 'part' / 'seed_0' / 'results.json'
  results = json.loads(path.read_text())
  del results['test']
  path.write_text(json.dumps(results))
  assert {table.split for table in report.report([root], plots=False)} == {'validation'}


def test_the_home_directory_is_expanded(root, monkeypatch):
  monkeypatch.setenv('HOME', str(root.parent))
  report.report(['~/runs'], '~/out', plots=False)
  assert (root.parent / 'out' / 'table.md').exists()


def test_all_metrics_and_splits(tmp_path):
  split = {'metrics': {'pos': {'micro_f1': 0.5, 'macro_f1': 0.25}}}
  extra = {'test': None, 'validation': split}
  write_run(tmp_path, 'a', 0, {'pos': 0.5}, extra=extra)
  runs = report.load([tmp_path])
  (table,) = report.tables(runs, 'validation', all_metrics=True)
  assert [c.key for c in table.columns] == ['pos.micro_f1', 'pos.macro_f1']
  assert table.rows[0].cells['pos.macro_f1'].mean == 0.25
  with pytest.raises(WorkdirError, match=r"a/seed_0 has no results for split 'test'.*validation"):
    report.tables(runs)


def test_the_mean_stands_for_the_joint_match_of_own_inputs(tmp_path):
  for seed, mean in enumerate((0.4, 0.6)):
    split = {'metrics': {'pos': {'micro_f1': 0.5}, 'rule': {'accuracy': 0.3}}, 'joint': {}}
    extra = {'test': split | {'mean': mean}}
    write_run(tmp_path, 'a', seed, {'pos': 0.5, 'rule': 0.3}, extra=extra)
  (table,) = report.tables(report.load([tmp_path]))
  assert [c.key for c in table.columns] == ['pos.micro_f1', 'rule.accuracy', 'mean']
  assert table.rows[0].cells['mean'].mean == 0.5


def test_a_metric_without_a_value_has_a_note_for_a_column(tmp_path):
  write_run(tmp_path, 'a', 0, {'pos': 0.5, 'rule': None})
  (table,) = report.tables(report.load([tmp_path]))
  assert [c.key for c in table.columns] == ['pos.micro_f1']
  assert table.notes[1].startswith('No value on this split: rule.')
  write_run(tmp_path, 'b', 0, {'pos': 0.5, 'rule': 0.5})
  (table,) = report.tables(report.load([tmp_path]))
  assert not any('No value' in note for note in table.notes)


def test_published_means_have_a_column_beside_the_joint_match(tmp_path):
  both = {'pos': 0.5, 'rule': 0.3}
  split = {'metrics': {'pos': {'micro_f1': 0.5}, 'rule': {'accuracy': 0.3}}, 'mean': 0.4}
  split['joint'] = {'exact_match': 0.2}
  for rows, found in (({'theirs': {'mean': 45.0}}, ['mean']), ({'theirs': {'exact_match': 1}}, [])):
    extra = {'test': split, 'paper': {'source': 'them', 'rows': rows}}
    place = tmp_path / str(len(found))
    write_run(place, 'a', 0, both, joint=0.2, extra=extra)
    (table,) = report.tables(report.load([place]))
    assert [c.key for c in table.columns][2:] == ['joint.exact_match', *found]
    if found:
      assert [row.cells['mean'].mean for row in table.rows] == [0.4, 0.45]


def test_many_tasks_have_a_line_each_and_the_means_below(tmp_path, monkeypatch, capsys):
  """Nine tasks: a column for each run; the joint match stands beside the mean."""
  names = [f'task_{i}' for i in range(9)]
  monkeypatch.setattr(sys.modules[__name__], 'MAIN', dict.fromkeys(names, 'accuracy'))
  for variant, shift in (('sum', 0.0), ('pcgrad', 0.01)):
    values = {name: 0.5 + 0.04 * i + shift for i, name in enumerate(names)}
    folder = write_run(tmp_path / 'runs', variant, 0, values, joint=0.25 + shift)
    results = json.loads((folder / 'results.json').read_text())
    results['test']['mean'] = sum(values.values()) / 9
    (folder / 'results.json').write_text(json.dumps(results))
  report.report([tmp_path / 'runs'], tmp_path / 'out', plots=False, formats=('md', 'tex'))
  shown = capsys.readouterr().out
  lines = (tmp_path / 'out' / 'table.md').read_text().splitlines()[2:15]
  assert lines[0].split('|')[1:-1] == ['  ', ' pcgrad ', ' sum ']
  expected = [
    f'| task\\_{i}.accuracy % ↑ | **{51 + 4 * i}.00** | {50 + 4 * i}.00 |' for i in range(9)
  ]
  joint = '| joint.exact\\_match % ↑ | **26.00** | 25.00 |'
  assert lines[2:] == [*expected, joint, '| mean % ↑ | **67.00** | 66.00 |']
  latex = (tmp_path / 'out' / 'table.tex').read_text()
  assert latex.count(r'\midrule') == 2
  assert latex.index(r'task\_8') < latex.rindex(r'\midrule') < latex.index('joint.exact')
  assert len(max(shown.partition('Test split')[0].splitlines(), key=len)) <= 80
  assert [shown.index(name) for name in [*names, 'joint.exact_match', 'mean %']] == sorted(
    shown.index(name) for name in [*names, 'joint.exact_match', 'mean %']
  )


def test_costs(tmp_path):
  """Of single-task runs the sum; the median of the logged rates, which leave compiling out."""
  for variant, tasks in (('a', {'pos': 0.5}), ('b', {'rule': 0.5}), ('c', {'pos': 1, 'rule': 1})):
    write_run(tmp_path, variant, 0, tasks, extra={'parameters': 1_500_000})
    lines = [{'step': i, 'split': 'train', 'steps_per_second': r} for i, r in enumerate((1, 4, 5))]
    path = tmp_path / variant / 'seed_0' / 'metrics.jsonl'
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  (table,) = report.tables(report.load([tmp_path]), costs=True)
  assert [c.key for c in table.columns][-3:] == ['delta_m', 'parameters.M', 'step.ms']
  single, together = table.rows
  assert single.cells['step.ms'].mean == 500
  assert together.cells['step.ms'].mean == 250
  assert single.cells['parameters.M'].mean * table.columns[-2].scale == 3


def test_bad_directories(tmp_path):
  with pytest.raises(WorkdirError, match="nothing' is not a directory"):
    report.load([tmp_path / 'nothing'])
  with pytest.raises(WorkdirError, match='no finished run'):
    report.load([tmp_path])
  (tmp_path / 'x').mkdir()
  (tmp_path / 'x' / 'metrics.jsonl').touch()
  with pytest.raises(WorkdirError, match='unfinished runs: x'):
    report.load([tmp_path])


def test_all_unreadable_results_are_named(root):
  (root / 'part' / 'seed_0' / 'results.json').write_text('{"name": "wor')
  (root / 'sum_100%' / 'seed_1' / 'results.json').write_text('[]')
  (root / 'sum_100%' / 'seed_2' / 'results.json').write_text('{"name": "words"}')
  write_run(root, 'typed', 0, {'pos': 0.1}, extra={'seed': '0'})
  write_run(root, 'odd', 0, {'pos': 0.1}, extra={'main_metrics': {'pos': 'bleu'}})
  for name, extra in {
    'main': {'main_metrics': ['pos']},
    'listed': {'test': {'metrics': {'pos': [0.1]}}},
    'joint': {'test': {'metrics': {}, 'joint': [0.5]}},
    'mean': {'test': {'metrics': {}, 'mean': 'x'}},
    'unit': {'parameters': '3 M'},
    'text': {'variant': '\udcff'},
    'paper': {'paper': {'rows': [1]}},
  }.items():
    write_run(root, name, 0, {'pos': 0.1}, extra=extra)
  with pytest.raises(WorkdirError) as info:
    report.load([root])
  for part in (
    'part/seed_0/results.json: Unterminated string',
    'sum_100%/seed_1/results.json: not a JSON object',
    "sum_100%/seed_2/results.json: 'variant' is missing",
    "typed/seed_0/results.json: seed is '0'",
    "odd/seed_0/results.json: unknown metric 'bleu'",
    "main/seed_0/results.json: main_metrics is ['pos']",
    'listed/seed_0/results.json: test.metrics.pos is [0.1]',
    'joint/seed_0/results.json: test.joint is [0.5]',
    "mean/seed_0/results.json: test.mean is 'x'",
    "unit/seed_0/results.json: parameters is '3 M'",
    r"text/seed_0/results.json: variant is '\udcff'",
    'paper/seed_0/results.json: paper.rows is [1]',
  ):
    assert part in str(info.value)


def test_runs_that_do_not_fit_together(tmp_path):
  def tables(*names):
    return report.tables(report.load([tmp_path / name for name in names]))

  write_run(tmp_path / 'a', 'x', 0, {'pos': 0.5, 'rule': 0.5})
  write_run(tmp_path / 'same', 'x', 0, {'pos': 0.5, 'rule': 0.5})
  write_run(tmp_path / 'tasks', 'x', 1, {'pos': 0.5})
  write_run(tmp_path / 'metric', 'y', 0, {'pos': 0.5}, extra={'main_metrics': {'pos': 'macro_f1'}})
  write_run(tmp_path / 'lost', 'y', 0, {'pos': 0.5}, extra={'test': {'metrics': {}}})
  with pytest.raises(WorkdirError, match='a/x/seed_0 and same/x/seed_0 are both config'):
    tables('a', 'same')
  with pytest.raises(
    WorkdirError, match=r"different tasks in its runs: a/x/seed_0 \['pos', 'rule'"
  ):
    tables('a', 'tasks')
  with pytest.raises(WorkdirError, match=r"metrics: a/x/seed_0 has 'micro_f1', metric/y/seed_0"):
    tables('a', 'metric')
  with pytest.raises(WorkdirError, match=r'y/seed_0/results.json has no test pos.micro_f1'):
    tables('lost')


def test_unwritable_output_leaves_nothing(root, tmp_path):
  blocked = tmp_path / 'file'
  blocked.touch()
  with pytest.raises(WorkdirError, match=r'cannot write table\.md .*--out'):
    report.report([root], blocked, plots=False)
  out = tmp_path / 'out'
  (out / 'table.tex').mkdir(parents=True)  # a directory cannot be replaced by a file
  with pytest.raises(WorkdirError, match=r'cannot write table\.tex'):
    report.report([root], out, plots=False)
  assert sorted(p.name for p in out.iterdir()) == ['table.md', 'table.tex']


@pytest.mark.parametrize('name', ['a' * 300, 'a\0b', '~nobody_of_this_name'])
def test_paths_that_could_be_none(name, root, capsys):
  assert command.main([name, '--no-plots']) == 1
  assert command.main([str(root), '--out', name, '--no-plots']) == 1
  assert capsys.readouterr().err.count('error: ') == 2


def test_a_directory_whose_name_is_no_text(tmp_path, capfd):
  folder = tmp_path / 'a\udcff'
  write_run(folder, 'x', 0, {'pos': 0.5})
  (folder / 'y').mkdir()
  (folder / 'y' / 'metrics.jsonl').touch()
  assert command.main([str(tmp_path), '--no-plots']) == 0
  assert command.main([str(folder), '--no-plots']) == 0
  assert r'left out: a\udcff/y' in capfd.readouterr().out


def test_rows_stand_in_the_order_of_the_config(tmp_path):
  """Of the longest list that a run noted; then what shorter ones add; then by name."""
  both = {'pos': 0.5, 'rule': 0.5}
  orders = {'sum': ['sum', 'b', 'a', 'new'], 'a': ['sum', 'b', 'a'], 'b': ['old', 'b'], 'old': []}
  for place, (name, order) in enumerate({**orders, 'z': None, 'new': None, 'first': None}.items()):
    extra = {} if order is None else {'order': order}
    write_run(tmp_path / str(place % 2), name, 0, both, extra=extra)
  (table,) = report.tables(report.load([tmp_path / '1', tmp_path / '0']))
  assert [row.label for row in table.rows] == ['sum', 'b', 'a', 'new', 'old', 'first', 'z']


def test_other_versions_are_noted(tmp_path):
  folder = write_run(tmp_path, 'a', 0, {'pos': 0.5})
  continued = [{'after_step': 3, 'jax': '0.11', 'flax': '0.13'}, {'after_step': 9, 'jax': '0.12'}]
  (folder / 'versions.json').write_text(json.dumps({'jax': '0.10', 'continued': continued}))
  (table,) = report.tables(report.load([tmp_path]))
  note = 'other versions: a/seed_0 after step 3: jax 0.11, flax 0.13; a/seed_0 after step 9: jax'
  assert note in ' '.join(table.notes)
  for text in ('', '[]', '{"continued": 3}'):
    (folder / 'versions.json').write_text(text)
    (table,) = report.tables(report.load([tmp_path]))
    assert 'other versions' not in ' '.join(table.notes)


def test_titles_are_not_cut_off(tmp_path):
  """Of narrow figures with one panel, and of a config with a long name."""
  histories = [[train(1, 1.0, weight={'pos': 1.0}, gradient_norm={'pos': 3.0})]] * 2
  for seed, history in enumerate(histories):
    name = 'a_config_with_quite_a_long_name'
    write_run(tmp_path, 'a', seed, {'pos': 0.5, 'rule': 0.5}, history=history, name=name)
  (experiment,) = _runs.experiments(report.load([tmp_path]).finished)
  for figure in (
    _plots._curves(experiment),
    _plots._by_task(experiment, 'gradient_norm', 'norm of the gradient'),
  ):
    figure.canvas.draw()
    extent = figure._suptitle.get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width
    assert extent.y1 <= figure.bbox.height


def test_command(root, tmp_path, capsys):
  args = [str(root), '--out', str(tmp_path / 'out'), '--no-plots', '--format', 'csv']
  assert command.main(args) == 0
  assert [p.name for p in (tmp_path / 'out').iterdir()] == ['table.csv']
  assert command.main([str(tmp_path / 'nothing')]) == 1
  assert 'error: ' in capsys.readouterr().err
  with pytest.raises(SystemExit, match='2'):
    command.main([str(root), '--format', 'docx'])
  done = subprocess.run(
    [sys.executable, '-m', 'mtl_jax.report', '--help'], capture_output=True, text=True, check=True
  )
  assert 'exit codes' in done.stdout


def train(step, loss, **rest):
  return {'step': step, 'split': 'train', 'loss': {'pos': loss, 'rule': 1.0}, **rest}


def validation(step, value):
  return {'step': step, 'split': 'validation', 'metrics': {'pos': {'micro_f1': value}}}


def plotted(tmp_path, histories):
  values = {'pos': 0.5, 'rule': 0.5}
  for seed, history in enumerate(histories):
    write_run(tmp_path, 'a', seed, values, history=history)
  (experiment,) = _runs.experiments(report.load([tmp_path]).finished)
  return experiment


def test_records_survive_kills(tmp_path):
  folder = write_run(tmp_path, 'a', 0, {'pos': 0.5})
  lines = [json.dumps(train(10, 3.0)), json.dumps(train(20, 9.0))]
  # A line cut by a kill, on which the resumed run continues, repeating step 20; then a second kill.
  text = '\n'.join([*lines, '{"step": 30, "spl', json.dumps(train(20, 2.0)), '{"step": 40'])
  (folder / 'metrics.jsonl').write_text(text)
  run = report.load([tmp_path]).finished[0]
  assert [(r['step'], r['loss']['pos']) for r in run.records['train']] == [(10, 3.0), (20, 2.0)]


def test_curves_show_mean_and_range(tmp_path):
  experiment = plotted(
    tmp_path,
    [
      [train(1, 4.0), train(2, 3.0), train(3, 2.0), validation(2, 0.5), validation(4, 0.7)],
      [train(1, 2.0), train(2, 1.0), validation(2, 0.7)],
    ],
  )
  axes = _plots._curves(experiment).axes
  score, loss = axes[0], axes[1]
  np.testing.assert_allclose(loss.lines[0].get_xydata(), [[1, 3], [2, 2]])
  np.testing.assert_allclose(loss.lines[1].get_xydata(), [[2, 2], [3, 2]])  # one seed has stopped
  band = loss.collections[0].get_paths()[0].vertices
  assert (band[:, 1].min(), band[:, 1].max()) == (1, 4)
  np.testing.assert_allclose(score.lines[0].get_xydata(), [[2, 60]])
  assert score.get_ylabel() == 'micro_f1 (%)'
  assert not axes[2].lines  # no validation records for 'rule'


def test_weights_and_cosines(tmp_path):
  histories = [
    [
      train(1, 1.0, weight={'pos': 0.5, 'rule': 1.5}, cosine=[[1, 0.2], [0.2, 1]]),
      train(2, 1.0, weight={'pos': 1.0}, cosine=[[1, 0.4], [None, 1]]),
    ],
    [train(1, 1.0, weight={'pos': 0.7, 'rule': 1.3}, cosine=[[1, -0.1], [-0.1, 1]])],
  ]
  experiment = plotted(tmp_path, histories)
  (axis,) = _plots._by_task(experiment, 'weight', 'weight').axes
  np.testing.assert_allclose(axis.lines[0].get_xydata(), [[1, 0.6]])
  assert [text.get_text() for text in axis.figure.legends[0].get_texts()] == ['pos', 'rule']
  cosines = _plots._cosines(experiment).axes[0]
  np.testing.assert_allclose(cosines.images[0].get_array(), [[1, 0.1], [0.05, 1]])
  assert [t.get_text() for t in cosines.texts] == ['1.00', '0.10', '0.05', '1.00']
  assert [t.get_text() for t in cosines.get_yticklabels()] == ['pos', 'rule']


def test_the_verdict_on_what_was_logged(tmp_path, capsys):
  """Of both seeds, up to where the first ended; not of a run that logged no cosines."""
  pair = {'pos': 0.9, 'rule': 0.8}
  against = [[1, -0.5], [-0.5, 1]]
  for seed, steps in ((0, 2), (1, 3)):
    history = [
      train(step, 1.0, gradient_norm={'pos': 1.0, 'rule': 20.0}, cosine=against, improved=0.5)
      for step in range(steps)
    ]
    write_run(tmp_path, 'pcgrad', seed, pair, history=history)
  write_run(tmp_path, 'sum_tasks', 0, pair, history=[train(1, 1.0)])
  assert command.main([str(tmp_path), '--no-plots']) == 0
  out = capsys.readouterr().out
  assert 'pcgrad: balancing is likely to matter: by scale first' in out
  assert 'sum_tasks: ' not in out
  assert command.main([str(tmp_path), '--no-plots', '--verdicts']) == 0
  out = capsys.readouterr().out
  assert 'pos and rule, mean cosine -0.50, negative in 100%' in out
  assert 'the gradients differ 20-fold in size (median): rule has the largest' in out


def test_norms_and_conflicts_of_monitored_runs(tmp_path):
  histories = [
    [train(1, 1.0, gradient_norm={'pos': 3.0, 'rule': 4.0}, conflict=0.5, improved=1.0)],
    [train(1, 1.0, gradient_norm={'pos': 5.0, 'rule': 4.0}, conflict=1.0, improved=1.0)],
  ]
  experiment = plotted(tmp_path, histories)
  assert set(_plots.plots(experiment)) == {'curves', 'norms', 'conflicts'}
  norms = _plots._by_task(experiment, 'gradient_norm', 'norm').axes[0]
  np.testing.assert_allclose(norms.lines[0].get_xydata(), [[1, 4.0]])
  conflict, improved = _plots._conflicts(experiment).axes
  np.testing.assert_allclose(conflict.lines[0].get_xydata(), [[1, 0.75]])
  np.testing.assert_allclose(improved.lines[0].get_xydata(), [[1, 1.0]])


def test_plots_are_written_where_there_is_data(tmp_path):
  plotted(tmp_path, [[train(1, 4.0), train(2, float('nan')), validation(2, 0.5)]])
  report.report([tmp_path])
  assert [p.name for p in tmp_path.glob('*.png')] == ['curves.png']
  assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')
  (tmp_path / 'a' / 'seed_0' / 'metrics.jsonl').unlink()
  report.report([tmp_path], tmp_path / 'out')
  assert not list((tmp_path / 'out').glob('*.png'))


def test_a_learned_tree_is_printed_as_the_option_that_trains_it(config, tmp_path, capsys):
  changed = config.copy_and_resolve_references()
  changed.balance.name = 'sum_tasks'
  changed.sharing.name = 'ltb'
  changed.encoder.name = 'cnn'
  changed.encoder.cnn.update(features=4, widths=(2,))
  changed.train.steps = 1
  train_lib.run(changed, tmp_path / 'search')
  capsys.readouterr()
  assert command.main([str(tmp_path / 'search'), '--branches', '--no-plots']) == 0
  found = re.search(r'--config\.sharing\.ltb\.tree="(.*)"', capsys.readouterr().out)
  assert found
  changed.sharing.ltb.tree = ast.literal_eval(found[1])
  train_lib.run(changed, tmp_path / 'tree')
  assert command.main([str(tmp_path / 'tree'), '--branches', '--no-plots']) == 0
  assert 'No run has a learned tree' in capsys.readouterr().out


def test_branches_of_a_run_without_parameters(tmp_path, capsys):
  write_run(tmp_path, 'a', 0, {'pos': 0.5})
  assert command.main([str(tmp_path), '--branches', '--no-plots']) == 1
  assert 'a/seed_0' in capsys.readouterr().err
