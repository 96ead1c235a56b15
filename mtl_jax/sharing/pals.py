"""Projected attention layers: a narrow attention of a task's own beside each block of the trunk."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import protocol
from mtl_jax.model import Layout, init_module
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _by_task, _layers


@options.checked
def pals(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  layers: str = '',
  features: options.Count = 32,
  heads: options.Count = 4,
  freeze: bool = False,
) -> _by_task.ByTaskModel:
  """Every task adds PAL(h) = MH(h·E)·D to each block of the common trunk, in parallel to it.

  h is what the block reads, E and D are one pair for all of a task's layers, and MH is multi-head
  self-attention of the layer's own, without biases and output projection. PAL(h) joins the output
  of the feed-forward layer FFN. With x the sum after the block's attention, a post-norm block gives
  LN(x + FFN(x) + PAL(h)), x = LN(h + SA(h)), as in the paper, and a pre-norm block
  x + FFN(LN(x)) + PAL(h), x = h + SA(LN(h)); dropout of FFN's output is that of the sum.
  Padding (`inputs['mask']`, where there is one) is not attended to.

  Args:
    encoder: `(inputs, train=False) -> features`, the trunk, all of θ.
    tasks: the tasks with their heads.
    layers: regular expression of the submodules' paths whose outputs PALs join; '': the last of the
      encoder's sublayers in each block, of our Transformers the second feed-forward layer. h is the
      input of the module that the submodule is in, its own where it is in none; `[B, D]` counts as
      one position.
    features: width of MH. The paper: 204 beside BERT's 768.
    heads: attention heads; must divide `features`. The paper: 12.
    freeze: give the trunk no gradient, to train PALs and heads alone.

  Returns:
    the model; a task's PALs are its own parameters. D is zero at the start, so that training begins
    with the trunk as it is; E and MH are normal, variance 1 / inputs.

  Raises:
    ValueError: an option has no such value, or the heads do not divide the width; no layer
      matches, or layers of different shapes do (at `init`).

  References:
    Stickland & Murray, BERT and PALs: Projected Attention Layers for Efficient Adaptation in
    Multi-Task Learning, ICML 2019, eq. 6.
  """
  _layers.check(layers, 'pals.layers')
  if features % heads:
    raise ValueError(
      f'pals: features={features} and heads={heads}: the heads must divide the features'
    )
  encoding = _Pals(encoder, layers, features, heads)
  return _by_task.with_trunk(encoding, tasks, Layout(encoder, ('shared',)), freeze)


Join = Callable[[str, Any, Any], Any]
"""`(path, h, output) -> output` of a layer that a PAL joins."""


@dataclasses.dataclass(frozen=True)
class _Pals:
  encoder: nn.Module
  layers: str
  features: int
  heads: int

  def init(self, key: jax.Array, inputs: Any, tasks: int) -> tuple[Any, list[Any]]:
    trunk_key, own_key = jax.random.split(key)
    shared = init_module(self.encoder, 'the encoder', trunk_key, inputs)
    found = _layers.find(self.encoder, shared, inputs, self._pattern(inputs), 'pals.layers')
    shapes = {}

    def note(path: str, h: Any, y: Any) -> Any:
      shapes[path] = jnp.shape(h), jnp.shape(y)
      return y

    jax.eval_shape(lambda: self._run(shared, inputs, None, note))
    (h, y), *others = set(shapes.values())
    if others or len(h) not in (2, 3) or h[:-1] != y[:-1]:
      raise ValueError(
        'pals.layers: blocks must read, and layers give, states [B, S, D] or [B, D] of one shape '
        f'for all layers, but they read and give {shapes}'
      )

    def normal(key: jax.Array, *shape: int) -> jax.Array:
      return shape[0] ** -0.5 * jax.random.normal(key, shape)

    def one(key: jax.Array) -> dict[str, Any]:
      key, down = jax.random.split(key)
      keys = jax.random.split(key, (len(found), 3))
      return {
        'down': normal(down, h[-1], self.features),
        'up': jnp.zeros((self.features, y[-1])),
        'attention': {
          path.replace('/', '.'): {
            name: normal(k, self.features, self.features)
            for name, k in zip(('query', 'key', 'value'), row, strict=True)
          }
          for path, row in zip(found, keys, strict=True)
        },
      }

    return shared, [one(k) for k in jax.random.split(own_key, tasks)]

  def apply(
    self, shared: Any, own: Any, index: jax.Array, inputs: Any, key: jax.Array | None
  ) -> Any:
    del index

    def join(path: str, h: jax.Array, y: jax.Array) -> jax.Array:
      attention = own['attention'][path.replace('/', '.')]
      low = h.reshape(h.shape[0], -1, h.shape[-1]).astype(y.dtype) @ own['down'].astype(y.dtype)
      q, k, v = (
        (low @ attention[name].astype(y.dtype)).reshape(*low.shape[:2], self.heads, -1)
        for name in ('query', 'key', 'value')
      )  # [B, S, H, m / H]
      mixed = jax.nn.dot_product_attention(q, k, v, mask=_mask(inputs, low.shape[:2]))
      return y + (mixed.reshape(low.shape) @ own['up'].astype(y.dtype)).reshape(y.shape)

    return self._run(shared, inputs, key, join)

  def _run(self, shared: Any, inputs: Any, key: jax.Array | None, join: Join) -> Any:
    """The trunk's features, with `join` on the output of each layer."""
    pattern = self._pattern(inputs)
    entered = {}  # path -> what the module reads

    def enter(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
      if context.method_name == '__call__':
        entered['/'.join(context.module.path)] = args[0]
      return call(*args, **kwargs)

    def hook(path: str, x: Any, y: Any) -> Any:
      block = path.rpartition('/')[0]
      return join(path, entered[block] if block else x, y)

    with nn.intercept_methods(enter):
      return _layers.run(self.encoder, shared, inputs, key, pattern, hook)

  def _pattern(self, inputs: Any) -> str:
    return _layers.pattern_of(self.encoder, inputs, self.layers, protocol.feed_forward)


def _mask(inputs: Any, shape: tuple[int, ...]) -> jax.Array | None:
  """What may be attended to, `[B, 1, 1, S]`; None for everything."""
  mask = inputs.get('mask') if isinstance(inputs, Mapping) else None
  return mask[:, None, None] if mask is not None and mask.shape == shape else None
