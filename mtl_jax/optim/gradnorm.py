"""GradNorm: task weights that keep gradient norms in proportion to the training rates."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax import gradients, sharding
from mtl_jax.optim import _arguments, _base

_SMALLEST_WEIGHT = 1e-6


class GradNormState(NamedTuple):
  """State of `gradnorm`: weights `[T]`, first losses `[T]` (NaN until seen), optimizer state."""

  weights: jax.Array
  first_losses: jax.Array
  opt_state: optax.OptState


def gradnorm(
  num_tasks: int | None = None,
  alpha: float | jax.Array = 1.5,
  learning_rate: float | jax.Array = 0.025,
  optimizer: optax.GradientTransformation | None = None,
  parameters: str = '',
) -> _base.Normalizer:
  """Scales the task gradients by weights that are learned to balance their norms.

  With nᵢ = wᵢ‖gᵢ‖, n̄ their mean over tasks, and the relative inverse training rate
  rᵢ = (Lᵢ/Lᵢ(0)) / meanⱼ(Lⱼ/Lⱼ(0)), the weights descend on Σᵢ |nᵢ − stop(n̄ rᵢ^α)| (eq. 2): its
  gradient is sign(nᵢ − n̄ rᵢ^α)‖gᵢ‖ in closed form. Then they are renormalized to Σ w = T. A step
  uses the weights from before its own update (algorithm 1). Norms are over all of θ, or over the
  leaves that `parameters` names (the paper: the last shared layer); Lᵢ(0) is the task's first loss
  above 0. Until it has one, Lᵢ/Lᵢ(0) is 1; a loss below 0 counts as 0, whose rate is the lowest.

  Absent tasks keep their weight in proportion, take no part in n̄ and r, and keep their part of
  the weights' optimizer; so do tasks whose loss or gradient is not finite. Weights
  are kept ≥ 1e-6 before they are renormalized. Task-specific parameters are not scaled.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.
    alpha: strength of the pull towards equal training rates, ≥ 0.
    learning_rate: of the weights' Adam.
    optimizer: of the weights, in place of Adam.
    parameters: regular expression over the paths of θ's leaves, such as 'layer_3/.*', matched from
      the start: norms over these only; '': over all. The train step must hold the stacked
      gradients then, not go matrix-free or to the representation.

  Returns:
    a normalizer (stacked -> stacked) that needs `losses=`; under `optax.inject_hyperparams` name
    `static_args=('num_tasks', 'optimizer')`.

  Raises:
    ValueError: in a chain without num_tasks; at update, without losses or with another T.

  References:
    Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
    Networks, ICML 2018.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.gradnorm(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[4.0, 0.0], [0.0, 1.0]])
    >>> _, state = tx.update(grads, state, losses=jnp.array([1.0, 1.0]))
    >>> [f'{weight:.3f}' for weight in state.weights.tolist()]
    ['0.975', '1.025']
  """
  tx = optax.adam(learning_rate) if optimizer is None else optimizer
  try:
    pattern = re.compile(parameters)
  except re.error as e:
    raise ValueError(f'gradnorm: parameters={parameters!r}: {e}') from None

  def init(tasks: int | None) -> GradNormState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'gradnorm')
    weights = jnp.ones(tasks, jnp.float32)
    return GradNormState(weights, jnp.full(tasks, jnp.nan, jnp.float32), tx.init(weights))

  def update(
    state: GradNormState,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    stacked: Any = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, GradNormState]:
    del extra_args
    weights = state.weights
    losses = _arguments.require_losses(losses, 'gradnorm', weights.shape[0])
    assert gramian is not None
    norms = jnp.sqrt(jnp.diagonal(gramian))
    if parameters:
      norms = jnp.where(present, _norms_of(stacked, pattern), 0.0)
    usable = present & jnp.isfinite(losses) & jnp.isfinite(norms)
    here = usable.astype(jnp.float32)
    losses, norms = jnp.where(usable, losses, 0.0), jnp.where(usable, norms, 0.0)
    count = jnp.maximum(jnp.sum(here), 1.0)
    first = jnp.where(jnp.isnan(state.first_losses) & (losses > 0), losses, state.first_losses)

    scaled = weights * norms
    mean_norm = jnp.sum(here * scaled) / count
    known = usable & (first > 0)
    progress = jnp.where(known, jnp.maximum(losses, 0.0) / jnp.where(known, first, 1.0), here)
    rate = progress / jnp.maximum(jnp.sum(here * progress) / count, jnp.finfo(jnp.float32).tiny)
    target = mean_norm * rate**alpha
    grads = here * jnp.sign(scaled - target) * norms

    steps, opt_state = _arguments.step_present(tx, grads, state.opt_state, weights, usable)
    moved = jnp.where(usable, jnp.maximum(weights + steps, _SMALLEST_WEIGHT), weights)
    moved = moved * (weights.shape[0] / jnp.sum(moved))
    return weights, GradNormState(moved, first, opt_state)

  return _base.normalizer(_base.Weighting(init, update, 'gramian'), num_tasks)


def _norms_of(stacked: Any, pattern: re.Pattern[str]) -> jax.Array:
  """Norms `[T]` over the leaves whose path matches."""
  if stacked is None:
    raise ValueError("gradnorm(parameters=...) needs the stacked gradients: jacobian='stacked'.")
  leaves = jax.tree_util.tree_leaves_with_path(stacked)
  chosen = [leaf for path, leaf in leaves if pattern.match(sharding.path_of(path))]
  if not chosen:
    paths = ', '.join(sharding.path_of(path) for path, _ in leaves)
    raise ValueError(f'gradnorm: no parameter matches {pattern.pattern!r}; there are {paths}.')
  return gradients.norms(chosen)
