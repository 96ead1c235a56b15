"""The device mesh of a run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from mtl_jax import errors, options, sharding

Run = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
  """`config.mesh`.

  Attributes:
    data: devices that share a batch; 0: all that `fsdp` leaves.
    fsdp: devices that share batch and parameters.
  """

  data: options.Natural = 1
  fsdp: options.Count = 1


def build_mesh(run: Run) -> Mesh | None:
  """The device mesh; None for a single device."""
  data, fsdp = run['mesh']['data'], run['mesh']['fsdp']
  devices = jax.devices()
  if data == 0:
    data = max(len(devices) // fsdp, 1)
  if data * fsdp > len(devices):
    raise errors.ConfigError(
      f'mesh: data={data} × fsdp={fsdp} needs {data * fsdp} devices, and there are {len(devices)}'
    )
  if data * fsdp == 1 and jax.process_count() == 1:
    return None
  sections = {key: run[key] for key in ('train', 'eval')}
  sections |= {f'tasks.{name}': options for name, options in run['tasks'].items()}
  for key, section in sections.items():
    size = section.get('batch_size', 0)
    if size % (data * fsdp):
      raise errors.ConfigError(
        f'{key}.batch_size: {size} examples cannot be split over {data * fsdp} devices'
      )
  return sharding.make_mesh(data, fsdp, devices[: data * fsdp])
