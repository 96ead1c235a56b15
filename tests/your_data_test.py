"""docs/your-data.md, command by command: files, configs and Python as they stand there."""

import csv
import io
import json
import pathlib
import re
import shlex
import sys

import pytest

import mtl_jax
from mtl_jax import __main__ as commands

PAGE = pathlib.Path(mtl_jax.__file__).parents[1] / 'docs' / 'your-data.md'
BLOCK = re.compile(r'(?P<before>[^\n]*)\n\n```(?P<language>\w+)\n(?P<content>.*?)\n```', re.DOTALL)


def run(line, monkeypatch):
  """One line of a shell block, in this process."""
  if line.startswith('echo '):
    text, _, line = line.partition(' | ')
    given = io.BytesIO(shlex.split(text)[1].encode() + b'\n')
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(given))
  python, flag, module, *arguments = shlex.split(line)
  assert (python, flag) == ('python', '-m')
  assert commands.main(['', module.removeprefix('mtl_jax.'), *arguments]) == 0, line


@pytest.mark.skipif(not PAGE.exists(), reason='not installed: docs/')
def test_every_command_of_the_page(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  blocks = list(BLOCK.finditer(PAGE.read_text(encoding='utf-8')))
  assert len(blocks) > 10
  # Files first: a page may show a config after the command that uses it.
  for block in blocks:
    names = re.findall(r'`(\w+\.(?:toml|py))`', block['before'])
    if names:
      (tmp_path / names[-1]).write_text(block['content'])
  for block in blocks:
    if block['language'] == 'bash':
      for line in block['content'].splitlines():
        run(line, monkeypatch)
    elif block['language'] == 'python' and not re.search(r'`\w+\.py`', block['before']):
      exec(compile(block['content'], str(PAGE), 'exec'), {})
  assert 'password' not in capsys.readouterr().err
  page = (tmp_path / 'tickets.html').read_text()
  assert 'category' in page

  with open('tickets.csv', newline='') as file, open('predicted.csv', newline='') as predicted:
    before, after = list(csv.DictReader(file)), list(csv.DictReader(predicted))
  assert [row['text'] for row in after] == [row['text'] for row in before]
  right = sum(row['category'] == row['category_predicted'] for row in after)
  assert right > 0.9 * len(after)
  for name, metric in (('sentences', 'pos'), ('topics', 'topics'), ('measurements', 'state')):
    (found,) = pathlib.Path('runs', name).glob('*/seed_0/results.json')
    results = json.loads(found.read_text())
    assert results['test']['metrics'][metric][results['main_metrics'][metric]] > 0.6
  lines = pathlib.Path('predicted.conll').read_text().splitlines()
  assert len(lines[0].split('\t')) == 5
  first = json.loads(pathlib.Path('predicted.jsonl').read_text().splitlines()[0])
  assert set(first) == {'text', 'topics', 'topics_predicted', 'topics_probabilities'}
