"""A shared encoder and private ones, kept apart by an adversary and by orthogonality."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from mtl_jax import options
from mtl_jax.gradients import halves
from mtl_jax.heads import pooling
from mtl_jax.kinds import MISSING, softmax_cross_entropy
from mtl_jax.model import Layout, apply_module, init_module
from mtl_jax.protocols import Example, LabelledTask
from mtl_jax.sharing import _by_task, _layers
from mtl_jax.sharing.experts import COMMON


@options.checked
def shared_private(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  private: bool = True,
  adversarial: options.Amount = 0.05,
  orthogonality: options.Amount = 0.01,
  common: str = COMMON,
) -> _by_task.ByTaskModel:
  """The head of task i reads [s; pᵢ], the features of a shared and of its private encoder.

  In training (where there is a key) the loss of task i is Lᵢ + λ·CE(D(s), i) + γ·Ω(S, Pᵢ), over all
  examples of its batch, labelled or not: a batch without a label still trains the encoders.

  D is a softmax over the T tasks of a linear map of the pooled s. It reads s by `reverse`, so that
  it minimizes its cross-entropy, which the shared encoder maximizes. Ω = ‖SᵀPᵢ / B‖²_F, where the B
  rows of S and Pᵢ are the examples' pooled features divided by their norms: from 0 to 1 for
  any B. Neither term is multiplied by `Task.weight`; a task of weight 0, which is off, has neither.

  It is meant for tasks with inputs of their own. Shared inputs are the same for all tasks, so that
  no D can tell them apart and λ has no use.

  Args:
    encoder: `(inputs, train=False) -> features`; the shared and the private ones are alike.
    tasks: the tasks with their heads.
    private: whether there are private encoders. Without, heads read s alone (with λ = 0: FS-MTL).
    adversarial: λ. 0: no discriminator (with private encoders and γ = 0: SP-MTL).
    orthogonality: γ; nothing without private encoders.
    common: regular expression of the encoder's parameters, by path, that the private encoders have
      in common with the shared one: its embedding. '(?!)' finds none.

  Returns:
    the model. The shared encoder and D are θ, a private encoder its task's own; features
    `{'states': what the head reads}`, and what λ and γ need. Evaluation, and losses without a key,
    are those of the tasks alone.

  Raises:
    ValueError: a λ or γ that is negative or not finite, a malformed expression.

  References:
    Liu, Qiu & Huang, Adversarial Multi-task Learning for Text Classification, ACL 2017, eq. 9-13
    (there Ω is not normalized).
  """
  _layers.check(common, 'shared_private.common')
  tasks = tuple(tasks)
  encoding = _Encoders(encoder, private, common, adversarial > 0, private and orthogonality > 0)
  modules = {task.name: _ReadStates(task.head) for task in tasks}
  return _SharedPrivate(
    encoding,
    tasks,
    modules,
    layout=Layout(encoder, ('shared/encoder', 'tasks/*/encoder')),
    adversarial=adversarial,
    orthogonality=orthogonality,
  )


def reverse(x: jax.Array) -> jax.Array:
  """x, with the gradient −1: the gradient-reversal layer, as 2·stop_gradient(x) − x.

  It needs no rule of its own, so that models with it can be differentiated in any mode.
  """
  return 2.0 * jax.lax.stop_gradient(x) - x


def orthogonality_loss(shared: jax.Array, private: jax.Array, rows: jax.Array) -> jax.Array:
  """‖SᵀP / B‖²_F `[]` of the unit rows of `[B, D]` and `[B, E]`, over the B that `rows` holds."""
  valid = rows.astype(jnp.float32)[:, None]
  product = jnp.matmul((valid * _unit(shared)).T, _unit(private), precision='highest')  # [D, E]
  return jnp.sum(jnp.square(product / jnp.maximum(jnp.sum(valid), 1.0)))


@dataclasses.dataclass(frozen=True)
class _Encoders:
  """Shared encoder and discriminator in θ, a private encoder for each task."""

  encoder: nn.Module
  private: bool
  common: str
  adversarial: bool
  orthogonal: bool

  def init(self, key: jax.Array, inputs: Any, tasks: int) -> tuple[Any, list[Any]]:
    shared_key, private_key, discriminator_key = jax.random.split(key, 3)
    shared = {'encoder': init_module(self.encoder, 'the encoder', shared_key, inputs)}
    own: list[Any] = [{} for _ in range(tasks)]
    if self.private:
      stacked = self._without_common(_by_task.columns(self.encoder, private_key, inputs, tasks))
      own = [halves.take_row(stacked, i) for i in range(tasks)]
    if self.adversarial:
      width = jax.eval_shape(
        lambda params: _pooled(apply_module(self.encoder, params, None, inputs), inputs),
        shared['encoder'],
      ).shape[-1]
      shared['discriminator'] = {
        'kernel': nn.initializers.lecun_normal()(discriminator_key, (width, tasks)),
        'bias': jnp.zeros(tasks),
      }
    return shared, own

  def apply(
    self, shared: Any, own: Any, index: jax.Array, inputs: Any, key: jax.Array | None
  ) -> Any:
    del index
    keys = (None, None) if key is None else jax.random.split(key)
    s = states = apply_module(self.encoder, shared['encoder'], keys[0], inputs)
    if self.private:
      mine = {**_flat(shared['encoder']), **_flat(own)}
      with _layers.stacked_kernels():
        p = apply_module(self.encoder, traverse_util.unflatten_dict(mine), keys[1], inputs)
      states = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=-1), s, p)
    features = {'states': states}
    if self.adversarial or self.orthogonal:
      pooled = _pooled(s, inputs)  # [B, D]
    if self.adversarial:
      linear = shared['discriminator']
      features['logits'] = reverse(pooled) @ linear['kernel'] + linear['bias'][None]  # [B, T]
    if self.orthogonal:
      features['pooled'] = (pooled, _pooled(p, inputs))
    return features

  def _without_common(self, params: Any) -> Any:
    found = re.compile(self.common)
    kept = {path: x for path, x in _flat(params).items() if not found.search('/'.join(path))}
    return traverse_util.unflatten_dict(kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SharedPrivate(_by_task.ByTaskModel):
  """The tasks' losses in training with those of the discriminator and of orthogonality."""

  adversarial: float
  orthogonality: float

  @property
  def whole_batch(self) -> bool:
    """Whether there is a loss of examples without labels, or one of all examples at once."""
    encoding: Any = self.shared
    return encoding.adversarial or encoding.orthogonal

  def task_loss(
    self,
    name: str,
    task_params: Any,
    features: Any,
    example: Example,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """The loss, and the number of labels, or of examples where there is none.

    A task is present with any example that the discriminator or orthogonality learns from.
    """
    loss, count = super().task_loss(name, task_params, features, example, key)
    if key is None or self.task(name).weight == 0 or not {'logits', 'pooled'} & set(features):
      return loss, count
    rows = _rows(example['inputs'], features['states'])  # [B]
    if 'logits' in features:
      target = jnp.where(rows, self.task_names.index(name), MISSING)
      values, _ = softmax_cross_entropy(features['logits'], target)
      entropy = jnp.sum(jnp.where(rows, values, 0.0)) / jnp.maximum(_count(rows), 1.0)
      loss = loss + self.adversarial * entropy
    if 'pooled' in features:
      s, p = features['pooled']
      loss = loss + self.orthogonality * orthogonality_loss(s, p, rows)
    return loss, jnp.where(count > 0, count, _count(rows))


class _ReadStates(nn.Module):
  """A task's half: its head over the states."""

  head: nn.Module

  @nn.compact
  def __call__(self, features: Mapping[str, Any], inputs: Any, train: bool = False) -> Any:
    return self.head(features['states'], inputs, train=train)


def _pooled(features: Any, inputs: Any) -> jax.Array:
  """Features, any pytree, as vectors `[B, D]` float32: the mean over tokens, or over an image."""
  text = isinstance(inputs, Mapping) and 'mask' in inputs

  def pool(leaf: Any) -> Any:
    if text and leaf.ndim == 3:
      leaf = pooling.Pool('mean').apply({}, leaf, inputs)
    return leaf.mean(axis=tuple(range(1, leaf.ndim - 1))).astype(jnp.float32)

  return jnp.concatenate([pool(leaf) for leaf in jax.tree.leaves(features)], axis=-1)


def _rows(inputs: Any, states: Any) -> jax.Array:
  """`[B]` bool: the examples, without those of padding alone."""
  if isinstance(inputs, Mapping) and 'mask' in inputs:
    return inputs['mask'].any(axis=-1)
  return jnp.ones(jax.tree.leaves(states)[0].shape[0], bool)


def _count(rows: jax.Array) -> jax.Array:
  return jnp.sum(rows, dtype=jnp.float32)


def _unit(x: jax.Array) -> jax.Array:
  """Rows of norm 1; a row of zeros stays zero, and its gradient finite."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))


def _flat(params: Any) -> dict[tuple[str, ...], jax.Array]:
  found: dict[tuple[str, ...], jax.Array] = traverse_util.flatten_dict(params)
  return found
