"""The machine that a benchmark runs on, and where its figures go beside the terminal."""

import json
import os
import platform
import shutil
import subprocess
from typing import Any

import jax

from mtl_jax import memory

RECORDS = 'BENCHMARK_RECORDS'
"""The environment variable with a file's path: every row is appended to it as a line of JSON."""

# Dense products of bfloat16 in operations a second, as the maker states them, by `device_kind`.
_PEAKS = {'H100 80GB HBM3': 989e12, 'H100 SXM': 989e12, 'H200': 989e12}


def begin() -> str:
  """Keeps freed memory, as the commands do, and says in one line what the machine is."""
  kept = memory.keep_freed()
  processor = platform.processor() or platform.machine()
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as lines:
      processor = next(line.split(':', 1)[1].strip() for line in lines if 'model name' in line)
  except (OSError, StopIteration):
    pass
  devices = f'{jax.device_count()} × {jax.devices()[0].device_kind}'
  return (
    f'{processor}, {os.cpu_count()} cores; {devices}{_driver()}; '
    f'Python {platform.python_version()}, JAX {jax.__version__}'
    f'{"; freed memory kept" if kept else ""}'
  )


def _driver() -> str:
  """', driver 1.2.3' of a GPU."""
  program = shutil.which('nvidia-smi')
  if jax.default_backend() != 'gpu' or program is None:
    return ''
  query = [program, '--query-gpu=driver_version', '--format=csv,noheader']
  found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
  return f', driver {found[0]}' if found else ''


def peak() -> float | None:
  """Operations a second that the device could do in bfloat16; None where nobody says."""
  kind = jax.devices()[0].device_kind
  return next((value for name, value in _PEAKS.items() if kind.endswith(name)), None)


def record(table: str, **row: Any) -> None:
  """Appends a row of a table to the file that `RECORDS` names, if it names one."""
  path = os.environ.get(RECORDS)
  if path:
    device = jax.devices()[0].device_kind
    with open(path, 'a', encoding='utf-8') as lines:
      lines.write(json.dumps({'table': table, 'device': device, **row}, ensure_ascii=False) + '\n')
