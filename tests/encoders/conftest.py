"""The programs of these tests are small and run once: compiling them is what takes time."""

import jax
import pytest


@pytest.fixture(scope='package', autouse=True)
def quick():
  """Compiles without most optimizations, three times as fast."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
