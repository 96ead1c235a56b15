"""The optimizer and the learning rate's schedule of a run, from its resolved config."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtl_jax import encoders, errors, sharding
from mtl_jax.build import transfer

Run = Mapping[str, Any]
_SPARED = re.compile(  # from weight decay: biases, normalizations, and how columns are mixed
  r'(?:^|/)(?:\w*bias|(?<!hyper/)scale|parents?|codes|shares)$|^shared/stitches/'
)


def build_schedule(run: Run, steps: int) -> optax.Schedule:
  """step -> learning rate: linear warm-up to the peak, then the chosen decay to the last step."""
  options = run['optimizer']['schedule']
  peak, warmup, name = run['optimizer']['learning_rate'], options['warmup_steps'], options['name']
  if warmup > steps:
    raise errors.ConfigError(
      f'optimizer.schedule.warmup_steps: {warmup} is more than the {steps} steps of training'
    )
  rest = max(steps - warmup, 1)
  if name == 'constant':
    decay = optax.constant_schedule(peak)
  elif name == 'cosine':
    decay = optax.cosine_decay_schedule(peak, rest, alpha=options['cosine']['final'])
  elif name == 'linear':
    decay = optax.linear_schedule(peak, peak * options['linear']['final'], rest)
  else:
    kwargs = options['exponential']
    decay = optax.exponential_decay(peak, kwargs['every'], kwargs['rate'])
  if not warmup:
    return decay
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def build(
  run: Run,
  schedule: optax.Schedule,
  frozen: Sequence[str] = (),
  anchored: Sequence[str] | None = None,
) -> optax.GradientTransformation:
  """Penalties on the parameters, clipping, the optimizer, and what spares some layers.

  Args:
    run: the config.
    schedule: step -> learning rate.
    frozen: paths of parameters that are not trained.
    anchored: paths of those of `transfer.l2_sp`; None: the shared ones.
  """
  options = run['optimizer']
  name = options['name']
  kwargs = dict(options[name])
  if name == 'adamw':
    kwargs['mask'] = _decayed
  links = []
  own = {task: section['l2'] for task, section in run['tasks'].items()}
  if options['l2_shared'] or any(own.values()):
    links.append(add_l2(options['l2_shared'], own))
  gentle = run['transfer']
  if gentle['l2_sp']:
    links.append(transfer.l2_sp(gentle['l2_sp'], anchored))
  if options['clip_norm']:
    links.append(optax.clip_by_global_norm(options['clip_norm']))
  links.append(getattr(optax, name)(schedule, **kwargs))
  if run['encoder']['embedding']['freeze_vectors']:  # without a gradient, but not without decay
    links.append(optax.masked(optax.set_to_zero(), _frozen))
  if gentle['layer_decay'] < 1:
    links.append(transfer.scale_by_layer(gentle['layer_decay'], gentle['layers']))
  if gentle['unfreeze_every']:
    links.append(transfer.unfreeze_gradually(gentle['unfreeze_every'], gentle['layers']))
  if frozen:
    links.append(transfer.freeze(frozen))
  return optax.chain(*links)


def _decayed(params: Any) -> Any:
  """True for matrices and tables; by name too, since columns stack what is a vector in each."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.ndim(leaf) > 1 and not _SPARED.search(sharding.path_of(path)), params
  )


def _frozen(params: Any) -> Any:
  """True for the vectors that are not trained."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: encoders.FROZEN in sharding.path_of(path).split('/'), params
  )


def add_l2(shared: float, tasks: Mapping[str, float]) -> optax.GradientTransformation:
  """Adds the gradient 2λθ of λ‖θ‖² on shared, and 2λ_iφ_i on each task's parameters.

  Args:
    shared: λ.
    tasks: λ_i by task.

  Returns:
    a transformation of gradients like `{'shared': θ, 'tasks': {name: φ}}`; it needs `params`.
  """

  def update(updates, params):
    def add(rate, grads, values):
      return jax.tree.map(lambda g, p: g + jnp.asarray(2 * rate, p.dtype) * p, grads, values)

    own = {
      name: add(tasks[name], grads, params['tasks'][name])
      for name, grads in updates['tasks'].items()
    }
    return {'shared': add(shared, updates['shared'], params['shared']), 'tasks': own}

  return optax.stateless(update)
