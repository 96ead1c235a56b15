"""Sharing from the command line, to the results; a run with empty own encoders is restored."""

import json

import pytest

from mtl_jax import describe, train
from tests import train_test

config_file = train_test.config_file  # the tiny lexicon

CNN = ('--config.encoder.name=cnn', '--config.encoder.cnn.features=8')
FLAGS = {
  'separate': CNN,
  'soft': (
    *CNN,
    '--config.sharing.soft.penalty=trace',
    "--config.sharing.soft.strengths=('Conv=0.1',)",
  ),
  'mtl_lora': ('--config.sharing.mtl_lora.rank=2',),
}


@pytest.mark.parametrize('name', FLAGS)
def test_the_whole_command(name, config_file, tmp_path, capsys):
  flags = [f'--config={config_file}', f'--config.sharing.name={name}', *FLAGS[name]]
  flags += ["--config.only=('pos','inflection')", '--config.balance.name=graddrop']
  steps = ['--config.train.steps=2', '--config.train.log_every=1', '--config.train.eval_every=1']
  command = ['train', f'--workdir={tmp_path / "w"}', *flags, *steps]
  assert train.main(command) == 0
  run = tmp_path / 'w' / 'default' / 'seed_0'
  config = json.loads((run / 'config.json').read_text())['sharing']
  assert set(config) == ({'name'} if name == 'separate' else {'name', name})
  assert '"steps": 2,' in (run / 'results.json').read_text()
  assert ('"penalty": ' in (run / 'metrics.jsonl').read_text()) == (name == 'soft')
  assert train.main(command) == 0
  assert 'was finished before' in capsys.readouterr().out
  assert describe.main(['describe', *flags]) == 0
  assert f'sharing {name}' in capsys.readouterr().out
