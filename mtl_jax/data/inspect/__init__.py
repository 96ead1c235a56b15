"""What was understood of a data set: counts, classes, lengths, gaps, duplicates, examples.

`look` finds it out, `tables` show it; the command is `python -m mtl_jax.data.inspect`.
"""

from mtl_jax.data.inspect._look import Look, TaskLook, look
from mtl_jax.data.inspect._tables import tables

__all__ = ['Look', 'TaskLook', 'look', 'tables']
