"""Configs in TOML are the same configs, and their faults are told as those in Python."""

import pytest

from mtl_jax import config as config_lib
from mtl_jax import errors
from mtl_jax.config import command_line

TEXT = """
name = "words"
seeds = [0, 1]
dataset.name = "english_words"
[tasks.pos]
weight = 2
[tasks.lemma]
[encoder]
name = "bilstm"
[variants.both]
"balance.name" = "pcgrad"
[variants.slow]
optimizer.learning_rate = 1e-5
[train]
steps = 20
"""


def load(folder, text, name='c.toml'):
  (folder / name).write_text(text)
  return command_line.load(str(folder / name))


def test_the_same_as_in_python(tmp_path):
  config = load(tmp_path, TEXT)
  same = config_lib.default()
  same.name, same.seeds, same.dataset.name = 'words', (0, 1), 'english_words'
  same.tasks = config_lib.tasks({'pos': {'weight': 2.0}, 'lemma': {}})
  same.encoder.name, same.train.steps = 'bilstm', 20
  same.variants = config_lib.dotted(
    {'both': {'balance.name': 'pcgrad'}, 'slow': {'optimizer.learning_rate': 1e-5}}
  )
  assert config_lib.resolve(config) == config_lib.resolve(same)
  assert config.is_locked


def test_the_command_line_changes_it(tmp_path):
  (tmp_path / 'c.toml').write_text(TEXT)
  arguments = command_line.parse(
    [
      '',
      f'--config={tmp_path / "c.toml"}',
      '--config.train.steps=3',
      '--config.tasks.pos.weight=1',
    ],
    '',
    needs_workdir=False,
  )
  assert arguments.config.train.steps == 3
  assert arguments.config.tasks.pos.weight == 1.0


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('steps = 20', 'stepps = 20', r"c.toml: no key 'stepps' in train; did you mean 'steps'"),
    ('steps = 20', 'steps = "20"', r"c.toml: train.steps: need an integer, not '20'"),
    ('weight = 2', 'wieght = 2', r"c.toml: no key 'wieght' in tasks.pos; did you mean 'weight'"),
    ('[train]', '[train', r'c.toml is no TOML: .*line 14'),
    ('seeds = [0, 1]', 'seeds = 0', r'c.toml: seeds: need a tuple'),
    (
      'name = "words"',
      'name = words',
      r'Invalid value \(at line 2, column 8\); texts stand in quotes',
    ),
    ('[tasks.pos]', '[tasks."MUV-466"]', "letters, digits and _, .* column = 'MUV-466'"),
    ('[tasks.pos]', '[tasks.inputs]', 'not inputs, targets or mask'),
  ],
)
def test_faults_name_the_file(tmp_path, old, new, message):
  with pytest.raises(errors.ConfigError, match=message):
    load(tmp_path, TEXT.replace(old, new))


def test_a_config_in_toml_takes_no_argument(tmp_path):
  (tmp_path / 'c.toml').write_text(TEXT)
  with pytest.raises(errors.ConfigError, match="takes no argument 'x'"):
    command_line.load(f'{tmp_path / "c.toml"}:x')
  with pytest.raises(errors.ConfigError, match=r"no config file .*d.toml'; did you mean 'c.toml'"):
    command_line.load(str(tmp_path / 'd.toml'))
