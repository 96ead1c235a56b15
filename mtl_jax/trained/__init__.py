"""What was trained, ready for use: `load` a run, then `predict`, `outputs` and `encode`.

Files of inputs are read and written by the commands; here are inputs in memory.
"""

from mtl_jax.run.directories import find
from mtl_jax.trained._load import load, load_runs
from mtl_jax.trained._results import Columns
from mtl_jax.trained._trained import Trained

__all__ = ['Columns', 'Trained', 'find', 'load', 'load_runs']
