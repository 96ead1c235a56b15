"""Loss weights from the traces of neural tangent kernels, and a balancer that holds them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base


class NTKWeightsState(NamedTuple):
  """State of `ntk_weights`: λ `[T]`, 1 until `renew_ntk_weights`."""

  weights: jax.Array


def ntk_trace(
  residuals: Callable[[Any], Any],
  params: Any,
  *,
  probes: int = 0,
  key: jax.Array | None = None,
  batch_size: int | None = None,
) -> jax.Array:
  """The trace of one loss's neural tangent kernel: tr K = Σₙ ‖∂rₙ/∂θ‖², K = (∂r/∂θ)(∂r/∂θ)ᵀ.

  Exact by default: one backward for each of the N residuals, one after the other, so that one
  gradient is held at a time and never the N × D Jacobian. With `probes`, Hutchinson's estimate, the
  mean of ‖(∂r/∂θ)ᵀv‖² over random signs v: as many backwards, no bias, and a variance of
  2 Σₙ≠ₘ K²ₙₘ / probes.

  Args:
    residuals: `params -> r`, a pytree of N numbers in all, such as an equation's residuals at the
      points of a batch; the loss is a sum or mean of their squares.
    params: θ.
    probes: how many random vectors; 0: exact.
    key: of the random vectors; needed with `probes`.
    batch_size: backwards at once: faster, for as many gradients in memory. None: one.

  Returns:
    the trace, `[]` float32 or wider.

  Raises:
    ValueError: probes < 0, or probes without a key.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> points = jnp.array([1.0, 2.0])
    >>> mtl_jax.optim.ntk_trace(lambda theta: jnp.sin(theta * points), jnp.zeros(())).tolist()
    5.0
  """
  if probes < 0:
    raise ValueError(f'ntk_trace: probes must be 0 or more, not {probes}.')
  outputs, pull = jax.vjp(residuals, params)
  flat, unravel = jax.flatten_util.ravel_pytree(outputs)

  def square(cotangent: jax.Array) -> jax.Array:
    (gradient,) = pull(unravel(cotangent))
    return gradients.norms(jax.tree.map(lambda leaf: leaf[None], gradient))[0] ** 2

  if probes == 0:
    units = jnp.arange(flat.size)
    squares = jax.lax.map(
      lambda n: square((units == n).astype(flat.dtype)), units, batch_size=batch_size
    )
    return jnp.sum(squares)

  if key is None:
    raise ValueError('ntk_trace: probes are drawn from a key: ntk_trace(..., key=key).')

  def probe(key: jax.Array) -> jax.Array:
    return square(jax.random.rademacher(key, flat.shape, flat.dtype))

  return jnp.mean(jax.lax.map(probe, jax.random.split(key, probes), batch_size=batch_size))


def ntk_weights(num_tasks: int | None = None) -> _base.Balancer:
  """Weights that `renew_ntk_weights` sets every so many steps, held in between; 1 at first.

  λᵢ = Σⱼ tr Kⱼ / tr Kᵢ (algorithm 1 of the paper), Kᵢ the neural tangent kernel of the residuals of
  loss i: its eigenvalues are the rates at which the loss falls, and so all losses fall at like
  rates. A trace needs the residuals example by example, which no train step sees; so the weights
  come from outside:

      traces = jnp.stack([ntk_trace(r, params) for r in residuals])
      state = state.replace(balance_state=renew_ntk_weights(state.balance_state, traces))

  The method is for loops of your own and has no place in a config. `ntkmtl` is the like of it that
  needs no more than the tasks' gradients.

  A step with this method scales each task's whole loss: its own parameters get the weight too.

  Args:
    num_tasks: T. Needed in an optax chain; the train step fills it in.

  Returns:
    a balancer that needs the losses only, and does not look at their values.

  Raises:
    ValueError: in a chain without num_tasks; at update, with another T.

  References:
    Wang, Yu & Perdikaris, When and Why PINNs Fail to Train: A Neural Tangent Kernel Perspective,
    Journal of Computational Physics 2022.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.ntk_weights(num_tasks=2)
    >>> state = mtl_jax.optim.renew_ntk_weights(tx.init(jnp.zeros(2)), jnp.array([1.0, 3.0]))
    >>> tx.update(3 * jnp.eye(2), state)[0].tolist()
    [12.0, 4.0]
  """

  def init(tasks: int | None) -> NTKWeightsState:
    tasks = _arguments.known_tasks(tasks, num_tasks, 'ntk_weights')
    return NTKWeightsState(jnp.ones(tasks, jnp.float32))

  def update(
    state: NTKWeightsState, *, present: jax.Array, **extra_args: Any
  ) -> tuple[jax.Array, NTKWeightsState]:
    del extra_args
    if state.weights.shape != present.shape:
      raise ValueError(
        f'ntk_weights of {state.weights.shape[0]} tasks was given {present.shape[0]} tasks.'
      )
    return state.weights, state

  return _base.balancer(_base.Weighting(init, update, 'losses'), num_tasks)


def renew_ntk_weights(
  state: NTKWeightsState, traces: jax.Array, decay: float | jax.Array = 0.0
) -> NTKWeightsState:
  """The state of `ntk_weights` with λ ← decay λ + (1 − decay) Σⱼ tr Kⱼ / tr Kᵢ.

  Where losses are means over unlike numbers of residuals, give tr Kᵢ over that number, as jaxpi
  does (with decay 0.9, every 1000 steps). A task keeps its λ, and has no part in the sum, where its
  trace is not a finite number above 0.

  Args:
    state: of `ntk_weights`.
    traces: tr K `[T]`, from `ntk_trace`.
    decay: share of the past, in [0, 1); 0 as in the paper.

  Returns:
    the state.

  Raises:
    ValueError: another number of traces than of tasks; a decay out of range.
  """
  if traces.shape != state.weights.shape:
    raise ValueError(
      f'renew_ntk_weights: traces have shape {traces.shape}, and there are '
      f'{state.weights.shape[0]} tasks.'
    )
  if isinstance(decay, (int, float)) and not 0 <= decay < 1:
    raise ValueError(f'renew_ntk_weights: decay must be in [0, 1), not {decay}.')
  traces = traces.astype(jnp.float32)
  usable = jnp.isfinite(traces) & (traces > 0)
  total = jnp.sum(traces, where=usable)
  wanted = total / jnp.where(usable, traces, 1.0)
  usable = usable & jnp.isfinite(wanted)
  moved = decay * state.weights + (1 - decay) * jnp.where(usable, wanted, 0.0)
  return NTKWeightsState(jnp.where(usable, moved, state.weights))
