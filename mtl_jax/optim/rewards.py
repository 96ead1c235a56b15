"""Advantages of a policy with several rewards: what balances tasks that have rewards, not losses.

Pure functions of the rewards of a batch; the policy gradient that they weigh is the caller's.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def sum_then_normalize(
  rewards: jax.Array,
  weights: Sequence[float] | jax.Array | None = None,
  mask: jax.Array | None = None,
  *,
  axis: int = -1,
  scale: bool = True,
  eps: float | jax.Array = 1e-4,
) -> jax.Array:
  """GRPO's advantages of the sum of the rewards: r = Σᵢ wᵢrᵢ, A = (r − mean r)/(std r + ε).

  Mean and standard deviation are over the group, the rollouts of one prompt. Rollouts with the same
  sum have the same advantage, whichever rewards it is made of, and the reward that varies most has
  most of the say.

  The deviation is that of a sample (n − 1), as in the usual implementations. A group of one, or of
  equal sums, has advantages 0. A reward that is masked adds nothing to its rollout's sum; a rollout
  without any reward has no part in its group and the advantage 0. No gradient flows through.

  Args:
    rewards: `[T, ...]`, T rewards of each rollout, such as `[T, prompts, rollouts]`.
    weights: w `[T]`; None: 1 each.
    mask: bool, of a shape that broadcasts to that of the rewards: which of them there are. What is
      masked may be NaN. None: all.
    axis: of the rollouts of one group, in `rewards`; not 0.
    scale: whether to divide by the deviation. False: A = r − mean r.
    eps: ε > 0, in units of the rewards.

  Returns:
    advantages `[...]` float32: the shape of the rewards without T.

  Raises:
    ValueError: rewards without a group axis, or an axis that is none; another number of weights
      than T; a mask of another shape.

  References:
    Shao et al., DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models,
    arXiv:2402.03300 2024: group-relative advantages.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> correct, short = jnp.array([0.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 1.0])
    >>> advantages = mtl_jax.optim.sum_then_normalize(jnp.stack([correct, short]))
    >>> [f'{a:.2f}' for a in advantages.tolist()]
    ['-1.00', '0.00', '1.00']
  """
  rewards, weights, mask, axis = _checked(rewards, weights, mask, axis)
  total = jnp.sum(_column(weights, rewards) * rewards, axis=0)
  return _relative(total, jnp.any(mask, axis=0), axis - 1, scale, eps)


def normalize_then_sum(
  rewards: jax.Array,
  weights: Sequence[float] | jax.Array | None = None,
  mask: jax.Array | None = None,
  *,
  axis: int = -1,
  scale: bool = True,
  whiten: bool = True,
  eps: float | jax.Array = 1e-4,
) -> jax.Array:
  """GDPO's advantages: each reward normalized by itself in its group, then summed.

  * Aᵢ = (rᵢ − mean rᵢ)/(std rᵢ + ε), over the group, for each reward;
  * A = Σᵢ wᵢAᵢ;
  * with `whiten`, (A − mean A)/(std A + ε) over the whole batch, so that the number of rewards does
    not set the size.

  So each reward has the say that its weight gives it, and rollouts that reach the same sum by other
  rewards are told apart, which `sum_then_normalize` does not. Deviations are those of a sample
  (n − 1), and ε = 1e-4, as in the published code.

  A reward that is masked has no part in its group, and adds nothing to its rollout; a rollout
  without any reward has the advantage 0, and no part in the whitening. A reward that is the same in
  the whole group says nothing. No gradient flows through.

  Args:
    rewards: `[T, ...]`, T rewards of each rollout, such as `[T, prompts, rollouts]`.
    weights: w `[T]`; None: 1 each.
    mask: bool, of a shape that broadcasts to that of the rewards: which of them there are. What is
      masked may be NaN. None: all.
    axis: of the rollouts of one group, in `rewards`; not 0.
    scale: whether to divide by the deviations of the groups.
    whiten: whether to normalize once more over the batch.
    eps: ε > 0, in units of the rewards.

  Returns:
    advantages `[...]` float32: the shape of the rewards without T.

  Raises:
    ValueError: as `sum_then_normalize`.

  References:
    Liu et al., GDPO: Group Reward-Decoupled Normalization Policy Optimization for Multi-Reward RL
    Optimization, arXiv:2601.05242 2026.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> correct, short = jnp.array([0.0, 0.0, 1.0]), jnp.array([0.0, 9.0, 9.0])
    >>> advantages = mtl_jax.optim.normalize_then_sum(jnp.stack([correct, short]))
    >>> [f'{a:.2f}' for a in advantages.tolist()]
    ['-1.00', '0.00', '1.00']
  """
  rewards, weights, mask, axis = _checked(rewards, weights, mask, axis)
  each = _relative(rewards, mask, axis, scale, eps)
  total = jnp.sum(_column(weights, rewards) * each, axis=0)
  if not whiten:
    return total
  return _relative(total, jnp.any(mask, axis=0), None, True, eps)


def _checked(
  rewards: jax.Array,
  weights: Sequence[float] | jax.Array | None,
  mask: jax.Array | None,
  axis: int,
) -> tuple[jax.Array, jax.Array, jax.Array, int]:
  """Rewards in float32, 0 where masked; weights `[T]`; the whole mask; the axis from the front."""
  rewards = jax.lax.stop_gradient(jnp.asarray(rewards)).astype(jnp.float32)
  place = axis + rewards.ndim if axis < 0 else axis
  if not 0 < place < rewards.ndim:
    raise ValueError(
      f'Rewards [T, ...] need an axis of the rollouts of a group behind the first, and axis={axis} '
      f'is none of shape {rewards.shape}.'
    )
  given = jnp.ones(len(rewards)) if weights is None else jnp.asarray(weights)
  if given.shape != rewards.shape[:1]:
    raise ValueError(f'weights have shape {given.shape}, and there are {len(rewards)} rewards.')
  here = jnp.asarray(True) if mask is None else jnp.asarray(mask, bool)
  try:
    here = jnp.broadcast_to(here, rewards.shape)
  except ValueError:
    raise ValueError(
      f'A mask of shape {here.shape} does not broadcast to rewards of shape {rewards.shape}.'
    ) from None
  return jnp.where(here, rewards, 0.0), given.astype(jnp.float32), here, place


def _column(values: jax.Array, rewards: jax.Array) -> jax.Array:
  return values.reshape(-1, *[1] * (rewards.ndim - 1))


def _relative(
  values: jax.Array, here: jax.Array, axis: int | None, scale: bool, eps: float | jax.Array
) -> jax.Array:
  """(x − mean)/(std + ε) of what is there along the axis, None: of all; 0 elsewhere."""
  count = jnp.sum(here, axis=axis, keepdims=True, dtype=jnp.float32)
  mean = jnp.sum(values, axis=axis, keepdims=True, where=here) / jnp.maximum(count, 1.0)
  centered = jnp.where(here, values - mean, 0.0)
  if not scale:
    return centered
  square = jnp.sum(centered**2, axis=axis, keepdims=True) / jnp.maximum(count - 1.0, 1.0)
  return centered / (jnp.sqrt(square) + eps)
