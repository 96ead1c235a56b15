"""Reaching into an encoder's layers from outside: any Flax module, ours or a user's."""

import re
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from mtl_jax import errors
from mtl_jax.model import apply_module

Hook = Callable[[str, Any, Any], Any]
"""`(path, input, output) -> output` of a submodule; the path is like '_Block_0/Dense_1'."""


def check(pattern: str, use: str) -> None:
  """Raises ConfigError unless `pattern` is a regular expression."""
  try:
    re.compile(pattern)
  except re.error as e:
    raise errors.ConfigError(f'{use}: {pattern!r} is no regular expression: {e}') from None


def run(
  encoder: nn.Module, params: Any, inputs: Any, key: jax.Array | None, pattern: str, hook: Hook
) -> Any:
  """The encoder's features, with `hook` on every call of a submodule whose path matches fully."""
  wanted = re.compile(pattern)

  def intercept(call, args, kwargs, context):
    output = call(*args, **kwargs)
    path = '/'.join(context.module.path)
    if context.method_name != '__call__' or not path or not wanted.fullmatch(path):
      return output
    return hook(path, args[0], output)

  with nn.intercept_methods(intercept):
    return apply_module(encoder, params, key, inputs)


def find(encoder: nn.Module, params: Any, inputs: Any, pattern: str, use: str) -> dict[str, Any]:
  """The submodules that a pattern finds, in the order of their calls.

  Returns:
    path -> shapes of its first input and its output.

  Raises:
    ConfigError: it finds none, or one that is called twice; the paths there are are listed.
  """
  found: dict[str, Any] = {}
  others: list[str] = []

  def note(path, x, y):
    others.append(path)
    if re.fullmatch(pattern, path):
      if path in found:
        raise errors.ConfigError(f'{use}: {path!r} is called twice in one pass')
      found[path] = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (x, y))
    return y

  jax.eval_shape(lambda: run(encoder, params, inputs, None, '.*', note))
  if not found:
    raise errors.ConfigError(
      f'{use}: no submodule of the encoder matches {pattern!r}; there are {", ".join(others)}'
    )
  return found
