"""What is measured of the tasks' gradients, inside a training step."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import gradients, protocols


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('loss', 'norm', 'cosine', 'conflict', 'improved', 'rank'),
  meta_fields=('names',),
)
@dataclasses.dataclass(frozen=True)
class Measures:
  """What was seen of T tasks at one step, NaN where that was not measured; or, stacked, at several.

  Attributes:
    loss: `[T]`.
    norm: of the tasks' gradients, `[T]`.
    cosine: between them, `[T, T]`.
    conflict: share of pairs of tasks with a negative cosine, `[]`.
    improved: share of tasks whose loss a small step along the direction lowers, `[]`.
    rank: effective rank of the Jacobian, between 1 and T, `[]`: exp(−Σ pᵢ log pᵢ) with pᵢ = σᵢ/Σσ
      of its singular values σ (Roy & Vetterli, The effective rank, EUSIPCO 2007).
    names: of the tasks; () where they have none.
  """

  loss: jax.Array
  norm: jax.Array
  cosine: jax.Array
  conflict: jax.Array
  improved: jax.Array
  rank: jax.Array
  names: tuple[str, ...] = ()


def of_gradients(
  stacked: Any,
  losses: jax.Array | None = None,
  *,
  direction: Any = None,
  present: jax.Array | None = None,
  names: Sequence[str] = (),
) -> Measures:
  """Measures of gradients that are there already.

  Args:
    stacked: as from `task_gradients`, leaves `[T, ...]`; of `{'shared', 'tasks'}` the shared ones.
    losses: `[T]`, to be kept beside them.
    direction: what the parameters move against, a pytree like one gradient; by default the sum of
      the gradients, which is plain training.
    present: `[T]` bool, the tasks of this step; by default all.
    names: of the tasks.
  """
  rows = stacked['shared'] if gradients.is_split(stacked) else stacked
  gram = gradients.gramian(rows)
  tasks = gram.shape[0]
  here = jnp.ones(tasks, bool) if present is None else present
  if direction is None:
    along = jnp.sum(jnp.where(here[None], gram, 0.0), axis=1)
  else:
    toward = direction['shared'] if gradients.is_split(direction) else direction
    one = jax.tree.map(lambda leaf: leaf[None], toward)
    along = gradients.gramian(rows, one)[:, 0]
  both = here[:, None] & here[None]
  pairs = both & ~jnp.eye(tasks, dtype=bool)
  norm = jnp.where(here, jnp.sqrt(jnp.diagonal(gram)), jnp.nan)
  return Measures(
    jnp.full(tasks, jnp.nan) if losses is None else jnp.where(here, losses, jnp.nan),
    norm,
    jnp.where(both, gradients.cosines(gram), jnp.nan),
    _share(gram < 0, pairs),
    _share(along > 0, here),
    _effective_rank(jnp.where(both, gram, 0.0)),
    tuple(names),
  )


def watch(loss_fns: Any, every: int = 100, *, has_aux: bool = False) -> Callable[..., Measures]:
  """A function that measures every so many steps, and in between does nothing.

  It goes inside a compiled step, also in `scan`, and on a mesh. Under `vmap` over `step` the choice
  is lost, and every step measures.

  Args:
    loss_fns: as for `task_gradients`: a function to an array or a dict of losses, separate
      functions, or a model.
    every: how many steps lie between two measurements.
    has_aux: the functions return `(losses, aux)`.

  Returns:
    `seen(step, params, *args, direction=None, **kwargs) -> Measures`: `step` is an integer `[]`,
    `args` and `kwargs` are what the functions take after the parameters, and `direction` is what
    the step moves against, by default the sum of the gradients.

  Raises:
    ValueError: `every` is less than 1; what `task_gradients` raises.

  Example:
    >>> import jax, jax.numpy as jnp, mtl_jax
    >>> seen = mtl_jax.monitor.watch(
    ...   lambda w, x: {'up': jnp.sum((w - x) ** 2), 'down': jnp.sum((w + x) ** 2)}, every=10)
    >>> measures = jax.jit(seen)(0, jnp.zeros(2), jnp.ones(2))
    >>> measures.names, round(float(measures.cosine[0, 1]), 3), float(measures.conflict)
    (('up', 'down'), -1.0, 1.0)
    >>> float(jax.jit(seen)(1, jnp.zeros(2), jnp.ones(2)).conflict)
    nan
  """
  if every < 1:
    raise ValueError(f'every={every}: need 1 or more.')

  def seen(
    step: jax.Array | int, params: Any, *args: Any, direction: Any = None, **kwargs: Any
  ) -> Measures:
    def measure() -> Measures:
      jacobian = gradients.linearize_any(loss_fns, params, args, kwargs, has_aux)
      return of_gradients(
        jacobian.rows(None),
        jacobian.losses,
        direction=direction,
        present=jacobian.present,
        names=jacobian.extra.names or protocols.task_names_of(loss_fns),
      )

    like = jax.eval_shape(measure)
    nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), like)
    return jax.lax.cond(jnp.asarray(step) % every == 0, measure, lambda: nothing)

  return seen


def _share(of: jax.Array, among: jax.Array) -> jax.Array:
  """The share of True, NaN among none."""
  count = jnp.sum(among)
  share = jnp.sum(of & among) / jnp.maximum(count, 1)
  return jnp.where(count > 0, share, jnp.nan).astype(jnp.float32)


def _effective_rank(gram: jax.Array) -> jax.Array:
  singular = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram), 0.0))
  total = jnp.sum(singular)
  shares = singular / jnp.where(total > 0, total, 1.0)
  entropy = -jnp.sum(
    jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), 0.0)
  )
  return jnp.where(total > 0, jnp.exp(entropy), jnp.nan)
