"""Prints the lowest release of each requirement in setup.py, as constraints of pip.

Run by an environment where mtl_jax is installed.
"""

import importlib.metadata
import re

for requirement in importlib.metadata.requires('mtl_jax') or ():
  lowest = re.fullmatch(r'([\w.-]+)>=([\d.]+)(;.*)?', requirement)
  if lowest:
    print(f'{lowest[1]}=={lowest[2]}')
  elif '[' not in requirement:
    raise SystemExit(f'{requirement}: has no lower bound')
