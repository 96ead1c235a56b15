"""The train step and the evaluation step: pure functions of a state and a batch.

Balancing methods are chosen by what they need (`Balancer.needs`), never by name.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mtl_jax import gradients, halves, sharding

Metrics = dict[str, jax.Array]
_BALANCE = 2**32 - 1  # apart from what `halves` folds in: twice a task's index, and one more


@flax.struct.dataclass
class TrainState:
  """All that training changes: a plain pytree.

  Attributes:
    step: int32 `[]`, the number of steps taken.
    params: `{'shared': θ, 'tasks': {name: φ}}`, or any pytree that is all shared.
    opt_state: the optimizer's.
    balance_state: the balancing method's.
    key: PRNG key `[]`; it never changes: a step's randomness is `fold_in(key, step)`.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  balance_state: Any
  key: jax.Array


def init_train_state(
  model: Any,
  balance: optax.GradientTransformation,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  batch: Any = None,
  *,
  params: Any = None,
  mesh: Mesh | None = None,
  rules: sharding.Rules = sharding.DEFAULT_RULES,
) -> TrainState:
  """A fresh state; on a mesh its arrays are born sharded.

  Args:
    model: `MultiTaskModel`, another `halves.TwoHalves`, or loss functions (see `task_gradients`).
    balance: a balancing method, such as `mtl_jax.optim.pcgrad()`.
    optimizer: any optax transformation.
    key: PRNG key of the initial parameters and of training.
    batch: one batch with every task, for `model.init`.
    params: initial parameters in place of `model.init(key, batch)`.
    mesh: from `sharding.make_mesh`.
    rules: which parameters are split how (see `sharding.partition`).

  Returns:
    the state of step 0.

  Raises:
    ValueError: neither parameters nor a model with `init` and a batch.
  """
  if params is None and (batch is None or not hasattr(model, 'init')):
    raise ValueError('init_train_state needs params=, or a model with init and a batch.')
  init_key, train_key = jax.random.split(key)

  def init(init_key, train_key, batch, params):
    if params is None:
      params = model.init(init_key, batch)
    # Weak types would compile the second step anew.
    params = jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), params)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=optimizer.init(params),
      balance_state=_init_balance(balance, model, params),
      key=train_key,
    )

  args = (init_key, train_key, batch, params)
  if mesh is None:
    return jax.jit(init)(*args)
  placed = sharding.partition(jax.eval_shape(init, *args), mesh, rules)
  return jax.jit(init, out_shardings=placed)(*args)


def make_train_step(
  model: Any,
  balance: optax.GradientTransformation,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh | None = None,
  rules: sharding.Rules = sharding.DEFAULT_RULES,
  tasks_at_once: int | None = None,
  jit: bool = True,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
  """One step of training: gradients of every task, one direction, one update.

  What `balance` needs decides the way: 'losses': weights first, then one backward of the weighted
  sum; 'gramian': G = J·Jᵀ, weights, wᵀJ; anything else gets the stacked gradients. Task-specific
  parameters get their loss's plain gradient, but for methods that need losses only: these weigh the
  whole loss.

  Args:
    model: `MultiTaskModel`, another `halves.TwoHalves`, or loss functions taking
      `(params, batch, key)` (see `task_gradients`).
    balance: a balancing method or any optax transformation of stacked gradients to one direction.
    optimizer: any optax transformation; it gets the extra arguments `losses` `[T]` and
      `value` `[]`, their sum.
    mesh: from `sharding.make_mesh`; the batch must be on it (`sharding.shard_batch`).
    rules: as given to `init_train_state`.
    tasks_at_once: see `task_gradients`.
    jit: compile the step and donate the state; False gives the pure function, for `vmap` or `scan`.

  Returns:
    `step(state, batch) -> (state, metrics)`. Metrics: 'loss' `[T]`, 'weight' `[T]` (how much of
    each gradient is in the direction), 'present' `[T]` bool, 'finite' `[T]` bool (loss and
    gradient), 'update_norm' `[]` (of the parameters' change), and where the method needs the
    gradients, 'gradient_norm' `[T]` and 'cosine' `[T, T]`.
  """
  optimizer = optax.with_extra_args_support(optimizer)
  transform = optax.with_extra_args_support(balance)
  weighting = getattr(balance, 'weighting', None)

  def direction(state, batch, key):
    balance_key = jax.random.fold_in(key, _BALANCE)
    if weighting is not None and weighting.needs == 'losses':
      return _weighted_sum(model, weighting, state, batch, key, balance_key)
    losses, present, grads = gradients.losses_and_gradients(
      model, state.params, batch, key, tasks_at_once=tasks_at_once
    )
    split = gradients.is_split(state.params)
    stacked = grads['shared'] if split else grads
    if jax.tree.leaves(stacked):
      gram = gradients.gramian(stacked, sharded=mesh is not None)
    else:  # a shared half without parameters
      gram = jnp.zeros((losses.shape[0], losses.shape[0]), jnp.float32)
    metrics = {'gradient_norm': jnp.sqrt(jnp.diagonal(gram)), 'cosine': gradients.cosines(gram)}
    known = {'losses': losses, 'present': present, 'key': balance_key}
    if weighting is not None:
      weights, balance_state = weighting.update(state.balance_state, gramian=gram, **known)
      shared = gradients.combine(weights, stacked)
      metrics['weight'] = weights
    else:
      owner = state.params['shared'] if split else state.params
      shared, balance_state = transform.update(stacked, state.balance_state, owner, **known)
      _check_direction(shared, owner)
    grads = {'shared': shared, 'tasks': grads['tasks']} if split else shared
    finite = jnp.isfinite(losses) & jnp.isfinite(metrics['gradient_norm'])
    if split:
      finite = finite & _finite_heads(model, grads['tasks'], losses.shape[0])
    return losses, grads, balance_state, metrics | {'present': present, 'finite': finite}

  def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    losses, grads, balance_state, metrics = direction(state, batch, key)
    with jax.numpy_dtype_promotion('standard'):  # optax counts on it; callers may be strict
      updates, opt_state = optimizer.update(
        grads, state.opt_state, state.params, losses=losses, value=jnp.sum(losses)
      )
      params = optax.apply_updates(state.params, updates)
    metrics |= {'loss': losses, 'update_norm': optax.tree.norm(updates)}
    new = TrainState(state.step + 1, params, opt_state, balance_state, state.key)
    if mesh is not None:
      new = jax.lax.with_sharding_constraint(new, sharding.partition(new, mesh, rules))
    return new, metrics

  return jax.jit(step, donate_argnums=0) if jit else step


def make_eval_step(model: Any, *, jit: bool = True) -> Callable[[Any, Any], dict[str, Any]]:
  """The evaluation of one batch, without dropout.

  Args:
    model: `MultiTaskModel`, or loss functions taking `(params, batch)`.
    jit: compile it.

  Returns:
    `eval_step(params, batch)`: what `MultiTaskModel.evaluate` returns; for any other model
    `{'loss': [T]}`.
  """

  def evaluate(params, batch):
    if hasattr(model, 'evaluate'):
      return model.evaluate(params, batch)
    return {'loss': _losses(model, params, batch, None)[0]}

  return jax.jit(evaluate) if jit else evaluate


def _init_balance(balance, model, params):
  weighting = getattr(balance, 'weighting', None)
  if weighting is not None:
    return weighting.init(num_tasks(model))
  return balance.init(params['shared'] if gradients.is_split(params) else params)


def num_tasks(model: Any) -> int | None:
  """T, or None for a single function to losses `[T]`, which tells it only when it runs."""
  if gradients.has_two_halves(model):
    return len(model.task_names)
  return None if callable(model) else len(model)


def _losses(model, params, batch, key):
  """Losses `[T]` and present `[T]` of any model."""
  if gradients.has_two_halves(model):
    return halves.task_losses(model, params, batch, key)
  args = (params, batch) if key is None else (params, batch, key)
  if callable(model):
    losses = model(*args)
  else:
    functions = model.values() if hasattr(model, 'values') else model
    losses = jnp.stack([function(*args).astype(jnp.float32) for function in functions])
  return losses.astype(jnp.float32), jnp.ones(losses.shape, bool)


def _weighted_sum(model, weighting, state, batch, key, balance_key):
  """The 'losses' way: one forward, one backward of Σ wᵢLᵢ."""
  losses, pull, present = jax.vjp(
    lambda params: _losses(model, params, batch, key), state.params, has_aux=True
  )
  weights, balance_state = weighting.update(
    state.balance_state, losses=losses, present=present, key=balance_key
  )
  (grads,) = pull(weights)
  finite = jnp.isfinite(losses)
  if gradients.is_split(state.params):
    finite = finite & _finite_heads(model, grads['tasks'], losses.shape[0])
    whole = optax.tree.norm(grads['shared'])
  else:
    whole = optax.tree.norm(grads)
  # The shared gradient is a sum: where it alone is not finite, no one task can be named.
  finite = finite & (jnp.isfinite(whole) | ~jnp.all(finite))
  metrics = {'weight': weights, 'present': present, 'finite': finite}
  return losses, grads, balance_state, metrics


def _check_direction(direction, params):
  """Refuses a balance that leaves the task axis, or is no balance at all."""

  def check(path, leaf, param):
    if jnp.shape(leaf) != jnp.shape(param):
      raise ValueError(
        f'balance gave {sharding.path_of(path)!r} the shape {jnp.shape(leaf)} for parameters of '
        f'shape {jnp.shape(param)}: the chain must end with a balancer such as pcgrad().'
      )

  jax.tree_util.tree_map_with_path(check, direction, params)


def _finite_heads(model, task_grads, tasks):
  """`[T]` bool: whether each task's own gradient is finite; all true where names are unknown."""
  names = getattr(model, 'task_names', None) or (list(model) if hasattr(model, 'keys') else [])
  if len(names) != tasks or set(names) != set(task_grads):
    return jnp.ones(tasks, bool)
  return jnp.stack([jnp.isfinite(optax.tree.norm(task_grads[name])) for name in names])
