"""Options of functions and classes: defaults and ranges, read from their signatures.

What has options says of each, in its signature, its default and what values it takes:
`dropout: Share = 0.1`, `rank: Count = 8`. Sections of a config are made of this, and checked by it.
"""

import functools
import inspect
import math
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, ParamSpec, TypeVar

_P = ParamSpec('_P')
_R = TypeVar('_R')


class Range(NamedTuple):
  """Which numbers an option takes, all of them finite; of a sequence, each of its members.

  Attributes:
    low: the lowest.
    high: the highest.
    closed_left: whether `low` itself is taken.
    closed_right: whether `high` itself is taken.
  """

  low: float = -math.inf
  high: float = math.inf
  closed_left: bool = True
  closed_right: bool = True

  def complaint(self, value: float) -> str:
    """What `value` should have been; '' for one that is taken."""
    if not (value >= self.low if self.closed_left else value > self.low):
      if self.low == -math.inf:
        return 'a finite number'
      return f'{self.low} or more' if self.closed_left else f'more than {self.low}'
    if not (value <= self.high if self.closed_right else value < self.high):
      return f'at most {self.high}' if self.closed_right else f'less than {self.high}'
    return '' if math.isfinite(value) else 'a finite number'


ANY = Range()
NOT_NEGATIVE = Range(0)

Count = Annotated[int, Range(1)]
"""How many there are, at least one."""
Natural = Annotated[int, NOT_NEGATIVE]
"""A number of things that may be none."""
Amount = Annotated[float, NOT_NEGATIVE]
"""A strength, a rate: from 0 on."""
Positive = Annotated[float, Range(0, closed_left=False)]
"""Above 0."""
Finite = Annotated[float, ANY]
"""Any number."""
Share = Annotated[float, Range(0, 1, closed_right=False)]
"""A part that is not the whole: of what is dropped out, of the past in a mean."""
Fraction = Annotated[float, Range(0, 1)]
"""From nothing to the whole."""
Counts = Annotated[Sequence[int], Range(1)]
"""One or more sizes, each at least 1."""


def defaults(owner: Callable[..., Any], without: Collection[str] = ()) -> dict[str, Any]:
  """The options of a function or class that a config can give, with their defaults; () for None.

  Args:
    owner: its parameters without a default are no options.
    without: names of parameters that are known from elsewhere.
  """
  return {
    name: () if parameter.default is None else parameter.default
    for name, parameter in inspect.signature(owner).parameters.items()
    if parameter.default is not parameter.empty and name not in without
  }


def check(
  owner: Callable[..., Any], values: Mapping[str, Any], where: str = '', otherwise: Range = ANY
) -> None:
  """Checks values against what the signature of a function or class says.

  Args:
    owner: it.
    values: values by the names of its parameters; others are let pass.
    where: path of the options, such as 'encoder.cnn', for messages.
    otherwise: of numbers without a range.

  Raises:
    ValueError: a number outside its range, or a sequence of other things than it is to have; its
      path is named.
  """
  kinds = _kinds(owner)
  for name, value in values.items():
    path = f'{where}.{name}' if where else name
    kind, given = kinds.get(name, (Any, None))
    if isinstance(value, int | float) and not isinstance(value, bool):
      complaint = (given or otherwise).complaint(value)
      if complaint:
        raise ValueError(f'{path}: need {complaint}, not {value}')
    elif typing.get_origin(kind) is Sequence and isinstance(value, Sequence):
      _check_members(path, value, typing.get_args(kind)[0], given)


def _check_members(path: str, values: Sequence[Any], kind: Any, given: Range | None) -> None:
  if kind is str and (isinstance(values, str) or not all(isinstance(v, str) for v in values)):
    raise ValueError(f"{path}: need texts, such as ('a', 'b'), not {values}")
  if kind is int and given is not None:
    fit = all(type(value) is int and not given.complaint(value) for value in values)
    if not values or not fit:
      raise ValueError(f'{path}: need one or more integers from {given.low}, not {tuple(values)}')


def check_fields(module: Any) -> None:
  """Checks the fields of a dataclass, or of a Flax module, against their ranges; see `check`."""
  owner: Callable[..., Any] = type(module)
  check(owner, {name: getattr(module, name) for name, (_, given) in _kinds(owner).items() if given})


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """The function, checking its keyword arguments first, under its name; see `check`."""

  @functools.wraps(function)
  def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
    check(function, kwargs, function.__name__)
    return function(*args, **kwargs)

  return call


@functools.cache
def _kinds(owner: Callable[..., Any]) -> dict[str, tuple[Any, Range | None]]:
  """Parameter -> its type, and its range if it has one."""
  found = {}
  for name, parameter in inspect.signature(owner).parameters.items():
    kind, *more = (
      typing.get_args(parameter.annotation)
      if typing.get_origin(parameter.annotation) is Annotated
      else (parameter.annotation,)
    )
    found[name] = kind, next((item for item in more if isinstance(item, Range)), None)
  return found
