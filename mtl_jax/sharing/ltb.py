"""Learning to branch: a tree of layers, each of which chooses its parent among the layer below."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mtl_jax import errors
from mtl_jax.model import MultiTaskModel
from mtl_jax.sharing import _layers
from mtl_jax.sharing import experts as mixtures
from mtl_jax.sharing.cross_stitch import LAYERS
from mtl_jax.tasks import Task


def ltb(
  encoder: nn.Module,
  tasks: Sequence[Task],
  *,
  children: int = 4,
  layers: str = LAYERS,
  temperature: float = 1.0,
  straight_through: bool = True,
  common: str = mixtures.COMMON,
) -> MultiTaskModel:
  """Every layer has C copies; copy j of layer l + 1 reads one copy of layer l, and so do the tasks.

  Child j has a logit for each possible parent i, at first 0. In training it reads Σᵢ dᵢ·yᵢ with
  d a Gumbel-softmax sample: softmax((logits + Gumbel noise) / τ), in the forward pass its largest
  entry alone (straight through) or as it is. Outside training it reads the parent of the largest
  logit: then every task's network is a path in a tree (see `branches`).

  The choices are drawn once a forward pass, for the whole batch: once for all tasks with shared
  inputs, and for each task with own inputs. The temperature is constant, where the paper lowers it
  over training: here the learned logits alone make the choices firm. The tree is not trained again
  from scratch, as it is in the paper.

  Args:
    encoder: `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.
    children: C, the copies of every layer.
    layers: regular expression of the submodules' paths that are layers, called one after the other
      (see `cross_stitch`). What comes before the first goes with its copy, what comes after the
      last with its own.
    temperature: τ.
    straight_through: read one parent, with the gradient of the soft choice; else a mixture, which
      evaluation then does without.
    common: regular expression of the encoder's parameters, by path, that all copies have in common:
      its embedding. '(?!)' finds none.

  Returns:
    the model; its features are `[B, C, ...]`. Copies and the logits of their parents are θ, a
    task's choice among the last copies its own.

  Raises:
    ConfigError: fewer than one copy, a temperature not above 0, or no layer matches (at `init`).

  References:
    Guo, Lee & Ulbricht, Learning to Branch for Multi-Task Learning, ICML 2020. Gumbel-softmax: Jang
    et al., Categorical Reparameterization with Gumbel-Softmax, ICLR 2017.
  """
  _layers.check(layers, 'ltb.layers')
  _layers.check(common, 'ltb.common')
  if children < 1 or not 0 < temperature < math.inf:
    raise errors.ConfigError(
      f'ltb: children={children} must be 1 or more, temperature={temperature} above 0 and finite'
    )
  tasks = tuple(tasks)
  choice = Choice(temperature, straight_through)
  shared = Tree(mixtures.Experts(encoder, children, common, gated=False), layers, choice)
  modules = {task.name: Leaf(children, choice, task.head) for task in tasks}
  return MultiTaskModel(shared, tasks, modules)  # type: ignore[arg-type]


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


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of C by logits `[..., C]`: weights of the same shape."""

  temperature: float
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
  choice: Choice

  def init(self, key: jax.Array, inputs: Any) -> dict[str, Any]:
    """Fresh copies, and `[L - 1, child, parent]` logits of 0."""
    params = self.columns.init(key, inputs)['params']['experts']
    one = jax.tree.map(
      lambda axis, leaf: leaf if axis else leaf[0], self.columns.axes(params), params
    )
    found = _layers.find(self.columns.encoder, one, inputs, self.layers, 'ltb.layers')
    made = {'columns': params}
    if len(found) > 1:
      made['parents'] = jnp.zeros((len(found) - 1, self.columns.count, self.columns.count))
    return {'params': made}

  def apply(self, variables: Any, inputs: Any, train: bool = False, rngs: Any = None) -> Any:
    """The features of the copies of the last layer, `[B, C, ...]`."""
    params, keys, key = variables['params'], None, None
    if train:
      key, column_key = jax.random.split(rngs['dropout'])
      keys = jax.random.split(column_key, self.columns.count)
    chosen: Any = []
    if 'parents' in params:
      chosen = self.choice(params['parents'], key)  # [L - 1, C, C]: layer, child, parent

    def column(params, chosen, key):
      places: dict[str, int] = {}

      def read_parent(path, x, y):
        del x
        place = places.setdefault(path, len(places))
        if place == len(chosen):  # the last layer: the tasks choose
          return y
        everyone = jax.lax.all_gather(y, 'columns')  # [C, B, ..., D]
        return jnp.tensordot(chosen[place].astype(y.dtype), everyone, 1, precision='highest')

      return _layers.run(self.columns.encoder, params, inputs, key, self.layers, read_parent)

    axes = self.columns.in_axes(params['columns']), 1, 0
    return jax.vmap(column, axes, out_axes=1, axis_name='columns')(params['columns'], chosen, keys)


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


def _largest(x: jax.Array) -> jax.Array:
  """1 at the largest entry of the last axis, 0 elsewhere."""
  return jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=x.dtype)
