"""Low-rank updates that tasks have in common, and transform and weigh each in their own way."""

import dataclasses
import math
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

_TRANSFORM = r'tasks/[^/]+/encoder/.*/transform'  # begins as the identity, not near zero


@options.checked
def mtl_lora(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  layers: str = '',
  rank: options.Count = 8,
  alpha: options.Finite = 16.0,
  ups: options.Count = 3,
  temperature: options.Positive = 1.0,
  freeze: bool = False,
) -> _by_task.ByTaskModel:
  """Every task adds (α/r)·x·A·Λ_t·Σᵢ softmax(w_t/τ)ᵢ Bᵢ to linear layers x·W of the common trunk.

  Args:
    encoder: `(inputs, train=False) -> features`, the trunk.
    tasks: the tasks with their heads.
    layers: regular expression of the linear submodules' paths; '': the encoder's projections, of
      our Transformers the queries and values.
    rank: r.
    alpha: α.
    ups: n, the number of the Bᵢ.
    temperature: τ, which the authors tune: a small one makes a task choose one Bᵢ.
    freeze: give the trunk no gradient, to train updates and heads alone, as the authors do.

  Returns:
    the model. The trunk, A `[in, r]` (normal, variance 1/in) and Bᵢ `[r, out]` (zero at the start)
    are θ; Λ_t `[r, r]` (the identity at the start) and w_t `[n]` (uniform in ±1/√n, as released)
    are a task's own.

  Raises:
    ValueError: an option has no such value, or (at `init`) no layer matches, or one that is not
      linear.

  References:
    Yang et al., MTL-LoRA: Low-Rank Adaptation for Multi-Task Learning, AAAI 2025, arXiv:2410.09437;
    start values and α/r as in its released code.
  """
  _layers.check(layers, 'mtl_lora.layers')
  encoding = _Updates(encoder, layers, rank, alpha, ups, temperature)
  layout = Layout(encoder, ('shared/encoder',), (_TRANSFORM,))
  return _by_task.with_trunk(encoding, tasks, layout, freeze)


@dataclasses.dataclass(frozen=True)
class _Updates:
  encoder: nn.Module
  layers: str
  rank: int
  alpha: float
  ups: int
  temperature: float

  def init(self, key: jax.Array, inputs: Any, tasks: int) -> tuple[Any, list[Any]]:
    trunk_key, shared_key, own_key = jax.random.split(key, 3)
    trunk = init_module(self.encoder, 'the encoder', trunk_key, inputs)
    pattern = self._pattern(inputs)
    found = _layers.find_linear(self.encoder, trunk, inputs, pattern, 'mtl_lora.layers')
    keys = jax.random.split(shared_key, len(found))
    updates = {
      _name(path): self._shared(k, call)
      for k, (path, call) in zip(keys, found.items(), strict=True)
    }
    own = [
      {
        name: self._own(k)
        for name, k in zip(updates, jax.random.split(key, len(found)), strict=True)
      }
      for key in jax.random.split(own_key, tasks)
    ]
    return {'encoder': trunk, 'updates': updates}, own

  def _shared(self, key: jax.Array, call: _layers.Call) -> dict[str, jax.Array]:
    width = call.input.shape[-1]
    outputs = math.prod(call.output.shape[call.input.ndim - 1 :])
    return {
      'down': width**-0.5 * jax.random.normal(key, (width, self.rank)),
      'up': jnp.zeros((self.ups, self.rank, outputs)),
    }

  def _own(self, key: jax.Array) -> dict[str, jax.Array]:
    bound = self.ups**-0.5
    return {
      'transform': jnp.eye(self.rank),
      'weights': jax.random.uniform(key, (self.ups,), minval=-bound, maxval=bound),
    }

  def apply(
    self, shared: Any, own: Any, index: jax.Array, inputs: Any, key: jax.Array | None
  ) -> Any:
    del index

    def hook(path: str, x: jax.Array, y: jax.Array) -> jax.Array:
      update, mine = shared['updates'][_name(path)], own[_name(path)]
      up = _layers.weighed(nn.softmax(mine['weights'] / self.temperature), update['up'])
      low = x.astype(y.dtype) @ update['down'].astype(y.dtype)
      low = low @ mine['transform'].astype(y.dtype) @ up.astype(y.dtype)
      return y + (self.alpha / self.rank) * low.reshape(y.shape)

    return _layers.run(self.encoder, shared['encoder'], inputs, key, self._pattern(inputs), hook)

  def _pattern(self, inputs: Any) -> str:
    return _layers.pattern_of(self.encoder, inputs, self.layers, protocol.projections)


def _name(path: str) -> str:
  return path.replace('/', '.')
