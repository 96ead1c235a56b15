"""Reaching into an encoder's layers from outside: any Flax module, ours or a user's."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax.encoders import _products, protocol
from mtl_jax.model import apply_module

Hook = Callable[[str, Any, Any], Any]
"""`(path, input, output) -> output` of a submodule; the path is like '_Block_0/Dense_1'."""

Which = Callable[[Iterable[protocol.Layer]], list[str]]
"""What an architecture takes of an encoder's layers: `protocol.outputs`, `protocol.blocks`, ..."""
_NOTHING = r'(?!)'  # matches no path
_READ = 'read'  # the Flax collection in which what layers read comes out of an encoder


def check(pattern: str, use: str) -> None:
  """Raises ValueError unless `pattern` is a regular expression."""
  try:
    re.compile(pattern)
  except re.error as e:
    raise ValueError(f'{use}: {pattern!r} is no regular expression: {e}') from None


class Call(NamedTuple):
  """The call of a submodule: its path, its first input and its output, or their shapes."""

  path: str
  input: Any
  output: Any


def pattern_of(encoder: Any, inputs: Any, layers: str, which: Which) -> str:
  """A regular expression of submodules' paths: `layers` or, where that is '', as the encoder says.

  Args:
    encoder: the encoder.
    inputs: what it reads; only its shapes count.
    layers: the user's expression, or ''.
    which: what is taken of the encoder's layers.
  """
  if layers:
    return layers
  return '|'.join(map(re.escape, which(protocol.layers(encoder, inputs)))) or _NOTHING


def run(
  encoder: nn.Module,
  params: Any,
  inputs: Any,
  key: jax.Array | None,
  pattern: str,
  hook: Hook,
  *,
  stacked: bool = False,
) -> Any:
  """The encoder's features, with `hook` on every call of a submodule whose path matches fully.

  `stacked`: the parameters are mapped over (see `stacked_kernels`).
  """
  wanted = re.compile(pattern)

  def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    output = call(*args, **kwargs)
    path = '/'.join(context.module.path)
    if context.method_name != '__call__' or not path or not wanted.fullmatch(path):
      return output
    return hook(path, args[0], output)

  # What is entered first is called first.
  with nn.intercept_methods(intercept), stacked_kernels() if stacked else contextlib.nullcontext():
    return apply_module(encoder, params, key, inputs)


def stacked_kernels() -> contextlib.AbstractContextManager[Any]:
  """In here, the `nn.Conv`s of an encoder are fit for `vmap` over their kernels.

  A CPU takes several times as long for XLA's grouped convolutions as for products with windows.
  """

  def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if type(module) is not nn.Conv or module.conv_general_dilated_cls is not None:
      return call(*args, **kwargs)
    by_products = module.clone(parent=None, conv_general_dilated_cls=_products.convolution)
    return by_products.apply(module.variables, *args, **kwargs)

  return nn.intercept_methods(intercept)


def find(
  encoder: nn.Module, params: Any, inputs: Any, pattern: str, use: str, *, chained: bool = False
) -> dict[str, Call]:
  """The submodules that a pattern finds, in the order of their calls.

  Args:
    encoder: the encoder.
    params: its parameters.
    inputs: what it reads.
    pattern: regular expression of whole paths.
    use: the option's name, for errors.
    chained: each must read what became of the one before, not the same as another.

  Returns:
    path -> its call, in shapes.

  Raises:
    ValueError: it finds none, one that is called twice, or with `chained` two side by side; the
      paths there are are listed.
  """
  found: dict[str, Call] = {}
  others: list[str] = []
  read: dict[str, Any] = {}

  def note(path: str, x: Any, y: Any) -> Any:
    others.append(path)
    if re.fullmatch(pattern, path):
      if path in found:
        raise ValueError(f'{use}: {path!r} is called twice in one pass')
      beside = next((other for other, earlier in read.items() if earlier is x), None)
      if chained and beside:
        raise ValueError(
          f'{use}: {beside!r} and {path!r} read the same, side by side; here every layer must '
          'read the one before: name others'
        )
      read[path] = x
      shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (x, y))
      found[path] = Call(path, *shapes)
    return y

  jax.eval_shape(lambda: run(encoder, params, inputs, None, '.*', note))
  if not found:
    what = (
      'the encoder does not say which; give a regular expression of paths'
      if pattern == _NOTHING
      else f'no submodule of the encoder matches {pattern!r}'
    )
    raise ValueError(f'{use}: {what}; there are {", ".join(others)}')
  return found


def find_linear(
  encoder: nn.Module, params: Any, inputs: Any, pattern: str, use: str
) -> dict[str, Call]:
  """`find`; ValueError for a submodule that is no product of its input with a kernel."""
  found = find(encoder, params, inputs, pattern, use)
  for path, call in found.items():
    own = functools.reduce(lambda node, part: node.get(part, {}), path.split('/'), params)
    if not _is_linear(own.get('kernel'), call.input, call.output):
      raise ValueError(
        f'{use}: {path!r} is not linear, a product of its input with a kernel: choose others'
      )
  return found


def _is_linear(kernel: Any, x: Any, y: Any) -> bool:
  if any(not hasattr(item, 'shape') for item in (kernel, x, y)):
    return False
  rows, outputs = y.shape[: x.ndim - 1], y.shape[x.ndim - 1 :]
  return rows == x.shape[:-1] and kernel.shape == (x.shape[-1], *outputs)


def read(
  encoder: nn.Module, params: Any, inputs: Any, key: jax.Array | None, pattern: str
) -> tuple[Any, list[Call]]:
  """The encoder's features, and the calls of the submodules that a pattern finds.

  They come out through a Flax collection, so that layers inside `nn.remat` may be read too.
  """
  wanted, paths = re.compile(pattern), []

  def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    output = call(*args, **kwargs)
    path = '/'.join(context.module.path)
    if context.method_name == '__call__' and path and wanted.fullmatch(path):
      paths.append(path)
      context.module.sow(_READ, _READ, (args[0], output))
    return output

  training: dict[str, Any] = {} if key is None else {'train': True, 'rngs': {'dropout': key}}
  with nn.intercept_methods(intercept):
    features, sown = encoder.apply({'params': params}, inputs, mutable=[_READ], **training)
  found = []
  for path in dict.fromkeys(paths):
    place = sown[_READ]
    for part in path.split('/'):
      place = place[part]
    found.append(Call(path, *place[_READ][0]))
  return features, found


def weighed(weights: jax.Array, columns: jax.Array) -> jax.Array:
  """Σᵢ weightsᵢ · column i: `[C]` and `[C, ...]` -> `[...]`.

  A product with flat rows: its gradients are such products too, without a transposition.
  """
  flat = columns.reshape(columns.shape[0], -1)
  return jnp.matmul(weights, flat, precision='highest').reshape(columns.shape[1:])


def readable(x: jax.Array, inputs: Any) -> jax.Array:
  """States that heads can read: `[B, S, D]` of text stay, others become `[B, D]` by their mean."""
  text = isinstance(inputs, Mapping) and 'mask' in inputs
  if x.ndim == 2 or (text and x.ndim == 3):
    return x
  return x.mean(axis=tuple(range(1, x.ndim - 1)))
