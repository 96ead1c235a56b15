"""Cross-stitch networks: a column for every task, mixed linearly after every layer."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import options
from mtl_jax.encoders import protocol
from mtl_jax.gradients import halves
from mtl_jax.model import Layout, MultiTaskModel
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _by_task, _layers

_BLOCK = 16  # channels of a cache line, in float32


@options.checked
def cross_stitch(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  layers: str = '',
  own_weight: Annotated[float, options.Range(0, 1, closed_left=False)] = 0.9,
  by_channel: bool = True,
) -> MultiTaskModel:
  """After every layer, column i becomes Σⱼ αᵢⱼ · column j; task i reads column i at the end.

  Columns and α are all shared: every loss reaches them. Any input passes all the columns.

  Args:
    encoder: `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.
    layers: regular expression of the submodules' paths whose outputs are mixed; '': all layers but
      the embedding, as the encoder says.
    own_weight: αᵢᵢ at the start; the rest of 1 is spread evenly over the other columns.
    by_channel: an α for each channel of a layer, as in the paper, or one for the layer.

  Returns:
    the model; its features are those of every column, a tuple of T.

  Raises:
    ValueError: an option has no such value, or no layer matches (at `init`).

  References:
    Misra et al., Cross-stitch Networks for Multi-task Learning, CVPR 2016, eq. 1.
  """
  _layers.check(layers, 'cross_stitch.layers')
  tasks = tuple(tasks)
  shared = _CrossStitch(encoder, len(tasks), layers, own_weight, by_channel)
  modules = {task.name: _by_task.ReadColumn(i, task.head) for i, task in enumerate(tasks)}
  layout = Layout(encoder, ('shared/columns',), mixing=('shared/stitches/.*',))
  return MultiTaskModel(shared, tasks, modules, layout=layout)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class _CrossStitch:
  """A shared half with the two methods of a Flax module that a model calls."""

  encoder: nn.Module
  tasks: int
  layers: str
  own_weight: float
  by_channel: bool

  def init(self, key: jax.Array, inputs: Any) -> dict[str, Any]:
    stacked = _by_task.columns(self.encoder, key, inputs, self.tasks)
    first = halves.take_row(stacked, 0)
    found = _layers.find(self.encoder, first, inputs, self._pattern(inputs), 'cross_stitch.layers')
    rest = (1.0 - self.own_weight) / max(self.tasks - 1, 1)
    own_weight = self.own_weight if self.tasks > 1 else 1.0
    alpha = jnp.full((self.tasks, self.tasks), rest)
    alpha = jnp.fill_diagonal(alpha, own_weight, inplace=False)
    stitches = {}
    for path, call in found.items():
      channels = call.output.shape[-1] if self.by_channel else 1
      stitches[path.replace('/', '.')] = jnp.repeat(alpha[..., None], channels, axis=-1)
    return {'params': {'columns': stacked, 'stitches': stitches}}

  def apply(self, variables: Any, inputs: Any, train: bool = False, rngs: Any = None) -> Any:
    params = variables['params']
    keys = jax.random.split(rngs['dropout'], self.tasks) if train else None
    pattern = self._pattern(inputs)

    def column(params: Any, stitches: Any, key: jax.Array | None) -> Any:
      def mix(path: str, x: Any, y: jax.Array) -> jax.Array:
        del x
        everyone = jax.lax.all_gather(y, 'columns')  # [T, B, ..., C]
        alpha = stitches[path.replace('/', '.')].astype(y.dtype)  # [T, C] or [T, 1]
        if self.by_channel:
          return _stitched(alpha, everyone)
        return _layers.weighed(alpha[:, 0], everyone)

      return _layers.run(self.encoder, params, inputs, key, pattern, mix, stacked=True)

    features = jax.vmap(column, axis_name='columns')(params['columns'], params['stitches'], keys)
    return tuple(halves.rows_of(features))

  def _pattern(self, inputs: Any) -> str:
    return _layers.pattern_of(self.encoder, inputs, self.layers, protocol.outputs)


def _stitched(alpha: jax.Array, everyone: jax.Array) -> jax.Array:
  """Σⱼ αⱼ · column j, by channel: `[T, C]` and `[T, B, ..., C]` -> `[B, ..., C]`."""

  def mix(args: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.einsum('tc,t...c->...c', *args, precision='highest')

  if jax.default_backend() != 'cpu' or everyone.shape[-1] % _BLOCK:
    return mix((alpha, everyone))

  # These products want the channels in front. A CPU lays them out block by block, in its caches.
  def blocks(x: jax.Array) -> jax.Array:  # [..., C] -> [C / 16, ..., 16]
    return jnp.moveaxis(x.reshape(*x.shape[:-1], x.shape[-1] // _BLOCK, _BLOCK), -2, 0)

  mixed = jax.lax.map(mix, (blocks(alpha), blocks(everyone)))
  return jnp.moveaxis(mixed, 0, -2).reshape(everyone.shape[1:])
