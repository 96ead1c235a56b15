"""Every test runs on eight host devices with strict dtype and rank promotion."""

import gc
import importlib.metadata
import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['MTL_JAX_KEEP_MEMORY'] = '0'  # a process runs many tests, and commands set it for good
# Compiling is most of what tests do; the last two flags halve it (level 0 gives NaN in places).
# Releases after 0.10, which do not know the last one, compile as they do for users.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    *(
      ('--xla_backend_optimization_level=1', '--xla_cpu_use_fusion_emitters=false')
      if importlib.metadata.version('jax').startswith('0.10.')
      else ()
    ),
  ]
)

import jax
import pytest

gc.set_threshold(200_000, 20, 100)  # tracing makes many objects that live, and few circles
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def small_run(tmp_path_factory):
  """Kind -> a `small_runs.Made` of it, made when it is first asked for."""
  from tests import small_runs

  folder, found = tmp_path_factory.mktemp('small_runs'), {}

  def get(kind):
    if kind not in found:
      found[kind] = small_runs.Made(kind, folder / kind)
    return found[kind]

  return get
