"""Small parts of a task's own inside a common trunk: bottleneck adapters and low-rank updates."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import protocol
from mtl_jax.model import Layout, init_module
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _by_task, _layers

Shape = Any


@options.checked
def adapters(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  layers: str = '',
  features: options.Count = 64,
  scale: options.Amount = 1e-3,
  freeze: bool = False,
) -> _by_task.ByTaskModel:
  """Every task has an adapter y + gelu(y·D + a)·U + b after each sub-layer of the common trunk.

  Args:
    encoder: `(inputs, train=False) -> features`, the trunk, all of θ.
    tasks: the tasks with their heads.
    layers: regular expression of the submodules' paths whose outputs are adapted; '': the encoder's
      sublayers, of our Transformers the attention and the feed-forward layer of each block.
    features: m, the width of the bottleneck.
    scale: standard deviation of D and U at the start, so that an adapter begins near the identity.
    freeze: give the trunk no gradient, to train adapters and heads alone.

  Returns:
    the model; a task's adapters are its own parameters.

  Raises:
    ValueError: an option has no such value, or no layer matches (at `init`).

  References:
    Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019.
  """
  _layers.check(layers, 'adapters.layers')

  def init(key: jax.Array, x: Shape, y: Shape) -> dict[str, jax.Array]:
    del x
    keys, width = jax.random.split(key), y.shape[-1]
    return {
      'down': scale * jax.random.normal(keys[0], (width, features)),
      'down_bias': jnp.zeros(features),
      'up': scale * jax.random.normal(keys[1], (features, width)),
      'up_bias': jnp.zeros(width),
    }

  def change(own: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    del x
    inside = nn.gelu(_linear(y, own['down'], own['down_bias']))
    return y + _linear(inside, own['up'], own['up_bias'])

  encoding = _Inside(encoder, layers, protocol.sublayers, 'adapters', init, change)
  return _by_task.with_trunk(encoding, tasks, Layout(encoder, ('shared',)), freeze)


@options.checked
def lora(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  layers: str = '',
  rank: options.Count = 8,
  alpha: options.Finite = 16.0,
  freeze: bool = False,
) -> _by_task.ByTaskModel:
  """Every task adds (α/r)·x·A·B to linear layers x·W of the common trunk.

  Args:
    encoder: `(inputs, train=False) -> features`, the trunk, all of θ.
    tasks: the tasks with their heads.
    layers: regular expression of the linear submodules' paths; '': the encoder's projections, of
      our Transformers the queries and values.
    rank: r.
    alpha: α.
    freeze: give the trunk no gradient, to train updates and heads alone.

  Returns:
    the model; A `[in, r]` (normal, variance 1/in) and B `[r, out]` (zero at the start) are a task's
    own parameters.

  Raises:
    ValueError: an option has no such value, or (at `init`) no layer matches, or one that is not
      linear.

  References:
    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, eq. 3.
  """
  _layers.check(layers, 'lora.layers')

  def init(key: jax.Array, x: Shape, y: Shape) -> dict[str, jax.Array]:
    width, outputs = x.shape[-1], math.prod(y.shape[x.ndim - 1 :])
    return {
      'a': width**-0.5 * jax.random.normal(key, (width, rank)),
      'b': jnp.zeros((rank, outputs)),
    }

  def change(own: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    low = x.astype(y.dtype) @ own['a'].astype(y.dtype) @ own['b'].astype(y.dtype)
    return y + (alpha / rank) * low.reshape(y.shape)

  encoding = _Inside(encoder, layers, protocol.projections, 'lora', init, change, linear=True)
  return _by_task.with_trunk(encoding, tasks, Layout(encoder, ('shared',)), freeze)


def _linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  return x @ kernel.astype(x.dtype) + bias.astype(x.dtype).reshape(*(1,) * (x.ndim - 1), -1)


@dataclasses.dataclass(frozen=True)
class _Inside:
  """A trunk in which `change(own, input, output)` takes the place of some submodules' outputs."""

  encoder: nn.Module
  layers: str
  which: _layers.Which
  name: str
  init_one: Callable[[jax.Array, Shape, Shape], dict[str, jax.Array]]
  change: Callable[[dict[str, jax.Array], jax.Array, jax.Array], jax.Array]
  linear: bool = False  # these must be products with kernels

  def init(self, key: jax.Array, inputs: Any, tasks: int) -> tuple[Any, list[Any]]:
    trunk_key, own_key = jax.random.split(key)
    shared = init_module(self.encoder, 'the encoder', trunk_key, inputs)
    find = _layers.find_linear if self.linear else _layers.find
    found = find(self.encoder, shared, inputs, self._pattern(inputs), f'{self.name}.layers')

    def one(key: jax.Array) -> dict[str, Any]:
      keys = jax.random.split(key, len(found))
      return {
        call.path.replace('/', '.'): self.init_one(k, call.input, call.output)
        for k, call in zip(keys, found.values(), strict=True)
      }

    return shared, [one(k) for k in jax.random.split(own_key, tasks)]

  def apply(
    self, shared: Any, own: Any, index: jax.Array, inputs: Any, key: jax.Array | None
  ) -> Any:
    del index

    def hook(path: str, x: jax.Array, y: jax.Array) -> jax.Array:
      return self.change(own[path.replace('/', '.')], x, y)

    return _layers.run(self.encoder, shared, inputs, key, self._pattern(inputs), hook)

  def _pattern(self, inputs: Any) -> str:
    return _layers.pattern_of(self.encoder, inputs, self.layers, self.which)
