"""From the directory of a run to what was trained there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mtl_jax import checkpoint, errors
from mtl_jax.build.encoder import source_of
from mtl_jax.build.model import build_model
from mtl_jax.data import pipeline, serving, sources
from mtl_jax.data import vocabularies as vocabularies_lib
from mtl_jax.model import MultiTaskModel
from mtl_jax.plain import Plain
from mtl_jax.protocols import Variables, encodes_by_task
from mtl_jax.run import directories
from mtl_jax.trained._trained import Trained


def load(
  workdir: str | Path, *, variant: str = '', seeds: int | str | Sequence[int | str] | None = None
) -> Trained:
  """Loads what a run trained, at its best checkpoint.

  Args:
    workdir: the directory of a run, WORKDIR/VARIANT/seed_K, or one that holds runs.
    variant: which, where there are several.
    seeds: one, several, or 'all' of them, whose outputs are averaged; None: where there are several
      the one that was best on the validation split.

  Raises:
    WorkdirError: there is no run that was trained, or one that cannot be read.
    ConfigError: there are several variants and none was chosen, or no such seed.

  Example:
    >>> model = load('runs/tickets')  # doctest: +SKIP
    >>> model.predict(['My invoice is wrong'])[0]['category']['label']  # doctest: +SKIP
    'billing'
  """
  return load_runs(directories.find(workdir, variant=variant, seeds=seeds))


def load_runs(runs: Sequence[Path]) -> Trained:
  """Loads runs of one variant, by their directories; see `load`."""
  configs = [_config(run) for run in runs]
  config, first = configs[0], runs[0]
  vocabularies = _vocabularies(first)
  for run in runs[1:]:
    if _vocabularies(run).labels != vocabularies.labels:
      raise errors.ConfigError(f'{run} has other classes than {first}: they are no ensemble')
  source = sources.of(config['dataset'], config['tasks'])
  specs = {
    task: spec.fitted(vocabularies.fitted.get(task, {}))
    for task, spec in pipeline.choose(source, config['tasks']).items()
  }
  pretrained = (
    bool(source_of(config)) and not config['dataset']['tokenizer'] and not config['init_from']
  )
  encoder = serving.Serving(source.input, specs, vocabularies, config['dataset'], pretrained)
  with errors.as_config_errors(f'{first}: '):
    model = build_model(config, encoder)
  return Trained(config, model, [_params(run, model) for run in runs], encoder, source)


def _config(run: Path) -> Plain:
  path = run / 'config.json'
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
    dataset, _ = found['dataset'], found['tasks']
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise errors.WorkdirError(f'{path} cannot be read as the config of a run: {e!r}') from e
  for key in ('data_dir', 'manual_dir'):  # of the machine that it was trained on
    dataset.setdefault(key, '')
  return found


def _vocabularies(run: Path) -> vocabularies_lib.Vocabularies:
  try:
    return vocabularies_lib.read(run)
  except errors.ConfigError as e:
    raise errors.WorkdirError(str(e)) from e


def _params(run: Path, model: MultiTaskModel) -> Any:
  """The best parameters, with their state where the model keeps one."""
  found = checkpoint.read_best(run / 'checkpoints')
  params, state = _tree(found, 'params', model), _tree(found, 'model_state', model)
  if encodes_by_task(model):
    for own in params['tasks'].values():
      own.setdefault('encoder', {})
      own.setdefault('head', {})
  return Variables(params, state) if jax.tree.leaves(state) else params


def _tree(found: Mapping[str, Any], part: str, model: MultiTaskModel) -> dict[str, Any]:
  """One part of a checkpoint as nested dicts, which says nothing of those without leaves."""
  tree: dict[str, Any] = {'shared': {}, 'tasks': {name: {} for name in model.task_names}}
  for path, value in found.items():
    first, *parts = path.split('/')
    if first == part:
      node = tree
      for name in parts[:-1]:
        node = node.setdefault(name, {})
      node[parts[-1]] = value
  return tree
