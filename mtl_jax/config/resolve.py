"""From a config to its single runs, each checked."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import config_dict

from mtl_jax import errors
from mtl_jax.config import checks
from mtl_jax.config.default import default
from mtl_jax.config.fit import assign, check_sound, merge
from mtl_jax.plain import Plain, is_int, leaves, plain


def resolve(
  config: config_dict.ConfigDict | Mapping[str, Any], variants: Iterable[str] = ()
) -> list[Plain]:
  """Expands a config into its runs and checks each of them.

  Args:
    config: `default()` with changes, whole.
    variants: names of the variants to train; () for all.

  Returns:
    one config for each variant and seed, seeds varying fastest: `seed` and `variant` in place of
    `seeds`, `variants` and `only`, the `tasks` to be trained, and no options of what is not chosen;
    `order` names all variants, which tables follow.

  Raises:
    ConfigError: a key, task, method, encoder, metric or value does not exist or fit; the message
      names the nearest that does, and the variant. Variants that are not chosen are not looked at.
  """
  whole = merge('', plain(default()), plain(config))
  for name, value in whole.items():
    check_sound(name, value)
  seeds = whole.pop('seeds')
  changes = whole.pop('variants') or {'default': {}}
  variants = tuple(variants)
  for name in variants:
    if name not in changes:
      raise errors.ConfigError(f'no variant {name!r}{errors.nearest(name, changes)}')
  valid = all(is_int(seed) and 0 <= seed < 2**63 for seed in seeds)
  if not seeds or not valid or len(set(seeds)) < len(seeds):
    raise errors.ConfigError(f'seeds: need different integers from 0 to 2**63 - 1, not {seeds}')
  checks.check_paper(whole['paper'])
  runs = []
  for name, change in changes.items():
    if variants and name not in variants:
      continue
    if not isinstance(change, Mapping):
      raise errors.ConfigError(f'variants.{name}: need {{path: value}}, not {change!r}')
    if name in ('.', '..') or '/' in name:
      raise errors.ConfigError(f'variants: {name!r} cannot name a directory')
    single = copy.deepcopy(whole)
    for path, value in leaves(change):
      assign(single, path, value, f'variants.{name}: ')
    single = checks.check(single, f'variant {name!r}: ' if len(changes) > 1 else '')
    first = {'name': single['name'], 'variant': name, 'order': tuple(changes)}
    runs += [first | {'seed': seed} | single for seed in seeds]
  return runs


def validate(config: config_dict.ConfigDict | Mapping[str, Any]) -> None:
  """Raises ConfigError for what `resolve` would not accept."""
  resolve(config)
