"""The device mesh, the ordered rules that place parameters on it, and batches sharded over it.

Placement is told by rules over paths, not by the modules. Axes: `data` copies the parameters,
`fsdp` splits them; a batch is split over both.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ('data', 'fsdp')
"""The mesh axes that split a batch."""

Rules = Sequence[tuple[str, PartitionSpec | str]]

DEFAULT_RULES: Rules = ((r'.*', 'fsdp'),)
"""Every array of two or more axes is split over `fsdp` along its longest divisible axis."""


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh with the axes `data` and `fsdp`.

  Args:
    data: number of parameter copies; -1: as many as the devices allow.
    fsdp: number of parts a copy is split into.
    devices: default: all.

  Raises:
    ValueError: data × fsdp is not the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  if data == -1:
    data = len(devices) // fsdp if fsdp > 0 else 0
  if fsdp < 1 or data * fsdp != len(devices):
    raise ValueError(f'A mesh of data={data} × fsdp={fsdp} does not fit {len(devices)} devices.')
  return jax.make_mesh((data, fsdp), BATCH_AXES, (AxisType.Auto,) * 2, devices=devices)


def path_of(path: tuple[Any, ...]) -> str:
  """A leaf's path, such as 'params/shared/Dense_0/kernel' in a train state: what rules match."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def partition(tree: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
  """The sharding of every leaf, from the first rule whose pattern is found in its path.

  Rules match the leaves of a whole train state: an optimizer's moments hold their parameter's path
  in their own. Scalars and PRNG keys are copied everywhere and need no rule.

  Args:
    tree: arrays or their shapes (`jax.eval_shape`).
    mesh: from `make_mesh`.
    rules: (pattern, PartitionSpec) pairs, in order; the spec 'fsdp' splits an array of two or more
      axes along its longest axis that the mesh's `fsdp` divides, and copies it where there is none.

  Returns:
    the same tree of `NamedSharding`.

  Raises:
    ValueError: no rule matches a leaf, or a spec does not fit its shape; the leaf is named.
  """

  def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    name = path_of(path)
    if leaf.ndim == 0 or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return NamedSharding(mesh, PartitionSpec())
    for pattern, spec in rules:
      if re.search(pattern, name):
        return NamedSharding(mesh, _spec(spec, leaf.shape, mesh, name, pattern))
    raise ValueError(f'No sharding rule matches {name!r} {leaf.shape}: end the rules with ".*".')

  return jax.tree_util.tree_map_with_path(place, tree)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
  """Puts this process's part of a batch on the mesh, split along the first axis of every leaf.

  Args:
    batch: NumPy arrays: the whole batch on one process, else this process's rows.
    mesh: from `make_mesh`.

  Returns:
    global arrays.

  Raises:
    ValueError: the mesh's devices do not divide the number of examples; the leaf is named.
  """

  def put(path: tuple[Any, ...], leaf: Any) -> jax.Array:
    leaf = np.asarray(leaf)
    rows = leaf.shape[0] * jax.process_count()
    if rows % mesh.size:
      raise ValueError(
        f'{path_of(path)}: {rows} examples cannot be split over {mesh.size} devices; '
        'choose a batch size that they divide.'
      )
    return jax.make_array_from_process_local_data(batch_sharding(mesh), leaf)

  return jax.tree_util.tree_map_with_path(put, batch)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """First axis over all devices."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def _spec(
  spec: PartitionSpec | str, shape: tuple[int, ...], mesh: Mesh, name: str, pattern: str
) -> PartitionSpec:
  if spec == 'fsdp':
    parts = mesh.shape['fsdp']
    axes = [a for a in range(len(shape)) if shape[a] % parts == 0]
    if parts == 1 or len(shape) < 2 or not axes:
      return PartitionSpec()
    longest = max(axes, key=lambda a: shape[a])
    return PartitionSpec(*[None] * longest, 'fsdp')
  if not isinstance(spec, PartitionSpec):
    raise ValueError(f"The rule {pattern!r} needs a PartitionSpec or 'fsdp', not {spec!r}.")
  for axis, names in enumerate(spec):
    group = (names,) if isinstance(names, str) else names or ()
    parts = int(np.prod([mesh.shape[n] for n in group]))
    if axis >= len(shape) or shape[axis] % parts:
      raise ValueError(f'The rule {pattern!r} splits {name!r} {shape} as {spec}: it does not fit.')
  return spec
