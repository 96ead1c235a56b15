"""Soft parameter sharing: a column for every task, and a penalty that keeps the columns close."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax import errors, options, sharding
from mtl_jax.gradients import halves
from mtl_jax.model import Layout, apply_module
from mtl_jax.protocols import LabelledTask
from mtl_jax.sharing import _by_task, _layers


@options.checked
def soft(
  encoder: nn.Module,
  tasks: Sequence[LabelledTask],
  *,
  penalty: str = 'mean',
  strength: options.Amount = 1e-3,
  strengths: Sequence[str] = (),
  start: str = 'same',
) -> _by_task.ByTaskModel:
  """A column (the encoder's parameters) for every task; a task reads its own.

  Args:
    encoder: `(inputs, train=False) -> features`.
    tasks: the tasks with their heads.
    penalty: Ω of the columns W₁ ... W_T of every array, summed over the arrays with their strength:

      * 'pairs': Σ_{i<j} ‖Wᵢ − Wⱼ‖² (Duong et al. 2015, who penalize the distance of two);
      * 'mean': Σᵢ ‖Wᵢ − W̄‖², W̄ the columns' mean (Evgeniou & Pontil 2004);
      * 'trace': ‖[vec W₁ ... vec W_T]‖_*, the sum of the singular values (Yang & Hospedales 2017,
        last axis flattened).
    strength: λ of every array.
    strengths: other λ by layer, as texts 'PATTERN=λ': an array has that of the first regular
      expression found in its path, such as '_Block_0/.*kernel=0.1'.
    start: 'same' initial values for every column, or 'independent' ones.

  Returns:
    the model; `model.penalty` is λ·Ω, whose gradient the train step adds to the balanced direction.

  Raises:
    ValueError: an unknown penalty or start, a negative strength, a malformed expression.

  References:
    Duong et al., Low Resource Dependency Parsing: Cross-lingual Parameter Sharing in a Neural
    Network Parser, ACL 2015. Evgeniou & Pontil, Regularized Multi-Task Learning, KDD 2004. Yang &
    Hospedales, Trace Norm Regularised Deep Multi-Task Learning, ICLR 2017 workshop.
  """
  for name, value, valid in (('penalty', penalty, PENALTIES), ('start', start, STARTS)):
    if value not in valid:
      raise ValueError(f'soft: {name}={value!r}{errors.nearest(value, valid)}')
  rules = [*map(_rule, strengths), _rule(f'={strength}')]
  measure = PENALTIES[penalty]

  def total(params: Any) -> jax.Array:
    found = jax.tree_util.tree_leaves_with_path(params['shared']['columns'])
    terms = [(_strength(sharding.path_of(path), rules), leaf) for path, leaf in found]
    parts = [
      jnp.float32(value) * measure(leaf.reshape(leaf.shape[0], -1).astype(jnp.float32))
      for value, leaf in terms
      if value
    ]
    return sum(parts, start=jnp.zeros((), jnp.float32))

  encoding, layout = _Soft(encoder, start == 'same'), Layout(encoder, ('shared/columns',))
  return _by_task.ByTaskModel(encoding, tuple(tasks), penalty=total, layout=layout)


@dataclasses.dataclass(frozen=True)
class _Soft:
  encoder: nn.Module
  same: bool

  def init(self, key: jax.Array, inputs: Any, tasks: int) -> tuple[Any, list[Any]]:
    stacked = _by_task.columns(self.encoder, key, inputs, 1 if self.same else tasks)
    stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (tasks, *leaf.shape[1:])), stacked)
    return {'columns': stacked}, [{} for _ in range(tasks)]

  def apply(
    self, shared: Any, own: Any, index: jax.Array, inputs: Any, key: jax.Array | None
  ) -> Any:
    del own
    with _layers.stacked_kernels():
      return apply_module(self.encoder, halves.take_row(shared['columns'], index), key, inputs)


def _rule(text: str) -> tuple[re.Pattern[str], float]:
  pattern, _, value = text.rpartition('=')
  try:
    rule = re.compile(pattern), float(value)
  except (re.error, ValueError) as e:
    raise ValueError(
      f"soft.strengths: need 'PATTERN=λ', a regular expression and a number, not {text!r}: {e}"
    ) from None
  if not 0 <= rule[1] < float('inf'):
    raise ValueError(f'soft: the strength {text!r} is negative or not finite')
  return rule


def _strength(path: str, rules: Sequence[tuple[re.Pattern[str], float]]) -> float:
  return next(value for pattern, value in rules if pattern.search(path))


def _to_mean(columns: jax.Array) -> jax.Array:
  """`[T, N]` -> `[]`. Distances from the mean add up to 0, so that its own slope does not count."""
  tasks = columns.shape[0]
  # Products: on a CPU several times as fast as sums over columns and over all numbers.
  mean = (
    jnp.matmul(jnp.ones((1, tasks)), jax.lax.stop_gradient(columns), precision='highest') / tasks
  )
  off = columns - mean
  return jnp.einsum('tn,tn->t', off, off, precision='highest').sum()


def _pairs(columns: jax.Array) -> jax.Array:
  """Σ_{i<j} ‖wᵢ − wⱼ‖² = T Σᵢ ‖wᵢ − w̄‖²."""
  return columns.shape[0] * _to_mean(columns)


@jax.custom_vjp
def _trace_norm(columns: jax.Array) -> jax.Array:
  """The sum of the singular values of `[T, N]`, by the eigenvalues of its T × T products.

  Its slope is UVᵀ over the singular values that stand above rounding: a subgradient at rank
  deficiency, where equal columns begin.
  """
  return _trace_norm_forward(columns)[0]


def _trace_norm_forward(columns: jax.Array) -> tuple[jax.Array, Any]:
  gram = jnp.matmul(columns, columns.T, precision='highest')
  with jax.enable_x64(True):  # squares of singular values need twice the digits
    values, vectors = jnp.linalg.eigh(gram.astype(jnp.float64))
    floor = values[-1] * gram.shape[0] * 2.0**-23
    roots = jnp.sqrt(jnp.maximum(values, 0.0))
    inverse = jnp.where(values > floor, 1.0 / jnp.where(values > floor, roots, 1.0), 0.0)
    slope = (vectors * inverse[None]) @ vectors.T
    norm = jnp.sum(jnp.where(values > floor, roots, 0.0))
    norm, slope = (jax.lax.convert_element_type(x, jnp.float32) for x in (norm, slope))
  return norm, (slope, columns)


def _trace_norm_backward(residuals: Any, cotangent: jax.Array) -> tuple[jax.Array]:
  slope, columns = residuals
  return (cotangent * jnp.matmul(slope, columns, precision='highest'),)


_trace_norm.defvjp(_trace_norm_forward, _trace_norm_backward)

PENALTIES: dict[str, Callable[[jax.Array], jax.Array]] = {
  'pairs': _pairs,
  'mean': _to_mean,
  'trace': _trace_norm,
}
STARTS = ('same', 'independent')
