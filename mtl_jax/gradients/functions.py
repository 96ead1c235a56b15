"""Losses as functions of a user's own: the forms in which they come, and how they are called."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import sharding


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('aux', 'model_state'),
  meta_fields=('names',),
)
@dataclasses.dataclass(frozen=True)
class Extra:
  """What a forward pass returns beside the losses.

  Attributes:
    aux: what the loss functions return beside their losses, any pytree; None without `has_aux`.
    model_state: what the model's state becomes; None where it has none.
    names: of the losses, where they are a dict.
  """

  aux: Any = None
  model_state: Any = None
  names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Losses:
  """Loss functions in any of their forms, as one function to losses `[T]`.

  Attributes:
    functions: one function to losses, an array `[T]`, a dict of `[]` or a list of them; or a
      mapping or sequence of functions to one loss `[]`.
    has_aux: each returns `(losses, aux)`.
    model_state: where there is one, the function is called as `function(params, model_state, ...)`
      and returns `(losses, new_state)`, with `has_aux` `(losses, (new_state, aux))`.
    training: the state must change.
    scale: what the losses are multiplied by; None: nothing.
  """

  functions: Any
  has_aux: bool = False
  model_state: Any = None
  training: bool = True
  scale: jax.Array | float | None = None

  def __post_init__(self) -> None:
    if self.model_state is not None and not callable(self.functions):
      raise ValueError(
        'A model state goes through one function: return all losses from one, as a dict or an '
        'array [T].'
      )

  @property
  def separate(self) -> bool:
    """Whether there is a function a task."""
    return not callable(self.functions)

  @property
  def by_name(self) -> dict[Any, Callable]:
    """The functions of the tasks, where each has its own."""
    if isinstance(self.functions, Mapping):
      return dict(self.functions)
    return dict(enumerate(self.functions))

  @property
  def task_names(self) -> tuple[str, ...]:
    """The keys of a mapping of functions; those of a dict of losses show when it is called."""
    return tuple(map(str, self.functions)) if isinstance(self.functions, Mapping) else ()

  def __call__(
    self, params: Any, *args: Any, key: jax.Array | None = None, kwargs: Any = None
  ) -> tuple[jax.Array, Extra]:
    """Losses `[T]` float32, times the scale, and what else comes.

    Args:
      params: parameters.
      *args: what the functions are given after the parameters and the model's state.
      key: one more argument, for the functions that can take it.
      kwargs: their keyword arguments.

    Raises:
      ValueError: a function cannot be called so, or returns something else.
    """
    if not self.separate:
      losses, extra = self._one(self.functions, params, args, key, kwargs or {})
      return self._scaled(losses), extra
    found = [self.of(name, params, *args, key=key, kwargs=kwargs) for name in self.by_name]
    return jnp.stack([loss for loss, _ in found]), self.join([aux for _, aux in found])

  def of(
    self, name: Any, params: Any, *args: Any, key: jax.Array | None = None, kwargs: Any = None
  ) -> tuple[jax.Array, Any]:
    """The loss `[]` float32 of one of the separate functions, times the scale, and its aux."""
    function = self.by_name[name]
    result = call(function, (params, *args), key, kwargs or {})
    loss, aux = _pair(result, 'loss, aux', _name(function)) if self.has_aux else (result, None)
    return self._scaled(_scalar(loss, f'The loss of task {name!r}')), aux

  def join(self, aux: Sequence[Any]) -> Extra:
    """What the separate functions return, one after the other, in the form in which they came."""
    if not self.has_aux:
      return Extra(names=self.task_names)
    mapped = isinstance(self.functions, Mapping)
    return Extra(
      dict(zip(self.by_name, aux, strict=True)) if mapped else list(aux), None, self.task_names
    )

  def count(self, params: Any, *args: Any, key: jax.Array | None = None) -> int:
    """T, of a function to all losses, which may return more beside them. Computes nothing."""

    def losses() -> jax.Array:
      result = call(self.functions, self._given(params, args), key, {})
      first = result[0] if isinstance(result, tuple) and result else result
      return _stacked(first, _name(self.functions))[0]

    return jax.eval_shape(losses).shape[0]

  def _one(
    self, function: Callable, params: Any, args: Any, key: jax.Array | None, kwargs: Any
  ) -> tuple[jax.Array, Extra]:
    where, state, aux = _name(function), self.model_state, None
    result = call(function, self._given(params, args), key, kwargs)
    if state is not None:
      form = 'losses, (model_state, aux)' if self.has_aux else 'losses, model_state'
      result, new = _pair(result, form, where)
      state, aux = _pair(new, 'model_state, aux', where) if self.has_aux else (new, None)
      _check_state(self.model_state, state, where, self.training)
    elif self.has_aux:
      result, aux = _pair(result, 'losses, aux', where)
    losses, names = _stacked(result, where)
    return losses, Extra(aux, state, names)

  def _given(self, params: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if self.model_state is None:
      return params, *args
    # A tree of its own: what is a tree of mutable variables, as in NNX, may be changed inside here.
    return params, jax.tree.map(lambda leaf: leaf, self.model_state), *args

  def _scaled(self, losses: jax.Array) -> jax.Array:
    return losses if self.scale is None else losses * self.scale


def as_losses(loss_fns: Any) -> Losses:
  """Loss functions in any form but two halves."""
  return loss_fns if isinstance(loss_fns, Losses) else Losses(loss_fns)


def call(function: Callable, args: tuple[Any, ...], key: jax.Array | None, kwargs: Any) -> Any:
  """`function(*args, key, **kwargs)`, without the key where it takes no further argument.

  Raises:
    ValueError: it cannot be called with these.
  """
  if key is not None and _fits(function, (*args, key), kwargs) is None:
    args = (*args, key)
  if (why := _fits(function, args, kwargs)) is not None:
    given = ['params', *(['...'] if len(args) > 2 else []), 'batch'][: len(args)]
    raise ValueError(
      f'The loss function {_name(function)}{inspect.signature(function)} cannot be called with '
      f'{len(args)} arguments ({", ".join(given)}{", key" if key is not None else ""}'
      f'{"".join(f", {name}=" for name in kwargs)}): {why}.'
    )
  return function(*args, **kwargs)


def check_params(params: Any) -> None:
  """Raises ValueError unless every leaf is an array or a number that has a gradient."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    where = f'params: {sharding.path_of(path)!r}' if path else 'params'
    if not isinstance(leaf, bool | int | float) and not hasattr(leaf, 'dtype'):
      raise ValueError(
        f'{where} is {type(leaf).__name__}, no array: keep what is not trained apart from the '
        'parameters (in Equinox, eqx.partition(model, eqx.is_inexact_array); in NNX, '
        'nnx.split(model, nnx.Param, ...)).'
      )
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
      raise ValueError(
        f'{where} is {jnp.result_type(leaf)}, which has no gradient: keep it apart from the '
        'parameters, in the model state or in what the loss function closes over.'
      )


def _fits(function: Callable, args: tuple[Any, ...], kwargs: Any) -> str | None:
  """Why a function cannot be called so; None where it can, or does not tell."""
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):
    return None
  try:
    signature.bind(*args, **kwargs)
  except TypeError as error:
    return str(error)
  return None


def _name(function: Callable) -> str:
  return getattr(function, '__name__', type(function).__name__)


def _pair(result: Any, form: str, where: str) -> tuple[Any, Any]:
  if isinstance(result, tuple) and len(result) == 2:
    return result[0], result[1]
  raise ValueError(f'{where} must return a pair ({form}), not {_kind(result)}.')


def _kind(result: Any) -> str:
  if isinstance(result, tuple | list):
    return f'a {type(result).__name__} of {len(result)}'
  shape = getattr(result, 'shape', None)
  return type(result).__name__ if shape is None else f'an array of shape {shape}'


def _stacked(losses: Any, where: str) -> tuple[jax.Array, tuple[str, ...]]:
  """Losses as one array `[T]` float32, and their names where they are a dict."""
  if isinstance(losses, Mapping) and losses:
    rows = [_scalar(loss, f'{where}: loss {name!r}') for name, loss in losses.items()]
    return jnp.stack(rows), tuple(map(str, losses))
  if isinstance(losses, list) and losses:
    return jnp.stack([_scalar(loss, f'{where}: loss {i}') for i, loss in enumerate(losses)]), ()
  if getattr(losses, 'ndim', None) != 1:
    aux = '; with outputs beside them say has_aux=True' if isinstance(losses, tuple) else ''
    raise ValueError(
      f'The loss function must return losses [T] or a dict of losses, not {_kind(losses)}{aux}.'
    )
  return losses.astype(jnp.float32), ()


def _scalar(loss: Any, what: str) -> jax.Array:
  if jnp.shape(loss) != ():
    raise ValueError(
      f'{what} must be a scalar, such as a mean over the examples, not {_kind(loss)}.'
    )
  return jnp.asarray(loss).astype(jnp.float32)


def _check_state(old: Any, new: Any, where: str, changes: bool) -> None:
  """Raises ValueError where a state takes another form, or with `changes` nothing is new."""
  before, structure = jax.tree_util.tree_flatten_with_path(old)
  after, now = jax.tree.flatten(new)
  if str(structure) != str(now):
    raise ValueError(
      f'{where} must return the model state in the form in which it came: {structure} became {now}.'
    )
  for (path, a), b in zip(before, after, strict=True):
    if (jnp.shape(a), jnp.result_type(a)) != (jnp.shape(b), jnp.result_type(b)):
      raise ValueError(
        f'{where}: the model state {sharding.path_of(path)!r} of shape {jnp.shape(a)}, '
        f'{jnp.result_type(a)}, became {jnp.shape(b)}, {jnp.result_type(b)}.'
      )
  if changes and after and all(a is b for (_, a), b in zip(before, after, strict=True)):
    raise ValueError(
      f'{where} returns the model state as it came, so that nothing would ever change it: return '
      'what the forward pass makes of it, in training mode. State that is meant to stay as it is '
      'belongs in what the loss function closes over.'
    )
