"""From a batch to one gradient: the cheapest way to what a balancing method needs.

`train_step` makes the update of it. Methods are told apart by what they declare, never by name.
"""

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax import _jacobian, gradients, halves, sharding
from mtl_jax.optim import _base

AT = ('parameters', 'representation')
JACOBIAN = ('auto', 'stacked', 'sequential', 'matrix_free')
_BALANCE = 2**32 - 1  # apart from what `halves` folds in: twice a task's index, and one more
_SHARE = 0.25  # of the device's memory that 'auto' gives to the stacked gradients
_LOG = logging.getLogger('mtl_jax')


class Options(NamedTuple):
  """How `make_train_step` was asked to compute the direction; see there."""

  at: str
  jacobian: str
  tasks_at_once: int | None
  unit_task_weights: bool
  monitor: bool
  parameter_devices: int  # that share the parameters
  sharded: bool


class Result(NamedTuple):
  """Losses `[T]`, present `[T]`, the gradient of all parameters, the balance's state, metrics."""

  losses: jax.Array
  present: jax.Array
  grads: Any
  balance_state: Any
  metrics: dict[str, jax.Array]


def make(model: Any, balance: Any, options: Options) -> Callable[..., Result]:
  """`direction(params, balance_state, batch, validation, key) -> Result` of a model and a balance.

  Raises:
    ValueError: an unknown option, or one that the method cannot follow.
  """
  check(balance, options.at, options.jacobian)
  weighting = getattr(balance, 'weighting', None)
  needs = getattr(balance, 'needs', 'jacobian')
  if needs == 'functions':
    return _Functions(model, balance, options)
  if needs == 'losses':
    return _Losses(model, weighting, options)
  if options.at == 'representation':
    return _Representation(model, balance, options)
  if weighting is None:
    return _Stacked(model, balance, options)
  return _Gramian(model, weighting, options)


def check(balance: Any, at: str, jacobian: str) -> None:
  """Raises ValueError unless the options exist and the method can be computed so."""
  for name, value, valid in (('at', at, AT), ('jacobian', jacobian, JACOBIAN)):
    if value not in valid:
      raise ValueError(f'{name}={value!r} is none of {", ".join(valid)}.')
  weighting = getattr(balance, 'weighting', None)
  needs = getattr(balance, 'needs', 'jacobian')
  if jacobian == 'matrix_free' and weighting is None:
    raise ValueError(f"jacobian='matrix_free' cannot serve a method that needs {needs!r}.")
  if at == 'representation' and jacobian != 'auto':
    raise ValueError(
      f"jacobian={jacobian!r} is a way to the parameters' gradients: at='parameters'."
    )
  if at == 'representation' and needs == 'functions':
    raise ValueError("at='representation' cannot serve a method that needs 'functions'.")
  if at == 'representation' and weighting is not None and weighting.batches > 1:
    raise ValueError("at='representation': a method on independent batches has no common one.")


def losses_of(model, params, batch, key):
  """Losses `[T]` and present `[T]` of any model."""
  if _jacobian.has_two_halves(model):
    return halves.task_losses(model, params, batch, key)
  args = (params, batch) if key is None else (params, batch, key)
  losses = _jacobian.as_function(model)(*args).astype(jnp.float32)
  return losses, jnp.ones(losses.shape, bool)


class _Losses:
  """Weights first, then one backward of Σ wᵢLᵢ."""

  def __init__(self, model, weighting, options):
    self._model, self._weighting, self._options = model, weighting, options
    self._logged: set[str] = set()

  def __call__(self, params, balance_state, batch, validation, key):
    del validation
    result = self._weighted(params, balance_state, batch, key)
    if not self._options.monitor:
      return result
    watched = _watch(self._model, params, batch, key, result.grads, self._options, self._logged)
    return result._replace(metrics=result.metrics | watched)

  def _weighted(self, params, balance_state, batch, key):
    if self._options.unit_task_weights and _jacobian.is_split(params):
      return _one_backward(self._model, self._weighting, params, balance_state, batch, key)
    losses, pull, present = jax.vjp(
      lambda params: losses_of(self._model, params, batch, key), params, has_aux=True
    )
    weights, balance_state = _base.weigh(
      self._weighting, balance_state, losses=losses, present=present, key=_balance_key(key)
    )
    (grads,) = pull(weights)
    finite = _finite_sum(self._model, losses, grads)
    return Result(losses, present, grads, balance_state, {'weight': weights, 'finite': finite})


class _Gramian:
  """G = J·Jᵀ, weights, Jᵀw; with several batches G = J₁·J₂ᵀ and the direction of the last."""

  def __init__(self, model, weighting, options):
    self._model, self._weighting, self._options = model, weighting, options
    self._logged: set[str] = set()

  def __call__(self, params, balance_state, batch, validation, key):
    del validation
    if self._weighting.held is None:
      return self._whole(params, balance_state, batch, key)
    # A held weight needs no Gramian: on such a step, one backward.
    due, _, _ = self._weighting.held(balance_state)
    return jax.lax.cond(due, self._whole, self._held, params, balance_state, batch, key)

  def _held(self, params, balance_state, batch, key):
    _, weights, balance_state = self._weighting.held(balance_state)
    jacobian = _jacobian.jacobian(self._model, params, batch, key)
    usable = jacobian.present & jnp.isfinite(jacobian.losses)
    weights = jnp.where(usable, weights, 0.0)
    result = _pulled(self._model, params, jacobian, weights, balance_state)
    tasks = weights.shape[0]
    unknown = {
      'gradient_norm': jnp.full(tasks, jnp.nan, jnp.float32),
      'cosine': jnp.full((tasks, tasks), jnp.nan, jnp.float32),
    }
    if self._options.monitor:
      unknown |= dict.fromkeys(('conflict', 'improved'), jnp.full((), jnp.nan, jnp.float32))
    return result._replace(metrics=result.metrics | unknown)

  def _whole(self, params, balance_state, batch, key):
    options, count = self._options, self._weighting.batches
    parts = [batch] if count == 1 else [_part(batch, k, count) for k in range(count)]
    keys = [key] if count == 1 or key is None else jax.random.split(key, count)
    shared = _shared_of(params)
    tasks = tasks_in(self._model, params, batch)
    path = _path(options, shared, count * tasks, True, self._logged)
    free = path == 'matrix_free'
    jacobians = [
      _jacobian.jacobian(self._model, params, part, k, stacked=not free, push=free)
      for part, k in zip(parts, keys, strict=True)
    ]
    last = jacobians[-1]
    losses = sum(jacobian.losses for jacobian in jacobians) / jnp.float32(count)
    present = jnp.all(jnp.stack([jacobian.present for jacobian in jacobians]), axis=0)
    extra = {}
    if not jax.tree.leaves(shared):  # a shared half without parameters
      gram = norms = jnp.zeros((losses.shape[0], losses.shape[0]), jnp.float32)
      combine = last.pull
    elif free:
      gram = _free_gramian(jacobians[0], jacobians[min(count - 1, 1)])
      norms = gram if count == 1 else _free_gramian(last, last)
      combine = last.pull
    else:
      rows = [jacobian.rows(1 if path == 'sequential' else options.tasks_at_once)
              for jacobian in jacobians]  # fmt: skip
      other = rows[1] if count > 1 else None
      gram = gradients.gramian(rows[0], other, sharded=options.sharded)
      norms = gram if count == 1 else gradients.gramian(rows[-1], sharded=options.sharded)
      extra = {'stacked': rows[-1]}

      def combine(weights):
        return gradients.combine(weights, rows[-1])

    weights, balance_state = _base.weigh(
      self._weighting,
      balance_state,
      present=present,
      losses=losses,
      gramian=gram,
      key=_balance_key(key),
      **extra,
    )
    tasks = last.tasks
    if count > 1 and tasks is not None:  # the tasks' own parameters see the whole batch
      tasks = jax.tree.map(lambda *g: sum(g) / count, *(j.tasks for j in jacobians))
    metrics = _gramian_metrics(norms) | {'weight': weights}
    if options.monitor:
      metrics |= _monitor(norms, _base.dot(norms, weights), present)
    metrics['finite'] = _finite(self._model, losses, metrics['gradient_norm'], tasks)
    grads = _join(params, combine(weights), tasks)
    return Result(losses, present, grads, balance_state, metrics)


class _Stacked:
  """The stacked gradients, to a method that looks inside them."""

  def __init__(self, model, balance, options):
    self._model, self._options = model, options
    self._transform = optax.with_extra_args_support(balance)
    self._logged: set[str] = set()

  def __call__(self, params, balance_state, batch, validation, key):
    del validation
    options = self._options
    shared = _shared_of(params)
    path = _path(options, shared, tasks_in(self._model, params, batch), False, self._logged)
    jacobian = _jacobian.jacobian(self._model, params, batch, key, stacked=True)
    rows = jacobian.rows(1 if path == 'sequential' else options.tasks_at_once)
    direction, balance_state = self._transform.update(
      rows,
      balance_state,
      shared,
      losses=jacobian.losses,
      present=jacobian.present,
      key=_balance_key(key),
    )
    _check_direction(direction, shared)
    metrics = _row_metrics(rows, direction, jacobian, options)
    metrics |= _weights_in(balance_state)
    metrics['finite'] = _finite(
      self._model, jacobian.losses, metrics['gradient_norm'], jacobian.tasks
    )
    grads = _join(params, direction, jacobian.tasks)
    return Result(jacobian.losses, jacobian.present, grads, balance_state, metrics)


class _Representation:
  """Balances the gradients of the features that the tasks share: one forward, one backward."""

  def __init__(self, model, balance, options):
    if not _jacobian.has_two_halves(model):
      raise ValueError("at='representation' needs a model of two halves (see halves.TwoHalves).")
    self._model, self._balance, self._options = model, balance, options

  def __call__(self, params, balance_state, batch, validation, key):
    del validation
    jacobian = _jacobian.jacobian(self._model, params, batch, key)
    features = jacobian.representation
    assert features is not None
    tasks = jacobian.losses.shape[0]
    places = jnp.array(features.places)
    known = {'losses': jacobian.losses, 'present': jacobian.present, 'key': _balance_key(key)}
    if getattr(self._balance, 'weighting', None) is None:
      return self._inside(params, balance_state, jacobian, features, known)
    if features.shared:
      gram = gradients.gramian(features.rows, sharded=self._options.sharded)
      gram = jnp.zeros((tasks, tasks), jnp.float32).at[places[:, None], places[None, :]].set(gram)
    else:  # each task has features of its own: their gradients share no coordinate
      gram = jnp.diag(jnp.zeros(tasks, jnp.float32).at[places].set(features.rows))
    weighting = self._balance.weighting
    weights, balance_state = _base.weigh(weighting, balance_state, gramian=gram, **known)
    own = jacobian.tasks
    metrics = _gramian_metrics(gram) | {'weight': weights}
    if self._options.monitor:
      metrics |= _monitor(gram, _base.dot(gram, weights), jacobian.present)
    metrics['finite'] = _finite(self._model, jacobian.losses, metrics['gradient_norm'], own)
    grads = _join(params, jacobian.pull(weights), own)
    return Result(jacobian.losses, jacobian.present, grads, balance_state, metrics)

  def _inside(self, params, balance_state, jacobian, features, known):
    if not features.shared:
      raise ValueError(
        "at='representation' with a method that looks inside the gradients needs shared inputs: "
        'tasks with inputs of their own share no features.'
      )
    tasks, places = jacobian.losses.shape[0], jnp.array(features.places)
    rows = jax.tree.map(
      lambda leaf: jnp.zeros((tasks, *leaf.shape[1:]), leaf.dtype).at[places].set(leaf),
      features.rows,
    )
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)
    fresh = jax.eval_shape(lambda: init_balance(self._balance, like, tasks))
    if jax.tree.map(jnp.shape, fresh) != jax.tree.map(jnp.shape, balance_state):
      raise ValueError(
        "at='representation': this method keeps state of the parameters' shapes, so it works "
        "at='parameters' only."
      )
    transform = optax.with_extra_args_support(self._balance)
    cotangent, balance_state = transform.update(rows, balance_state, **known)
    metrics = _row_metrics(rows, cotangent, jacobian, self._options) | _weights_in(balance_state)
    metrics['finite'] = _finite(
      self._model, jacobian.losses, metrics['gradient_norm'], jacobian.tasks
    )
    grads = _join(params, features.pull(cotangent), jacobian.tasks)
    return Result(jacobian.losses, jacobian.present, grads, balance_state, metrics)


class _Functions:
  """The losses as functions of all parameters, on a training and on a validation batch."""

  def __init__(self, model, balance, options):
    self._model, self._balance, self._options = model, balance, options
    self._logged: set[str] = set()

  def __call__(self, params, balance_state, batch, validation, key):
    model = self._model
    # Validation is without dropout where the model lets us say so.
    held_key = None if _jacobian.has_two_halves(model) else key
    if validation is None:
      batch, validation = _part(batch, 0, 2), _part(batch, 1, 2)
    losses, present = losses_of(model, params, batch, key)
    grads, balance_state = self._balance.update(
      None,
      balance_state,
      params,
      losses=losses,
      present=present,
      key=_balance_key(key),
      loss_fn=lambda p: losses_of(model, p, batch, key)[0],
      validation_fn=lambda p: losses_of(model, p, validation, held_key)[0],
    )
    _check_direction(grads, params)
    metrics = _weights_in(balance_state)
    if self._options.monitor:
      metrics |= _watch(model, params, batch, key, grads, self._options, self._logged)
    metrics['finite'] = _finite_sum(model, losses, grads)
    return Result(losses, present, grads, balance_state, metrics)


def _one_backward(model, weighting, params, balance_state, batch, key):
  """Weights without a Gramian, one backward of θ; the tasks' own gradients stay plain."""
  jacobian = _jacobian.jacobian(model, params, batch, key)
  tasks = jacobian.losses.shape[0]
  weights, balance_state = _base.weigh(
    weighting,
    balance_state,
    present=jacobian.present,
    losses=jacobian.losses,
    gramian=jnp.zeros((tasks, tasks), jnp.float32),
    key=_balance_key(key),
  )
  return _pulled(model, params, jacobian, weights, balance_state)


def _pulled(model, params, jacobian, weights, balance_state):
  grads = _join(params, jacobian.pull(weights), jacobian.tasks)
  metrics = {'weight': weights, 'finite': _finite_sum(model, jacobian.losses, grads)}
  return Result(jacobian.losses, jacobian.present, grads, balance_state, metrics)


def _free_gramian(left, right):
  """J₁·J₂ᵀ from T products J₁(J₂ᵀeᵢ), one after the other: one gradient is held at a time."""
  tasks = left.losses.shape[0]

  def column(unit):
    row = right.pull(unit)
    return left.push(row), gradients.norms(jax.tree.map(lambda leaf: leaf[None], row))[0]

  columns, norms = jax.lax.map(column, jnp.eye(tasks, dtype=jnp.float32))
  if left is not right:
    return columns.T
  # J(Jᵀe) rounds below zero on the diagonal where a gradient vanishes by cancellation.
  return jnp.where(jnp.eye(tasks, dtype=bool), jnp.diag(norms**2), (columns + columns.T) / 2.0)


def init_balance(balance: Any, params: Any, tasks: int | None) -> Any:
  """The first state of a balancing method or any other optax transformation."""
  return (
    balance.init_tasks(params, tasks) if hasattr(balance, 'init_tasks') else balance.init(params)
  )


def tasks_in(model: Any, params: Any = None, batch: Any = None) -> int | None:
  """T; None for a single function to losses `[T]` without a batch to try it on."""
  if _jacobian.has_two_halves(model):
    return len(model.task_names)
  if not callable(model):
    return len(model)
  if batch is None:
    return None
  try:
    return jax.eval_shape(model, params, batch).shape[0]
  except TypeError:  # it takes a key too
    return jax.eval_shape(model, params, batch, jax.random.key(0)).shape[0]


def _path(options, shared, tasks, can_be_free, logged):
  """The way to the rows, and once a note of it with the memory it will take."""
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shared))
  size //= options.parameter_devices
  limit = int(_SHARE * _device_memory())
  path = options.jacobian
  if path == 'auto':
    path = 'stacked' if tasks * size <= limit else ('matrix_free' if can_be_free else 'sequential')
  predicted = (2 if path == 'matrix_free' else tasks) * size
  note = (
    f'jacobian={path!r}: {predicted / 2**20:.0f} MiB for {tasks} gradients of tasks'
    + (f' (auto: stacked up to {limit / 2**20:.0f} MiB)' if options.jacobian == 'auto' else '')
  )  # fmt: skip
  if note not in logged:
    logged.add(note)
    _LOG.info(note)
  return path


def _device_memory():
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'bytes_limit' in stats:
    return stats['bytes_limit']
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _part(batch, index, count):
  """Every count-th example from `index` on: one of `count` independent batches."""

  def part(leaf):
    if jnp.ndim(leaf) < 1 or leaf.shape[0] < count:
      raise ValueError(
        f'This method splits a batch into {count} independent ones, but an array of the batch has '
        f'the shape {jnp.shape(leaf)}.'
      )
    return leaf[index::count]

  return jax.tree.map(part, batch)


def _balance_key(key):
  return jax.random.fold_in(key, _BALANCE)


def _shared_of(tree):
  return tree['shared'] if _jacobian.is_split(tree) else tree


def _join(params, shared, tasks):
  return {'shared': shared, 'tasks': tasks} if _jacobian.is_split(params) else shared


def _names(model, tasks, count):
  """The tasks' names in order, where they are the keys of `tasks`; else None."""
  names = getattr(model, 'task_names', None) or (list(model) if hasattr(model, 'keys') else [])
  return names if len(names) == count and set(names) == set(tasks) else None


def _gramian_metrics(gram):
  return {'gradient_norm': jnp.sqrt(jnp.diagonal(gram)), 'cosine': gradients.cosines(gram)}


def _watch(model, params, batch, key, grads, options, logged):
  """What is monitored, for a method that has no use for each task's gradient."""
  shared = _shared_of(params)
  path = _path(options, shared, tasks_in(model, params, batch), True, logged)
  free = path == 'matrix_free'
  jacobian = _jacobian.jacobian(model, params, batch, key, stacked=not free, push=free)
  direction = _shared_of(grads)
  if jacobian.push is not None:
    gram = _free_gramian(jacobian, jacobian)
    return _gramian_metrics(gram) | _monitor(gram, jacobian.push(direction), jacobian.present)
  rows = jacobian.rows(1 if path == 'sequential' else options.tasks_at_once)
  return _row_metrics(rows, direction, jacobian, options)


def _row_metrics(rows, direction, jacobian, options):
  """Norms of the rows; on request, all that is monitored."""
  if not options.monitor:
    return {'gradient_norm': gradients.norms(rows)}
  gram = gradients.gramian(rows, sharded=options.sharded)
  one = jax.tree.map(lambda leaf: leaf[None], direction)
  along = gradients.gramian(rows, one, sharded=options.sharded)[:, 0]
  return _gramian_metrics(gram) | _monitor(gram, along, jacobian.present)


def _monitor(gram, along, present):
  """Share of pairs in conflict, and share of tasks that the direction improves to first order."""
  here = present.astype(jnp.float32)
  pairs = jnp.outer(here, here) * (1.0 - jnp.eye(here.shape[0]))
  improved = jnp.sum(jnp.where(along > 0, here, 0.0)) / jnp.maximum(jnp.sum(here), 1.0)
  conflict = jnp.sum(jnp.where(gram < 0, pairs, 0.0)) / jnp.maximum(jnp.sum(pairs), 1.0)
  return {'conflict': conflict, 'improved': improved}


def _weights_in(state):
  """The task weights that a method keeps in its state, for the metrics."""
  weights = getattr(state, 'weights', None)
  return {} if weights is None or jnp.ndim(weights) != 1 else {'weight': weights}


def _finite(model, losses, norms, tasks):
  """`[T]` bool: loss, shared gradient and own gradient of each task."""
  finite = jnp.isfinite(losses) & jnp.isfinite(norms)
  return finite if tasks is None else finite & _finite_heads(model, tasks, losses.shape[0])


def _finite_sum(model, losses, grads):
  """`_finite` where the shared gradient is a sum: where it alone is not, no task can be named."""
  finite = jnp.isfinite(losses)
  shared = grads
  if _jacobian.is_split(grads):
    finite = finite & _finite_heads(model, grads['tasks'], losses.shape[0])
    shared = grads['shared']
  return finite & (jnp.isfinite(optax.tree.norm(shared)) | ~jnp.all(finite))


def _finite_heads(model, tasks, count):
  names = _names(model, tasks, count)
  if names is None:
    return jnp.ones(count, bool)
  return jnp.stack([jnp.isfinite(optax.tree.norm(tasks[name])) for name in names])


def _check_direction(direction, params):
  """Refuses a balance that leaves the task axis, or is no balance at all."""

  def check(path, leaf, param):
    if jnp.shape(leaf) != jnp.shape(param):
      raise ValueError(
        f'balance gave {sharding.path_of(path)!r} the shape {jnp.shape(leaf)} for parameters of '
        f'shape {jnp.shape(param)}: the chain must end with a balancer such as pcgrad().'
      )

  jax.tree_util.tree_map_with_path(check, direction, params)
