"""The layers of a model, and what of it weight decay spares: as encoder and architecture say.

Encoders say what their layers are (`encoders.protocol`), architectures where the encoders are
(`model.Layout`). Knows no encoder and no architecture by its name.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import errors, sharding
from mtl_jax.encoders import protocol
from mtl_jax.model import MultiTaskModel, layout_of


class Parts(NamedTuple):
  """What an optimizer has to know of a model's parameters, by their paths.

  Attributes:
    layers: path -> layer, of all parameters.
    undecayed: what weight decay spares.
    held: what is never trained.
  """

  layers: Mapping[str, int]
  undecayed: frozenset[str]
  held: tuple[str, ...] = ()


def parts_of(model: MultiTaskModel, batch: Mapping[str, Any], pattern: str = '') -> Parts:
  """The parts of a model; arguments and errors as of `layers_of`."""
  params = jax.eval_shape(model.init, jax.random.key(0), batch)
  layers = layers_of(model, params, batch, pattern)
  held = tuple(path for path in layers if protocol.is_held(path))
  return Parts(layers, undecayed(model, params, batch), held)


def layers_of(
  model: MultiTaskModel, params: Any, batch: Mapping[str, Any], pattern: str = ''
) -> dict[str, int]:
  """Path -> layer: 0 is the encoder's lowest, L its last, and L + 1 all that is in no encoder.

  Tasks' own halves, adapters, and what an architecture has beside its encoders (stitches, gates,
  heads of lower tasks, a hypernetwork, a discriminator) are L + 1.

  Args:
    model: the model.
    params: its parameters, or their shapes.
    batch: either regime; only its shapes count.
    pattern: regular expression that finds the number of a layer in a path, by its one group; '':
      as the encoder says. Layers of one path up to the number come in the order of their numbers,
      and these as a forward pass meets them. Without a number a parameter belongs to the numbered
      layer that it follows, or below all.

  Raises:
    ConfigError: what the pattern finds is no number.
    ValueError: a parameter of the encoder is in none of the layers that it says.
  """
  layout = layout_of(model)
  said = protocol.layers(layout.encoder, _inputs(batch))
  places: dict[str, tuple[int, ...]] = {}
  above = []
  for path, _ in _leaves(params):
    inside = layout.inside(path)
    if inside is None:
      above.append(path)
    else:
      places[path] = (_place(inside, said, layout.encoder),)
  if pattern:
    places = _by_number(places, re.compile(pattern))
  number = {place: i for i, place in enumerate(sorted(set(places.values())))}
  found = {path: number[place] for path, place in places.items()}
  return found | dict.fromkeys(above, max(len(number), 1))


def lowest(layers: Mapping[str, int], count: int) -> list[str]:
  """The paths of the embedding and the `count` − 1 layers above it; none for 0."""
  return [path for path, layer in layers.items() if layer < count]


def highest(layers: Mapping[str, int], count: int) -> list[str]:
  """The paths of the `count` last layers of the encoder."""
  top = max(layers.values())
  return [path for path, layer in layers.items() if top - count <= layer < top]


def undecayed(model: MultiTaskModel, params: Any, batch: Mapping[str, Any]) -> frozenset[str]:
  """Paths of what weight decay spares: vectors, biases, and what encoder and architecture say.

  Of encoders that are stacked, the shape of one counts.

  Args:
    model: the model.
    params: its parameters, or their shapes.
    batch: either regime; only its shapes count.
  """
  layout = layout_of(model)
  one = jax.eval_shape(layout.encoder.init, jax.random.key(0), _inputs(batch)).get('params', {})
  axes = {path: leaf.ndim for path, leaf in _leaves(one)}
  spared = []
  for path, leaf in _leaves(params):
    inside = layout.inside(path)
    if inside is None:
      own, patterns, shape = path, layout.mixing, jnp.ndim(leaf)
    else:
      own, patterns, shape = inside, tuple(protocol.undecayed(layout.encoder)), axes[inside]
    # A bias of attention has an axis for the heads.
    is_bias = path.rpartition('/')[2] == 'bias'
    if shape < 2 or is_bias or any(re.fullmatch(pattern, own) for pattern in patterns):
      spared.append(path)
  return frozenset(spared)


def _place(path: str, said: Sequence[protocol.Layer], encoder: Any) -> int:
  """The layer of the parameter at `path` in the encoder, of those that it says."""
  for i, layer in enumerate(said):
    if any(f'{path}/'.startswith(f'{start}/') for start in layer.params):
      return i
  raise ValueError(
    f'{type(encoder).__name__}.layers_from_below() names no layer for the parameter {path!r}, but '
    f'for {", ".join(start for layer in said for start in layer.params)}'
  )


def _by_number(
  places: Mapping[str, tuple[int, ...]], number: re.Pattern[str]
) -> dict[str, tuple[int, ...]]:
  """The places by the numbers in paths: (first place of the layer's name, number); () is lowest."""
  found: dict[str, tuple[str, int]] = {}
  for path in places:
    match = number.search(path)
    if match and not (match[1] or '').isdecimal():
      raise errors.ConfigError(
        f'transfer.layers: {number.pattern!r} finds {match[1]!r} in {path}, which is no number'
      )
    if match:
      found[path] = path[: match.start(1)], int(match[1])
  first: dict[str, tuple[int, ...]] = {}
  for path, (name, _) in found.items():
    first[name] = min(first.get(name, places[path]), places[path])
  new = {path: (*first[name], n) for path, (name, n) in found.items()}

  def followed(path: str) -> tuple[int, ...]:
    return max((new[other] for other in new if places[other] <= places[path]), default=())

  return {path: new.get(path) or followed(path) for path in places}


def _inputs(batch: Mapping[str, Any]) -> Any:
  """What an encoder reads of a batch of either regime."""
  return batch['inputs'] if 'inputs' in batch else next(iter(batch.values()))['inputs']


def _leaves(params: Any) -> list[tuple[str, Any]]:
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return [(sharding.path_of(path), leaf) for path, leaf in leaves]
