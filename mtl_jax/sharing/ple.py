"""Progressive layered extraction: experts that gates mix level by level, not only at the end."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import tracers

from mtl_jax import options
from mtl_jax.encoders import protocol
from mtl_jax.heads import pooling
from mtl_jax.model import Layout, MultiTaskModel
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _layers, experts


@options.checked
def ple(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  shared_experts: options.Count = 2,
  task_experts: options.Count = 1,
  levels: options.Count = 2,
  layers: str = '',
  common: str = experts.COMMON,
) -> MultiTaskModel:
  """Experts are cut into levels; between two levels, gates mix what the experts of a group read.

  Groups are the tasks, each with experts of its own, and the shared experts. After every level but
  the last, all experts of a group go on with one mixture: Σₑ softmax(z·W + b)ₑ · expertₑ, over its
  own and the shared experts for a task, over all experts for the shared group. After the last, each
  task's gate mixes its own and the shared experts for its head, as in `cgc`.

  z is what the group reads on that level, mean over tokens or pixels: before the first level, as in
  `mmoe`, the mean of the embedding, or the inputs themselves; afterwards the group's mixture.

  Args:
    encoder: an expert, `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.
    shared_experts: experts that every task reads.
    task_experts: experts of each task.
    levels: K; 1 is `cgc`.
    layers: regular expression of the submodules' paths that count as layers; '': all but the
      embedding, as the encoder says. Of n layers, level k ends with the output of layer ⌈nk/K⌉.
    common: see `mmoe`.

  Returns:
    the model. θ is the experts, stacked as in `cgc`, and the gates between levels; a task's last
    gate is its own. What θ holds of task i is reached by every loss, but for its experts of the
    last level and the gate before them, which only its own reaches.

  Raises:
    ValueError: a number below 1; no layer matches, or fewer than there are levels, or layers
      inside `nn.remat` end a level (at `init`).

  References:
    Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for
    Personalized Recommendations, RecSys 2020, section 4.2.
  """
  _layers.check(layers, 'ple.layers')
  _layers.check(common, 'ple.common')
  tasks = tuple(tasks)
  modules = {task.name: experts.Gated(task.head, group=i, row=i) for i, task in enumerate(tasks)}
  count = shared_experts + len(tasks) * task_experts
  shared = _Levels(
    encoder,
    count,
    common,
    groups=(shared_experts, *[task_experts] * len(tasks)),
    tasks=len(tasks),
    shared=shared_experts,
    own=task_experts,
    levels=levels,
    layers=layers,
  )
  layout = Layout(encoder, experts.PLACES)
  return MultiTaskModel(shared, tasks, modules, layout=layout)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Levels(experts.Experts):
  """Experts that meet after every level.

  Features: `{'experts': [[B, S, ...], [B, N, ...] of each task], 'gate': [B, T, D]}`.
  """

  tasks: int
  shared: int
  own: int
  levels: int
  layers: str

  def init(self, key: jax.Array, inputs: Any) -> dict[str, Any]:
    made = super().init(key, inputs)['params']['experts']
    first = jax.eval_shape(super().apply, {'params': {'experts': made}}, inputs)['gate']
    ends = self._ends(made, inputs)
    widths = [first.shape[-1], *(call.output.shape[-1] for call in ends.values())]
    gates = {}
    for level, (path, width) in enumerate(zip(ends, widths, strict=False)):
      shared_key, task_key = jax.random.split(jax.random.fold_in(key, level))
      read = self.shared + self.own
      gates[path.replace('/', '.')] = {
        'shared': {
          'kernel': nn.initializers.lecun_normal()(shared_key, (width, self.count)),
          'bias': jnp.zeros(self.count),
        },
        'tasks': {
          'kernel': nn.initializers.lecun_normal(batch_axis=0)(task_key, (self.tasks, width, read)),
          'bias': jnp.zeros((self.tasks, read)),
        },
      }
    return {'params': {'experts': made, 'gates': gates}}

  def apply(self, variables: Any, inputs: Any, train: bool = False, rngs: Any = None) -> Any:
    params, gates = variables['params']['experts'], variables['params']['gates']
    keys = jax.random.split(rngs['dropout'], self.count) if train else None
    group = np.repeat(np.arange(1 + self.tasks), [self.shared] + [self.own] * self.tasks)

    def expert(params: Any, key: jax.Array | None, group: Any) -> tuple[Any, jax.Array]:
      outside = tracers.current_trace()
      read: list[jax.Array] = []  # by level: what the gates of all groups read, [1 + T, B, D]

      def begin(embedded: jax.Array | None) -> None:
        first = experts.gate_input(embedded, inputs)
        read.append(jnp.broadcast_to(first[None], (1 + self.tasks, *first.shape)))

      def hook(path: str, x: Any, y: jax.Array) -> jax.Array:
        del x
        if path == 'embedding' and not read:
          begin(jax.lax.all_gather(y, 'experts')[0])
        gate = gates.get(path.replace('/', '.'))
        if gate is None:
          return y
        if tracers.current_trace() != outside:
          raise ValueError(
            f'ple: {path!r} is rematerialized (nn.remat), and what the gates read cannot leave it: '
            "set the encoder's remat to False, or sharing.ple.levels to 1"
          )
        if not read:
          begin(None)
        mixtures = self._mix(gate, read[-1], jax.lax.all_gather(y, 'experts'))
        read.append(jax.vmap(lambda states: _mean(states, inputs))(mixtures))
        return mixtures[group]

      features = _layers.run(self.encoder, params, inputs, key, '.*', hook, stacked=True)
      if not read:
        begin(None)
      return features, read[-1]

    features, read = jax.vmap(
      expert, (self.in_axes(params), 0, 0), out_axes=(1, None), axis_name='experts'
    )(params, keys, group)
    return {'experts': self.grouped(features), 'gate': jnp.moveaxis(read, 0, 1)[:, 1:]}

  def _mix(self, gate: Any, z: jax.Array, everyone: jax.Array) -> jax.Array:
    """Gates' inputs `[1 + T, B, D]` and experts `[E, B, ...]` -> mixtures `[1 + T, B, ...]`."""
    z = z.astype(jnp.float32)
    to_all = nn.softmax(z[0] @ gate['shared']['kernel'] + gate['shared']['bias'][None])  # [B, E]
    logits = jnp.einsum('tbd,tdr->tbr', z[1:], gate['tasks']['kernel'])
    weights = nn.softmax(logits + gate['tasks']['bias'][:, None])  # [T, B, R]
    to_all, weights = to_all.astype(everyone.dtype), weights.astype(everyone.dtype)
    common, own = everyone[: self.shared], everyone[self.shared :]
    own = own.reshape(self.tasks, self.own, *own.shape[1:])
    # Products by example keep the states' own layout with the examples in front.
    mixtures = jnp.einsum(
      'tbs,sb...->bt...', weights[..., : self.shared], common, precision='highest'
    )
    mixtures = jnp.moveaxis(mixtures, 1, 0)
    for n in range(self.own):
      weight = weights[..., self.shared + n]
      mixtures += weight.reshape(*weight.shape, *(1,) * (everyone.ndim - 2)) * own[:, n]
    of_all = jnp.einsum('be,eb...->b...', to_all, everyone, precision='highest')
    return jnp.concatenate([of_all[None], mixtures])

  def _ends(self, made: Any, inputs: Any) -> dict[str, _layers.Call]:
    """The layers after which groups meet."""
    if self.levels == 1:
      return {}
    one = jax.tree.map(lambda axis, leaf: leaf if axis else leaf[0], self.axes(made), made)
    pattern = _layers.pattern_of(self.encoder, inputs, self.layers, protocol.outputs)
    found = _layers.find(self.encoder, one, inputs, pattern, 'ple.layers', chained=True)
    if len(found) < self.levels:
      raise ValueError(
        f'ple: levels={self.levels}, but layers={self.layers!r} finds {len(found)} in the encoder: '
        f'{", ".join(found)}'
      )
    last = [-(-len(found) * level // self.levels) - 1 for level in range(1, self.levels)]
    return {path: found[path] for path in (list(found)[place] for place in last)}


def _mean(states: jax.Array, inputs: Any) -> jax.Array:
  """`[B, ..., D]` -> `[B, D]`; of tokens, those that are no padding."""
  if states.ndim == 3 and isinstance(inputs, Mapping) and 'mask' in inputs:
    pooled: Any = pooling.Pool('mean', parent=None).apply({}, states, inputs)
    return pooled
  return states.mean(axis=tuple(range(1, states.ndim - 1)))
