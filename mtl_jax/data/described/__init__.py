"""Data sets that a config describes: files, their columns, the tasks in them, their splits."""

from mtl_jax.data.described.options import COLUMN, FILE, ROLES, file_options
from mtl_jax.data.described.source import NAME, Described, describe
from mtl_jax.data.described.tables import reading

__all__ = ['COLUMN', 'FILE', 'NAME', 'ROLES', 'Described', 'describe', 'file_options', 'reading']
