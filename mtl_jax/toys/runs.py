"""A toy problem, and the run of a balancing method on it from many starts at once."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_jax import gradients, optim

_Carry = tuple[Any, Any, Any]  # parameters, the method's state, the optimizer's


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """A toy problem and how its paper runs it.

  Attributes:
    name: its key in `PROBLEMS`.
    citation: authors, title, venue and year.
    losses: `(params, batch) -> losses [T]`.
    lower: `[T]` lower bounds of the losses. Methods see losses minus these, which are positive, as
      many of them need; no gradient changes by it.
    starts: parameters to start from, leaves `[S, ...]`.
    optimizer: what follows the balancing method.
    steps: how many.
    draw: `key -> batch`, for problems with data; the others' batch is None.
    test: the batch on which losses are recorded.
    pareto_set: `[N, D]` points of the Pareto set in order, for plots; None where unknown.
    box: `((low, high), (low, high))`, what a plot shows of the parameters; None: it shows losses.
    settings: method -> options, as published for this problem where they are not the defaults.
  """

  name: str
  citation: str
  losses: Callable[[Any, Any], jax.Array]
  lower: tuple[float, ...]
  starts: Any
  optimizer: optax.GradientTransformation
  steps: int
  draw: Callable[[jax.Array], Any] = lambda key: None
  test: Any = None
  pareto_set: np.ndarray | None = None
  box: tuple[tuple[float, float], tuple[float, float]] | None = None
  settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

  def method(self, name: str, **options: Any) -> optim.Balancer:
    """The method called `name`, with the options given, else its `settings`, else its defaults.

    The sum over tasks follows a normalizer.
    """
    method = optim.get(name, **{**self.settings.get(name, {}), **options})
    if isinstance(method, optim.Normalizer):
      return optim.compose(method, optim.sum_tasks())
    return method


class Trajectory(NamedTuple):
  """What `run` saw: K + 1 records of each of S runs, the first of them at the start.

  Attributes:
    steps: `[K + 1]`, the steps recorded.
    losses: `[S, K + 1, T]`, as the problem defines them.
    points: `[S, K + 1, D]` where the parameters are one vector; None for a network's.
    state: the balancing method's state at the end, leaves `[S, ...]`.
  """

  steps: np.ndarray
  losses: jax.Array
  points: jax.Array | None
  state: Any


def run(
  problem: Problem,
  balance: optim.Balancer,
  *,
  steps: int | None = None,
  records: int = 200,
  starts: Any = None,
  seed: int = 0,
) -> Trajectory:
  """Runs a method from all starts at once, in one compiled program.

  Args:
    problem: what to minimize.
    balance: how: `problem.method(name)`, or any balancer.
    steps: number of steps; None: the problem's.
    records: K, how many points of the way are kept, spread evenly; at most one a step.
    starts: parameters, leaves `[S, ...]`; None: the problem's.
    seed: of the batches and of methods that draw numbers; each start has its own.

  Example:
    >>> from mtl_jax import toys
    >>> problem = toys.get('jd_ewq')
    >>> way = toys.run(problem, problem.method('pcgrad'), steps=200)
    >>> bool(abs(way.points[:, -1]).max() < 1e-3)
    True
  """
  steps = problem.steps if steps is None else steps
  bounds = np.linspace(0, steps, min(records, steps) + 1).round().astype(np.int32)
  starts = jax.tree.map(jnp.asarray, problem.starts if starts is None else starts)
  lower = np.asarray(problem.lower, np.float32)

  def step(key: jax.Array, i: jax.Array, carry: _Carry) -> _Carry:
    params, state, opt_state = carry
    keys = jax.random.split(jax.random.fold_in(key, i), 3)
    batch, held_out = problem.draw(keys[0]), problem.draw(keys[1])
    losses, stacked = gradients.task_gradients(problem.losses, params, batch)
    direction, state = balance.update(
      stacked,
      state,
      params,
      losses=losses - lower,
      key=keys[2],
      loss_fn=lambda params: problem.losses(params, batch) - lower,
      validation_fn=lambda params: problem.losses(params, held_out) - lower,
    )
    with jax.numpy_dtype_promotion('standard'):  # optax counts on it; callers may be strict
      updates, opt_state = problem.optimizer.update(direction, opt_state, params)
      params = optax.apply_updates(params, updates)
    return params, state, opt_state

  def record(params: Any) -> tuple[jax.Array, jax.Array | None]:
    points = params if isinstance(params, jax.Array) else None
    return problem.losses(params, problem.test), points

  def one(params: Any, key: jax.Array) -> tuple[Any, ...]:
    def part(carry: _Carry, ends: tuple[Any, Any]) -> tuple[_Carry, Any]:
      carry = jax.lax.fori_loop(ends[0], ends[1], functools.partial(step, key), carry)
      return carry, record(carry[0])

    state = balance.init_tasks(params, len(problem.lower))
    carry = params, state, problem.optimizer.init(params)
    (_, state, _), rest = jax.lax.scan(part, carry, (bounds[:-1], bounds[1:]))
    way = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), record(params), rest)
    return *way, state

  keys = jax.random.split(jax.random.key(seed), jax.tree.leaves(starts)[0].shape[0])
  return Trajectory(bounds, *jax.jit(jax.vmap(one))(starts, keys))
