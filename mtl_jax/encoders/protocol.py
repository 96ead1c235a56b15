"""What an encoder may say of itself, and what holds of one that says nothing.

An encoder is a Flax module `(inputs, train=False) -> features`. One of ours, or of a user's own,
may have the methods of `Layered` and `Sparing` beside; transfer, the optimizer and the
architectures of `sharing` ask by the functions here, and know no encoder by its name. One that
starts from trained parameters has a `Source`. Knows no models and no configs.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn

if TYPE_CHECKING:
  import tokenizers

FROZEN = 'frozen_vectors'
"""The name of a table of vectors that is not trained, in the path of its parameter."""


class Layer(NamedTuple):
  """One layer of an encoder.

  Attributes:
    params: paths of its submodules and parameters in the encoder. Those that an encoder has with
      some options only may be named always.
    output: path of the submodule whose output is the layer's; '' where none is.
    block: one of several layers that read each other's outputs one after the other, as blocks do;
      not what makes the first states of the inputs, nor one of those side by side.
    sublayers: paths of the submodules whose outputs are added to a block's states, the feed-forward
      layer last. Adapters work on them.
    projections: paths of the linear submodules that low-rank updates are for: queries and values.
  """

  params: tuple[str, ...]
  output: str = ''
  block: bool = False
  sublayers: tuple[str, ...] = ()
  projections: tuple[str, ...] = ()


class Sizes(NamedTuple):
  """What a pretrained encoder can read: how many token ids, and how many tokens at once."""

  vocab_size: int
  longest: int


@runtime_checkable
class Layered(Protocol):
  """An encoder that says what its layers are."""

  def layers_from_below(self) -> Sequence[Layer]:
    """The layers as a forward pass meets them, the embedding first; all parameters are in one."""


@runtime_checkable
class Sparing(Protocol):
  """An encoder with matrices that weight decay spares."""

  def undecayed(self) -> Sequence[str]:
    """Regular expressions of whole paths in the encoder; vectors and biases need none."""


class Source(Protocol):
  """Where a pretrained text encoder comes from: made of the options of its section of a config.

  Attributes:
    pretrained: whether training starts from its values, or from the same network's fresh ones.
  """

  @property
  def pretrained(self) -> bool:
    """See the class."""

  def check(self, where: str) -> None:
    """Raises ValueError, naming the options by `where`, unless there is such a source."""

  def tokenizer(self) -> 'tokenizers.Tokenizer':
    """What splits texts as the encoder knows them."""

  def sizes(self) -> Sizes:
    """What the encoder can read."""

  def encoder(self, dtype: Any) -> nn.Module:
    """The encoder, computing in `dtype`."""

  def params(self) -> Any:
    """Its trained parameters, a tree as `encoder(...).init` makes it."""


def layers(encoder: Any, inputs: Any) -> Sequence[Layer]:
  """The layers of an encoder from below: what it says, or what a forward pass meets.

  Args:
    encoder: a Flax module.
    inputs: what it reads; only its shapes count.
  """
  if isinstance(encoder, Layered):
    return encoder.layers_from_below()
  return layers_met(encoder, inputs)


def layers_met(encoder: nn.Module, inputs: Any) -> list[Layer]:
  """The layers of an encoder that says nothing of them.

  There is a layer for each direct submodule with a matrix, in the order in which a forward pass
  makes their parameters; for a submodule that is `Layered`, its layers. Submodules without a matrix
  (normalizations) and the encoder's own parameters (positions) go with the layer before them.
  Layers that read an array of floats are blocks, without sublayers. Arguments as of `layers`.
  """
  modules: dict[str, Any] = {}
  reads: dict[str, Any] = {}  # path of a module -> what its first call reads
  made: list[dict[str, int]] = []  # direct submodule or parameter -> the most axes in it

  def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    path = '/'.join(context.module.path)
    modules[path] = context.module
    if context.method_name == '__call__' and args:
      reads.setdefault(path, args[0])
    return call(*args, **kwargs)

  def init() -> None:
    with nn.intercept_methods(note):
      params = encoder.init(jax.random.key(0), inputs).get('params', {})
    # Flax keeps the order in which they are made, which no function of JAX would let through.
    made.append(
      {
        name: max(map(jnp.ndim, jax.tree.leaves(nn.meta.unbox(tree))), default=0)
        for name, tree in params.items()
      }
    )

  jax.eval_shape(init)
  found: list[Layer] = []
  for name, axes in made[0].items():
    module = modules.get(name)
    if isinstance(module, Layered):
      found += [_moved(layer, f'{name}/') for layer in module.layers_from_below()]
    elif not found or (module is not None and axes > 1):
      states = jnp.issubdtype(getattr(reads.get(name), 'dtype', int), jnp.floating)
      found.append(Layer((name,), name if states else '', states))
    else:
      found[-1] = found[-1]._replace(params=(*found[-1].params, name))
  return found


def _moved(layer: Layer, prefix: str) -> Layer:
  """The layer of a submodule as one of the module that it is in."""
  return Layer(
    tuple(prefix + path for path in layer.params),
    layer.output and prefix + layer.output,
    layer.block,
    tuple(prefix + path for path in layer.sublayers),
    tuple(prefix + path for path in layer.projections),
  )


def outputs(layers: Iterable[Layer]) -> list[str]:
  """Paths of the submodules whose outputs are those of layers."""
  return [layer.output for layer in layers if layer.output]


def blocks(layers: Iterable[Layer]) -> list[str]:
  """Likewise, of the layers that are called one after the other."""
  return [layer.output for layer in layers if layer.output and layer.block]


def sublayers(layers: Iterable[Layer]) -> list[str]:
  """Paths of what adds to the states of the blocks."""
  return [path for layer in layers for path in layer.sublayers]


def feed_forward(layers: Iterable[Layer]) -> list[str]:
  """Paths of the last of these in each block."""
  return [layer.sublayers[-1] for layer in layers if layer.sublayers]


def projections(layers: Iterable[Layer]) -> list[str]:
  """Paths of the queries and values of the blocks."""
  return [path for layer in layers for path in layer.projections]


def undecayed(encoder: Any) -> Sequence[str]:
  """Regular expressions of the paths in an encoder that weight decay spares, whatever the shape."""
  return encoder.undecayed() if isinstance(encoder, Sparing) else ()


def is_held(path: str) -> bool:
  """Whether the parameter at a path is never trained: a table of frozen vectors."""
  return FROZEN in path.split('/')
