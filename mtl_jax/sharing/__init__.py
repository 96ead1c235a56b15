"""How tasks share parameters, by name. Each is `(encoder, tasks, **options) -> MultiTaskModel`."""

from collections.abc import Callable
from typing import Any

from mtl_jax import errors
from mtl_jax import options as options_lib
from mtl_jax.model import MultiTaskModel
from mtl_jax.sharing.adapters import adapters, lora
from mtl_jax.sharing.cross_stitch import cross_stitch
from mtl_jax.sharing.dselect_k import dselect_k
from mtl_jax.sharing.experts import cgc, mmoe
from mtl_jax.sharing.hard import hard
from mtl_jax.sharing.hierarchical import hierarchical, successive
from mtl_jax.sharing.hyper_adapters import hyper_adapters
from mtl_jax.sharing.ltb import branches, ltb
from mtl_jax.sharing.many_tasks import ManyTasks
from mtl_jax.sharing.mtan import mtan
from mtl_jax.sharing.mtl_lora import mtl_lora
from mtl_jax.sharing.pals import pals
from mtl_jax.sharing.ple import ple
from mtl_jax.sharing.separate import separate
from mtl_jax.sharing.shared_private import shared_private
from mtl_jax.sharing.soft import soft

SHARING: dict[str, Callable[..., MultiTaskModel]] = {
  architecture.__name__: architecture
  for architecture in (
    hard,
    separate,
    soft,
    cross_stitch,
    mmoe,
    cgc,
    ple,
    dselect_k,
    adapters,
    lora,
    mtl_lora,
    hyper_adapters,
    hierarchical,
    mtan,
    pals,
    ltb,
    shared_private,
  )
}
"""Every architecture by name."""


def options(name: str) -> dict[str, Any]:
  """The options of an architecture and their defaults."""
  return options_lib.defaults(get(name))


def get(name: str) -> Callable[..., MultiTaskModel]:
  """The architecture called `name`; ValueError with the nearest names otherwise."""
  if name not in SHARING:
    raise ValueError(f'Unknown sharing {name!r}{errors.nearest(name, SHARING)}')
  return SHARING[name]


__all__ = [
  'SHARING',
  'ManyTasks',
  'adapters',
  'branches',
  'cgc',
  'cross_stitch',
  'dselect_k',
  'get',
  'hard',
  'hierarchical',
  'hyper_adapters',
  'lora',
  'ltb',
  'mmoe',
  'mtan',
  'mtl_lora',
  'options',
  'pals',
  'ple',
  'separate',
  'shared_private',
  'soft',
  'successive',
]
