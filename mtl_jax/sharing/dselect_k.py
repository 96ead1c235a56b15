"""DSelect-k: a mixture of experts of which a gate selects at most k, differentiably."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtl_jax import options
from mtl_jax.model import Layout, MultiTaskModel
from mtl_jax.protocols import Example, LabelledTask
from mtl_jax.sharing import _layers
from mtl_jax.sharing import experts as mixtures

_LEAST = 0.01  # of what a selector gives to experts: below, the tangent stands for 1/s


@options.checked
def dselect_k(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  experts: Annotated[int, options.Range(2)] = 4,
  k: options.Count = 2,
  gamma: options.Positive = 1.0,
  entropy: options.Amount = 1e-3,
  per_example: bool = False,
  common: str = mixtures.COMMON,
) -> MultiTaskModel:
  """Task i reads Σⱼ softmax(α)ⱼ Σₑ r(S(zⱼ))ₑ · expertₑ(x), j = 1 ... k: at most k of E experts.

  zⱼ has a number for each of the m = ⌈log₂ E⌉ bits of an expert's index; S makes bits of them (see
  `smooth_step`), and r(s)ₑ is the product over bits of sᵢ where e has the bit and 1 − sᵢ where not.
  Once all bits have left (0, 1), r is one-hot. All experts are computed, selected or not.

  Regularizers draw the gates there: entropy · Σⱼ H(r(S(zⱼ))), and where E is no power of two
  Σⱼ (1 / Σₑ r(S(zⱼ))ₑ − 1), which keeps selectors from indices without an expert; where the sum is
  below 0.01, the tangent there stands for its inverse.

  Args:
    encoder: an expert, `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.
    experts: E.
    k: selectors, and so the most experts that a task reads.
    gamma: γ, the width in which S is neither 0 nor 1: the larger, the later it selects.
    entropy: λ of the entropy.
    per_example: α and z are linear in what a gate of `mmoe` reads, whose scale, then, matters as γ
      does; else each task has constants.
    common: see `mmoe`.

  Returns:
    the model. The experts are θ, a task's gate its own. The regularizers of constant gates are
    `model.penalty`; those of gates by example are part of the task's loss, mean over examples.

  Raises:
    ValueError: fewer than two experts, k not from 1 to E, γ not above 0, a negative λ, or a
      malformed expression.

  References:
    Hazimeh et al., DSelect-k: Differentiable Selection in the Mixture of Experts with Applications
    to Multi-Task Learning, NeurIPS 2021, section 3. Start of z, and the weight 1 of the second
    regularizer, as in the authors' code; λ is ours.
  """
  _layers.check(common, 'dselect_k.common')
  if k > experts:
    raise ValueError(f'dselect_k: k={k} must be at most experts={experts}')
  tasks = tuple(tasks)
  gate = _Gate(experts, k, gamma, per_example)
  modules = {task.name: _Selecting(gate, task.head) for task in tasks}
  shared: Any = mixtures.Experts(encoder, experts, common, gated=per_example)
  regularizer = _Regularizer(gate, entropy)
  if per_example:
    layout = Layout(encoder, mixtures.PLACES)
    return _PerExample(shared, tasks, modules, layout=layout, regularizer=regularizer)
  layout = Layout(encoder, mixtures.PLACES, mixing=('tasks/[^/]*/gate/(codes|shares)',))

  def penalty(params: Any) -> jax.Array:
    return sum(
      (regularizer(params['tasks'][task.name]['gate'], None) for task in tasks),
      start=jnp.zeros((), jnp.float32),
    )

  return MultiTaskModel(shared, tasks, modules, penalty, layout=layout)


def smooth_step(t: jax.Array, gamma: float) -> jax.Array:
  """S(t) = −2t³/γ³ + 3t/(2γ) + 1/2 in (−γ/2, γ/2); below 0, above 1, with slope 0."""
  u = jnp.clip(t / gamma, -0.5, 0.5)
  return -2.0 * u**3 + 1.5 * u + 0.5


def select(z: jax.Array, experts: int, gamma: float) -> jax.Array:
  """r(S(z)) of `[..., m]`, m = ⌈log₂ E⌉: weights `[..., E]`, their sum 1 if E is a power of two."""
  bits = np.arange(experts)[:, None] >> np.arange(z.shape[-1])[None] & 1  # [E, m]
  bits = bits.astype(bool).reshape(*(1,) * (z.ndim - 1), *bits.shape)
  s = smooth_step(z, gamma)[..., None, :]
  return jnp.prod(jnp.where(bits, s, 1.0 - s), axis=-1)


class _Gate(nn.Module):
  """A task's gate: k selectors of one expert, and how they are weighed."""

  experts: int
  k: int
  gamma: float
  per_example: bool

  @nn.compact
  def __call__(self, x: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Inputs `[B, D]` -> selections `[B, k, E]` and shares `[B, k]`; constants have B = 1."""
    bits = math.ceil(math.log2(self.experts))

    # Not equal, or selectors would stay so.
    def near_zero(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
      return jax.random.uniform(key, shape, dtype, -self.gamma / 100, self.gamma / 100)

    if self.per_example:
      assert x is not None
      x = x.astype(jnp.float32)
      z = nn.Dense(self.k * bits, kernel_init=near_zero, bias_init=near_zero, name='codes')(x)
      shares = nn.Dense(self.k, name='shares')(x)
    else:
      z = self.param('codes', near_zero, (1, self.k * bits))
      shares = self.param('shares', nn.initializers.zeros, (1, self.k))
    chosen = select(z.reshape(-1, self.k, bits), self.experts, self.gamma)
    return chosen, nn.softmax(shares)


class _Selecting(nn.Module):
  """A task's half: its gate over the experts, then its head."""

  gate: nn.Module
  head: nn.Module

  @nn.compact
  def __call__(self, features: Mapping[str, Any], inputs: Any, train: bool = False) -> Any:
    chosen, shares = self.gate(features.get('gate'))
    weights = jnp.sum(shares[..., None] * chosen, axis=1)  # [B, E] or [1, E]
    return self.head(mixtures.mixed(features['experts'], weights), inputs, train=train)


@dataclasses.dataclass(frozen=True)
class _Regularizer:
  gate: nn.Module
  entropy: float

  def __call__(self, params: Any, x: jax.Array | None) -> jax.Array:
    """Both regularizers of a gate `[]`, mean over the examples that it reads."""
    chosen: jax.Array = self.gate.apply({'params': params}, x)[0]  # [B or 1, k, E]
    logs = jnp.log(jnp.where(chosen > 0, chosen, 1.0))
    total = self.entropy * -jnp.sum(chosen * logs, axis=(1, 2))
    if chosen.shape[-1] & (chosen.shape[-1] - 1):
      s = chosen.sum(axis=-1)  # [B or 1, k]
      least = jnp.maximum(s, _LEAST)
      total += jnp.sum(1.0 / least + (least - s) / _LEAST**2 - 1.0, axis=-1)
    return total.mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PerExample(MultiTaskModel):
  """Gates that read the input: their regularizers are part of the tasks' losses."""

  regularizer: _Regularizer
  whole_batch: bool = True  # the regularizers are of examples without labels too

  def task_loss(
    self,
    name: str,
    task_params: Any,
    features: Any,
    example: Example,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """The task's loss with its gate's regularizers; 0 without a label."""
    loss, count = super().task_loss(name, task_params, features, example, key)
    more = self.regularizer(task_params['gate'], features['gate'])
    return loss + jnp.where(count > 0, more, 0.0), count
