"""The machine that a benchmark ran on, in one line."""

import os
import platform

import jax


def describe() -> str:
  """Processor, devices and versions."""
  processor = platform.processor() or platform.machine()
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as lines:
      processor = next(line.split(':', 1)[1].strip() for line in lines if 'model name' in line)
  except (OSError, StopIteration):
    pass
  devices = f'{jax.device_count()} × {jax.devices()[0].device_kind}'
  return (
    f'{processor}, {os.cpu_count()} cores; {devices}; Python {platform.python_version()}, '
    f'JAX {jax.__version__}'
  )
