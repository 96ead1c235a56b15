"""No sharing: an encoder of its own for every task, trained side by side: the baseline."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn

from mtl_jax.gradients import halves
from mtl_jax.model import Layout, apply_module
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _by_task, _layers


def separate(encoder: nn.Module, tasks: Sequence[LabelledTask]) -> _by_task.ByTaskModel:
  """One model a task in one program; θ is empty and every parameter a task's own.

  Args:
    encoder: `(inputs, train=False) -> features`; every task gets parameters of its own for it.
    tasks: the tasks with their heads.

  Returns:
    the model. What balances gradients of θ finds none; what weighs losses still does.
  """
  layout = Layout(encoder, ('tasks/*/encoder',))
  return _by_task.ByTaskModel(_Separate(encoder), tuple(tasks), layout=layout)


@dataclasses.dataclass(frozen=True)
class _Separate:
  encoder: nn.Module

  def init(self, key: jax.Array, inputs: Any, tasks: int) -> tuple[Any, list[Any]]:
    stacked = _by_task.columns(self.encoder, key, inputs, tasks)
    return {}, [halves.take_row(stacked, i) for i in range(tasks)]

  def apply(
    self, shared: Any, own: Any, index: jax.Array, inputs: Any, key: jax.Array | None
  ) -> Any:
    del shared, index
    with _layers.stacked_kernels():
      return apply_module(self.encoder, own, key, inputs)
