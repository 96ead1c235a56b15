"""AdaTask: Adam with moments of its own for each task."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base, _rows


class AdaTaskState(NamedTuple):
  """State of `adatask`: means of gᵢ and of gᵢ², leaves `[T, ...]`; each task's steps `[T]`."""

  first: Any
  second: Any
  steps: jax.Array


def adatask(
  num_tasks: int | None = None,
  b1: float | jax.Array = 0.9,
  b2: float | jax.Array = 0.999,
  *,
  eps: float | jax.Array = 1e-8,
) -> _base.Balancer:
  """A learning rate for each parameter and task: the sum over tasks of Adam's steps.

  For each task, coordinate by coordinate as in Adam,

  * mᵢ ← b1 mᵢ + (1 − b1) gᵢ and vᵢ ← b2 vᵢ + (1 − b2) gᵢ²;
  * d = Σᵢ m̂ᵢ/(√v̂ᵢ + ε), with m̂ and v̂ corrected for their start at zero;

  so that no task with large gradients sets the step of the others. b1 = 0 is the paper's variant of
  RMSProp.

  This is the optimizer of the shared parameters: `optax.scale(-learning_rate)` or `optax.sgd`
  follow it, and another Adam would divide once more. A task's own parameters have one task, for
  which AdaTask is Adam; in a train step their plain gradients go on to the optimizer, such as
  `optax.multi_transform` of sgd on 'shared' and adam on 'tasks'.

  An absent task has no part in d and keeps its moments and its count of steps, as does one whose
  gradient is not finite. One task alone has Adam's step, not its plain gradient. In a bfloat16
  model the moments are float32.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    b1: decay of the means of the gradients, in [0, 1).
    b2: decay of the means of their squares, in [0, 1).
    eps: ε > 0.

  Returns:
    a balancer that needs the gradients themselves; its state holds 2T float32 copies of the
    parameters.

  Raises:
    ValueError: a decay out of range; in a chain without num_tasks.

  References:
    Yang et al., AdaTask: A Task-Aware Adaptive Learning Rate Approach to Multi-Task Learning, AAAI
    2023.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.adatask(num_tasks=2)
    >>> grads = jnp.array([[300.0, -100.0], [0.2, -0.1]])
    >>> direction, _ = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> [f'{x:.3f}' for x in direction.tolist()]
    ['2.000', '-2.000']
  """
  for name, value in (('b1', b1), ('b2', b2)):
    if isinstance(value, (int, float)) and not 0 <= value < 1:
      raise ValueError(f'adatask: {name} must be in [0, 1), not {value}.')

  def init(params: Any, tasks: int | None) -> AdaTaskState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'adatask')
    first, second = (_rows.zeros(params, tasks) for _ in range(2))
    return AdaTaskState(first, second, jnp.zeros(tasks, jnp.int32))

  def update(
    updates: Any, state: AdaTaskState, *, present: jax.Array, **extra_args: Any
  ) -> tuple[Any, AdaTaskState]:
    del extra_args
    usable = present & jnp.isfinite(gradients.norms(updates))

    def mean(old: jax.Array, new: jax.Array, decay: float | jax.Array) -> jax.Array:
      return jnp.where(_rows.column(usable, old), decay * old + (1 - decay) * new, old)

    rows = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), updates)
    first = jax.tree.map(lambda m, g: mean(m, g, b1), state.first, rows)
    second = jax.tree.map(lambda v, g: mean(v, g**2, b2), state.second, rows)
    steps = state.steps + usable.astype(jnp.int32)
    age = jnp.maximum(steps, 1).astype(jnp.float32)
    corrections = 1 - b1**age, 1 - b2**age

    def step(m: jax.Array, v: jax.Array, leaf: jax.Array) -> jax.Array:
      one, two = (_rows.column(c, leaf) for c in corrections)
      moved = (m / one) / (jnp.sqrt(v / two) + eps)
      moved = jnp.where(_rows.column(usable, leaf), moved, 0.0)
      # A row that is not finite shows where it is, as with every method.
      shown = jnp.where(_rows.column(present, leaf) & ~jnp.isfinite(leaf), jnp.nan, moved)
      return _rows.add(shown)

    direction = _rows.cast(jax.tree.map(step, first, second, rows), updates)
    return direction, AdaTaskState(first, second, steps)

  return _base.jacobian_balancer(init, update, num_tasks)
