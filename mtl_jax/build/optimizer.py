"""The optimizer and the learning rate's schedule of a run, from its resolved config."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtl_jax import errors, options, sharding
from mtl_jax.build import layers as layers_lib
from mtl_jax.build import transfer

Run = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
  """`config.optimizer`, beside the options of each optimizer: what is made of the direction.

  Attributes:
    name: one of `OPTIMIZERS`.
    learning_rate: the peak.
    clip_norm: of the gradient on all parameters; 0: no clipping.
    l2_shared: λ of λ‖θ‖²: 2λθ is added before clipping, not balanced.
  """

  name: str = 'adamw'
  learning_rate: options.Amount = 1e-3
  clip_norm: options.Amount = 1.0
  l2_shared: options.Amount = 0.0


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
  """`config.optimizer.schedule`, beside the options of each schedule.

  Attributes:
    name: one of `SCHEDULES`.
    warmup_steps: linear from 0 to the peak; 0: `warmup_share` of all steps.
    warmup_share: see `warmup_steps`.
  """

  name: str = 'cosine'
  warmup_steps: options.Natural = 0
  warmup_share: options.Fraction = 0.0


Mask = Callable[[Any], Any]


def adamw(
  schedule: optax.Schedule,
  decayed: Mask,
  *,
  b1: options.Share = 0.9,
  b2: options.Share = 0.999,
  eps: options.Amount = 1e-8,
  weight_decay: options.Amount = 0.01,
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay of what the mask `decayed` tells of the parameters."""
  return optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=decayed)


def adam(
  schedule: optax.Schedule,
  decayed: Mask,
  *,
  b1: options.Share = 0.9,
  b2: options.Share = 0.999,
  eps: options.Amount = 1e-8,
) -> optax.GradientTransformation:
  """Adam, without weight decay."""
  del decayed
  return optax.adam(schedule, b1, b2, eps)


def sgd(
  schedule: optax.Schedule,
  decayed: Mask,
  *,
  momentum: options.Share = 0.9,
  nesterov: bool = False,
) -> optax.GradientTransformation:
  """Gradient descent with momentum, without weight decay."""
  del decayed
  return optax.sgd(schedule, momentum, nesterov)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'adamw': adamw,
  'adam': adam,
  'sgd': sgd,
}
"""Every optimizer by name: `(schedule, decayed, **options)`."""


def constant(peak: float, steps: int) -> optax.Schedule:
  """The peak at every step."""
  del steps
  return optax.constant_schedule(peak)


def cosine(peak: float, steps: int, *, final: options.Amount = 0.0) -> optax.Schedule:
  """From the peak along a half wave to `final`, a share of it, at the last step."""
  return optax.cosine_decay_schedule(peak, steps, alpha=final)


def linear(peak: float, steps: int, *, final: options.Amount = 0.0) -> optax.Schedule:
  """From the peak in a line to `final`, a share of it, at the last step."""
  return optax.linear_schedule(peak, peak * final, steps)


def exponential(
  peak: float, steps: int, *, rate: options.Amount = 0.5, every: options.Count = 1000
) -> optax.Schedule:
  """The peak times `rate` after every `every` steps, smoothly."""
  del steps
  return optax.exponential_decay(peak, every, rate)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
  'constant': constant,
  'cosine': cosine,
  'linear': linear,
  'exponential': exponential,
}
"""Every schedule of the learning rate after the warm-up: `(peak, steps, **options)`."""


def warmup_steps(run: Run, steps: int) -> int:
  """The steps of warm-up of a training of `steps`.

  Raises:
    ConfigError: they are more than there are.
  """
  chosen = run['optimizer']['schedule']
  if chosen['warmup_steps'] > steps:
    raise errors.ConfigError(
      f'optimizer.schedule.warmup_steps: {chosen["warmup_steps"]} is more than the {steps} steps '
      'of training; warmup_share gives a share of them'
    )
  return chosen['warmup_steps'] or round(chosen['warmup_share'] * steps)


def build_schedule(run: Run, steps: int) -> optax.Schedule:
  """step -> learning rate: linear warm-up to the peak, then the chosen decay to the last step."""
  chosen, warmup = run['optimizer']['schedule'], warmup_steps(run, steps)
  peak, name = run['optimizer']['learning_rate'], chosen['name']
  decay = SCHEDULES[name](peak, max(steps - warmup, 1), **chosen.get(name, {}))
  if not warmup:
    return decay
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def build(
  run: Run,
  schedule: optax.Schedule,
  parts: layers_lib.Parts,
  frozen: Sequence[str] = (),
  anchored: Sequence[str] | None = None,
) -> optax.GradientTransformation:
  """Penalties on the parameters, clipping, the optimizer, and what spares some layers.

  Args:
    run: the config.
    schedule: step -> learning rate.
    parts: of the model.
    frozen: paths of parameters that are not trained.
    anchored: paths of those of `transfer.l2_sp`; None: the shared ones.
  """
  chosen, gentle = run['optimizer'], run['transfer']
  links = []
  own = {task: section['l2'] for task, section in run['tasks'].items()}
  if chosen['l2_shared'] or any(own.values()):
    links.append(add_l2(chosen['l2_shared'], own))
  if gentle['l2_sp']:
    links.append(transfer.l2_sp(gentle['l2_sp'], anchored))
  if chosen['clip_norm']:
    links.append(optax.clip_by_global_norm(chosen['clip_norm']))
  name = chosen['name']
  links.append(OPTIMIZERS[name](schedule, _without(parts.undecayed), **chosen[name]))
  if parts.held:  # without a gradient, but not without decay
    links.append(transfer.freeze(parts.held))
  if gentle['layer_decay'] < 1:
    links.append(transfer.scale_by_layer(gentle['layer_decay'], parts.layers))
  if gentle['unfreeze_every']:
    links.append(transfer.unfreeze_gradually(gentle['unfreeze_every'], parts.layers))
  if frozen:
    links.append(transfer.freeze(frozen))
  return optax.chain(*links)


def _without(spared: frozenset[str]) -> Mask:
  """Parameters -> True for those that are not spared."""
  return lambda params: jax.tree_util.tree_map_with_path(
    lambda path, _: sharding.path_of(path) not in spared, params
  )


def add_l2(shared: float, tasks: Mapping[str, float]) -> optax.GradientTransformation:
  """Adds the gradient 2λθ of λ‖θ‖² on shared, and 2λ_iφ_i on each task's parameters.

  Args:
    shared: λ.
    tasks: λ_i by task.

  Returns:
    a transformation of gradients like `{'shared': θ, 'tasks': {name: φ}}`; it needs `params`.
  """

  def update(updates: Any, params: Any) -> Any:
    def add(rate: float, grads: Any, values: Any) -> Any:
      return jax.tree.map(lambda g, p: g + jnp.asarray(2 * rate, p.dtype) * p, grads, values)

    own = {
      name: add(tasks[name], grads, params['tasks'][name])
      for name, grads in updates['tasks'].items()
    }
    return {'shared': add(shared, updates['shared'], params['shared']), 'tasks': own}

  return optax.stateless(update)
