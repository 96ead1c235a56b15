"""Adapters whose weights a common hypernetwork makes of a task's embedding."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import protocol
from mtl_jax.model import Layout, init_module
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _by_task, _layers

_START = 0.1  # deviation of the generated weights at the start
_EPSILON = 1e-5  # added to variances


@options.checked
def hyper_adapters(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  layers: str = '',
  features: options.Count = 24,
  embedding: options.Count = 64,
  hidden: options.Count = 128,
  freeze: bool = False,
) -> _by_task.ByTaskModel:
  """Every task has adapters y + LN(gelu(y·D)·U) in a common trunk, made by a hypernetwork.

  D, U, and the scale γ and shift β of the normalization LN are linear in v = relu([z, l, p]·W₁)·W₂:
  z is the task's embedding, l that of the layer and p that of the place in it (the path's first
  part, and the rest). They begin small, so that an adapter begins near the identity.

  Args:
    encoder: `(inputs, train=False) -> features`, the trunk.
    tasks: the tasks with their heads.
    layers: regular expression of the submodules' paths whose outputs are adapted, all of one width;
      '': as of `adapters`.
    features: width of the bottleneck.
    embedding: width of z, l, p and v.
    hidden: width of W₁'s output.
    freeze: give the trunk no gradient; the hypernetwork and what it reads still train.

  Returns:
    the model. The trunk, the hypernetwork and the embeddings of layers and places are θ; a task's
    own are z and its head: tasks learn from each other how to adapt.

  Raises:
    ValueError: an option has no such value; no layer matches, or layers of different widths do
      (at `init`).

  References:
    Mahabadi et al., Parameter-efficient Multi-task Fine-tuning for Transformers via Shared
    Hypernetworks, ACL 2021, section 2.3 and 2.4 (HyperFormer++).
  """
  _layers.check(layers, 'hyper_adapters.layers')
  encoding = _Hyper(encoder, layers, features, embedding, hidden)
  return _by_task.with_trunk(encoding, tasks, Layout(encoder, ('shared/encoder',)), freeze)


@dataclasses.dataclass(frozen=True)
class _Hyper:
  encoder: nn.Module
  layers: str
  features: int
  embedding: int
  hidden: int

  def init(self, key: jax.Array, inputs: Any, tasks: int) -> tuple[Any, list[Any]]:
    trunk_key, hyper_key, task_key = jax.random.split(key, 3)
    trunk = init_module(self.encoder, 'the encoder', trunk_key, inputs)
    found = _layers.find(
      self.encoder, trunk, inputs, self._pattern(inputs), 'hyper_adapters.layers'
    )
    widths = {path: call.output.shape[-1] for path, call in found.items()}
    if len(set(widths.values())) > 1:
      raise ValueError(f'hyper_adapters.layers: they have different widths: {widths}')
    width, size = next(iter(widths.values())), self.embedding
    layers, places = (dict.fromkeys(parts) for parts in zip(*map(_split, found), strict=True))
    keys = iter(jax.random.split(hyper_key, 6 + len(layers) + len(places)))

    def normal(*shape: int, scale: float = 1.0) -> jax.Array:
      return scale * jax.random.normal(next(keys), shape)

    shared = {
      'encoder': trunk,
      'hyper': {
        'input': normal(3 * size, self.hidden, scale=(1.5 * size) ** -0.5),
        'output': normal(self.hidden, size, scale=self.hidden**-0.5),
        **{
          name: normal(size, *shape, scale=_START * size**-0.5)
          for name, shape in {
            'down': (width, self.features),
            'up': (self.features, width),
            'scale': (width,),
            'shift': (width,),
          }.items()
        },
      },
      'layers': {name: normal(size) for name in layers},
      'places': {name: normal(size) for name in places},
    }
    return shared, [
      {'embedding': jax.random.normal(k, (size,))} for k in jax.random.split(task_key, tasks)
    ]

  def apply(
    self, shared: Any, own: Any, index: jax.Array, inputs: Any, key: jax.Array | None
  ) -> Any:
    del index
    hyper = shared['hyper']

    def hook(path: str, x: Any, y: jax.Array) -> jax.Array:
      del x
      layer, place = _split(path)
      known = (own['embedding'], shared['layers'][layer], shared['places'][place])
      v = nn.relu(jnp.concatenate(known) @ hyper['input']) @ hyper['output']
      made = {name: jnp.tensordot(v, hyper[name], 1) for name in ('down', 'up', 'scale', 'shift')}
      up = made['up'] - made['up'].mean(axis=-1, keepdims=True)  # then the mean of (...)·U is 0
      change = nn.gelu(y @ made['down'].astype(y.dtype)) @ up.astype(y.dtype)
      variance = jnp.mean(jnp.square(change.astype(jnp.float32)), axis=-1, keepdims=True)
      change *= jax.lax.rsqrt(variance + _EPSILON).astype(y.dtype)
      scale, shift = (
        made[name].astype(y.dtype).reshape(*(1,) * (y.ndim - 1), -1) for name in ('scale', 'shift')
      )
      return y + change * scale + shift

    return _layers.run(self.encoder, shared['encoder'], inputs, key, self._pattern(inputs), hook)

  def _pattern(self, inputs: Any) -> str:
    return _layers.pattern_of(self.encoder, inputs, self.layers, protocol.sublayers)


def _split(path: str) -> tuple[str, str]:
  """The layer, and the place in it: '_Block_0/Dense_1' -> '_Block_0', 'Dense_1'."""
  layer, _, place = path.partition('/')
  return layer, place.replace('/', '.') or 'output'
