"""The order in which a traced program lets parameters meet what it reads: an oracle of layers."""

from typing import Any

import jax
from jax.extend import core


class _Meeting:
  """Walks a program; each value is either of the inputs, or made of some parameters alone."""

  def __init__(self):
    self.order: list[int] = []

  def walk(self, program: Any, states: list[Any]) -> list[Any]:
    """`states`: None for what depends on the inputs, else the numbers of its parameters."""
    program = getattr(program, 'jaxpr', program)
    known = dict(zip(program.invars, states, strict=True))

    def state(variable):
      if isinstance(variable, core.Literal):
        return frozenset()
      return known.get(variable, frozenset())  # constants

    for equation in program.eqns:
      given = [state(v) for v in equation.invars]
      inner = _inside(equation)
      if inner is not None:
        found = self.walk(inner, given[len(given) - len(_invars(inner)) :])
      elif None in given:
        for numbers in given:
          self.order += sorted(set(numbers or ()) - set(self.order))
        found = [None] * len(equation.outvars)
      else:
        found = [frozenset().union(*given)] * len(equation.outvars)
      known.update(zip(equation.outvars, found, strict=True))
    return [state(v) for v in program.outvars]


def _invars(program: Any) -> Any:
  return getattr(program, 'jaxpr', program).invars


def _inside(equation: Any) -> Any:
  """The program that an equation calls with its last operands; the first branch of several."""
  if equation.primitive.name == 'while':
    return None
  for value in equation.params.values():
    value = value[0] if isinstance(value, tuple) and value else value
    program = hasattr(getattr(value, 'jaxpr', value), 'eqns')
    if program and len(_invars(value)) <= len(equation.invars):
      return value
  return None


def meetings(function: Any, params: Any, inputs: Any) -> list[str]:
  """Paths of parameters in the order in which they first meet what depends on the inputs.

  Args:
    function: `(params, inputs) -> outputs`.
    params: a pytree of parameters, or shapes.
    inputs: what the program reads.
  """
  program = jax.make_jaxpr(function)(params, inputs)
  paths = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  read = [None] * len(jax.tree.leaves(inputs))
  meeting = _Meeting()
  meeting.walk(program, [*(frozenset([i]) for i in range(len(paths))), *read])
  return [paths[number] for number in meeting.order]
