"""What a run can be told: the config with every key, its checks, its expansion into single runs.

Building models, data and optimizers from a config is the work of `build`.
"""

from mtl_jax.config.default import complete, default, dotted, tasks
from mtl_jax.config.fit import check_path
from mtl_jax.config.resolve import resolve, validate
from mtl_jax.plain import Plain, differences, plain, portable, to_json

__all__ = [
  'Plain',
  'check_path',
  'complete',
  'default',
  'differences',
  'dotted',
  'plain',
  'portable',
  'resolve',
  'tasks',
  'to_json',
  'validate',
]
