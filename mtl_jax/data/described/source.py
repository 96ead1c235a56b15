"""Described files as one data set: which task reads what, of which kind, and all examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtl_jax import errors, kinds
from mtl_jax.data import formats, specs
from mtl_jax.data.described import columns, options, splits, tables
from mtl_jax.plain import Plain, is_number

NAME = 'files'
"""What `dataset.name` says of described files."""

_OWNER = 'task'  # the field of an example that names its task, where tasks have their own files
_FIT = 0.9  # share of rows with a label for each word, from which on the others are mistakes
_LOOKED_AT = 200  # inputs, for the way they are to be split


class Described:
  """A data set of described files; a `sources.Source`.

  Tasks on the same file share its inputs, and a task may read several files. Where tasks share some
  file, all examples are inputs of all tasks, with missing labels; where every task has files of its
  own, tasks have inputs of their own.

  Attributes:
    name: 'files'.
    files: name -> its options, `input_kind` settled.
    columns: task -> its options of `options.COLUMN`, kind and metrics settled.
    input: what a model reads.
    tasks: task -> what its labels are.
    owner: 'task' where tasks have inputs of their own, else ''.
    notes: what was counted while reading.
  """

  name = NAME

  def __init__(
    self,
    files: Mapping[str, Plain],
    columns_of: Mapping[str, Plain],
    input_spec: specs.InputSpec,
    rules: Mapping[str, kinds.Kind],
  ):
    self.files = files
    self.columns = columns_of
    self.input = input_spec
    self.notes: dict[str, int] = {}
    self._read_of: dict[tuple[str, ...], tuple[str, ...]] = {}  # file and its columns -> inputs
    self.tasks = {
      task: specs.TaskSpec(
        rules[task], task, (), tuple(given['labels']) or None, weight_field=given['weight_column']
      ).with_options({'metrics': given['metrics']})
      for task, given in columns_of.items()
    }
    read = [file for given in columns_of.values() for file in given['files']]
    self.owner = _OWNER if len(columns_of) > 1 and len(read) == len(set(read)) else ''

  def read(self, keep: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """All examples by split, those of a split in the order of files and rows.

    Args:
      keep: further columns that examples are to have, as their files have them.

    Raises:
      DataError: a file cannot be read, lines are malformed and are not to be left out, or a split
        would be empty.
    """
    self.notes = {}
    examples: dict[str, list[dict[str, Any]]] = {role: [] for role in options.ROLES}
    for name, given in self.files.items():
      for role, found in self._read_file(name, given, keep).items():
        examples[role] += found
    texts = {role: [_key(example) for example in found] for role, found in examples.items()}
    self.notes |= splits.overlap(texts)
    return {role: found for role, found in examples.items() if found}

  def example(self, file: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a file as an example, without labels.

    Raises:
      ValueError: it cannot be read; the message says why.
    """
    given, key = self.files[file], (file, *row)
    if key not in self._read_of:
      where = f'dataset.files.{file}.input'
      self._read_of[key] = columns.matching(given['input'], row, where)
    return columns.read_input(row, self._read_of[key], given['input_kind'], given['missing'])

  def file_with(self, row: Mapping[str, Any]) -> str:
    """The name of the file that a row is like: the first whose input it has.

    Raises:
      ConfigError: there is none.
    """
    for name, given in self.files.items():
      try:
        columns.matching(given['input'], row, '')
      except errors.DataError:
        continue
      return name
    wanted = ', or '.join(
      f'{", ".join(given["input"])} as {name} has' for name, given in self.files.items()
    )
    raise errors.ConfigError(
      f'there is no column that is read: need {wanted}; there are {", ".join(row)}'
    )

  def read_other(
    self, paths: Sequence[str], file: str = '', keep: Sequence[str] = ()
  ) -> list[dict[str, Any]]:
    """The examples of other files, labelled like one of this data set's.

    Args:
      paths: of the files.
      file: the one that they are like; '': the first whose input they have.
      keep: as in `read`.

    Raises:
      ConfigError: there is no such file, or none like them.
      DataError: they cannot be read, a row is malformed, or they have no labels of any task.
    """
    if file and file not in self.files:
      raise errors.ConfigError(f'no file {file!r} in the run{errors.nearest(file, self.files)}')
    reading = tables.reading(self.files[file or next(iter(self.files))])
    seen = tables.columns_of(paths[0], reading)
    name = file or self.file_with(dict.fromkeys(seen))
    given = self.files[name] | dict.fromkeys(('split', 'stratify', 'group'), '')
    given |= {'train': tuple(paths), 'validation': 0.0, 'test': 0.0, 'format': ''}
    there = {task: c for task, c in self.columns.items() if c['column'] in seen}
    if not any(name in chosen['files'] for chosen in there.values()):
      raise errors.DataError(
        f'{paths[0]}: no column has labels: need one of '
        f'{", ".join(repr(c["column"]) for c in self.columns.values() if name in c["files"])}'
      )
    rules = {task: self.tasks[task].rules for task in there}
    part = Described(self.files, there, self.input, rules)
    part.owner = self.owner
    return part._read_file(name, given, keep)['train']

  def _read_file(
    self, name: str, given: Plain, keep: Sequence[str]
  ) -> dict[str, list[dict[str, Any]]]:
    wanted = _wanted(name, self.columns)
    if keep:
      there = tables.columns_of(str(formats.find(given['train'])[0]), tables.reading(given))
      wanted |= {f'column {column}': column for column in keep if column in there}
    table = tables.read(name, given, wanted)
    faults = list(table.faults)
    rules = {task: spec.rules for task, spec in self.tasks.items()}
    rows: dict[str, list[tuple[tables.Row, dict[str, Any]]]] = {}
    bare = 0
    for role, found in table.rows.items():
      rows[role] = []
      for row in found:
        try:
          example = self._example(name, given, table.inputs, row)
          example |= {c: row.fields.get(c) for c in keep if c not in example}
        except ValueError as error:
          faults.append(tables.fault(row, str(error)))
          continue
        if any(task in example and spec.has_label(example[task]) for task, spec in rules.items()):
          rows[role].append((row, example))
        else:
          bare += 1
    total = len(table.faults) + sum(map(len, table.rows.values()))
    tables.settle(name, given, faults, total, self.notes)
    self.notes.update(table.notes)
    if bare:
      self.notes[f'{name}: rows without a label left out'] = bare
    return _held_out(name, given, rows)

  def _labels_of(self, file: str) -> dict[str, str]:
    """Task -> its column, of the tasks that read a file."""
    return {task: given['column'] for task, given in self.columns.items() if file in given['files']}

  def _example(
    self, file: str, given: Plain, inputs: Sequence[str], row: tables.Row
  ) -> dict[str, Any]:
    example = columns.read_input(row.fields, inputs, given['input_kind'], given['missing'])
    read = self._labels_of(file)
    for task, spec in self.tasks.items():
      if self.owner and task not in read:
        continue
      field = row.fields[read[task]] if task in read else None
      rules = spec.rules
      if columns.is_missing(field, given['missing']):
        label = rules.blank(example[columns.INPUT] if rules.per_token else None)
      else:
        try:
          label = rules.read_field(field, self.columns[task]['separator'])
        except ValueError as error:
          raise ValueError(f'column {read[task]!r}, task {task!r}: {error}') from None
        _check_label(task, read[task], spec, label, example[columns.INPUT])
      example[task] = label
      if task in read and spec.weight_field:
        weight = row.fields[spec.weight_field]
        if not columns.is_missing(weight, given['missing']):
          example[spec.weight_field] = columns.weight(spec.weight_field, weight)
    if self.owner:
      example[_OWNER] = next(iter(read))
    return example


def describe(files: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> Described:
  """Finds out what described files hold: the kind of the inputs, of each task, and its metrics.

  Files are looked at only for what is not said.

  Args:
    files: name -> options of `options.FILE`; their order is that of the names.
    tasks: task -> options, of which those of `options.COLUMN` are read.

  Raises:
    ConfigError: a file or a task says something that does not fit.
    DataError: a file cannot be read, or its values do not tell the kind of a task.
  """
  files = {name: options.file_options(name, given) for name, given in sorted(files.items())}
  chosen = {
    task: {key: given.get(key, usual) for key, usual in options.COLUMN.items()}
    | {'weight_column': given.get('weight_column', '')}
    for task, given in tasks.items()
  }
  for task, given in chosen.items():
    _settle_files(task, given, files)
    given['column'] = given['column'] or task
    if given['weight_column'] in (columns.INPUT, columns.SECOND, *chosen):
      raise errors.ConfigError(
        f'tasks.{task}.weight_column: {given["weight_column"]!r} is the name of something else; '
        'call that column otherwise'
      )
  for name in files:
    if not any(name in given['files'] for given in chosen.values()):
      raise errors.ConfigError(f'dataset.files.{name}: no task reads it')
  rules = {task: _rules(task, given) for task, given in chosen.items()}
  told = all(given['input_kind'] for given in files.values())
  found = {} if told else _tables(files, chosen)
  for name, given in files.items():
    if not given['input_kind']:
      table = found[name]
      rows = [(row.place, row.fields) for row in table.rows['train']]
      where = f'dataset.files.{name}'
      given['input_kind'] = columns.input_kind(rows, table.inputs, where, given['missing'])
  settled: dict[str, kinds.Kind] = {}
  for task, given in chosen.items():
    kind = rules[task]
    if kind is None or not given['metrics']:
      found = found or _tables(files, chosen)
      per_word = _one_a_word(given, files, found)
      values = _values(task, given, files, found)
      where = f'task {task!r}, column {given["column"]!r} of {" and ".join(given["files"])}'
      kind = kind or columns.infer(where, values, per_word)
      given['kind'] = kind.name
      given['metrics'] = given['metrics'] or kind.usual_metrics(_classes(kind, given, values))
    settled[task] = kind
  texts: list[Any] = []
  for table in found.values():
    texts += [row.fields[table.inputs[0]] for row in table.rows['train'][:_LOOKED_AT]]
  spec = columns.input_spec({given['input_kind'] for given in files.values()}, texts)
  return Described(files, chosen, spec, settled)


def _settle_files(task: str, given: Plain, files: Mapping[str, Plain]) -> None:
  names = given['files']
  names = (names,) if isinstance(names, str) else tuple(names)
  if not names and len(files) > 1:
    raise errors.ConfigError(f'tasks.{task}.files: say which files it reads: {", ".join(files)}')
  for name in names:
    if name not in files:
      raise errors.ConfigError(f'tasks.{task}.files: no file {name!r}{errors.nearest(name, files)}')
  given['files'] = names or tuple(files)


def _rules(task: str, given: Plain) -> kinds.Kind | None:
  """The kind that a task says, if it does, with metrics that it has."""
  if not given['kind']:
    return None
  try:
    kind = kinds.get(given['kind'])
    kinds.with_metrics(kind, given['metrics'])
  except ValueError as error:
    raise errors.ConfigError(f'tasks.{task}: {error}') from None
  return kind


def _wanted(file: str, tasks: Mapping[str, Plain]) -> dict[str, str]:
  """Key of the config -> the column that it names, of the tasks that read a file."""
  return {
    f'tasks.{task}.{key}': given[key]
    for task, given in tasks.items()
    for key in ('column', 'weight_column')
    if file in given['files'] and given[key]
  }


def _tables(files: Mapping[str, Plain], tasks: Mapping[str, Plain]) -> dict[str, tables.Table]:
  return {name: tables.read(name, given, _wanted(name, tasks)) for name, given in files.items()}


def _values(
  task: str, given: Plain, files: Mapping[str, Plain], found: Mapping[str, tables.Table]
) -> list[tuple[str, Any]]:
  """Place and field of each training row that has a label of a task."""
  del task
  return [
    (row.place, row.fields[given['column']])
    for name in given['files']
    for row in found[name].rows['train']
    if not columns.is_missing(row.fields[given['column']], files[name]['missing'])
  ]


def _one_a_word(
  given: Plain, files: Mapping[str, Plain], found: Mapping[str, tables.Table]
) -> bool:
  """Whether nearly all rows have as many labels in a list as words: some may be mistakes."""
  fits, lists = 0, 0
  for name in given['files']:
    if files[name]['input_kind'] != 'words':
      return False
    (words,) = found[name].inputs
    for row in found[name].rows['train']:
      field = row.fields[given['column']]
      if isinstance(field, list | tuple):
        lists += 1
        fits += len(field) == len(row.fields[words] or ())
  return bool(lists) and fits >= _FIT * lists


def _classes(kind: kinds.Kind, given: Plain, values: Sequence[tuple[str, Any]]) -> list[str]:
  """The classes in the labels of a task; what is no label is told later."""
  names: dict[str, None] = dict.fromkeys(given['labels'])
  for _, field in values:
    try:
      names |= dict.fromkeys(kind.classes_in(kind.read_field(field, given['separator'])))
    except ValueError:
      continue
  return list(filter(None, names))


def _check_label(
  task: str, column: str, spec: specs.TaskSpec, label: Any, example_input: Any
) -> None:
  """Raises ValueError for a label outside the given ones, or of another number of words."""
  if spec.labels is not None:
    for name in spec.rules.classes_in(label):
      if name and name not in spec.labels:
        raise ValueError(
          f'column {column!r}, task {task!r}: no label {name!r}{errors.nearest(name, spec.labels)}'
        )
  if spec.rules.per_token:
    words = example_input.split() if isinstance(example_input, str) else example_input
    if len(words) != len(label):
      raise ValueError(
        f'column {column!r}, task {task!r}: {len(label)} labels for {len(words)} words'
      )


def _held_out(
  name: str, given: Plain, rows: Mapping[str, Sequence[tuple[tables.Row, dict[str, Any]]]]
) -> dict[str, list[dict[str, Any]]]:
  """The examples by split, after what is to be held out left the training split."""
  result = {role: [example for _, example in found] for role, found in rows.items()}
  if given['split']:
    return result
  validation, test = (given[r] if is_number(given[r]) else 0.0 for r in options.ROLES[1:])
  values = {
    key: [str(row.fields[given[key]]) for row, _ in rows['train']] if given[key] else None
    for key in ('stratify', 'group')
  }
  train = result['train']
  drawn = splits.held_out(
    len(train), validation, test, given['seed'], strata=values['stratify'], groups=values['group']
  )
  for number, role in enumerate(options.ROLES):
    taken = [example for example, split in zip(train, drawn, strict=True) if split == number]
    if number:
      result[role] = result.get(role, []) + taken
    else:
      result[role] = taken
  if not result['train']:
    raise errors.DataError(f'dataset.files.{name}: no example is left for training')
  return result


def _key(example: Mapping[str, Any]) -> Any:
  """The input of an example, as something that can be compared."""
  value = example[columns.INPUT]
  if hasattr(value, 'tobytes'):
    return value.tobytes()
  value = tuple(value) if isinstance(value, list) else value
  return value, example.get(columns.SECOND, '')
