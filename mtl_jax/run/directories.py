"""Which runs a work directory holds. What is in them is not read, but for one number."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtl_jax import errors
from mtl_jax.plain import is_number


def find(
  workdir: str | Path, *, variant: str = '', seeds: int | str | Sequence[int | str] | None = None
) -> list[Path]:
  """Returns the directories of the runs of one variant that are asked for.

  Args:
    workdir: the directory of a run, WORKDIR/VARIANT/seed_K, or one that holds runs.
    variant: which, where there are several.
    seeds: one, several, or 'all' of them; None: where there are several the one that was best on
      the validation split.

  Raises:
    WorkdirError: there is no run that was trained.
    ConfigError: there are several variants and none was chosen, or no such seed.
  """
  root = Path(workdir).expanduser()
  if (root / 'checkpoints').is_dir():
    if variant or seeds is not None:
      raise errors.ConfigError(
        f'{workdir} is one run: a variant and seeds are chosen in the directory that holds runs'
      )
    return [root]
  runs = sorted(
    path.parent for path in (*root.glob('seed_*/checkpoints'), *root.glob('*/seed_*/checkpoints'))
  )
  if not runs:
    raise errors.WorkdirError(
      f'{workdir} holds no run that was trained; give WORKDIR, WORKDIR/VARIANT or '
      'WORKDIR/VARIANT/seed_K of python -m mtl_jax.train'
    )
  variants = list(dict.fromkeys(run.parent.name for run in runs))
  if variant and variant not in variants:
    raise errors.ConfigError(
      f'no variant {variant!r} in {workdir}{errors.nearest(variant, variants)}'
    )
  if not variant and len(variants) > 1:
    raise errors.ConfigError(
      f'{workdir} holds several variants: give {root.name}/VARIANT, one of {", ".join(variants)}'
    )
  runs = [run for run in runs if run.parent.name == (variant or variants[0])]
  by_seed = {run.name.removeprefix('seed_'): run for run in runs}
  if seeds == 'all':
    return list(by_seed.values())
  if seeds is None:
    return [max(runs, key=_validation)]
  chosen = [str(seed) for seed in (seeds if isinstance(seeds, Sequence) else (seeds,))]
  for seed in chosen:
    if seed not in by_seed:
      raise errors.ConfigError(f'no seed {seed} in {runs[0].parent}{errors.nearest(seed, by_seed)}')
  return [by_seed[seed] for seed in chosen]


def _validation(run: Path) -> float:
  """The mean of the main metrics on the validation split; the lowest for a run without results."""
  try:
    found = json.loads((run / 'results.json').read_text(encoding='utf-8'))['validation']['mean']
  except (OSError, ValueError, KeyError, TypeError):
    return -np.inf
  return found if is_number(found) else -np.inf
