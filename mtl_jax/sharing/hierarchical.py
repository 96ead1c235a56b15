"""Hierarchical sharing: tasks read the encoder at their depths, and the tasks below them."""

import dataclasses
import graphlib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import errors, options, sharding
from mtl_jax.encoders import protocol
from mtl_jax.heads import pooling
from mtl_jax.kinds import Kind
from mtl_jax.model import Layout, MultiTaskModel, apply_module, init_module, read_by
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _layers

_LAST = -1


@options.checked
def hierarchical(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  layers: str = '',
  depths: Sequence[str] = (),
  after: Sequence[str] = (),
  label_features: options.Count = 32,
  shortcuts: bool = False,
  stop_gradient: bool = False,
) -> MultiTaskModel:
  """Every task reads the encoder at its depth and, beside it, what lower tasks make of the input.

  The head of task i gets [h_d; e; y₁; y₂ ...]. h_d are the states at its depth d: what layer d + 1
  reads, and at the last depth the encoder's features; its loss reaches no layer above d. e is the
  embedding's output (with `shortcuts`). y_j = Σ_c p_j(c)·ℓ_ij(c) is the label embedding of a lower
  task j: p_j are the probabilities that its head gives (softmax, or a sigmoid for each class of a
  multilabel task), ℓ_ij a vector a class, i's own. It comes token by token where both tasks label
  tokens; else it is one an example, the mean over the tokens where j labels them.

  The half of a task that others read (its head, its ℓ) is in θ, at 'heads', since their losses may
  reach it; it is balanced with θ, and that task's own φ is empty.

  Args:
    encoder: `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.
    layers: regular expression of the submodules' paths that are layers, called one after the other:
      depths 1 ... L; '': the encoder's blocks, as it says. What they pass on of images, at a depth
      below L, is read as its mean over the image.
    depths: texts 'task=depth'; below zero from the end (−1: L). Other tasks read depth L.
    after: texts 'task<lower1+lower2': the lower tasks whose labels the head of `task` reads.
    label_features: width of ℓ.
    shortcuts: heads read the embedding too: the output of the encoder's submodule `embedding`, or
      the inputs where they are vectors.
    stop_gradient: no loss reaches a lower task's half (or the encoder) through y_j.

  Returns:
    the model. Without depths, `after` and shortcuts it is `hard`.

  Raises:
    ValueError: a malformed text, a task named twice, tasks that are after one another. At `init`:
      an unknown task, a lower one without classes or deeper than its reader, a depth that the
      encoder does not have, no layer that matches, no embedding.

  References:
    Søgaard & Goldberg, Deep multi-task learning with low level tasks supervised at lower layers,
    ACL 2016. Hashimoto et al., A Joint Many-Task Model: Growing a Neural Network for Multiple NLP
    Tasks, EMNLP 2017, section 2 (there label embeddings and shortcuts enter the layers above; here
    they enter the heads, so that the encoder stays any encoder).
  """
  _layers.check(layers, 'hierarchical.layers')
  tasks, kinds = tuple(tasks), {task.name: task.rules for task in tasks}
  depth = dict.fromkeys(kinds, _LAST) | _parse_depths(depths)
  lower = dict.fromkeys(kinds, ()) | _parse_after(after)
  halves = {
    task.name: _Reader(
      depth[task.name],
      tuple(_Lower(name, kinds.get(name)) for name in lower[task.name]),
      label_features,
      stop_gradient,
      task.rules.per_token,
      task.head,
    )
    for task in tasks
  }
  below = set(itertools.chain(*lower.values()))
  read = {name: halves[name] for name in _order(lower) if name in below and name in halves}
  shared = _Hierarchy(encoder, layers, kinds, depth, lower, shortcuts, read)
  modules = halves | {name: _Given(name) for name in read}
  layout = Layout(encoder, ('shared/encoder',))
  return MultiTaskModel(shared, tasks, modules, layout=layout)  # type: ignore[arg-type]


def successive(
  model: MultiTaskModel,
  anchor: Any,
  batch: Mapping[str, Any],
  tasks: Sequence[str],
  strength: float = 1e-2,
) -> MultiTaskModel:
  """The model with the penalty δ·‖w − w'‖² on the parameters w that some tasks' outputs depend on.

  Successive regularization: training the tasks above does not make the encoder forget the ones
  below. w' is what the phase before ended with. From a config, a phase is a run that has the one
  before in `init_from`, with `transfer.l2_sp` and `transfer.l2_sp_tasks`. From Python:

      state = ...                                            # phase 1: train `model` on 'pos'
      model = dataclasses.replace(model, penalty=None)       # where an earlier phase set one
      model = successive(model, state.params, batch, ['pos'])
      step = mtl_jax.make_train_step(model, balance, optimizer)  # phase 2: on 'chunk' and 'pos'

  Args:
    model: any `MultiTaskModel`; a penalty that it has is kept, and this one added.
    anchor: w', all its parameters as they are now; a copy is kept.
    batch: either regime, with the tasks; only its shapes count.
    tasks: names of the lower tasks. With `hierarchical` their parameters are the encoder's up to
      their depths, their heads, and those of the tasks that they read.
    strength: δ.

  Raises:
    ValueError: an unknown task, none, or a negative strength.

  References:
    Hashimoto et al. 2017, section 3: δ‖θ − θ'‖² in each task's objective.
  """
  if not tasks or not 0 <= strength < float('inf'):
    raise ValueError(
      f'successive: need tasks, not {list(tasks)}, and a strength of 0 or more, not {strength}'
    )
  for name in tasks:
    _known(name, model.task_names, 'successive.tasks')
  used = set(read_by(model, anchor, batch, tasks))
  leaves = jax.tree_util.tree_leaves_with_path(anchor)
  kept = [jnp.copy(leaf) if sharding.path_of(path) in used else None for path, leaf in leaves]
  before = model.penalty

  def total(params: Any) -> jax.Array:
    pairs = zip(jax.tree.leaves(params), kept, strict=True)
    parts = [
      jnp.sum(jnp.square(leaf.astype(jnp.float32) - old.astype(jnp.float32)))
      for leaf, old in pairs
      if old is not None
    ]
    value = jnp.float32(strength) * sum(parts, start=jnp.zeros((), jnp.float32))
    return value if before is None else value + before(params)

  return dataclasses.replace(model, penalty=total)


@dataclasses.dataclass(frozen=True)
class _Hierarchy:
  """A shared half with the two methods of a Flax module that a model calls.

  Features: `{'states': {depth: h}, 'outputs': {task that others read: outputs}}`, and with
  shortcuts 'embedding'.
  """

  encoder: nn.Module
  layers: str
  kinds: Mapping[str, Kind]
  depths: Mapping[str, int]
  lower: Mapping[str, tuple[str, ...]]
  shortcuts: bool
  read: Mapping[str, nn.Module]  # lower tasks first

  def init(self, key: jax.Array, inputs: Any) -> dict[str, Any]:
    encoder_key, head_key = jax.random.split(key)
    encoder = init_module(self.encoder, 'the encoder', encoder_key, inputs)
    pattern = self._pattern(inputs)
    self._check(_layers.find(self.encoder, encoder, inputs, pattern, 'hierarchical.layers'))
    features = self._states(encoder, inputs, None)
    heads = {}
    for i, (name, half) in enumerate(self.read.items()):
      args = features, inputs
      heads[name] = init_module(half, f'task {name!r}', jax.random.fold_in(head_key, i), *args)
      features['outputs'][name] = apply_module(half, heads[name], None, *args)
    return {'params': {'encoder': encoder, 'heads': heads}}

  def apply(self, variables: Any, inputs: Any, train: bool = False, rngs: Any = None) -> Any:
    params, key = variables['params'], rngs['dropout'] if train else None
    features = self._states(params['encoder'], inputs, key)
    for i, (name, half) in enumerate(self.read.items()):
      own_key = None if key is None else jax.random.fold_in(key, i)
      features['outputs'][name] = apply_module(
        half, params['heads'][name], own_key, features, inputs
      )
    return features

  def _states(self, params: Any, inputs: Any, key: jax.Array | None) -> dict[str, Any]:
    layers = self._pattern(inputs)
    last, found = _layers.read(self.encoder, params, inputs, key, rf'embedding|(?:{layers})')
    entered = [call.input for call in found if re.fullmatch(layers, call.path)]
    states = [*(_layers.readable(x, inputs) for x in entered[1:]), last]  # of depths 1 ... L
    features: dict[str, Any] = {
      'states': {str(d): states[d - 1 if d > 0 else d] for d in set(self.depths.values())},
      'outputs': {},
    }
    if self.shortcuts:
      embedded = [call.output for call in found if call.path == 'embedding']
      if not embedded and getattr(inputs, 'ndim', 0) != 2:
        raise ValueError(
          "hierarchical.shortcuts: the encoder has no submodule 'embedding', and the inputs are no "
          'vectors: set it to False'
        )
      features['embedding'] = embedded[0] if embedded else inputs.astype(jnp.float32)
    return features

  def _pattern(self, inputs: Any) -> str:
    return _layers.pattern_of(self.encoder, inputs, self.layers, protocol.blocks)

  def _check(self, found: Mapping[str, Any]) -> None:
    """Raises ValueError unless tasks and depths exist and lower tasks may be read."""
    count = len(found)
    for option, names in (
      ('depths', self.depths),
      ('after', (*self.lower, *itertools.chain(*self.lower.values()))),
    ):
      for name in names:
        _known(name, self.kinds, f'hierarchical.{option}')
    for name, depth in self.depths.items():
      if abs(depth) > count:
        raise ValueError(
          f'hierarchical.depths: {name}={depth}, but the encoder has {count} layers: '
          f'{", ".join(found)}'
        )
    place = {name: d if d > 0 else count + 1 + d for name, d in self.depths.items()}
    for name, below in self.lower.items():
      for other in below:
        if not self.kinds[other].discrete:
          raise ValueError(
            f'hierarchical.after: {other!r} is a {self.kinds[other].name} and has no classes: '
            'leave it out'
          )
        if place[other] > place[name]:
          raise ValueError(
            f'hierarchical.after: {name!r} at depth {place[name]} reads {other!r} at depth '
            f'{place[other]}; a lower task cannot be the deeper one: change their depths'
          )


class _Lower(NamedTuple):
  """A task whose labels another reads; no kind: an unknown one, which `_Hierarchy` refuses."""

  task: str
  kind: Kind | None


class _Reader(nn.Module):
  """A task's half: its head over the states of its depth and all that it reads beside them."""

  depth: int
  lower: tuple[_Lower, ...]
  label_features: int
  stop_gradient: bool
  per_token: bool
  head: nn.Module

  @nn.compact
  def __call__(self, features: Mapping[str, Any], inputs: Any, train: bool = False) -> Any:
    states = features['states'][str(self.depth)]  # [B, D] or [B, S, D]
    parts = [states]
    if 'embedding' in features:
      parts.append(_fit(features['embedding'], states, inputs))
    for name, kind in self.lower:
      assert kind is not None
      probabilities = kind.probabilities(features['outputs'][name])  # [B, C] or [B, S, C]
      if self.stop_gradient:
        probabilities = jax.lax.stop_gradient(probabilities)
      shape = (probabilities.shape[-1], self.label_features)
      table = self.param(f'labels_{name}', nn.initializers.normal(shape[1] ** -0.5), shape)
      labels = probabilities @ table
      if not self.per_token:
        labels = pooling.Pool('mean')(labels, inputs)
      parts.append(_fit(labels, states, inputs))
    joined = jnp.concatenate(parts, axis=-1) if parts[1:] else states
    return self.head(joined, inputs, train=train)


class _Given(nn.Module):
  """The half of a task that others read: its outputs were made in the shared half."""

  task: str

  @nn.compact
  def __call__(self, features: Mapping[str, Any], inputs: Any, train: bool = False) -> Any:
    del inputs, train
    return features['outputs'][self.task]


def _fit(part: jax.Array, states: jax.Array, inputs: Any) -> jax.Array:
  """`part` with the axes of the states but the last: its mean over the tokens, or repeated."""
  if part.ndim > states.ndim:
    part = pooling.Pool('mean').apply({}, part, inputs)  # type: ignore[assignment]
  elif part.ndim < states.ndim:
    part = jnp.broadcast_to(part[:, None], (*states.shape[:-1], part.shape[-1]))
  return part.astype(states.dtype)


def _known(name: str, names: Sequence[str] | Mapping[str, Any], where: str) -> None:
  if name not in names:
    raise ValueError(f'{where}: unknown task {name!r}{errors.nearest(name, names)}')


def _parse_depths(texts: Sequence[str]) -> dict[str, int]:
  depths: dict[str, int] = {}
  for text in texts:
    match = re.fullmatch(r'\s*(\w+)\s*=\s*(-?[1-9]\d*)\s*', text)
    if not match:
      raise ValueError(
        f"hierarchical.depths: need 'task=depth', from 1, or from -1 downwards, not {text!r}"
      )
    name = match[1]
    if name in depths:
      raise ValueError(f'hierarchical.depths: {name!r} is named twice')
    depths[name] = int(match[2])
  return depths


def _parse_after(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
  lower: dict[str, tuple[str, ...]] = {}
  for text in texts:
    match = re.fullmatch(r'\s*(\w+)\s*<\s*(\w+(?:\s*\+\s*\w+)*)\s*', text)
    if not match:
      raise ValueError(f"hierarchical.after: need 'task<lower1+lower2', not {text!r}")
    name, below = match[1], tuple(part.strip() for part in match[2].split('+'))
    if name in lower or len(set(below)) < len(below):
      raise ValueError(f'hierarchical.after: a task is named twice, last in {text!r}')
    lower[name] = below
  return lower


def _order(lower: Mapping[str, tuple[str, ...]]) -> list[str]:
  """The tasks, lower ones first; ValueError with the whole cycle if there is one."""
  try:
    return list(graphlib.TopologicalSorter(lower).static_order())
  except graphlib.CycleError as e:
    raise ValueError(
      f'hierarchical.after: tasks read in a circle, {" < ".join(reversed(e.args[1]))}: break it'
    ) from None
