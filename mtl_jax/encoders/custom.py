"""Encoders of a user's own: a Flax module, its class, a function that makes one, or that is one."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from mtl_jax import dotted, errors
from mtl_jax.dotted import is_dotted

__all__ = ['Function', 'check', 'is_dotted', 'load', 'make']

_FLAX = ('parent', 'name')  # fields that every module class has


class Function(nn.Module):
  """A plain function `inputs -> features` as an encoder, without parameters.

  Attributes:
    function: any JAX function; the batch axis of its result is the first.
  """

  function: Callable[[Any], Any]

  def __call__(self, inputs: Any, train: bool = False) -> Any:
    """The function's result, in training or not."""
    del train
    return self.function(inputs)


def load(name: str) -> Any:
  """Returns what 'package.module:Name' names; see `dotted.load`."""
  return dotted.load(name, 'encoder')


def make(given: Any, options: Mapping[str, Any], offered: Mapping[str, Any] | None = None) -> Any:
  """Returns the encoder of an object, or of what its dotted name names.

  Args:
    given: a module, which takes no options; a module class or a function that returns a module,
      called with them; a plain function with a parameter `inputs`, to features, which is given them
      too; or 'package.module:Name' of one of these.
    options: keyword arguments.
    offered: further keyword arguments, of which what makes a module is given those that it has a
      parameter for.

  Raises:
    ValueError: this is no module and makes none, or the options are not its own.
  """
  found, arguments = check(given, options, offered or {})
  if isinstance(found, nn.Module):
    return found
  try:
    made = found(**arguments)
  except ValueError as error:  # what it says of its options
    raise ValueError(f'{_where(given)}: {error}') from error
  except Exception as error:
    error.add_note(f'This was raised by {_where(given)}, when it was made.')
    raise
  if not isinstance(made, nn.Module):
    raise ValueError(
      f'{_where(given)} returned {_kind(made)}, not a flax.linen.Module (flax.nnx.bridge.to_linen '
      'makes one of an nnx module)'
    )
  return made


def check(
  given: Any, options: Mapping[str, Any], offered: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
  """Returns the object that `make` calls, and with what; calls nothing. Raises as `make`."""
  where, found = _where(given), load(given) if isinstance(given, str) else given
  if isinstance(found, nn.Module):
    if options:
      raise ValueError(
        f'{where} is a finished module and takes no options such as {next(iter(options))!r}: name '
        'its class instead'
      )
    return found, {}
  is_class = isinstance(found, type)
  if not callable(found) or (is_class and not issubclass(found, nn.Module)):
    raise ValueError(
      f'{where} is {"the class " + found.__name__ if is_class else _kind(found)}: need a '
      'flax.linen.Module, its class, a function that returns one, or one from inputs to features'
    )
  signature = inspect.signature(found)
  if not is_class and 'inputs' in signature.parameters:
    parameters = [p for p in signature.parameters.values() if p.name != 'inputs']
    signature, offered = signature.replace(parameters=parameters), {}
    found = functools.partial(_from_function, found)
  names = [name for name in signature.parameters if not is_class or name not in _FLAX]
  if not any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values()):
    for name in options:
      if name not in names:
        raise ValueError(f'{where} has no option {name!r}{errors.nearest(name, names)}')
  arguments = {name: value for name, value in offered.items() if name in names} | dict(options)
  try:
    signature.bind(**arguments)
  except TypeError as error:
    raise ValueError(f'{where}: {error}: give it as an option, or give it a default') from None
  return found, arguments


def _from_function(function: Callable[..., Any], **options: Any) -> Function:
  return Function(functools.partial(function, **options))


def _where(given: Any) -> str:
  name = given if isinstance(given, str) else getattr(given, '__name__', type(given).__name__)
  return f'encoder {name!r}'


def _kind(value: Any) -> str:
  return f'{value!r} ({type(value).__name__})'
