"""What JAX frees on a CPU stays in the process: a setting of glibc, made before JAX allocates.

glibc gives the memory of large arrays back to the system when a step frees them. The next step gets
fresh pages, each of which the system has to clear. Knows nothing of JAX but where it computes.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable

import jax

VARIABLE = 'MTL_JAX_KEEP_MEMORY'
"""The environment variable: '0' turns `keep_freed` off; '1' on, whatever JAX computes on."""

# Parameters of mallopt(3), by their numbers in malloc.h, and what they are set to.
SETTINGS = {
  -8: 1,  # M_ARENA_MAX: one heap, in which what any thread freed serves every other
  -4: 0,  # M_MMAP_MAX: large arrays come from this heap, too
  -1: -1,  # M_TRIM_THRESHOLD: its end never goes back to the system
  -2: 256 * 2**20,  # M_TOP_PAD: it grows by so many bytes more than is asked for
}


def keep_freed() -> bool:
  """Asks glibc to keep freed memory in this process: on a CPU, steps get faster.

  Call it before JAX computes anything; `mtl_jax.train` does. A step then finds the memory that the
  last one freed, and the process keeps what it held at its peak. Figures: `benchmarks/README.md`.
  It lasts as long as the process; processes that this one starts are not concerned.

  Nothing is done where the environment has `MTL_JAX_KEEP_MEMORY=0`, where JAX computes on something
  else (it was told so, or its plugin for a GPU or TPU is installed; `MTL_JAX_KEEP_MEMORY=1` does it
  even so), and where there is no glibc: on macOS, Windows and Linux with musl.

  Returns:
    whether freed memory is kept.

  Example:
    >>> from mtl_jax import memory
    >>> kept = memory.keep_freed()  # before the first array
  """
  wanted = os.environ.get(VARIABLE, '')
  if wanted == '0' or (wanted != '1' and not _on_cpu()):
    return False
  mallopt = _mallopt()
  if mallopt is None:
    return False
  accepted = [mallopt(number, value) for number, value in SETTINGS.items()]
  return all(accepted)


def _on_cpu() -> bool:
  """Whether JAX will compute on the CPU, without starting it."""
  platforms = getattr(jax.config, 'jax_platforms', None)  # None: what there is, the CPU last
  if platforms:
    return platforms.split(',')[0] == 'cpu'
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not plugins and importlib.util.find_spec('libtpu') is None


def _mallopt() -> Callable[[int, int], int] | None:
  """glibc's function; None where the process runs on another C library."""
  try:
    library = ctypes.CDLL(None)
  except (OSError, TypeError):  # TypeError: Windows
    return None
  return library.mallopt if hasattr(library, 'gnu_get_libc_version') else None
