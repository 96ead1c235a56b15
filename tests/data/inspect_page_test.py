"""A look at data: shares are of what has a label, and examples are from all over the split."""

import pytest

from mtl_jax.data import inspect, pipeline, sources
from mtl_jax.data.inspect import __main__ as command


@pytest.fixture
def look(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  rows = [f'a{i} text,{"xy"[i % 2]},{i / 7}' for i in range(40)]
  (tmp_path / 'a.csv').write_text('text,one,two\n' + '\n'.join(rows) + '\n')
  rows = [f'b{i} text,{"xy"[i % 2]}' for i in range(40)]
  (tmp_path / 'b.csv').write_text('text,one\n' + '\n'.join(rows) + '\n')
  files = {name: {'train': f'{name}.csv', 'input': 'text'} for name in 'ab'}

  def made(tasks, **options):
    options = {'name': '', 'files': files} | options
    source = sources.of(options, tasks)
    tasks = {t: {'metrics': spec.metrics} for t, spec in source.tasks.items()}
    data = pipeline.load(options, tasks, 4, 0, source=source)
    return inspect.look(source, data, show=6)

  return made


def test_examples_of_every_file(look):
  found = look({'one': {'files': ['a', 'b']}, 'two': {'files': ['a']}})
  assert [row['input'][0] for row in found.shown] == ['a'] * 3 + ['b'] * 3
  assert [row['two'] == '–' for row in found.shown] == [False] * 3 + [True] * 3


@pytest.mark.parametrize('option', ['own_batches', 'train_limit', 'owner'])
def test_inputs_and_labels_belong_together(option, look):
  if option == 'owner':
    found = look({'one': {'files': ['b']}, 'two': {'files': ['a']}})
  else:
    found = look({'one': {'files': ['a', 'b']}, 'two': {'files': ['a']}}, **{option: 9})
  assert len(found.shown) == 6
  for row in found.shown:
    number = int(row['input'].split(' | ')[0][1:])
    if row.get('one', '–') != '–':
      assert row['one'] == 'xy'[number % 2]
    if row.get('two', '–') != '–':
      assert row['two'] == f'{number / 7:.6g}'


def test_shares_of_words_and_labels_of_many_tasks(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  sentence = 'the\tDET\tO\nred\tADJ\tO\ndog\tNOUN\tO\nsat\tVERB\tO\n\n'
  (tmp_path / 's.conll').write_text(sentence * 40)
  tasks = ''.join(f'[tasks.pos{i}]\ncolumn = "pos"\n' for i in range(7))
  (tmp_path / 's.toml').write_text(
    '[dataset.files.s]\ntrain = "s.conll"\ninput = "w"\ncolumns = ["w", "pos", "ner"]\n' + tasks
  )
  assert command.main(['', '--config=s.toml']) == 0
  shown = capsys.readouterr().out
  assert '32 (25.0%)' in shown  # of 128 words in 32 sentences
  assert '(100.0%)' not in shown
  assert 'pos0: DET ADJ NOUN VERB, pos1: DET' in ' '.join(shown.split())
