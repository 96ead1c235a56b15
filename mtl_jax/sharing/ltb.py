"""Learning to branch: a tree of layers, each of which chooses its parent among the layer below."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import protocol
from mtl_jax.gradients import halves
from mtl_jax.model import Layout, MultiTaskModel
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _by_task, _layers
from mtl_jax.sharing import experts as mixtures


@options.checked
def ltb(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  children: options.Count = 4,
  layers: str = '',
  temperature: options.Positive = 1.0,
  final_temperature: options.Positive = 1.0,
  temperature_steps: options.Natural = 0,
  straight_through: bool = True,
  tree: Sequence[str] = (),
  common: str = mixtures.COMMON,
) -> MultiTaskModel:
  """Every layer has C copies; copy j of layer l + 1 reads one copy of layer l, and so do the tasks.

  Child j has a logit for each possible parent i, at first 0. In training it reads Σᵢ dᵢ·yᵢ with
  d a Gumbel-softmax sample: softmax((logits + Gumbel noise) / τ), in the forward pass its largest
  entry alone (straight through) or as it is. Outside training it reads the parent of the largest
  logit: then every task's network is a path in a tree (see `branches`).

  The choices are drawn once a forward pass, for the whole batch: once for all tasks with shared
  inputs, and for each task with own inputs.

  The tree that was found is then trained from scratch, as in the paper: `tree` gives its branches,
  the choices are constants, and every layer has as many copies as the one of which most are read.

  Args:
    encoder: `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.
    children: C, the copies of every layer.
    layers: regular expression of the submodules' paths that are layers, called one after the other;
      '': all but the embedding, as the encoder says. What comes before the first goes with its
      copy, what comes after the last with its own.
    temperature: τ at first.
    final_temperature: τ after `temperature_steps` steps of training; in between it falls
      geometrically.
    temperature_steps: 0: τ stays as it is at first.
    straight_through: read one parent, with the gradient of the soft choice; else a mixture, which
      evaluation then does without.
    tree: fixed branches as texts 'TASK=0/2/1', the copy of every layer, from below, that the task
      passes (see `branches`; of a finished run: `python -m mtl_jax.report RUN --branches`); all
      tasks. `children` and the options of sampling then have no use.
    common: regular expression of the encoder's parameters, by path, that all copies have in common:
      its embedding. '(?!)' finds none.

  Returns:
    the model; its features are `[B, C, ...]`, with a fixed tree a tuple. Copies and the logits of
    their parents are θ, a task's choice among the last copies its own.

  Raises:
    ValueError: fewer than one copy, a temperature not above 0, no layer matches (at `init`), or a
      malformed tree.

  References:
    Guo, Lee & Ulbricht, Learning to Branch for Multi-Task Learning, ICML 2020. Gumbel-softmax: Jang
    et al., Categorical Reparameterization with Gumbel-Softmax, ICLR 2017.
  """
  _layers.check(layers, 'ltb.layers')
  _layers.check(common, 'ltb.common')
  tasks = tuple(tasks)
  if tree:
    return _fixed(encoder, tasks, parse_tree(tree, [task.name for task in tasks]), layers, common)
  choice = Choice(temperature, straight_through)
  shared = Tree(mixtures.Experts(encoder, children, common, gated=False), layers, choice)
  modules = {task.name: Leaf(children, choice, task.head) for task in tasks}
  layout = _layout(encoder)
  if not temperature_steps:
    return MultiTaskModel(shared, tasks, modules, layout=layout)  # type: ignore[arg-type]
  return _Falling(
    shared,  # type: ignore[arg-type]
    tasks,
    modules,
    layout=layout,
    choice=choice,
    final=final_temperature,
    steps=temperature_steps,
  )


def branches(params: Any) -> dict[str, tuple[int, ...]]:
  """The learned tree: for each task the copies that it passes, one a layer, from below.

  Tasks share their paths up to where they part. A pruned network holds only the copies on a path.

  Args:
    params: `{'shared': θ, 'tasks': {name: φ}}` of a model of `ltb`.
  """
  shared = params['shared']
  parents = np.argmax(shared['parents'], axis=-1) if 'parents' in shared else []  # [L - 1, C]
  found = {}
  for name, own in params['tasks'].items():
    path = [int(np.argmax(own['parent']))]
    for layer in reversed(parents):
      path.append(int(layer[path[-1]]))
    found[name] = tuple(reversed(path))
  return found


def parse_tree(texts: Sequence[str], tasks: Sequence[str]) -> dict[str, tuple[int, ...]]:
  """'TASK=0/2/1', ... -> the branches of every task, as `branches` gives them.

  Copies are numbered anew, from 0 on every layer in the order of the tasks.

  Raises:
    ValueError: a malformed text, a task that is unknown, missing or named twice, paths of unequal
      length, or paths that meet again after they parted.
  """
  found: dict[str, tuple[str, ...]] = {}
  for text in texts:
    name, _, path = text.partition('=')
    copies = tuple(path.split('/'))
    if name not in tasks or name in found or not all(copy.isdecimal() for copy in copies):
      raise ValueError(
        f"ltb.tree: need one 'TASK=0/2/1' for each of {', '.join(tasks)}, not {text!r}"
      )
    found[name] = copies
  missing = [name for name in tasks if name not in found]
  if missing or len({len(path) for path in found.values()}) > 1:
    raise ValueError(
      f'ltb.tree: {", ".join(missing)} is missing'
      if missing
      else f'ltb.tree: need paths of one length, not {", ".join(texts)}'
    )
  numbered: dict[str, list[int]] = {name: [] for name in tasks}
  for layer in range(len(found[tasks[0]])):
    below: dict[str, tuple[str, ...]] = {}  # copy -> the path to it
    for name in tasks:
      copies = found[name]
      if below.setdefault(copies[layer], copies[:layer]) != copies[:layer]:
        raise ValueError(
          f'ltb.tree: no tree: copy {copies[layer]} of layer {layer} has two parents'
        )
      numbered[name].append(list(below).index(copies[layer]))
  return {name: tuple(path) for name, path in numbered.items()}


def _fixed(
  encoder: nn.Module,
  tasks: tuple[LabelledTask, ...],
  tree: Mapping[str, tuple[int, ...]],
  layers: str,
  common: str,
) -> MultiTaskModel:
  paths = np.array([tree[task.name] for task in tasks])  # [T, L]
  copies = int(paths.max()) + 1
  parents = np.zeros((paths.shape[1] - 1, copies), int)  # [L - 1, child]; 0 where nobody reads it
  for layer, (below, above) in enumerate(itertools.pairwise(paths.T)):
    parents[layer, above] = below
  fixed = tuple(map(tuple, parents.tolist()))
  shared = Tree(mixtures.Experts(encoder, copies, common, gated=False), layers, None, fixed)
  modules = {task.name: _by_task.ReadColumn(tree[task.name][-1], task.head) for task in tasks}
  return MultiTaskModel(shared, tasks, modules, layout=_layout(encoder))  # type: ignore[arg-type]


def _layout(encoder: nn.Module) -> Layout:
  return Layout(encoder, ('shared/columns',), mixing=('shared/parents',))


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of C by logits `[..., C]`: weights of the same shape."""

  temperature: float | jax.Array
  straight_through: bool

  def __call__(self, logits: jax.Array, key: jax.Array | None) -> jax.Array:
    """A sample; without a key, the most probable."""
    if key is None:
      return _largest(logits)
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    soft = nn.softmax((logits + noise) / self.temperature)
    if not self.straight_through:
      return soft
    return _largest(soft) + (soft - jax.lax.stop_gradient(soft))


@dataclasses.dataclass(frozen=True)
class Tree:
  """A shared half with the two methods of a Flax module that a model calls."""

  columns: mixtures.Experts
  layers: str
  choice: Choice | None
  parents: tuple[tuple[int, ...], ...] | None = None  # by layer and child, where they are fixed

  def init(self, key: jax.Array, inputs: Any) -> dict[str, Any]:
    """Fresh copies, and `[L - 1, child, parent]` logits of 0."""
    params = self.columns.init(key, inputs)['params']['experts']
    one = jax.tree.map(
      lambda axis, leaf: leaf if axis else leaf[0], self.columns.axes(params), params
    )
    encoder, pattern = self.columns.encoder, self._pattern(inputs)
    found = _layers.find(encoder, one, inputs, pattern, 'ltb.layers', chained=True)
    made = {'columns': params}
    if self.parents is not None and len(found) != len(self.parents) + 1:
      raise ValueError(
        f'ltb.tree has paths of {len(self.parents) + 1} layers, and ltb.layers={self.layers!r} '
        f'finds {len(found)} in the encoder: {", ".join(found)}'
      )
    if self.parents is None and len(found) > 1:
      made['parents'] = jnp.zeros((len(found) - 1, self.columns.count, self.columns.count))
    return {'params': made}

  def apply(self, variables: Any, inputs: Any, train: bool = False, rngs: Any = None) -> Any:
    """The features of the copies of the last layer: `[B, C, ...]`, of a fixed tree a tuple of C."""
    params, keys, key = variables['params'], None, None
    if train:
      key, column_key = jax.random.split(rngs['dropout'])
      keys = jax.random.split(column_key, self.columns.count)
    chosen: Any = np.array(self.parents or [])  # [L - 1, C]: layer, child
    if self.choice is not None and 'parents' in params:
      chosen = self.choice(params['parents'], key)  # [L - 1, C, C]: layer, child, parent

    pattern = self._pattern(inputs)

    def column(params: Any, chosen: Any, key: jax.Array | None) -> Any:
      places: dict[str, int] = {}

      def read_parent(path: str, x: Any, y: jax.Array) -> jax.Array:
        del x
        place = places.setdefault(path, len(places))
        if place == len(chosen):  # the last layer: the tasks choose
          return y
        everyone = jax.lax.all_gather(y, 'columns')  # [C, B, ..., D]
        if not chosen[place].ndim:
          return everyone[chosen[place]]
        return _layers.weighed(chosen[place].astype(y.dtype), everyone)

      return _layers.run(
        self.columns.encoder, params, inputs, key, pattern, read_parent, stacked=True
      )

    axes = self.columns.in_axes(params['columns']), 1 if len(chosen) else None, 0
    args = params['columns'], chosen, keys
    if self.parents is not None:
      return tuple(halves.rows_of(jax.vmap(column, axes, axis_name='columns')(*args)))
    return jax.vmap(column, axes, out_axes=1, axis_name='columns')(*args)

  def _pattern(self, inputs: Any) -> str:
    return _layers.pattern_of(self.columns.encoder, inputs, self.layers, protocol.outputs)


class Leaf(nn.Module):
  """A task's half: it chooses its parent among the last copies, then its head."""

  children: int
  choice: Choice
  head: nn.Module

  @nn.compact
  def __call__(self, features: Any, inputs: Any, train: bool = False) -> Any:
    """Features of `Tree` -> the head's outputs."""
    logits = self.param('parent', nn.initializers.zeros, (self.children,))
    weights = self.choice(logits, self.make_rng('dropout') if train else None)
    return self.head(mixtures.mixed(features, weights[None]), inputs, train=train)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Falling(MultiTaskModel):
  """The temperature falls over the steps of training."""

  choice: Choice
  final: float
  steps: int

  def at(self, step: jax.Array) -> MultiTaskModel:
    """The model of one training step, int32 `[]`."""
    first = self.choice
    done = jnp.minimum(step.astype(jnp.float32) / self.steps, 1.0)
    temperature = first.temperature * (self.final / first.temperature) ** done
    choice = dataclasses.replace(first, temperature=temperature)
    tree: Any = self.shared
    shared: Any = dataclasses.replace(tree, choice=choice)
    modules = {task.name: Leaf(tree.columns.count, choice, task.head) for task in self.tasks}
    return MultiTaskModel(shared, self.tasks, modules, self.penalty, self.frozen, self.layout)


def _largest(x: jax.Array) -> jax.Array:
  """1 at the largest entry of the last axis, 0 elsewhere."""
  return jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=x.dtype)
