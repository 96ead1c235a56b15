"""What waits for its first use is not imported before, and predicting imports none of it."""

import math
import subprocess
import sys

import pytest

from mtl_jax.later import Later

LATE = ('sklearn', 'scipy.stats', 'grain', 'tensorflow_datasets', 'tensorboardX', 'matplotlib')


def test_a_module_is_imported_when_something_of_it_is_asked_for():
  module = Later('this_is_none')
  with pytest.raises(ModuleNotFoundError, match='this_is_none'):
    _ = module.anything
  assert Later('math').pi == math.pi


def test_predicting_imports_no_package_of_training_or_scores():
  script = f'import sys, mtl_jax.predict; print([m for m in {LATE!r} if m in sys.modules])'
  done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=False)
  assert done.stdout.strip() == '[]', done.stderr
