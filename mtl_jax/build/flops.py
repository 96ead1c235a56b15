"""Floating-point operations of a function, counted on its jaxpr: products and convolutions."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count(function: Callable[..., Any], *args: Any) -> int:
  """Operations of the matrix products and convolutions of one call; a multiply-add counts as two.

  Element-wise work, gathers and reductions are left out, as is the custom of papers. A scan counts
  as often as it runs; of a `cond` the dearest branch; a `while` of unknown length once.

  Args:
    function: any JAX function.
    args: its arguments, or `jax.ShapeDtypeStruct` in their place.
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * depth
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    outputs = kernel[params['dimension_numbers'].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
  inner = [_count(part) for part in core.jaxprs_in_params(params)]
  if name == 'cond':
    return max(inner, default=0)
  return sum(inner) * (params['length'] if name == 'scan' else 1)
