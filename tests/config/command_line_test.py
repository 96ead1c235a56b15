"""The command line of training: what is wrong with it is said in one line, and nothing is begun."""

import logging
import pathlib

import pytest

from mtl_jax import config as config_lib
from mtl_jax import errors, train
from mtl_jax.build import optimizer
from mtl_jax.config import command_line

_CONFIG = pathlib.Path(train.__file__).parents[1] / 'configs' / 'quickstart.py'


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--config.trian.steps=3'], "no key 'trian'; did you mean 'train'?"),
    (['--config.train.step=3'], "no key 'step' in train; did you mean 'steps'?"),
    (['--config.train.steps.x=3'], 'train.steps is a single value'),
    (['--config.train.steps=abc'], "error: config.train.steps: need an integer, not 'abc'\n"),
    (['--config.train.steps=2.5'], "config.train.steps: need an integer, not '2.5'"),
    (['--config.train.steps', '2.5'], "config.train.steps: need an integer, not '2.5'"),
    (['--config.train.steps'], '--config.train.steps needs a value'),
    (['--config.train.steps=18446744073709551616'], 'train.steps: need an integer from -2**31'),
    ([f'--config.train.steps={"9" * 5000}'], 'config.train.steps: need an integer, not'),
    (['--config.optimizer.learning_rate=x'], "need a number, not 'x'"),
    (['--config.eval.test=maybe'], "config.eval.test: need True or False, not 'maybe'"),
    (['--noconfig.train.steps'], "config.train.steps: need an integer, not 'false'"),
    (['--config.seeds=0,(1'], "config.seeds: need a tuple, such as 1,2 or ('a', 'b'), not '0,(1'"),
    (['--config.seeds={1}'], 'config.seeds: need a tuple'),
    (['--config.train=3'], 'config.train: is a section; change one of its keys: --config.train.'),
    (['--config.tasks.posture.weight=3'], "no key 'posture' in tasks"),
    (
      ['--config.balance.name=gradnorm+pcgrid', '--variants=inflection_only'],
      "no 'pcgrid'; did you mean 'pcgrad'?",
    ),
    (['--config.balance.name=pcgrad'], "balance.name has no effect: variant 'sum' sets"),
    (
      ['--config.only=inflection', '--variants=lemma_only'],
      "no effect: variant 'lemma_only' sets only",
    ),
    (['--config.encoder.name=bilstn'], "encoder.name: no 'bilstn'; did you mean 'bilstm'?"),
    (['--config.only=lema', '--variants=sum'], "no task 'lema'; did you mean 'lemma'?"),
    (['--config.train.early_stopping.metric=lemma.macro'], "no metric 'lemma.macro'"),
    (['--variants=pcgrad'], "no variant 'pcgrad'"),
    (['--workdri=x'], "no flag '--workdri'; did you mean '--workdir'? Valid: --config, "),
    (['--variant=sum'], "no flag '--variant'; did you mean '--variants'?"),
    (['--confg=x'], "no flag '--confg'; did you mean '--config'?"),
    (['--confg.train.steps=3'], "no flag '--confg.train.steps'; did you mean '--config'?"),
    (['--workdir.x=3'], "no flag '--workdir.x'"),
    (['x'], "unexpected argument 'x'. See --help."),
    (['mine.toml'], "unexpected argument 'mine.toml'; did you mean --config=mine.toml?"),
  ],
)
def test_a_wrong_command_line(flags, message, tmp_path, capsys):
  code = train.main(['train', f'--config={_CONFIG}', f'--workdir={tmp_path / "w"}', *flags])
  captured = capsys.readouterr()
  assert code == 2
  assert message in captured.err
  assert captured.err.startswith('error: ')
  assert not (tmp_path / 'w').exists()


def test_wrong_config_files(tmp_path, capsys):
  def stderr(*args):
    assert train.main(['train', *args]) == 2
    return capsys.readouterr().err

  assert 'the flag --config=FILE.py is required' in stderr('--workdir=x')
  assert 'the flag --config=FILE.py is required' in stderr('--workdir=x', '--config')
  assert "no flag '--confg'; did you mean '--config'?" in stderr(f'--confg={_CONFIG}')
  for name in ('a' * 300, 'a' * 300 + '/b.py', 'a\0b', '\udcff.py', '~nobody_of_this_name/c.py'):
    assert stderr(f'--config={name}', '--workdir=x').startswith('error: no config file ')
  assert 'nobody' in stderr(f'--config={_CONFIG}', '--workdir=~nobody_of_this_name/x')
  assert 'the flag --workdir=DIR is required' in stderr(f'--config={_CONFIG}')
  near = _CONFIG.with_name('quikstart.py')
  assert "did you mean 'quickstart.py'?" in stderr(f'--config={near}', '--workdir=x')
  bad = tmp_path / 'bad.py'
  bad.write_text('def get_config():\n  return 1 / 0\n')
  assert 'bad.py, line 2: ZeroDivisionError' in stderr(f'--config={bad}', '--workdir=x')
  bad.write_text(_CONFIG.read_text().replace('config.train.steps', 'config.train.stepz'))
  text = stderr(f'--config={bad}', '--workdir=x')
  assert "no key 'stepz'; did you mean 'steps'? Valid: accumulate, batch_size, " in text
  assert text.count('\n') == 1
  bad.write_text('x = 1\n')
  assert 'bad.py defines no get_config()' in stderr(f'--config={bad}', '--workdir=x')
  bad.write_text('raise SystemExit(3)\n')
  assert 'bad.py, line 1: SystemExit' in stderr(f'--config={bad}', '--workdir=x')
  bad.write_text('def get_config():\n  return {}\n')
  assert 'get_config must return' in stderr('--config', str(bad), '--workdir=x')


def test_help(capsys):
  assert train.main(['train', '--help']) == 0
  assert '143  terminated' in capsys.readouterr().out
  assert train.main(['train', '--helpshort']) == 0
  assert '--variants=A,B' in capsys.readouterr().out


def test_overrides_reach_the_config():
  flags = ['--config.optimizer.learning_rate=1e-2', '--config.seeds=4,5', '--noconfig.eval.test']
  flags += [
    '--config.balance.gradnorm.alpha=0.5',
    '--config.only=inflection,lemma',
    '--variants=a,b',
  ]
  arguments = command_line.parse(['train', f'--config={_CONFIG}', '--workdir=w', *flags], '')
  assert arguments.config.optimizer.learning_rate == 0.01
  assert arguments.config.seeds == (4, 5)
  assert arguments.config.eval.test is False
  assert arguments.config.balance.gradnorm.alpha == 0.5
  assert arguments.config.only == ('inflection', 'lemma')
  assert arguments.variants == ('a', 'b')
  assert arguments.workdir == 'w'


@pytest.mark.parametrize(
  ('flag', 'key', 'value'),
  [
    ('--config.eval.test', 'eval.test', True),
    ('--config.eval.test=False', 'eval.test', False),
    ('--config.eval.test=0', 'eval.test', False),
    ('-config.train.steps=7', 'train.steps', 7),
    ('--config.optimizer.learning_rate=3', 'optimizer.learning_rate', 3.0),
    ('--config.tasks.lemma.weight=1e-2', 'tasks.lemma.weight', 0.01),
    ('--config.name=a=b, c', 'name', 'a=b, c'),
    ('--config.name=', 'name', ''),
    ('--config.seeds=3', 'seeds', (3,)),
    ('--config.seeds=(0, 1)', 'seeds', (0, 1)),
    ('--config.seeds=[0, 1]', 'seeds', (0, 1)),
    ('--config.only=()', 'only', ()),
    ('--config.only=', 'only', ()),
    ('--config.only=inflection', 'only', ('inflection',)),
    ("--config.only='inflection','lemma'", 'only', ('inflection', 'lemma')),
    ('--config.transfer.freeze=shared/.*bias', 'transfer.freeze', ('shared/.*bias',)),
    ("--config.transfer.freeze='a{1,2}'", 'transfer.freeze', ('a{1,2}',)),
    ('--config.balance.static.weights=1,0.5', 'balance.static.weights', (1, 0.5)),
  ],
)
def test_values_of_every_type(flag, key, value):
  flags = [f'--config={_CONFIG}', '--workdir=w', '--variants=sum', flag]
  arguments = command_line.parse(['train', *flags], '')
  node = arguments.config
  for part in key.split('.'):
    node = node[part]
  assert (node, type(node)) == (value, type(value))


def test_a_split_of_a_file_may_become_a_path_or_a_share(tmp_path):
  path = tmp_path / 'c.toml'
  path.write_text('[dataset.files.f]\ntrain = "a.csv"\ninput = "text"\ntest = "b.csv"\n[tasks.y]\n')
  key = '--config.dataset.files.f.'
  flags = [f'{key}validation=dev*.csv', f'{key}test=0.25', f'{key}train=a.csv,c.csv']
  config = command_line.parse(['train', f'--config={path}', '--workdir=w', *flags], '').config
  file = config.dataset.files.f
  assert (file.train, file.validation, file.test) == (('a.csv', 'c.csv'), ('dev*.csv',), 0.25)


def test_a_flag_and_its_value_may_be_two_arguments():
  flags = ['--config', str(_CONFIG), '--config.train.steps', '7', '--config.eval.test']
  flags += ['--variants', 'sum, lemma_only', '--workdir', 'w']
  arguments = command_line.parse(['train', *flags], '')
  assert arguments.config.train.steps == 7
  assert arguments.config.eval.test is True
  assert (arguments.variants, arguments.workdir) == (('sum', 'lemma_only'), 'w')


def test_few_steps_need_no_other_warmup():
  flags = [f'--config={_CONFIG}', '--workdir=w', '--config.train.steps=20']
  arguments = command_line.parse(['train', *flags], '')
  for run in config_lib.resolve(arguments.config):
    assert optimizer.warmup_steps(run, 20) == 2
    assert optimizer.warmup_steps(run, 600) == 50
  arguments = command_line.parse(
    ['train', *flags, '--config.optimizer.schedule.warmup_steps=21'], ''
  )
  with pytest.raises(errors.ConfigError, match='warmup_steps: 21 is more than the 20 steps'):
    config_lib.resolve(arguments.config)


def test_the_home_directory_is_expanded(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  arguments = command_line.parse(['train', f'--config={_CONFIG}', '--workdir=~/w'], '')
  assert arguments.workdir == str(tmp_path / 'w')


def test_a_report_that_fails_is_a_warning(tmp_path, monkeypatch, capsys):
  def fail(*_, **__):
    raise ValueError('no fonts')

  monkeypatch.setattr(train, 'run', lambda *_, **__: [])
  monkeypatch.setattr(train.report, 'report', fail)
  assert train.main(['train', f'--config={_CONFIG}', f'--workdir={tmp_path / "a b"}']) == 0
  message = capsys.readouterr().err
  assert message.startswith('warning: ')
  assert f"no fonts\n  python -m mtl_jax.report '{tmp_path / 'a b'}'" in message


def test_config_arguments_reach_get_config(tmp_path):
  path = tmp_path / 'c.py'
  path.write_text(
    'from mtl_jax import config\n'
    'def get_config(name="none"):\n'
    '  c = config.default()\n'
    '  c.name = name\n'
    '  return c\n'
  )
  assert command_line.load(str(path)).name == 'none'
  assert command_line.load(f'{path}:large').name == 'large'


def test_every_error_has_a_code():
  assert command_line.exit_code(errors.ConfigError('')) == 2
  assert command_line.exit_code(errors.DataError('')) == 3
  assert command_line.exit_code(errors.WorkdirError('')) == 4
  assert command_line.exit_code(errors.NonFiniteError('')) == 5


def test_a_quiet_command_leaves_logging_as_it_was(capsys):
  """Commands are also called in a process that does other things."""
  before = logging.root.manager.disable

  def work():
    assert not logging.getLogger('mtl_jax').isEnabledFor(logging.INFO)
    raise errors.DataError('no rows')

  assert command_line.quietly(work) == 3
  assert capsys.readouterr().err == 'error: no rows\n'
  assert logging.root.manager.disable == before
