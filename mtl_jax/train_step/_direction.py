"""From a batch to one gradient: the cheapest way to what a balancing method needs.

`train_step` makes the update of it. Methods are told apart by what they declare, never by name.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import gradients, protocols
from mtl_jax.gradients.linear import divided
from mtl_jax.optim import _base
from mtl_jax.train_step import _path, _result, _watch
from mtl_jax.train_step._result import Result

AT = ('parameters', 'representation')
JACOBIAN = ('auto', 'stacked', 'sequential', 'matrix_free')


def make(
  model: Any, balance: Any, options: _path.Options, logged: set[str]
) -> Callable[..., Result]:
  """`direction(params, balance_state, batch, validation, key) -> Result` of a model and a balance.

  `logged` holds what was told in the log, so that it is told once for all of a step's programs.

  Raises:
    ValueError: an unknown option, or one that the method cannot follow.
  """
  check(balance, options.at, options.jacobian, options.accumulate)
  if options.loss_scale is not None and protocols.needs_of(balance) == 'functions':
    raise ValueError(
      "loss_scale: a method that needs 'functions' differentiates the losses itself; multiply them "
      'in the loss function.'
    )
  if options.accumulate > 1 and protocols.needs_whole_batches(model):
    raise ValueError(
      f'accumulate={options.accumulate}: this model has losses that are no means over labels (a '
      "discriminator's, of orthogonality, of a gate for each example), so that those of "
      'micro-batches do not add up: accumulate=1.'
    )
  weighting = protocols.weighting_of(balance)
  needs = protocols.needs_of(balance)
  if needs == 'functions':
    return _Functions(model, balance, options, logged)
  if needs == 'losses':
    assert weighting is not None
    return _Losses(model, weighting, options, logged)
  if options.at == 'representation':
    return _Representation(model, balance, options)
  if weighting is None:
    return _Stacked(model, balance, options, logged)
  return _Gramian(model, weighting, options, logged)


def check(balance: Any, at: str, jacobian: str, accumulate: int = 1) -> None:
  """Raises ValueError unless the options exist and the method can be computed so."""
  for name, value, valid in (('at', at, AT), ('jacobian', jacobian, JACOBIAN)):
    if value not in valid:
      raise ValueError(f'{name}={value!r} is none of {", ".join(valid)}.')
  if accumulate < 1:
    raise ValueError(f'accumulate={accumulate}: need 1 or more.')
  if at == 'representation' and accumulate > 1:
    raise ValueError(
      f"accumulate={accumulate}: at='representation' balances the gradients of all features of a "
      "batch, which are never held at once then: at='parameters'."
    )
  weighting = protocols.weighting_of(balance)
  needs = protocols.needs_of(balance)
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


class _Losses:
  """Weights first, then one backward of Σ wᵢLᵢ."""

  def __init__(
    self, model: Any, weighting: _base.Weighting, options: _path.Options, logged: set[str]
  ) -> None:
    self._model, self._weighting, self._options = model, weighting, options
    self._logged = logged

  def __call__(
    self, params: Any, balance_state: Any, batch: Any, validation: Any, key: jax.Array
  ) -> Result:
    del validation
    result = self._weighted(params, balance_state, batch, key)
    if not self._options.monitor:
      return result
    watched = _watch.of_model(
      self._model, params, batch, key, result.grads, self._options, self._logged
    )
    return result._replace(metrics=result.metrics | watched)

  def _weighted(self, params: Any, balance_state: Any, batch: Any, key: jax.Array) -> Result:
    if self._options.unit_task_weights and gradients.is_split(params):
      return self._one_backward(params, balance_state, batch, key)
    count = self._options.accumulate
    scale = self._options.loss_scale

    def losses_of(params: Any) -> tuple[jax.Array, Any]:
      losses, *more = _path.losses_of(self._model, params, batch, key, count)
      return losses, more

    losses, pull, (present, extra) = jax.vjp(losses_of, params, has_aux=True)
    weights, balance_state = _base.weigh(
      self._weighting, balance_state, losses=losses, present=present, key=_result.balance_key(key)
    )
    (grads,) = pull(weights if scale is None else weights * scale)
    if scale is not None:
      grads = divided(grads, scale)
    finite = _watch.finite_sum(self._model, losses, grads)
    metrics = {'weight': weights, 'finite': finite}
    return Result(losses, present, grads, balance_state, metrics, extra)

  def _one_backward(self, params: Any, balance_state: Any, batch: Any, key: jax.Array) -> Result:
    """Weights without a Gramian, one backward of θ; the tasks' own gradients stay plain."""
    jacobian = _path.linearize(self._options, self._model, params, batch, key)
    tasks = jacobian.losses.shape[0]
    weights, balance_state = _base.weigh(
      self._weighting,
      balance_state,
      present=jacobian.present,
      losses=jacobian.losses,
      gramian=jnp.zeros((tasks, tasks), jnp.float32),
      key=_result.balance_key(key),
    )
    shared = jacobian.pull(weights)
    return _result.pulled(self._model, params, jacobian, shared, weights, balance_state)


class _Gramian:
  """G = J·Jᵀ, weights, Jᵀw; with several batches G = J₁·J₂ᵀ and the direction of the last."""

  def __init__(
    self, model: Any, weighting: _base.Weighting, options: _path.Options, logged: set[str]
  ) -> None:
    self._model, self._weighting, self._options = model, weighting, options
    self._logged = logged

  def __call__(
    self, params: Any, balance_state: Any, batch: Any, validation: Any, key: jax.Array
  ) -> Result:
    del validation
    if self._weighting.held is None:
      return self._whole(params, balance_state, batch, key)
    # A held weight needs no Gramian: on such a step, one backward.
    due, _, _ = self._weighting.held(balance_state)
    return jax.lax.cond(due, self._whole, self._held, params, balance_state, batch, key)

  def _held(self, params: Any, balance_state: Any, batch: Any, key: jax.Array) -> Result:
    assert self._weighting.held is not None
    _, weights, new_state = self._weighting.held(balance_state)
    jacobian = _path.linearize(self._options, self._model, params, batch, key)
    usable = jacobian.present & jnp.isfinite(jacobian.losses)
    weights = jnp.where(usable, weights, 0.0)
    shared, weights = _base.bounded(self._weighting, balance_state, jacobian.pull(weights), weights)
    result = _result.pulled(self._model, params, jacobian, shared, weights, new_state)
    tasks = weights.shape[0]
    unknown = {
      'gradient_norm': jnp.full(tasks, jnp.nan, jnp.float32),
      'cosine': jnp.full((tasks, tasks), jnp.nan, jnp.float32),
    }
    if self._options.monitor:
      unknown |= dict.fromkeys(('conflict', 'improved'), jnp.full((), jnp.nan, jnp.float32))
    return result._replace(metrics=result.metrics | unknown)

  def _whole(self, params: Any, balance_state: Any, batch: Any, key: jax.Array) -> Result:
    options, count = self._options, self._weighting.batches
    parts = (
      [batch]
      if count == 1
      else [_result.part_of(self._model, batch, k, count) for k in range(count)]
    )
    keys = [key] if count == 1 else jax.random.split(key, count)
    shared = _path.shared_of(params)
    tasks = _path.tasks_in(self._model, params, batch)
    assert tasks is not None
    path = _path.choose(options, shared, count * tasks, True, self._logged)
    free, at_once = path == 'matrix_free', _path.at_once(options, path)
    jacobians, model = [], self._model
    for part, k in zip(parts, keys, strict=True):
      jacobians.append(
        _path.linearize(
          options, model, params, part, k, stacked=not free, push=free, at_once=at_once
        )
      )
      model = gradients.rebind(model, jacobians[-1].extra.model_state)
    last = jacobians[-1]
    losses = sum(jacobian.losses for jacobian in jacobians) / jnp.float32(count)
    present = jnp.all(jnp.stack([jacobian.present for jacobian in jacobians]), axis=0)
    extra = {}
    if not jax.tree.leaves(shared):  # a shared half without parameters
      gram = norms = jnp.zeros((losses.shape[0], losses.shape[0]), jnp.float32)
      combine = last.pull
    elif free:
      gram = _path.free_gramian(jacobians[0], jacobians[min(count - 1, 1)])
      norms = gram if count == 1 else _path.free_gramian(last, last)
      combine = last.pull
    else:
      rows = [jacobian.rows(at_once) for jacobian in jacobians]
      other = rows[1] if count > 1 else None
      gram = gradients.gramian(rows[0], other, sharded=options.sharded)
      norms = gram if count == 1 else gradients.gramian(rows[-1], sharded=options.sharded)
      extra = {'stacked': rows[-1]}

      def combine(weights: jax.Array) -> Any:
        return gradients.combine(weights, rows[-1])

    weights, new_state = _base.weigh(
      self._weighting,
      balance_state,
      present=present,
      losses=losses,
      gramian=gram,
      key=_result.balance_key(key),
      **extra,
    )
    direction, weights = _base.bounded(
      self._weighting, balance_state, combine(weights), weights, norms
    )
    tasks = last.tasks
    if count > 1 and tasks is not None:  # the tasks' own parameters see the whole batch
      tasks = jax.tree.map(lambda *g: sum(g) / count, *(j.tasks for j in jacobians))
    metrics = _watch.of_gramian(norms) | {'weight': weights}
    if options.monitor:
      metrics |= _watch.monitored(norms, _base.dot(norms, weights), present)
    metrics['finite'] = _watch.finite(self._model, losses, metrics['gradient_norm'], tasks)
    grads = _result.join(params, direction, tasks)
    return Result(losses, present, grads, new_state, metrics, last.extra)


class _Stacked:
  """The stacked gradients, to a method that looks inside them."""

  def __init__(self, model: Any, balance: Any, options: _path.Options, logged: set[str]) -> None:
    self._model, self._balance, self._options = model, balance, options
    self._logged = logged

  def __call__(
    self, params: Any, balance_state: Any, batch: Any, validation: Any, key: jax.Array
  ) -> Result:
    del validation
    options = self._options
    shared = _path.shared_of(params)
    tasks = _path.tasks_in(self._model, params, batch)
    path = _path.choose(options, shared, tasks, False, self._logged)
    at_once = _path.at_once(options, path)
    jacobian = _path.linearize(
      options, self._model, params, batch, key, stacked=True, at_once=at_once
    )
    rows = jacobian.rows(at_once)
    direction = rows
    weights: dict[str, jax.Array] = {}
    if jax.tree.leaves(shared):  # else there is nothing to balance
      direction, balance_state, weights = _result.update(
        self._balance,
        rows,
        balance_state,
        shared,
        losses=jacobian.losses,
        present=jacobian.present,
        key=_result.balance_key(key),
      )
    _result.check_direction(direction, shared)
    metrics = _watch.of_rows(rows, direction, jacobian, options) | weights
    metrics['finite'] = _watch.finite(
      self._model, jacobian.losses, metrics['gradient_norm'], jacobian.tasks
    )
    grads = _result.join(params, direction, jacobian.tasks)
    return Result(jacobian.losses, jacobian.present, grads, balance_state, metrics, jacobian.extra)


class _Representation:
  """Balances the gradients of the features that the tasks share: one forward, one backward."""

  def __init__(self, model: Any, balance: Any, options: _path.Options) -> None:
    if not gradients.has_two_halves(model):
      raise ValueError("at='representation' needs a model of two halves (see gradients.TwoHalves).")
    self._model, self._balance, self._options = model, balance, options

  def __call__(
    self, params: Any, balance_state: Any, batch: Any, validation: Any, key: jax.Array
  ) -> Result:
    del validation
    jacobian = _path.linearize(self._options, self._model, params, batch, key)
    features = jacobian.representation
    assert features is not None
    tasks, places = jacobian.losses.shape[0], jnp.array(features.places)
    known = {
      'losses': jacobian.losses,
      'present': jacobian.present,
      'key': _result.balance_key(key),
    }
    if protocols.weighting_of(self._balance) is None:
      return self._inside(params, balance_state, jacobian, known)
    if features.shared:
      gram = gradients.gramian(features.rows, sharded=self._options.sharded)
      gram = jnp.zeros((tasks, tasks), jnp.float32).at[places[:, None], places[None, :]].set(gram)
    else:  # each task has features of its own: their gradients share no coordinate
      gram = jnp.diag(jnp.zeros(tasks, jnp.float32).at[places].set(features.rows))
    weighting = self._balance.weighting
    weights, new_state = _base.weigh(weighting, balance_state, gramian=gram, **known)
    direction, weights = _base.bounded(weighting, balance_state, jacobian.pull(weights), weights)
    own = jacobian.tasks
    metrics = _watch.of_gramian(gram) | {'weight': weights}
    if self._options.monitor:
      metrics |= _watch.monitored(gram, _base.dot(gram, weights), jacobian.present)
    metrics['finite'] = _watch.finite(self._model, jacobian.losses, metrics['gradient_norm'], own)
    grads = _result.join(params, direction, own)
    return Result(jacobian.losses, jacobian.present, grads, new_state, metrics, jacobian.extra)

  def _inside(
    self, params: Any, balance_state: Any, jacobian: gradients.Jacobian, known: dict[str, Any]
  ) -> Result:
    features = jacobian.representation
    assert features is not None
    if not features.shared or features.pull is None:
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
    fresh = jax.eval_shape(lambda: protocols.first_state_of(self._balance, like, tasks))
    if jax.tree.map(jnp.shape, fresh) != jax.tree.map(jnp.shape, balance_state):
      raise ValueError(
        "at='representation': this method keeps state of the parameters' shapes, so it works "
        "at='parameters' only."
      )
    cotangent, balance_state, weights = _result.update(self._balance, rows, balance_state, **known)
    metrics = _watch.of_rows(rows, cotangent, jacobian, self._options) | weights
    metrics['finite'] = _watch.finite(
      self._model, jacobian.losses, metrics['gradient_norm'], jacobian.tasks
    )
    grads = _result.join(params, features.pull(cotangent), jacobian.tasks)
    return Result(jacobian.losses, jacobian.present, grads, balance_state, metrics, jacobian.extra)


class _Functions:
  """The losses as functions of all parameters, on a training batch and, if read, another."""

  def __init__(self, model: Any, balance: Any, options: _path.Options, logged: set[str]) -> None:
    self._model, self._balance, self._options = model, balance, options
    self._logged = logged

  def __call__(
    self, params: Any, balance_state: Any, batch: Any, validation: Any, key: jax.Array
  ) -> Result:
    model, count = self._model, self._options.accumulate
    # Validation is without dropout where the model lets us say so.
    held_key = None if gradients.has_two_halves(model) else key
    if not protocols.validates(self._balance):
      validation = batch
    elif validation is None:
      batch, validation = (_result.part_of(model, batch, k, 2) for k in (0, 1))
    losses, present, extra = _path.losses_of(model, params, batch, key, count)
    grads, balance_state, metrics = _result.update(
      self._balance,
      None,
      balance_state,
      params,
      losses=losses,
      present=present,
      key=_result.balance_key(key),
      loss_fn=lambda p: _path.losses_of(model, p, batch, key, count)[0],
      validation_fn=lambda p: _path.losses_of(model, p, validation, held_key, count)[0],
    )
    _result.check_direction(grads, params)
    if self._options.monitor:
      metrics |= _watch.of_model(model, params, batch, key, grads, self._options, self._logged)
    metrics['finite'] = _watch.finite_sum(model, losses, grads)
    return Result(losses, present, grads, balance_state, metrics, extra)
