"""The train step and the evaluation step: pure functions of a state and a batch.

Balancing methods are chosen by what they need (`Balancer.needs`), never by name.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mtl_jax import gradients, protocols, sharding
from mtl_jax.train_step import _direction, _path
from mtl_jax.train_step.state import TrainState

Metrics = dict[str, Any]
_BY_TASK = ('loss', 'present', 'weight', 'finite', 'gradient_norm')


def make_train_step(
  model: Any,
  balance: optax.GradientTransformation,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh | None = None,
  rules: sharding.Rules = sharding.DEFAULT_RULES,
  at: str = 'parameters',
  jacobian: str = 'auto',
  tasks_at_once: int | None = None,
  unit_task_weights: bool = False,
  monitor: bool = False,
  accumulate: int = 1,
  has_aux: bool = False,
  loss_scale: float | None = None,
  jit: bool = True,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """One step of training: gradients of every task, one direction, one update.

  What `balance` needs decides the way:

  * 'losses': weights first, then one backward of the weighted sum;
  * 'gramian': G = J·Jᵀ, weights, Jᵀw;
  * 'jacobian', and any other optax transformation: the stacked gradients;
  * 'functions': the losses as functions of all parameters, for most on a validation batch too.

  A method that wants several independent batches gets every k-th example of the batch as one; one
  that looks at the losses after the update gets a second forward. Task-specific parameters get
  their loss's plain gradient, but for methods that need losses or functions: these weigh the whole
  loss.

  Args:
    model: `MultiTaskModel`, another `gradients.TwoHalves`, or loss functions taking
      `(params, batch)` or `(params, batch, key)` (see `task_gradients`). Where the train state has
      a model state, one function that takes `(params, model_state, batch[, key])` and returns
      `(losses, new_state)`: the state of the next step. A model that changes over training has a
      method `at(step)`, int32 `[]`, to the model of that step.
    balance: a balancing method or any optax transformation of stacked gradients to one direction.
    optimizer: any optax transformation; it gets the extra arguments `losses` `[T]` and
      `value` `[]`, their sum.
    mesh: from `sharding.make_mesh`; the batch must be on it (`sharding.shard_batch`).
    rules: as given to `init_train_state`.
    at: which gradients are balanced: those of the shared 'parameters', or those of the
      'representation', the features between the two halves (MGDA-UB, Sener & Koltun 2018): one
      forward and one backward whatever T is. With own inputs each task has features of its own, so
      the gradients are orthogonal there.
    jacobian: how the parameters' gradients are had. 'stacked': T copies of θ at once;
      'sequential': the same, one backward after the other, for less memory on the way (with own
      inputs all gradients take one backward, and this is 'stacked');
      'matrix_free': G from T products J(Jᵀeᵢ), and one more Jᵀw: no copies of θ, at about twice
      the time; for methods with weights, and models without `jax.custom_vjp`; as exact as the
      model's own products, which on a GPU are TF32 unless `jax.default_matmul_precision` says
      otherwise. 'auto': stacked as long as this takes a quarter of the device's memory or less. The
      choice and its memory go to the log 'mtl_jax', once.
    tasks_at_once: see `task_gradients`.
    unit_task_weights: with methods on losses too, task-specific parameters get their loss's plain
      gradient.
    monitor: adds 'gradient_norm', 'cosine', 'conflict' `[]` (share of pairs of tasks with a
      negative cosine) and 'improved' `[]` (share of tasks whose loss the direction lowers to first
      order) to the metrics of every method; where a method has no use for the gradients of each
      task, this is what makes the step compute them.
    accumulate: k: the batch, arrays `[k·B, ...]`, is taken in k micro-batches of every k-th example
      each, one after the other. Per-task gradients are added up over them, then balanced once, so
      that the step is that of the whole batch, at the memory of one micro-batch and one gradient a
      task: each task's is weighted by its labels in a micro-batch, or by the sum of their weights.
      Dropout differs by micro-batch. With methods on losses or functions, held weights, and
      `jacobian='matrix_free'`, no gradient a task is held, and micro-batches run forward once more.
      Loss functions without two halves must be means over the examples. A model state goes from
      one micro-batch to the next.
    has_aux: loss functions return `(losses, aux)`, with a model state `(losses, (new_state, aux))`;
      aux, any pytree, is the metric 'aux' (with `accumulate` stacked, `[k, ...]`).
    loss_scale: see `task_gradients`.
    jit: compile the step and donate the state; False gives the pure function, for `vmap` or `scan`.

  Returns:
    `step(state, batch, validation=None) -> (state, metrics)`; `validation` is a batch for methods
    that validate: without it every second example of `batch` is held out. Metrics: 'loss'
    `[T]` (NaN for an absent task, which has none: 0 would read as solved), 'weight' `[T]` (how much
    of each gradient is in the direction, 0 for an absent task; for a method without weights, none),
    'present' `[T]` bool (a task without a label in the batch is absent, and so is one whose
    `Task.weight` is 0), 'finite' `[T]` bool (loss and gradient), 'update_norm' `[]` (of the
    parameters' change), 'penalty' `[]` (where the model has one: its gradient joins the direction,
    unbalanced), and where the method needs the gradients, 'gradient_norm' `[T]` and, where it needs
    G, 'cosine' `[T, T]` (NaN in a step that had no use for G). Where the losses are a dict, or the
    functions a mapping, what is `[T]` is a dict by their names, and 'cosine' one of dicts.

  Raises:
    ValueError: an option that does not exist, or that the method or the model cannot follow.
  """
  optimizer = optax.with_extra_args_support(optimizer)
  devices = 1 if mesh is None else mesh.shape['fsdp']
  ways = _path.Options(
    at,
    jacobian,
    tasks_at_once,
    unit_task_weights,
    monitor,
    devices,
    mesh is not None,
    accumulate,
    loss_scale,
  )
  logged: set[str] = set()
  direction = _direction.make(model, balance, ways, logged)
  weighting = protocols.weighting_of(balance)
  follow = None if weighting is None else weighting.follow
  penalty = protocols.penalty_of(model)

  def step(state: TrainState, batch: Any, validation: Any = None) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    here, towards = model, direction
    if protocols.changes(model):
      here = model.at(state.step)
    if has_aux or state.model_state is not None:
      here = gradients.bind(here, state.model_state, has_aux)
    if here is not model:
      towards = _direction.make(here, balance, ways, logged)
    losses, present, grads, balance_state, metrics, extra = towards(
      state.params, state.balance_state, batch, validation, key
    )
    if penalty is not None:
      metrics['penalty'], slope = jax.value_and_grad(penalty)(state.params)
      grads = jax.tree.map(lambda g, s: g + s.astype(g.dtype), grads, slope)
    with jax.numpy_dtype_promotion('standard'):  # optax counts on it; callers may be strict
      updates, opt_state = optimizer.update(
        grads, state.opt_state, state.params, losses=losses, value=jnp.sum(losses)
      )
      params = optax.apply_updates(state.params, updates)
    if follow is not None:
      new_losses, _, _ = _path.losses_of(here, params, batch, key, accumulate)
      seen = present & jnp.isfinite(losses) & jnp.isfinite(new_losses)
      balance_state = follow(balance_state, losses=losses, new_losses=new_losses, present=seen)
    metrics |= {'loss': jnp.where(present, losses, jnp.nan), 'present': present}
    metrics['update_norm'] = optax.tree.norm(updates)
    if 'weight' in metrics:
      metrics['weight'] = jnp.where(present, metrics['weight'], 0.0)
    metrics = _by_name(metrics, extra.names)
    if has_aux:
      metrics['aux'] = extra.aux
    new = TrainState(state.step + 1, params, opt_state, balance_state, state.key, extra.model_state)
    if mesh is not None:
      new = jax.lax.with_sharding_constraint(new, sharding.partition(new, mesh, rules))
    return new, metrics

  return jax.jit(step, donate_argnums=0) if jit else step


def make_eval_step(
  model: Any, *, has_aux: bool = False, jit: bool = True
) -> Callable[..., dict[str, Any]]:
  """The evaluation of one batch, without dropout.

  Args:
    model: `MultiTaskModel`, or loss functions taking `(params, batch)`, with a model state
      `(params, model_state, batch)`.
    has_aux: as in `make_train_step`.
    jit: compile it.

  Returns:
    `eval_step(params, batch, model_state=None)`, where `params` may be `TrainState.variables`: what
    `MultiTaskModel.evaluate` returns; for any
    other model `{'loss': [T]}`, a dict by name where the losses are, and with `has_aux` 'aux'.
  """

  def evaluate(params: Any, batch: Any, model_state: Any = None) -> dict[str, Any]:
    here = model
    if isinstance(params, protocols.Variables):
      params, model_state = params
    if has_aux or model_state is not None:
      here = gradients.bind(model, model_state, has_aux, training=False)
    if protocols.evaluates(here):
      return here.evaluate(params, batch)
    losses, _, extra = _path.losses_of(here, params, batch, None)
    return _by_name({'loss': losses}, extra.names) | ({'aux': extra.aux} if has_aux else {})

  return jax.jit(evaluate) if jit else evaluate


def _by_name(metrics: Metrics, names: tuple[str, ...]) -> Metrics:
  """Metrics by task as dicts, where the tasks have names."""
  if not names:
    return metrics

  def named(values: jax.Array) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))

  found: Metrics = {}
  for name, values in metrics.items():
    if name == 'cosine':
      found[name] = {task: named(row) for task, row in named(values).items()}
    else:
      found[name] = named(values) if name in _BY_TASK else values
  return found
