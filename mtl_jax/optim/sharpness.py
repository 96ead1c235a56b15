"""Sharpness-aware steps around a method: gradients from a little uphill, towards flat minima."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import gradients
from mtl_jax.optim import _arguments, _base, _bilevel

KINDS = ('f_mtl', 'samo', 'sam')


class SharpnessState(NamedTuple):
  """State of `sharpness_aware`.

  Attributes:
    inner: the method's, on the gradients.
    flat: with 'f_mtl', the method's on what the perturbation changes; else ().
    key: of the next directions of 'samo'.
  """

  inner: Any
  flat: Any
  key: jax.Array


def sharpness_aware(
  tx: _base.Balancer,
  rho: float | jax.Array,
  kind: str = 'f_mtl',
  *,
  local: float | jax.Array = 0.5,
  seed: int = 0,
) -> _base.Balancer:
  """Balances the gradients of each loss at θ + εᵢ, a step of length ρ uphill.

  * 'f_mtl': εᵢ = ρ gᵢ/‖gᵢ‖, uphill for each task by itself. Its gradient there is gᵢ and what the
    step added, which leads to flat regions; the method balances the two apart and the directions
    are added: d = A(g) + A(g(θ + ε) − g).
  * 'samo': εᵢ = ρ mᵢ/‖mᵢ‖ with mᵢ = (1 − β) g₀ + β ‖g₀‖ zᵢ, g₀ the gradient of the mean loss and
    zᵢ a random unit direction turned uphill for task i, length and unit leaf by leaf;
    d = A(g(θ + ε)). Only g₀ takes a backward of its own. The published code tells uphill from
    downhill by two forwards; here a derivative along zᵢ does, which a model with a
    `jax.custom_vjp` does not have.
  * 'sam': ε = ρ g₀/‖g₀‖ for all tasks; d = A(g(θ + ε)).

  A is the method. A task's own parameters are perturbed by themselves, by ρ along their gradient,
  and get the plain gradient at θ + εᵢ. The losses that A reads are those at θ.

  A step takes one forward and backward more for each task, and T + 1 gradients at once, with
  'f_mtl' 2T, over all parameters; 'sam' on shared inputs one more forward for all. An absent task,
  and one whose gradient is zero, is not perturbed.

  Args:
    tx: a balancer that reads losses, a Gramian, or the gradients.
    rho: ρ > 0, in units of the parameters.
    kind: one of these.
    local: β in [0, 1], of 'samo': the share of the task's own direction (1 − α in the paper).
    seed: of 'samo', in a chain; the train step draws from its own key.

  Returns:
    a balancer that needs the losses as a function: `tx.update(updates, state, params, loss_fn=)`,
    from params to losses `[T]`; `updates` may be None. The direction is a pytree like params; where
    these are `{'shared', 'tasks'}`, `tx` sees 'shared' alone. It reads no validation batch.

  Raises:
    ValueError: `tx` needs functions or several batches; an option out of range; at update, without
      params or the function.

  References:
    Phan et al., Beyond Losses Reweighting: Empowering Multi-Task Learning via the Generalization
    Perspective, ICCV 2025 (arXiv:2211.13723, as Improving Multi-task Learning via Seeking
    Task-based Flat Regions): 'f_mtl'.
    Ban et al., SAMO: A Lightweight Sharpness-Aware Approach for Multi-Task Optimization with Joint
    Global-Local Perturbation, ICCV 2025: 'samo'.
    Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021:
    'sam'.

  Example:
    >>> import jax.numpy as jnp, mtl_jax
    >>> tx = mtl_jax.optim.sharpness_aware(mtl_jax.optim.sum_tasks(), 0.5, 'sam')
    >>> losses = lambda theta: jnp.stack([theta**2, 3 * theta**2])
    >>> tx.update(None, tx.init(1.0), 1.0, loss_fn=losses)[0].tolist()
    12.0
  """
  if not isinstance(tx, _base.Balancer) or tx.needs == 'functions':
    raise ValueError('sharpness_aware takes a balancer of gradients, such as pcgrad().')
  if tx.weighting is not None and tx.weighting.batches > 1:
    raise ValueError('sharpness_aware: a method on independent batches has no common gradients.')
  if isinstance(rho, (int, float)) and not rho > 0:
    raise ValueError(f'sharpness_aware: rho must be positive, not {rho}.')
  if kind not in KINDS:
    raise ValueError(f'sharpness_aware: kind must be one of {KINDS}, not {kind!r}.')
  if isinstance(local, (int, float)) and not 0 <= local <= 1:
    raise ValueError(f'sharpness_aware: local must be between 0 and 1, not {local}.')

  def started(make: Callable[[], Any]) -> SharpnessState:
    return SharpnessState(make(), make() if kind == 'f_mtl' else (), jax.random.key(seed))

  def update(
    updates: Any,
    state: SharpnessState,
    params: Any = None,
    *,
    loss_fn: _bilevel.Losses | None = None,
    losses: jax.Array | None = None,
    present: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[Any, SharpnessState]:
    del extra_args
    if updates is not None:
      _arguments.num_rows(updates, losses)
    if params is None or loss_fn is None:
      raise ValueError(
        'sharpness_aware needs loss_fn= and params: call tx.update(updates, state, params, '
        'loss_fn=...), a function from parameters to losses [T].'
      )
    found, pull = jax.vjp(loss_fn, params)
    tasks = found.shape[0]
    present = jnp.ones(tasks, bool) if present is None else present
    draw, next_key = jax.random.split(state.key) if key is None else (key, state.key)
    here = present.astype(found.dtype)
    (mean,) = pull(here / jnp.maximum(jnp.sum(here), 1))
    known = {'losses': found.astype(jnp.float32), 'present': present, 'key': key}
    flat = state.flat

    def of_one(item: tuple[jax.Array, Any]) -> Any:
      """The gradient of one task uphill of where it is."""
      index, towards = item

      def task_loss(p: Any) -> jax.Array:
        return loss_fn(p)[index]

      if towards is None:
        towards = _mixed(task_loss, params, mean, local, draw, index)
      return jax.grad(task_loss)(_moved(params, _uphill(towards, rho)))

    if kind == 'sam':
      _, pull_there = jax.vjp(loss_fn, _moved(params, _uphill(mean, rho)))
      there = _rows(pull_there, found)
    else:
      plain = _rows(pull, found) if kind == 'f_mtl' else None
      there = jax.lax.map(of_one, (jnp.arange(tasks), plain))
    rows = _shared(there)
    if kind == 'f_mtl':
      first = _shared(plain)
      added = jax.tree.map(jnp.subtract, rows, first)
      other = known | {'key': None if key is None else jax.random.fold_in(key, tasks)}
      direction, inner = tx.update(first, state.inner, _shared(params), **known)
      more, flat = tx.update(added, state.flat, _shared(params), **other)
      direction = jax.tree.map(jnp.add, direction, more)
    else:
      direction, inner = tx.update(rows, state.inner, _shared(params), **known)
    if gradients.is_split(params):
      own = jax.tree.map(lambda rows: jnp.sum(rows, axis=0), there['tasks'])
      direction = {'shared': direction, 'tasks': own}
    return direction, SharpnessState(inner, flat, next_key)

  return _base.Balancer(
    lambda params: started(lambda: tx.init(_shared(params))),
    update,
    needs='functions',
    validates=False,
    init_tasks=lambda params, tasks: started(lambda: tx.init_tasks(_shared(params), tasks)),
  )


def _shared(tree: Any) -> Any:
  return tree['shared'] if gradients.is_split(tree) else tree


def _rows(pull: Callable[[jax.Array], Any], losses: jax.Array) -> Any:
  """The gradient of each loss, one backward after the other: leaves `[T, ...]`."""
  return jax.lax.map(lambda unit: pull(unit)[0], jnp.eye(len(losses), dtype=losses.dtype))


def _moved(params: Any, step: Any) -> Any:
  return jax.tree.map(lambda p, s: p + s.astype(jnp.result_type(p)), params, step)


def _uphill(gradient: Any, rho: float | jax.Array) -> Any:
  """The gradient brought to length ρ: on the shared half, and on each task's own by itself."""
  if not gradients.is_split(gradient):
    return _of_length(gradient, rho)
  own = {name: _of_length(part, rho) for name, part in gradient['tasks'].items()}
  return {'shared': _of_length(gradient['shared'], rho), 'tasks': own}


def _of_length(tree: Any, rho: float | jax.Array) -> Any:
  """0 where there is nothing, or nothing finite, to bring to a length."""
  if not jax.tree.leaves(tree):
    return tree
  norm = gradients.norms(jax.tree.map(lambda leaf: leaf[None], tree))[0]
  usable = (norm > 0) & jnp.isfinite(norm)
  factor = rho / jnp.where(usable, norm, 1.0)
  return jax.tree.map(lambda leaf: jnp.where(usable, leaf.astype(jnp.float32) * factor, 0.0), tree)


def _mixed(
  task_loss: Callable[[Any], jax.Array],
  params: Any,
  mean: Any,
  local: float | jax.Array,
  key: jax.Array,
  index: jax.Array,
) -> Any:
  """The mean's gradient, and on the shared half the task's own random direction mixed in."""
  leaves, structure = jax.tree.flatten(_shared(mean))
  keys = jax.random.split(jax.random.fold_in(key, index), max(len(leaves), 1))
  noise = [
    jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=False)
  ]
  along = jax.tree.unflatten(structure, noise)
  if gradients.is_split(mean):
    along = {'shared': along, 'tasks': jax.tree.map(jnp.zeros_like, mean['tasks'])}
  _, slope = jax.jvp(task_loss, (params,), (along,))
  up = jnp.sign(slope).astype(jnp.float32)

  def mix(leaf: jax.Array, z: jax.Array) -> jax.Array:
    leaf, z = leaf.astype(jnp.float32), z.astype(jnp.float32)
    unit = z / jnp.maximum(jnp.linalg.norm(z.ravel()), jnp.finfo(jnp.float32).tiny)
    return (1 - local) * leaf + local * jnp.linalg.norm(leaf.ravel()) * up * unit

  shared = jax.tree.unflatten(structure, list(map(mix, leaves, noise)))
  return {'shared': shared, 'tasks': mean['tasks']} if gradients.is_split(mean) else shared
