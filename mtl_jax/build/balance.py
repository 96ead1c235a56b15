"""The balancing method of a run, and whether its options fit."""

from collections.abc import Mapping
from typing import Any

from mtl_jax import errors, optim, train_step

Run = Mapping[str, Any]


def build_balance(run: Run) -> optim.Balancer:
  """The balancing method; scalings alone are followed by the plain sum.

  Raises:
    ConfigError: an option has no such value.
  """
  options = run['balance']
  try:
    links = [_method(name, options) for name in options['name'].split('+')]
    if isinstance(links[-1], optim.Normalizer):
      links.append(optim.sum_tasks())
    return _wrap(optim.compose(*links), options)
  except ValueError as e:
    raise errors.ConfigError(f'balance.{e}') from None


def check_balance(run: Run) -> None:
  """Raises ConfigError unless the balancing method can be built, and computed as it is asked to."""
  options, balance = run['balance'], build_balance(run)
  try:
    train_step.check_balance(balance, options['at'], options['jacobian'])
  except ValueError as e:
    raise errors.ConfigError(f'balance: {e}') from None


def _method(name: str, options: Run) -> optim.Balancer | optim.Normalizer:
  given = options.get(name, {})
  return optim.get(name, **{k: None if v == () else v for k, v in given.items()})


def _wrap(balance: optim.Balancer, options: Run) -> optim.Balancer:
  """The wrappers that a config asks for, from the inside out."""
  if options['ema_gramian']:
    balance = optim.ema_gramian(balance, options['ema_gramian'])
  if options['ema_weights']:
    balance = optim.ema_weights(balance, options['ema_weights'])
  if options['clip_conflict'] < 1:
    balance = optim.clip_conflict(balance, options['clip_conflict'])
  if options['every_k'] > 1:
    balance = optim.every_k(balance, options['every_k'])
  if options['warmup_steps']:
    balance = optim.with_warmup(balance, options['warmup_steps'])
  groups = options['groups']
  named = len(groups) == 1 and groups[0] in optim.GROUPS
  if groups and groups != ('whole',):
    balance = optim.by_group(balance, groups[0] if named else groups)
  return balance
