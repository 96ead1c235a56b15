"""Hard parameter sharing: one trunk for all tasks, one head a task (Caruana 1993)."""

from collections.abc import Sequence

from flax import linen as nn

from mtl_jax.model import Layout, MultiTaskModel
from mtl_jax.protocols import LabelledTask


def hard(encoder: nn.Module, tasks: Sequence[LabelledTask]) -> MultiTaskModel:
  """All tasks read one encoder's features; a task's own half is its head.

  Args:
    encoder: `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.

  Returns:
    the model.

  References:
    Caruana, Multitask Learning: A Knowledge-Based Source of Inductive Bias, ICML 1993.
  """
  return MultiTaskModel(encoder, tuple(tasks), layout=Layout(encoder, ('shared',)))
