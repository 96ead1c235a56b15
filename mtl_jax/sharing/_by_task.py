"""Models whose shared half works differently for each task: a column, an adapter of its own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax.model import Layout, MultiTaskModel, apply_module, init_module
from mtl_jax.protocols import LabelledTask


class Encoding(Protocol):
  """A shared half for each task, as pure functions."""

  def init(self, key: jax.Array, inputs: Any, tasks: int) -> tuple[Any, list[Any]]:
    """θ, and what of each task's own parameters takes part in encoding."""

  def apply(
    self, shared: Any, own: Any, index: jax.Array, inputs: Any, key: jax.Array | None
  ) -> Any:
    """Features of task `index`, int32 `[]`."""


@dataclasses.dataclass(frozen=True)
class ByTaskModel(MultiTaskModel):
  """`MultiTaskModel` with an `Encoding` for its shared half.

  Parameters: `{'shared': θ, 'tasks': {name: {'encoder': own, 'head': ...}}}`. All tasks are encoded
  by one mapped forward, each its own inputs or all the same.
  """

  shared: Any  # an Encoding

  def init_with_state(
    self, key: jax.Array, batch: Mapping[str, Any]
  ) -> tuple[dict[str, Any], None]:
    by_task = self._all_tasks(batch)
    shared_key, task_key = jax.random.split(key)
    inputs = [by_task[name]['inputs'] for name in self.task_names]
    shared, own = self.shared.init(shared_key, inputs[0], len(inputs))
    tasks = {}
    for index, (name, x) in enumerate(zip(self.task_names, inputs, strict=True)):
      shapes = jax.eval_shape(self.encode_task, shared, own[index], index, x)
      features = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
      head = init_module(
        self._module(name), f'task {name!r}', jax.random.fold_in(task_key, index), features, x
      )
      tasks[name] = {'encoder': own[index], 'head': head}
    return {'shared': shared, 'tasks': tasks}, None

  def encode(self, shared: Any, inputs: Any, key: jax.Array | None = None) -> Any:
    raise TypeError('Each task encodes differently here: use encode_task.')

  def encode_task(
    self, shared: Any, own: Any, index: jax.Array | int, inputs: Any, key: jax.Array | None = None
  ) -> Any:
    """The shared half as task `index` sees it; see `gradients.TwoHalves`."""
    return self.shared.apply(self._held(shared), own, jnp.asarray(index), inputs, key)

  def task_outputs(
    self, name: str, task_params: Any, features: Any, inputs: Any, key: jax.Array | None = None
  ) -> Any:
    return apply_module(self._module(name), task_params['head'], key, features, inputs)


def with_trunk(
  encoding: Encoding, tasks: Sequence[LabelledTask], layout: Layout, freeze: bool
) -> ByTaskModel:
  """The model of an encoding around a common trunk, which gets no gradient with `freeze`."""
  frozen = layout.trunk if freeze else ()
  return ByTaskModel(encoding, tuple(tasks), frozen=frozen, layout=layout)


def columns(encoder: Any, key: jax.Array, inputs: Any, count: int) -> Any:
  """`count` independent sets of an encoder's parameters, leaves `[count, ...]`."""
  keys = jax.random.split(key, count)
  return jax.vmap(lambda key: init_module(encoder, 'the encoder', key, inputs))(keys)


class ReadColumn(nn.Module):
  """A task's half that reads the features of column `index`."""

  index: int
  head: nn.Module

  @nn.compact
  def __call__(self, features: Any, inputs: Any, train: bool = False) -> Any:
    return self.head(features[self.index], inputs, train=train)
