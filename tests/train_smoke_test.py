"""A whole run from the command line on a small part of the real lexicon, to its table and plots."""

import json
import subprocess
import sys
from pathlib import Path

from mtl_jax import train

ROOT = Path(__file__).parent.parent


def test_quickstart_in_small(tmp_path, monkeypatch, capsys):
  command = [
    sys.executable,
    '-m',
    'mtl_jax.train',
    '--config=configs/quickstart.py',
    f'--workdir={tmp_path / "runs"}',
    '--variants=gradnorm_pcgrad',
    '--config.seeds=(0,)',
    '--config.train.steps=30',
    '--config.train.eval_every=30',
    '--config.dataset.train_limit=2000',
    f'--config.dataset.data_dir={tmp_path / "data"}',
  ]
  first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert first.returncode == 0, first.stderr
  run = tmp_path / 'runs' / 'gradnorm_pcgrad' / 'seed_0'
  results = json.loads((run / 'results.json').read_text())
  assert results['steps'] == 30
  assert results['compilations'] <= 2  # one a bucket
  assert set(results['test']['metrics']) == {'inflection', 'lemma'}
  assert (tmp_path / 'runs' / 'table.md').exists()
  assert (tmp_path / 'runs' / 'curves.png').exists()
  monkeypatch.chdir(ROOT)
  assert train.main(command[2:]) == 0
  assert 'step 30/30' not in capsys.readouterr().out
