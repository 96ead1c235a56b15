"""Where examples come from: a builder, files that a config describes, or a class of a user's own.

All of them say the same of themselves; `of` finds the one that a config's `dataset` means.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mtl_jax import dotted, errors
from mtl_jax.data import builders, described, prepare, specs

Examples = Mapping[str, Sequence[Mapping[str, Any]]]
"""Split -> its examples."""


class Source(Protocol):
  """What training, evaluation and prediction ask of a data set.

  Attributes:
    name: what messages call it.
    input: what a model reads.
    tasks: task -> what its labels are.
    owner: the field that names the task of an example, where tasks have examples of their own; '':
      every example is an input of all tasks.
    notes: what was found while reading: counts by what they count.
  """

  @property
  def name(self) -> str:
    """See above."""

  @property
  def input(self) -> specs.InputSpec:
    """See above."""

  @property
  def tasks(self) -> Mapping[str, specs.TaskSpec]:
    """See above."""

  @property
  def owner(self) -> str:
    """See above."""

  @property
  def notes(self) -> Mapping[str, int]:
    """See above."""

  def read(self) -> Examples:
    """All examples; `'train'` is needed, `'unlabelled'` may join it."""


class DataSet(abc.ABC):
  """A data set of your own, in code: `dataset.name = 'my_module:MyData'` or `'my_file.py:MyData'`.

  Attributes:
    INPUT: what a model reads.
    TASKS: the tasks by name.
    OWNER: the field that names the task of an example, where tasks have examples of their own; '':
      every example is an input of all tasks.

  Example:
    >>> class Digits(DataSet):
    ...   INPUT = specs.InputSpec('text', 'text', 'words')
    ...   TASKS = {'even': specs.TaskSpec('classification', 'even', ('accuracy',))}
    ...
    ...   def examples(self):
    ...     rows = [{'text': 'one', 'even': 'no'}, {'text': 'two', 'even': 'yes'}]
    ...     return {'train': rows, 'validation': rows, 'test': rows}
    >>> Digits().read()['test'][1]['even']
    'yes'
  """

  INPUT: specs.InputSpec
  TASKS: Mapping[str, specs.TaskSpec]
  OWNER: str = ''
  notes: Mapping[str, int] = {}

  @abc.abstractmethod
  def examples(self) -> Examples:
    """Split -> examples, dicts by field; `'train'`, `'validation'` and mostly `'test'`."""

  @property
  def name(self) -> str:
    """The name of the class."""
    return type(self).__name__

  @property
  def input(self) -> specs.InputSpec:
    """`INPUT`."""
    return self.INPUT

  @property
  def tasks(self) -> Mapping[str, specs.TaskSpec]:
    """`TASKS`."""
    return self.TASKS

  @property
  def owner(self) -> str:
    """`OWNER`."""
    return self.OWNER

  def read(self) -> Examples:
    """The examples; DataError for what is no dict with a split to train on."""
    found = self.examples()
    if not isinstance(found, Mapping) or 'train' not in found:
      what = list(found) if isinstance(found, Mapping) else f'a {type(found).__name__}'
      raise errors.DataError(
        f'data set {self.name!r}: examples() should return a dict of lists, with the keys train, '
        f'validation and mostly test, not {what}'
      )
    return found


class Built:
  """A data set that ships: its builder, and its prepared files."""

  def __init__(self, options: Mapping[str, Any]):
    builder = builders.get(options['name'])
    self._places = options['data_dir'] or None, options['manual_dir'] or None
    self._prepares = builder.NEEDS == 'package' or bool(options['manual_dir'])
    self.name: str = options['name']
    self.input: specs.InputSpec = builder.INPUT
    self.tasks: Mapping[str, specs.TaskSpec] = builder.TASKS
    self.owner: str = builder.OWNER
    self.notes: Mapping[str, int] = {}

  def read(self) -> Examples:
    """The prepared examples; one that needs no consent is prepared on the way."""
    data_dir, manual_dir = self._places
    if self._prepares:
      prepare.prepare(self.name, data_dir, manual_dir)
    return prepare.read(self.name, data_dir)


def of(options: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> Source:
  """The data set of a config.

  Args:
    options: its section `dataset`, see `pipeline.DEFAULTS`.
    tasks: its section `tasks`: task -> options, of which files want those of `described.COLUMN`.

  Raises:
    ConfigError: there is none of this name, or what describes it does not fit.
    DataError: a file that must be looked at for the kinds of its columns cannot be read.
  """
  if options.get('files'):
    if options['name'] not in ('', described.NAME):
      raise errors.ConfigError(
        f'dataset: give either files or a name, not both ({options["name"]!r})'
      )
    return described.describe(options['files'], tasks)
  if ':' in options['name']:
    return _own(options['name'])
  return Built(options)


def _own(name: str) -> DataSet:
  """The data set that 'package.module:Name' or 'FILE.py:Name' names."""
  try:
    found = dotted.load(name, 'data set')
  except ValueError as error:
    raise errors.ConfigError(f'dataset.name: {error}') from error.__cause__
  derived = isinstance(found, type) and issubclass(found, DataSet)
  if derived and found.__abstractmethods__:
    raise errors.ConfigError(f'dataset.name: {name!r} needs a method examples()')
  made = found() if derived else found
  if not isinstance(made, DataSet):
    raise errors.ConfigError(
      f'dataset.name: {name!r} is no mtl_jax.data.DataSet, nor a class derived from it'
    )
  for field, kind in (('INPUT', specs.InputSpec), ('TASKS', Mapping)):
    if not isinstance(getattr(made, field, None), kind):
      raise errors.ConfigError(f'dataset.name: {name!r} needs {field}, a {kind.__name__}')
  return made
