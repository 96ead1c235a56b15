"""Classes of a user's own as data sets: what they lack is said, and how it should be."""

import pytest

from mtl_jax import errors
from mtl_jax.data import sources

CLASS = """
from mtl_jax.data import DataSet, InputSpec, TaskSpec


class Mine(DataSet):
  INPUT = InputSpec('text', 'text', 'words')
  TASKS = {'even': TaskSpec('classification', 'even', ('accuracy',))}

  def examples(self):
    rows = [{'text': str(n), 'even': 'no' if n % 2 else 'yes'} for n in range(8)]
    return {'train': rows, 'validation': rows}
"""


def own(tmp_path, old, new):
  path = tmp_path / f'm{abs(hash(new))}.py'
  path.write_text(CLASS.replace(old, new))
  return sources.of({'name': f'{path}:Mine'}, {})


def test_what_is_read(tmp_path):
  assert own(tmp_path, '', '').read()['train'][3] == {'text': '3', 'even': 'no'}


@pytest.mark.parametrize(
  ('returned', 'what'),
  [('rows', 'a list'), ("{'training': rows}", r"\['training'\]"), ('None', 'a NoneType')],
)
def test_examples_that_are_no_splits(returned, what, tmp_path):
  made = own(tmp_path, "{'train': rows, 'validation': rows}", returned)
  with pytest.raises(errors.DataError, match=f'should return a dict of lists, .* not {what}$'):
    made.read()


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('def examples', 'def exmples', r'needs a method examples\(\)'),
    ('class Mine', 'class Mien', "no 'Mine'; did you mean 'Mien'"),
    ('  INPUT', '  INPT', 'needs INPUT, a InputSpec'),
    ('(DataSet)', '', 'is no mtl_jax.data.DataSet'),
  ],
)
def test_classes_that_are_no_data_sets(old, new, message, tmp_path):
  with pytest.raises(errors.ConfigError, match=message):
    own(tmp_path, old, new)
