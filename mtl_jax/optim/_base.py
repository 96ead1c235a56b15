"""What a balancing method is: a weighting, and the optax transformation made from it.

The methods live in this folder's other files, one family a file.
"""

import functools
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from mtl_jax import gradients
from mtl_jax.optim import _arguments
from mtl_jax.protocols import State, Weighting

NEEDS = ('losses', 'gramian', 'jacobian', 'functions')
"""What a method reads, from the cheapest to the dearest."""


class Balancer(optax.GradientTransformationExtraArgs):
  """An optax transformation from stacked task gradients (leaves `[T, ...]`) to one direction.

  Attributes:
    weighting: the method as weights, for the train step's cheapest path; None for a method that
      is not a weighting.
    needs: what it reads.
    init_tasks: `(params, num_tasks) -> state`, for callers that know T, such as the train step.
    weighed: `update` with a third result, the weights `[T]` that the direction was made with, for
      the train step's metrics; None for a weighting, and for a method that has no weights.
    validates: whether a method on functions reads the losses of a validation batch too.
  """

  weighting: Weighting | None
  needs: str
  init_tasks: Callable[[Any, int | None], State]
  weighed: Callable[..., tuple[Any, State, jax.Array]] | None
  validates: bool

  def __new__(
    cls,
    init: optax.TransformInitFn,
    update: optax.TransformUpdateExtraArgsFn,
    weighting: Weighting | None = None,
    needs: str = 'jacobian',
    init_tasks: Callable[[Any, int | None], State] | None = None,
    weighed: Callable[..., tuple[Any, State, jax.Array]] | None = None,
    validates: bool = True,
  ) -> Self:
    def checked(params: optax.Params) -> optax.OptState:
      _arguments.refuse_masked(params)
      return init(params)

    self = super().__new__(cls, checked, update)
    self.weighting = weighting
    self.needs = needs
    self.init_tasks = init_tasks or _init_tasks(checked, weighting)
    self.weighed = weighed
    self.validates = validates
    return self


class Normalizer(optax.GradientTransformationExtraArgs):
  """An optax transformation that scales each task's gradient: stacked -> stacked.

  Attributes:
    weighting: the scales `[T]`, as a weighting.
    needs: what it reads.
    init_tasks: as in `Balancer`.
  """

  weighting: Weighting
  needs: str
  init_tasks: Callable[[Any, int | None], State]

  def __new__(
    cls, init: optax.TransformInitFn, update: optax.TransformUpdateExtraArgsFn, weighting: Weighting
  ) -> Self:
    self = super().__new__(cls, init, update)
    self.weighting = weighting
    self.needs = weighting.needs
    self.init_tasks = _init_tasks(init, weighting)
    return self


def _init_tasks(
  init: optax.TransformInitFn, weighting: Weighting | None
) -> Callable[[Any, int | None], State]:
  if weighting is not None:
    return lambda params, num_tasks: weighting.init(num_tasks)
  return lambda params, num_tasks: init(params)


def balancer(weighting: Weighting, num_tasks: int | None = None) -> Balancer:
  """The direction wᵀJ of a weighting, as an optax transformation."""

  def update(
    updates: Any, state: State, params: Any = None, **extra_args: Any
  ) -> tuple[Any, State]:
    del params
    known = _known(weighting, updates, extra_args)
    weights, new_state = weigh(weighting, state, **known)
    wide = None if weighting.max_norm is None else jnp.float32  # rounded once, after the bound
    direction = gradients.combine(weights, updates, wide)
    direction, _ = bounded(weighting, state, direction, weights, known.get('gramian'))
    return jax.tree.map(lambda d, u: d.astype(u.dtype), direction, updates), new_state

  return Balancer(lambda params: weighting.init(num_tasks), update, weighting, weighting.needs)


def normalizer(weighting: Weighting, num_tasks: int | None = None) -> Normalizer:
  """The rows scaled by a weighting, as an optax transformation."""

  def update(
    updates: Any, state: State, params: Any = None, **extra_args: Any
  ) -> tuple[Any, State]:
    del params
    scales, state = weigh(weighting, state, **_known(weighting, updates, extra_args))
    return scale_rows(scales, updates), state

  return Normalizer(lambda params: weighting.init(num_tasks), update, weighting)


def jacobian_balancer(
  init: Callable[[Any, int | None], State],
  update: Callable[..., Any],
  num_tasks: int | None = None,
  *,
  weighs: bool = False,
) -> Balancer:
  """A method that looks inside J, as an optax transformation.

  Args:
    init: `(params, num_tasks) -> state`; params are without the task axis.
    update: `(stacked, state, *, present [T], losses [T] or None, key or None, **extra_args) ->
      (direction, state)`.
    num_tasks: what `init` gets in an optax chain; the train step tells T itself.
    weighs: `update` has a third result, the weights `[T]` that it used.
  """

  def checked(updates: Any, state: State, params: Any = None, **extra_args: Any) -> Any:
    tasks = _arguments.num_rows(updates, extra_args.get('losses'))
    given = {'losses': None, 'key': None} | extra_args
    if given.get('present') is None:
      given['present'] = jnp.ones(tasks, bool)
    return update(updates, state, params=params, **given)

  def without_weights(
    updates: Any, state: State, params: Any = None, **extra_args: Any
  ) -> tuple[Any, State]:
    return checked(updates, state, params, **extra_args)[:2]

  return Balancer(
    lambda params: init(params, num_tasks),
    without_weights if weighs else checked,
    init_tasks=init,
    weighed=checked if weighs else None,
  )


def weigh(
  weighting: Weighting,
  state: State,
  *,
  present: jax.Array,
  losses: jax.Array | None = None,
  gramian: jax.Array | None = None,
  **extra_args: Any,
) -> tuple[jax.Array, State]:
  """One update of a weighting on the tasks that are present and finite.

  A task whose loss or gradient is NaN or infinite is left out like an absent one: it spoils
  neither the other tasks' weights nor the state. Its own row still shows in the direction, where
  0 · NaN is NaN, and in the train step's metric 'finite'. As squares of norms are float32, a norm
  above 1.8e19 counts as infinite, and a gradient with no coordinate above 1.1e-19 as zero: the
  smallest normal float32 is the square of that, and a CPU has 0 for what is smaller.

  Returns:
    weights `[T]` float32, 0 for tasks left out, and the new state.
  """
  usable = present
  if losses is not None:
    usable = usable & jnp.isfinite(losses)
  if gramian is not None:
    usable = usable & jnp.isfinite(jnp.diagonal(gramian))
    gramian = jnp.where(usable[:, None] & usable[None, :], gramian, 0.0)
  if losses is not None:
    losses = jnp.where(usable, losses.astype(jnp.float32), 0.0)
  weights, state = weighting.update(
    state, present=usable, losses=losses, gramian=gramian, **extra_args
  )
  return jnp.where(usable, weights.astype(jnp.float32), 0.0), state


def bounded(
  weighting: Weighting,
  state: State,
  direction: Any,
  weights: jax.Array,
  gramian: jax.Array | None = None,
) -> tuple[Any, jax.Array]:
  """The combined direction, not longer than the method's `max_norm`, and the weights that make it.

  The norm is that of the direction itself, so it is there on steps without a Gramian too, and the
  bound holds to float32 whatever cancels.

  Args:
    weighting: the method.
    state: the one that the step began with.
    direction: Jᵀw, a pytree.
    weights: w `[T]`.
    gramian: `[T, T]` of the rows, where it is known: it tells the norm without the row of a task
      that is left out because it is not finite, and still shows in the direction.

  Returns:
    the direction and the weights, both times the same factor.
  """
  if weighting.max_norm is None:
    return direction, weights
  longest, length = weighting.max_norm(state), _length(direction)
  if gramian is not None:
    length = jnp.where(jnp.isfinite(length), length, _length_of_rows(gramian, weights))
  factor = jnp.where(length > longest, longest / jnp.where(length > 0, length, 1.0), 1.0)
  scaled = jax.tree.map(lambda d: (d.astype(jnp.float32) * factor).astype(d.dtype), direction)
  return scaled, weights * factor


def _length(direction: Any) -> jax.Array:
  """The norm `[]` of a pytree, also where its square is not a float32."""
  leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(direction)]
  largest = jnp.zeros((), jnp.float32)
  for leaf in leaves:
    largest = jnp.maximum(largest, jnp.max(jnp.abs(leaf), initial=0.0))
  unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
  return unit * gradients.norms([(leaf / unit)[None] for leaf in leaves])[0] if leaves else largest


dot = functools.partial(jax.lax.dot, precision=jax.lax.Precision.HIGHEST)
"""`@` in full precision. Also, `@` asks for a result type, which a `vmap` from outside of a `jit`
around `exactly` would make float32; this does not."""


def exactly(function: Callable) -> Callable:
  """Runs a function of small arrays in float64, inside any float32 `jit` or `vmap`.

  Floating arguments come in as float64 and floating results go out as float32. In between, all
  arrays that the function makes are 64 bits wide.
  """

  @functools.wraps(function)
  def wrapped(*args: Any) -> Any:
    with jax.enable_x64(True):
      return _as_float(function(*_as_float(args, jnp.float64)), jnp.float32)

  return wrapped


@exactly
def _length_of_rows(gramian: jax.Array, weights: jax.Array) -> jax.Array:
  """√(wᵀGw) over the rows that have a weight."""
  square = weights[:, None] * gramian * weights[None, :]
  used = (weights[:, None] != 0) & (weights[None, :] != 0)
  return jnp.sqrt(jnp.maximum(jnp.sum(jnp.where(used, square, 0.0)), 0.0))


def _as_float(tree: Any, dtype: Any) -> Any:
  def cast(x: Any) -> Any:
    floating = jnp.issubdtype(jnp.result_type(x), jnp.floating)
    return jax.lax.convert_element_type(x, dtype) if floating else x

  return jax.tree.map(cast, tree)


def compose(*links: Normalizer | Balancer) -> Balancer:
  """Normalizers, then a balancer, as one balancer that computes one Gramian.

  With rows scaled by s, the Gramian is diag(s) G diag(s): so no link but the last touches J, and
  `compose(gradnorm(num_tasks=3), pcgrad())` gives what `optax.chain` of the two gives, at the cost
  of `pcgrad` alone. As in a chain, every link gets the same `losses`.

  Args:
    *links: zero or more normalizers and, last, one balancer.

  Returns:
    a balancer; its state is the tuple of the links' states.

  Raises:
    ValueError: the links are not of this form.
  """
  if not links or not isinstance(links[-1], Balancer):
    raise ValueError('compose takes normalizers and, last, a balancer such as pcgrad().')
  *scalings, last = links
  if not all(isinstance(link, Normalizer) for link in scalings):
    raise ValueError('compose: every link but the last must be a normalizer such as gradnorm().')
  if not scalings:
    return last
  if last.needs == 'functions':
    raise ValueError('compose: a method on functions reads no gradients that could be scaled.')
  needs = max((link.needs for link in links), key=NEEDS.index)
  if last.weighting is None:
    chain = optax.chain(*links)
    return Balancer(
      chain.init,
      chain.update,
      needs=last.needs,
      init_tasks=lambda params, tasks: tuple(link.init_tasks(params, tasks) for link in links),
    )
  if last.weighting.batches > 1:
    raise ValueError('compose: a method on independent batches takes no normalizer before it.')
  weightings = [link.weighting for link in links if link.weighting is not None]

  def init(num_tasks: int | None) -> tuple[State, ...]:
    return tuple(weighting.init(num_tasks) for weighting in weightings)

  def update(
    state: tuple[State, ...],
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, tuple[State, ...]]:
    total, states = None, []
    stacked = extra_args.pop('stacked', None)
    for weighting, link_state in zip(weightings, state, strict=True):
      if stacked is not None:
        extra_args['stacked'] = stacked if total is None else scale_rows(total, stacked)
      weights, link_state = weighting.update(
        link_state, losses=losses, gramian=gramian, present=present, **extra_args
      )
      states.append(link_state)
      total = weights if total is None else total * weights
      if gramian is not None:
        gramian = weights[:, None] * gramian * weights[None, :]
    assert total is not None
    return total, tuple(states)

  def follow(state: tuple[State, ...], **seen: Any) -> tuple[State, ...]:
    return tuple(
      link_state if weighting.follow is None else weighting.follow(link_state, **seen)
      for weighting, link_state in zip(weightings, state, strict=True)
    )

  def init_chain(params: Any) -> tuple[State, ...]:
    return tuple(link.init(params) for link in links)

  longest = last.weighting.max_norm
  weighting = Weighting(
    init,
    update,
    needs,
    follow if last.weighting.follow else None,
    max_norm=None if longest is None else lambda state: longest(state[-1]),
  )
  return Balancer(init_chain, balancer(weighting).update, weighting, needs)


def scale_rows(scales: jax.Array, stacked: Any) -> Any:
  """Multiplies row i of every leaf `[T, ...]` by scales[i]."""

  def scale(leaf: jax.Array) -> jax.Array:
    column = scales.reshape(scales.shape + (1,) * (leaf.ndim - 1))
    return (leaf.astype(jnp.float32) * column).astype(leaf.dtype)

  return jax.tree.map(scale, stacked)


def weighting_of(tx: Any, wrapper: str) -> Weighting:
  """The weighting of a balancer; ValueError, in the name of a wrapper, where it has none."""
  if not isinstance(tx, Balancer) or tx.weighting is None:
    raise ValueError(f'{wrapper} takes a balancer with weights, such as pcgrad() or mgda().')
  return tx.weighting


def _known(weighting: Weighting, updates: Any, extra_args: dict[str, Any]) -> dict[str, Any]:
  """What `weigh` reads, from stacked gradients."""
  tasks = _arguments.num_rows(updates, extra_args.get('losses'))
  known = {'stacked': updates} | extra_args
  if known.get('present') is None:
    known['present'] = jnp.ones(tasks, bool)
  if weighting.needs != 'losses':
    known['gramian'] = gradients.gramian(updates)
  return known
