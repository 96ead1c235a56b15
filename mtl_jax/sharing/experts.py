"""Mixtures of experts: several encoders side by side, and a gate a task that weighs them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options, sharding
from mtl_jax.heads import pooling
from mtl_jax.model import Layout, MultiTaskModel, init_module
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _layers

COMMON = 'embedding/'
PLACES = ('shared/experts',)  # where `Experts` have their encoders in a model's parameters


@options.checked
def mmoe(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  experts: options.Count = 4,
  common: str = COMMON,
) -> MultiTaskModel:
  """Multi-gate mixture-of-experts: task i reads Σₑ softmax(x·Wᵢ + bᵢ)ₑ · expertₑ(x).

  Args:
    encoder: an expert, `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.
    experts: E.
    common: regular expression of the encoder's parameters, by path, that all experts have in
      common: its embedding. '(?!)' finds none.

  Returns:
    the model. The experts are θ, a task's gate its own. x is the output of the encoder's submodule
    `embedding`, mean over the tokens, or the inputs themselves where it has none.

  Raises:
    ValueError: fewer than one expert, a malformed expression.

  References:
    Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts, KDD 2018, eq. 6 and 7.
  """
  _layers.check(common, 'mmoe.common')
  tasks = tuple(tasks)
  modules = {task.name: Gated(task.head) for task in tasks}
  shared, layout = Experts(encoder, experts, common), Layout(encoder, PLACES)
  return MultiTaskModel(shared, tasks, modules, layout=layout)  # type: ignore[arg-type]


@options.checked
def cgc(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  shared_experts: options.Natural = 2,
  task_experts: options.Natural = 1,
  common: str = COMMON,
) -> MultiTaskModel:
  """Customized gate control: a task's gate weighs the shared experts and its own, no others.

  Args:
    encoder: an expert, `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.
    shared_experts: experts that every task reads.
    task_experts: experts of each task.
    common: see `mmoe`.

  Returns:
    the model. All experts are θ, stacked: the shared ones, then those of each task in order; of the
    gradients of task i those of other tasks' experts are zero.

  Raises:
    ValueError: a negative number of experts, or a task without any.

  References:
    Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for
    Personalized Recommendations, RecSys 2020, section 4.1.
  """
  _layers.check(common, 'cgc.common')
  if not shared_experts + task_experts:
    raise ValueError(
      'cgc: shared_experts and task_experts are both 0, and one of them must be at least 1'
    )
  tasks = tuple(tasks)
  modules = {task.name: Gated(task.head, group=i) for i, task in enumerate(tasks)}
  shared = Experts(
    encoder,
    shared_experts + len(tasks) * task_experts,
    common,
    groups=(shared_experts, *[task_experts] * len(tasks)),
  )
  layout = Layout(encoder, PLACES)
  return MultiTaskModel(shared, tasks, modules, layout=layout)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Experts:
  """A shared half with the two methods of a Flax module that a model calls.

  Features: `{'experts': [B, E, ...], 'gate': [B, D]}`, or with groups the experts of each, a list.

  Attributes:
    encoder: an expert.
    count: E.
    common: regular expression of the parameters that all experts have in common.
    gated: whether gates read the inputs; without, there is no 'gate' in the features.
    groups: how many experts are shared, and how many are each task's own; () where all tasks read
      all of them.
  """

  encoder: nn.Module
  count: int
  common: str
  gated: bool = True
  groups: tuple[int, ...] = ()

  def init(self, key: jax.Array, inputs: Any) -> dict[str, Any]:
    """Fresh parameters, of one expert what is common and of each the rest."""

    def one(key: jax.Array) -> Any:
      return init_module(self.encoder, 'the encoder', key, inputs)

    first = one(key)
    stacked = jax.vmap(one)(jax.random.split(key, self.count))
    chosen = jax.tree.map(
      lambda axis, single, many: many if axis == 0 else single, self.axes(first), first, stacked
    )
    return {'params': {'experts': chosen}}

  def apply(self, variables: Any, inputs: Any, train: bool = False, rngs: Any = None) -> Any:
    """The features of every expert."""
    params = variables['params']['experts']
    key = rngs['dropout'] if train else None

    def expert(params: Any, key: jax.Array | None) -> tuple[Any, list[jax.Array]]:
      seen = []

      def note(path: str, x: Any, y: jax.Array) -> jax.Array:
        del path, x
        seen.append(y)
        return y

      features = _layers.run(self.encoder, params, inputs, key, 'embedding', note, stacked=True)
      return features, seen[:1]

    keys = None if key is None else jax.random.split(key, self.count)
    features, seen = jax.vmap(expert, (self.in_axes(params), 0), out_axes=1)(params, keys)
    if not self.gated:
      return {'experts': features}
    # One expert's embedding stands for all.
    gate = gate_input(seen[0][:, 0] if seen else None, inputs)
    return {'experts': self.grouped(features), 'gate': gate}

  def grouped(self, features: Any) -> Any:
    """Leaves `[B, E, ...]` -> the same for each group, in a list; as they are without groups.

    The gradients of the groups are put together once, not task by task in the shape of all.
    """
    if not self.groups:
      return features
    leaves, structure = jax.tree.flatten(features)
    parts = [jax.lax.split(leaf, self.groups, axis=1) for leaf in leaves]
    return [jax.tree.unflatten(structure, group) for group in zip(*parts, strict=True)]

  def in_axes(self, params: Any) -> Any:
    """0 for what each expert has of its own, None for what is common."""
    return jax.tree.map(lambda axis: None if axis else 0, self.axes(params))

  def axes(self, params: Any) -> Any:
    """0 for what each expert has of its own, 1 for what is common."""
    found = re.compile(self.common)
    return jax.tree_util.tree_map_with_path(
      lambda path, _: int(bool(found.search(sharding.path_of(path)))), params
    )


def gate_input(embedded: jax.Array | None, inputs: Any) -> jax.Array:
  """What a gate reads, `[B, D]`: the mean of the embedded tokens, or else the inputs themselves."""
  if embedded is not None:
    pooled: Any = pooling.Pool('mean', parent=None).apply({}, embedded, inputs)
    return pooled
  if not hasattr(inputs, 'shape'):
    raise ValueError(
      "A gate reads the encoder's submodule 'embedding', which this encoder lacks, or the "
      f'inputs, which are no array but {jax.tree.structure(inputs)}'
    )
  return inputs.reshape(inputs.shape[0], -1)


def mixed(experts: Any, weights: jax.Array) -> Any:
  """Σₑ weightsₑ · expertₑ of leaves `[B, E, ...]`; weights `[B, E]` or `[1, E]`."""

  # Products: on a CPU five times as fast as scaling and adding up.
  def mix(leaf: jax.Array) -> jax.Array:
    scale = weights.astype(leaf.dtype)
    if scale.shape[0] == 1:
      return jnp.einsum('e,be...->b...', scale[0], leaf, precision='highest')
    return jnp.einsum('be,be...->b...', scale, leaf, precision='highest')

  return jax.tree.map(mix, experts)


class Gated(nn.Module):
  """A task's half: its gate over the experts that it reads, then its head.

  Attributes:
    head: the task's head.
    group: with groups, the task's place: it reads the shared experts and its own.
    row: of gate inputs `[B, T, D]`, the one that the gate reads; None where they are `[B, D]`.
  """

  head: nn.Module
  group: int | None = None
  row: int | None = None

  @nn.compact
  def __call__(self, features: Mapping[str, Any], inputs: Any, train: bool = False) -> Any:
    """Features of `Experts` -> the head's outputs."""
    x = features['gate'] if self.row is None else features['gate'][:, self.row]
    experts = features['experts']
    groups = [experts] if self.group is None else [experts[0], experts[1 + self.group]]
    sizes = [jax.tree.leaves(group)[0].shape[1] for group in groups]
    weights = nn.softmax(nn.Dense(sum(sizes), name='gate')(x.astype(jnp.float32)))  # [B, R]
    parts = zip(groups, jax.lax.split(weights, sizes, axis=1), sizes, strict=True)
    mixtures = [mixed(group, share) for group, share, size in parts if size]
    mixture = jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]), *mixtures)
    return self.head(mixture, inputs, train=train)
