"""GradVac: task gradients are turned towards each other, to cosines that are followed over time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.optim import _arguments, _base, _solvers
from mtl_jax.optim.pcgrad import check_options, over_tasks, visiting_orders

# The largest cosine: of float32, so that √(1 − φ²) stays above 0.
_LARGEST = 1 - float(jnp.finfo(jnp.float32).eps)


class GradVacState(NamedTuple):
  """State of `gradvac`: the target cosines φ̂ `[T, T]`, and the PRNG key of the next order."""

  targets: jax.Array
  key: jax.Array


def gradvac(
  num_tasks: int | None = None,
  beta: float | jax.Array = 1e-2,
  seed: int = 0,
  *,
  order: str = 'random',
  reduction: str = 'sum',
) -> _base.Balancer:
  """Gradient vaccine: brings each pair of gradients to the cosine they usually have, or above.

  For each task i, starting from g = gᵢ, and for every other task j in random order, redrawn at each
  step for each i (algorithm 1), with the original gⱼ and φ = cos(g, gⱼ): where φ < φ̂ᵢⱼ,
  g ← g + ‖g‖(φ̂ᵢⱼ√(1−φ²) − φ√(1−φ̂ᵢⱼ²))/(‖gⱼ‖√(1−φ̂ᵢⱼ²)) gⱼ, after which cos(g, gⱼ) = φ̂ᵢⱼ. In either
  case φ̂ᵢⱼ ← (1−β)φ̂ᵢⱼ + βφ, starting from 0, where the correction is PCGrad's. The direction is
  the sum of the results. On the whole shared gradient; the paper also does it by layer or matrix.

  All of it acts on the coefficients of the T gradients, so that the Gramian is enough. Cosines are
  clipped to ±(1 − ε) with ε of float32. Near ±1 the correction is ill-conditioned: φ is known to
  about ε, so √(1−φ²) to ε/√(1−φ²). Where gradients nearly cancel, float32 rounding leaves an
  error in d of some 10⁻⁷ of their length, not of the length of d. Pairs with an absent task or a
  zero gradient are skipped, and keep their φ̂.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    beta: β in [0, 1], the rate at which φ̂ follows the cosines: 1e-2 in the paper, 0.5 in LibMTL.
    seed: of the orders, in a chain; the train step draws them from its own key.
    order: 'random', or 'index': tasks in index order.
    reduction: 'sum' (the paper), or 'mean': the sum divided by the number of tasks present.

  Returns:
    a balancer that needs the Gramian; under `optax.inject_hyperparams` name
    `static_args=('num_tasks', 'seed', 'order', 'reduction')`.

  Raises:
    ValueError: an option out of range; in a chain, without num_tasks; at update, another T.

  References:
    Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
    Multilingual Models, ICLR 2021.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.gradvac(num_tasks=2, beta=0.5)
    >>> grads = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> direction, state = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> [f'{x:.2f}' for x in direction], f'{state.targets[0, 1]:.3f}'
    (['0.50', '1.50'], '-0.354')
  """
  check_options('gradvac', order, reduction)
  if isinstance(beta, int | float) and not 0 <= beta <= 1:
    raise ValueError(f'gradvac: beta must be in [0, 1], not {beta}.')

  def init(tasks: int | None) -> GradVacState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'gradvac')
    return GradVacState(jnp.zeros((tasks, tasks), jnp.float32), jax.random.key(seed))

  def update(
    state: GradVacState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, GradVacState]:
    del losses, extra_args
    assert gramian is not None
    if gramian.shape != state.targets.shape:
      raise ValueError(
        f'gradvac of {len(state.targets)} tasks was given the gradients of {len(gramian)}.'
      )
    next_key = state.key
    if key is None:
      key, next_key = jax.random.split(state.key)
    orders = visiting_orders(key, len(gramian), order)
    coefficients, targets = _vaccinate(gramian, state.targets, orders, beta)
    return over_tasks(coefficients, present, reduction), GradVacState(targets, next_key)

  return _base.balancer(_base.Weighting(init, update, 'gramian'), num_tasks)


@_base.exactly
def _vaccinate(
  gramian: jax.Array, targets: jax.Array, orders: jax.Array, beta: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Coefficients `[T, T]`, those of task i's new gradient in row i, and the new targets."""
  squares = jnp.diagonal(gramian)
  norms = jnp.sqrt(squares)

  def one_task(
    task: jax.Array, targets: jax.Array, others: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    def step(
      carry: tuple[jax.Array, jax.Array], other: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
      coefficients, targets = carry
      image = _solvers.dot(gramian, coefficients)
      norm = jnp.sqrt(jnp.maximum(_solvers.dot(coefficients, image), 0.0))
      product = norm * norms[other]
      usable = (product > 0) & (other != task)
      cosine = image[other] / jnp.where(usable, product, 1.0)
      cosine, target = jnp.clip(jnp.stack([cosine, targets[other]]), -_LARGEST, _LARGEST)
      sine, target_sine = jnp.sqrt(1 - cosine**2), jnp.sqrt(1 - target**2)
      part = norm * (target * sine / target_sine - cosine)
      part = part / jnp.where(usable, norms[other], 1.0)
      coefficients = coefficients.at[other].add(jnp.where(usable & (cosine < target), part, 0.0))
      moved = (1 - beta) * targets[other] + beta * cosine
      return (coefficients, targets.at[other].set(jnp.where(usable, moved, targets[other]))), None

    start = jax.nn.one_hot(task, len(norms), dtype=gramian.dtype)
    return jax.lax.scan(step, (start, targets), others)[0]

  return jax.vmap(one_task)(jnp.arange(len(norms), dtype=orders.dtype), targets, orders)
