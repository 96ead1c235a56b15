"""SoftAdapt: more weight for the losses that fall least, or rise most."""

from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import options
from mtl_jax.optim import _arguments, _base, _periods

SoftAdaptState = _periods.PeriodMeans
"""State of `soft_adapt`."""

_VARIANTS = ('original', 'loss_weighted', 'normalized')
_LARGEST = 1e30  # differences of float32 losses stay finite


def soft_adapt(
  num_tasks: int | None = None,
  beta: options.Finite = 0.1,
  period: int | jax.Array = 1,
  *,
  variant: str = 'original',
) -> _base.Balancer:
  """Adaptive weights from the slopes of the losses: w ∝ e^(β s), Σ w = 1.

  With sᵢ = Lᵢ(t) − Lᵢ(t−1), t the period that ends with this step, else the last one:

  * 'original' (section 3.1.1 of the paper): w = softmax(β s);
  * 'loss_weighted': wᵢ ∝ L̄ᵢ e^(β sᵢ), L̄ᵢ the mean of Lᵢ(t) and Lᵢ(t−1);
  * 'normalized' (section 3.1.3): w = softmax(β s / Σ |s|), whatever the common scale of
    the losses.

  β > 0 favours the losses that do worst, β < 0 those that do best. In the first two, s has the unit
  of the losses, so that β must fit their scale.

  Σ w = 1, a mean over tasks. The published code takes higher finite differences over as many as six
  losses: these magnify the noise of batches, and here `period` averages it instead. It also divides
  by Σ s, not Σ |s|, in 'normalized', which turns the order of the weights round where the losses
  fall; its first release has Σ |s|.

  A task that was absent for a whole period keeps its last two losses; one without two has s = 0,
  and one without any, in 'loss_weighted', the mean of the others' L̄. A mean below 0 counts as 0
  there, and where all products L̄ᵢ e^(β sᵢ) are 0 the weights are equal. A step with this method
  scales each task's whole loss: its own parameters get the weight too.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    beta: β, of any sign.
    period: steps whose mean loss is one L(t), ≥ 1; 1: each batch.
    variant: one of the above.

  Returns:
    a balancer that needs the losses only; under `optax.inject_hyperparams` name
    `static_args=('num_tasks', 'variant')`.

  Raises:
    ValueError: unknown variant, or period < 1; in a chain without num_tasks; at update, without
      losses or with another T.

  References:
    Heydari et al., SoftAdapt: Techniques for Adaptive Loss Weighting of Neural Networks with
    Multi-Part Loss Functions, arXiv:1912.12355 2019.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.soft_adapt(num_tasks=2, beta=1.0)
    >>> _, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([3.0, 1.0]))
    >>> weighted, _ = tx.update(jnp.eye(2), state, losses=jnp.array([1.0, 1.0]))
    >>> [f'{weight:.3f}' for weight in weighted.tolist()]
    ['0.119', '0.881']
  """
  if variant not in _VARIANTS:
    raise ValueError(f'soft_adapt: variant must be one of {_VARIANTS}, not {variant!r}.')
  if isinstance(period, (int, float)) and not period >= 1:
    raise ValueError(f'soft_adapt: period must be at least 1 step, not {period}.')

  def init(tasks: int | None) -> SoftAdaptState:
    return _periods.start(_arguments.known_tasks(tasks, num_tasks, 'soft_adapt'))

  def update(
    state: SoftAdaptState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, SoftAdaptState]:
    del extra_args
    losses = _arguments.require_losses(losses, 'soft_adapt', state.last.shape[0])
    state = _periods.add(state, losses, present, period)
    last = jnp.clip(state.last, -_LARGEST, _LARGEST)
    before = jnp.clip(state.before_last, -_LARGEST, _LARGEST)
    slopes = jnp.where(jnp.isnan(before), 0.0, last - before)
    means = jnp.where(jnp.isnan(before), last, (last + before) / 2)
    return weigh(variant, slopes, means, present, beta), state

  return _base.balancer(_base.Weighting(init, update, 'losses'), num_tasks)


def weigh(
  variant: str,
  slopes: jax.Array,
  means: jax.Array,
  present: jax.Array,
  beta: float | jax.Array,
) -> jax.Array:
  """The weights `[T]` for given slopes and mean losses.

  Args:
    variant: of `soft_adapt`.
    slopes: s `[T]`.
    means: L̄ `[T]`, NaN where unknown; 'loss_weighted' alone reads them.
    present: `[T]` bool.
    beta: β.
  """
  if variant == 'normalized':
    total = jnp.sum(jnp.abs(slopes), where=present)
    slopes = slopes / jnp.where(total > 0, total, 1.0)
  weights = jax.nn.softmax(beta * slopes, where=present)
  if variant != 'loss_weighted':
    return weights
  known = present & ~jnp.isnan(means)
  count = jnp.sum(known, dtype=jnp.float32)
  sizes = jnp.where(known, jnp.maximum(means, 0.0), 0.0)
  sizes = jnp.where(known, sizes, jnp.sum(sizes / jnp.maximum(count, 1.0)))
  largest = jnp.max(jnp.where(present, sizes, 0.0))
  products = weights * (sizes / jnp.where(largest > 0, largest, 1.0))
  total = jnp.sum(products)
  equal = present.astype(jnp.float32) / jnp.maximum(jnp.sum(present, dtype=jnp.float32), 1.0)
  return jnp.where(total > 0, products / jnp.where(total > 0, total, 1.0), equal)
