"""The checks of a single run's config, before anything is made of it."""

import math
import pathlib
from typing import Any

import jax.numpy as jnp

from mtl_jax import encoders, errors, kinds, metrics, optim, train_step
from mtl_jax.build import balance, encoder, model, optimizer, start
from mtl_jax.config import sections
from mtl_jax.config.fit import COMMON, task_section
from mtl_jax.data import described, sources
from mtl_jax.data import specs as specs_lib
from mtl_jax.evaluate import selection
from mtl_jax.plain import Plain, is_number, is_section, leaves

EPOCHS = 10.0
"""How long a run trains whose config gives neither steps nor epochs."""

PATHS = (
  *('dataset.data_dir', 'dataset.manual_dir', 'dataset.tokenizer', 'dataset.augment.synonyms'),
  *('encoder.embedding.vectors', 'encoder.bert.path', 'init_from'),
)


def check(run: Plain, where: str) -> Plain:
  """Checks a single run's values; returns it with only the tasks and options that are used."""
  try:
    with errors.as_config_errors():
      for path in PATHS:
        _check_path(run, path)
      _check_dataset(run)
      _settle(run)
      for section, names in sections.CHOICES.items():
        _choose(run, section, tuple(names))
      _check_values(run)
      _drop_usual(run)
  except errors.ConfigError as e:
    raise errors.ConfigError(f'{where}{e}') from None
  return run


def _check_path(run: Plain, path: str) -> None:
  """Raises ConfigError for what can be no path: too long, of nobody's home, not to be read."""
  section, _, key = path.rpartition('.')
  node: Any = run
  for part in section.split('.') if section else ():
    node = node[part]
  try:
    pathlib.Path(node[key] or '.').expanduser().stat()
  except (FileNotFoundError, NotADirectoryError):
    pass  # who reads it says what is missing
  except (OSError, RuntimeError) as e:
    raise errors.ConfigError(f'{path}: {node[key]!r} is no usable path: {e}') from None


def _check_dataset(run: Plain) -> None:
  source = _find(run)
  specs = source.tasks
  only = [name for names in run.pop('only') for name in str(names).split(',')]  # --config.only=a,b
  for name in run['tasks']:
    if name not in specs:
      raise errors.ConfigError(
        f'tasks: data set {source.name!r} has no task {name!r}{errors.nearest(name, specs)}'
      )
  for name in only:
    if name not in run['tasks']:
      raise errors.ConfigError(f'only: no task {name!r}{errors.nearest(name, run["tasks"])}')
  # In the order of the data set, so that the numbers do not depend on the order in the config.
  given = run['tasks']
  run['tasks'] = {name: given[name] for name in specs if name in given and name in (only or given)}
  if not run['tasks']:
    raise errors.ConfigError(f'tasks: name at least one{errors.nearest("", specs)}')
  of_task: dict[str, tuple[str, ...]] = {}
  for name, options in run['tasks'].items():
    run['tasks'][name], made = _of_kind(name, options, specs[name])
    of_task[name] = made.metrics
    _check_class_weights(name, options['class_weights'], made.rules)
    metrics.check(name, made.rules, made.metrics, made.labels)
  metric = run['train']['early_stopping']['metric']
  valid = selection.choices(of_task)
  if metric not in valid:
    raise errors.ConfigError(
      f'train.early_stopping.metric: no metric {metric!r}{errors.nearest(metric, valid)}'
    )
  if metric == selection.JOINT and (source.owner or run['dataset']['own_batches']):
    whose = 'with own_batches' if run['dataset']['own_batches'] else f'of {source.name!r}'
    raise errors.ConfigError(
      'train.early_stopping.metric: joint exact match is that of tasks which share their examples, '
      f'and those {whose} do not'
    )
  if metric == selection.JOINT and not any(specs[n].rules.discrete for n in run['tasks']):
    raise errors.ConfigError(
      'train.early_stopping.metric: tasks without classes have no joint exact match'
    )


def _settle(run: Plain) -> None:
  """Chooses what the config leaves open: an encoder for the inputs, and how long to train."""
  spec = sources.of(run['dataset'], run['tasks']).input
  if not run['encoder']['name']:
    run['encoder']['name'] = 'mlp' if spec.kind == 'array' else 'transformer'
  if run['dataset'].get('files') and run['encoder']['name'] not in encoders.PRETRAINED:
    run['dataset']['tokenizer'] = run['dataset']['tokenizer'] or spec.tokenizer
  train = run['train']
  if not train['steps'] and not train['epochs']:
    train['epochs'] = EPOCHS


def _find(run: Plain) -> sources.Source:
  """The data set; of described files, what was found out of them is written into the config."""
  dataset, tasks = run['dataset'], run['tasks']
  if not dataset.get('files'):
    dataset.pop('files', None)
    for name, options in tasks.items():
      for key, usual in described.COLUMN.items():
        value = options.pop(key, usual)
        if key == 'metrics' and value:
          options[key] = value
        elif value != usual:
          raise errors.ConfigError(
            f'tasks.{name}.{key}: is for dataset.files, and {dataset["name"]!r} says it itself'
          )
    return sources.of(dataset, tasks)
  only = run['only']
  if only:  # files that no chosen task reads are left alone
    chosen = [name for names in only for name in str(names).split(',')]
    tasks = run['tasks'] = {name: tasks[name] for name in tasks if name in chosen} or tasks
    named = {file for options in tasks.values() for file in _texts(options['files'])}
    if named:
      dataset['files'] = {name: f for name, f in dataset['files'].items() if name in named}
  found = sources.of(dataset, tasks)
  assert isinstance(found, described.Described)
  dataset['name'], dataset['files'] = found.name, found.files
  for name, columns in found.columns.items():
    tasks[name] |= columns
  return found


def _texts(value: str | tuple[str, ...]) -> tuple[str, ...]:
  return (value,) if isinstance(value, str) else tuple(value)


def _of_kind(
  name: str, options: Plain, spec: specs_lib.TaskSpec
) -> tuple[Plain, specs_lib.TaskSpec]:
  """The options of a task that its kind has, and the task with its own of them."""
  of_head, of_kind = kinds.head_options_of(spec.rules), kinds.options_of(spec.rules)
  usual = task_section()
  kept = {}
  for key, value in options.items():
    if key in COMMON or key in described.COLUMN or key in of_head or key in of_kind:
      kept[key] = value
    elif value != usual[key]:
      raise errors.ConfigError(
        f'tasks.{name}.{key}: a task of kind {spec.rules.name} has no such option'
        f'{errors.nearest(key, [*COMMON, *of_head, *of_kind])}'
      )
  try:
    made = spec.with_options({key: options[key] for key in ('metrics', *of_kind) if key in options})
    model.check_own(options)
    of_ours = {key: options[key] for key in of_head}
    made.rules.build_head(spec.labels or ('',), jnp.float32, **of_ours)
  except ValueError as e:
    raise errors.ConfigError(f'tasks.{name}.{e}') from None
  return kept, made


def _check_class_weights(name: str, given: Any, rules: kinds.Kind) -> None:
  if given and not rules.discrete:
    raise errors.ConfigError(f'tasks.{name}.class_weights: {rules.name} has no classes')
  if not given or given == model.BALANCED:
    return
  if not all(is_number(w) and 0 <= w < math.inf for w in given) or not any(given):
    raise errors.ConfigError(
      f'tasks.{name}.class_weights: need a number from 0 on for each class, not all of them 0, or '
      f'{model.BALANCED}, not {given}'
    )


def _drop_usual(run: Plain) -> None:
  """Drops options that came later and say nothing, so that runs begun before them go on."""
  for path, usual in sections.LATER.items():
    *parents, last = path.split('.')
    nodes = [run]
    for part in parents:
      nodes = [
        m for n in nodes for m in (n.values() if part == '*' else [n[part]] if part in n else [])
      ]
    for node in nodes:
      if last in node and node[last] == usual:
        del node[last]


def _choose(run: Plain, section: str, names: tuple[str, ...]) -> None:
  """Checks `section.name` and drops the options of what it does not choose."""
  node = run
  for part in section.split('.'):
    node = node[part]
  chosen = node['name'].split('+') if section == 'balance' else [node['name']]
  if section == 'encoder':
    if encoders.custom.is_dotted(node['name']):
      chosen = []
    else:
      node.pop('custom', None)
  for name in chosen:
    if name not in names:
      raise errors.ConfigError(f'{section}.name: no {name!r}{errors.nearest(name, names)}')
  if section == 'balance':
    for name in chosen[:-1]:
      if not isinstance(optim.get(name), optim.Normalizer):
        raise errors.ConfigError(
          f'balance.name: {node["name"]!r}: {name!r} makes one direction of the gradients, so '
          'nothing can follow it'
        )
  for name in names:
    if name not in chosen:
      node.pop(name, None)


def _check_values(run: Plain) -> None:
  train = run['train']
  if train['steps'] > 0 and train['epochs'] > 0:
    raise errors.ConfigError(
      'train: give either steps or epochs, and leave the other at 0 '
      f'(now steps={train["steps"]}, epochs={train["epochs"]})'
    )
  sections.check(run)
  if train['steps']:  # with epochs, the data tell
    optimizer.warmup_steps(run, train['steps'])
  encoder.check_encoder(run)
  start.check_transfer(run)
  model.check_sharing(run)
  _check_balance(run)
  if run['dtype'] not in ('float32', 'bfloat16'):
    raise errors.ConfigError(f'dtype: no {run["dtype"]!r}; Valid: bfloat16, float32')


def _check_balance(run: Plain) -> None:
  options = run['balance']
  for key, valid in (('at', train_step.AT), ('jacobian', train_step.JACOBIAN)):
    if options[key] not in valid:
      raise errors.ConfigError(
        f'balance.{key}: no {options[key]!r}{errors.nearest(options[key], valid)}'
      )
  tasks = list(run['tasks'])
  for path, value in leaves({'balance': options}):
    if not isinstance(value, tuple) or path == 'balance.groups' or not value:
      continue
    if len(value) != len(tasks) or not all(map(is_number, value)):
      raise errors.ConfigError(
        f'{path}: need {len(tasks)} numbers, one a task ({", ".join(tasks)}), not {value}'
      )
  named = [group for group in options['groups'] if group in optim.GROUPS]
  if named and len(options['groups']) > 1:
    raise errors.ConfigError(
      f'balance.groups: need one of {", ".join(optim.GROUPS)}, or regular expressions, not '
      f'{options["groups"]}'
    )
  if not all(isinstance(group, str) and ',' not in group for group in options['groups']):
    raise errors.ConfigError(
      f"balance.groups: need texts without commas, such as ('layer_0/.*', 'layer_1/.*'), not "
      f'{options["groups"]}'
    )
  balance.check_balance(run)


def check_paper(paper: Plain) -> None:
  """Raises ConfigError unless `paper` has a source and rows of numbers."""
  for name in paper:
    if name not in ('source', 'rows'):
      raise errors.ConfigError(f'paper: no key {name!r}{errors.nearest(name, ("source", "rows"))}')
  rows = paper.get('rows', {})
  for row in rows.values() if is_section(rows) else (rows,):
    if not is_section(row) or not all(v is None or is_number(v) for v in row.values()):
      raise errors.ConfigError(f'paper.rows: need {{model: {{metric: percent}}}}, not {row!r}')
