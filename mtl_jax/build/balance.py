"""The balancing method of a run, and whether its options fit."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mtl_jax import errors, optim, options, train_step

Run = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
  """`config.balance`, beside the options of each method; by default nothing is around the method.

  Attributes:
    name: one of `optim.METHODS`, or some joined with '+'.
    at: 'parameters', or 'representation': the gradients of the shared features.
    jacobian: 'auto', 'stacked', 'sequential', 'matrix_free': see `make_train_step`.
    tasks_at_once: tasks pulled back in one pass; 0: as the device likes it.
    unit_task_weights: loss weights spare the tasks' own parameters.
    monitor: log cosines, conflicts and improved tasks for every method.
    ema_gramian: smooths G over steps: share of the past. This and what follows are wrappers around
      the method, from the inside out.
    ema_weights: smooths the weights over steps (CR-MOGM): share of the past.
    clip_conflict: the direction's largest −cos with a task's gradient.
    every_k: steps between two sets of weights.
    warmup_steps: of the plain mean.
    groups: balanced each by itself: 'layer', 'matrix', or regular expressions.
    sharpness: ρ > 0: gradients are those of a step of this length uphill; 0: where we are.
    sharpness_kind: 'f_mtl', 'samo' or 'sam': see `optim.sharpness_aware`.
  """

  name: str = 'sum_tasks'
  at: str = 'parameters'
  jacobian: str = 'auto'
  tasks_at_once: options.Natural = 0
  unit_task_weights: bool = False
  monitor: bool = False
  ema_gramian: options.Share = 0.0
  ema_weights: options.Share = 0.0
  clip_conflict: options.Amount = 1.0
  every_k: options.Count = 1
  warmup_steps: options.Natural = 0
  groups: Sequence[Any] = ('whole',)  # its own check knows what they are
  sharpness: options.Amount = 0.0
  sharpness_kind: str = 'f_mtl'


def build_balance(run: Run) -> optim.Balancer:
  """The balancing method; scalings alone are followed by the plain sum.

  Raises:
    ConfigError: an option has no such value.
  """
  chosen = run['balance']
  try:
    links = [_method(name, chosen) for name in chosen['name'].split('+')]
    if isinstance(links[-1], optim.Normalizer):
      links.append(optim.sum_tasks())
    return _wrap(optim.compose(*links), chosen)
  except ValueError as e:
    raise errors.ConfigError(f'balance.{e}') from None


def check_balance(run: Run) -> None:
  """Raises ConfigError unless the balancing method can be built, and computed as it is asked to."""
  chosen, balance = run['balance'], build_balance(run)
  try:
    count = run['train'].get('accumulate', 1)
    train_step.check_balance(balance, chosen['at'], chosen['jacobian'], count)
  except ValueError as e:
    raise errors.ConfigError(f'balance: {e}') from None


def _method(name: str, chosen: Run) -> optim.Balancer | optim.Normalizer:
  given = chosen.get(name, {})
  return optim.get(name, **{k: None if v == () else v for k, v in given.items()})


def _wrap(balance: optim.Balancer, chosen: Run) -> optim.Balancer:
  """The wrappers that a config asks for, from the inside out."""
  if chosen['ema_gramian']:
    balance = optim.ema_gramian(balance, chosen['ema_gramian'])
  if chosen['ema_weights']:
    balance = optim.ema_weights(balance, chosen['ema_weights'])
  if chosen['clip_conflict'] < 1:
    balance = optim.clip_conflict(balance, chosen['clip_conflict'])
  if chosen['every_k'] > 1:
    balance = optim.every_k(balance, chosen['every_k'])
  if chosen['warmup_steps']:
    balance = optim.with_warmup(balance, chosen['warmup_steps'])
  groups = chosen['groups']
  named = len(groups) == 1 and groups[0] in optim.GROUPS
  if groups and groups != ('whole',):
    balance = optim.by_group(balance, groups[0] if named else groups)
  if chosen.get('sharpness'):
    kind = chosen.get('sharpness_kind', 'f_mtl')
    balance = optim.sharpness_aware(balance, chosen['sharpness'], kind)
  return balance
