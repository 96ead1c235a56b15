"""The check of a GPU as a script: which parts it runs, and how it ends. Its Python is made up."""

import os
import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / 'benchmarks' / 'device.sh'
PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then exit {torch}; fi
echo "ran $2"
test "$2" != {failing}
"""


@pytest.mark.skipif(not SCRIPT.exists(), reason='not installed: benchmarks/')
@pytest.mark.parametrize(
  ('torch', 'failing', 'code', 'said'),
  [
    (0, 'none', 0, 'ran benchmarks.aggregation_torch'),
    (1, 'none', 0, '(left out: '),
    (0, 'benchmarks.aggregation_torch', 1, 'failed: balancing alone, PyTorch (1)'),
    (1, 'benchmarks.seeds', 1, 'failed: seeds (1)'),
  ],
)
def test_parts(torch, failing, code, said, tmp_path):
  """PyTorch's part where there is one; a part that fails costs the others nothing."""
  python = tmp_path / 'python'
  python.write_text(PYTHON.format(torch=torch, failing=failing))
  python.chmod(0o755)
  done = subprocess.run(
    ['bash', SCRIPT, '--small'],
    env=os.environ | {'PYTHON': str(python)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == code, done.stdout
  assert said in done.stdout
  assert ('ran benchmarks.aggregation_torch' in done.stdout) == (torch == 0)
  assert 'ran benchmarks.sharing' in done.stdout  # the last part
