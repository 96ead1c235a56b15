"""Multi-task attention network: every task attends to the layers of one encoder."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import protocol
from mtl_jax.heads import pooling
from mtl_jax.model import Layout, MultiTaskModel, init_module
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _layers


@options.checked
def mtan(encoder: nn.Module, tasks: Sequence[LabelledTask], *, layers: str = '') -> MultiTaskModel:
  """Every task has a mask a_j in (0, 1) over the features of every layer, and reads the last ones.

      â_j = a_j ⊙ p_j,   a_j = h_j(g_j([u_j; f_j(â_{j−1})])),   a_1 = h_1(g_1(u_1))

  u_j is what layer j reads. p_j is what layer j + 1 reads, with the activation or the pooling that
  follows layer j; p_L is the encoder's features. Where those are one vector an example, as wide as
  the states that the last layer makes (their mean, a class token), p_L is these states, and the
  head gets the mean of â_L over an image, or pools the tokens itself. f, g and h work on channels,
  position by position: f and g are linear, normalized (LayerNorm) and rectified, h is linear and a
  sigmoid; on images f is a 3 × 3 convolution. Where p_j has fewer positions than u_j, what goes
  into h_j is averaged over windows.

  Args:
    encoder: `(inputs, train=False) -> features`, all of θ.
    tasks: the tasks with their heads.
    layers: regular expression of the submodules' paths that are layers 1 ... L, called one after
      the other; '': the encoder's blocks, as it says.

  Returns:
    the model. f, g and h are a task's own, as its head.

  Raises:
    ValueError: at `init`: no layer matches, or one makes tokens of an image, which no mask can
      be carried over.

  References:
    Liu, Johns & Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, eq. 1 and 2.
    There tasks have f in common, normalization is BatchNorm, also before the sigmoid (over
    channels, as here, it would take from a mask what tells positions apart), and u_j is the first
    feature inside block j.
  """
  _layers.check(layers, 'mtan.layers')
  tasks = tuple(tasks)
  modules = {task.name: _Attending(task.head) for task in tasks}
  shared, layout = _Trunk(encoder, layers), Layout(encoder, ('shared',))
  return MultiTaskModel(shared, tasks, modules, layout=layout)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class _Trunk:
  """A shared half with the two methods of a Flax module that a model calls.

  Features: `{'layers': [u_1 ... u_L, p_L]}`; p_j is u_{j+1}.
  """

  encoder: nn.Module
  layers: str

  def init(self, key: jax.Array, inputs: Any) -> dict[str, Any]:
    params = init_module(self.encoder, 'the encoder', key, inputs)
    _layers.find(self.encoder, params, inputs, self._pattern(inputs), 'mtan.layers')
    return {'params': params}

  def apply(self, variables: Any, inputs: Any, train: bool = False, rngs: Any = None) -> Any:
    key = rngs['dropout'] if train else None
    pattern = self._pattern(inputs)
    last, found = _layers.read(self.encoder, variables['params'], inputs, key, pattern)
    states = found[-1].output
    pooled = last.ndim < states.ndim and last.shape[-1] == states.shape[-1]
    return {'layers': [*(call.input for call in found), states if pooled else last]}

  def _pattern(self, inputs: Any) -> str:
    return _layers.pattern_of(self.encoder, inputs, self.layers, protocol.blocks)


class _Attending(nn.Module):
  """A task's half: its attention along the layers, then its head."""

  head: nn.Module

  @nn.compact
  def __call__(
    self, features: Mapping[str, Sequence[jax.Array]], inputs: Any, train: bool = False
  ) -> Any:
    masked: Any = None
    for j, (u, p) in enumerate(itertools.pairwise(features['layers'])):
      u, width = u.astype(p.dtype), p.shape[-1]
      if masked is not None:  # â_{j−1} has the axes of p_{j−1}, which is u_j
        layer = functools.partial(nn.Conv, kernel_size=(3, 3)) if u.ndim == 4 else nn.Dense
        f = layer(u.shape[-1], dtype=p.dtype, name=f'f_{j}')
        u = jnp.concatenate([u, _rectified(f(masked), f'f_norm_{j}')], axis=-1)
      hidden = _rectified(nn.Dense(width, dtype=p.dtype, name=f'g_{j}')(u), f'g_norm_{j}')
      hidden = _fit(hidden, p, inputs)
      masked = p * nn.sigmoid(nn.Dense(width, dtype=p.dtype, name=f'h_{j}')(hidden))
    return self.head(_layers.readable(masked, inputs), inputs, train=train)


def _rectified(x: jax.Array, name: str) -> jax.Array:
  return nn.relu(nn.LayerNorm(dtype=x.dtype, name=name)(x))


def _fit(x: jax.Array, p: jax.Array, inputs: Any) -> jax.Array:
  """Averages x over positions until it has those of p."""
  if x.ndim == p.ndim:
    for axis in range(1, x.ndim - 1):
      x = _averaged(x, axis, p.shape[axis])
    return x
  if p.ndim > 2:
    raise ValueError(
      f'mtan.layers: a mask cannot be carried from a layer that reads {list(x.shape)} to '
      f'{list(p.shape)} (batch first): match layers of one kind'
    )
  averaged: Any = pooling.Pool('mean').apply({}, _layers.readable(x, inputs), inputs)
  return averaged


def _averaged(x: jax.Array, axis: int, count: int) -> jax.Array:
  """The means over `count` windows that cover an axis, of equal size where that is possible."""
  size = x.shape[axis]
  if size == count:
    return x
  first = np.arange(count) * size // count
  end = -(-(np.arange(count) + 1) * size // count)
  inside = (np.arange(size) >= first[:, None]) & (np.arange(size) < end[:, None])
  windows = jnp.asarray(inside / inside.sum(axis=1, keepdims=True), x.dtype)  # [count, size]
  return jnp.moveaxis(jnp.tensordot(windows, x, (1, axis)), 0, axis)
