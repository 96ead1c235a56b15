"""The sections of a config that are a run's own, and what has the options of every other."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mtl_jax import encoders, optim, options, sharing
from mtl_jax.build import balance, mesh, optimizer, transfer
from mtl_jax.data import augment
from mtl_jax.optim import _listing
from mtl_jax.plain import Plain


@dataclasses.dataclass(frozen=True)
class Train:
  """`config.train`.

  Attributes:
    batch_size: examples at once.
    accumulate: so many batches make a step, whose gradients are added up before they are balanced:
      the step of a batch so many times as large, at the memory of one.
    steps: one of steps and epochs is given, the other 0; both 0: 10 epochs.
    epochs: passes through the training split.
    log_every: steps.
    eval_every: steps; 0: after every epoch.
    checkpoint_every: steps; 0: with every evaluation.
  """

  batch_size: options.Count = 32
  accumulate: options.Count = 1
  steps: options.Natural = 0
  epochs: options.Amount = 0.0
  log_every: options.Count = 50
  eval_every: options.Natural = 0
  checkpoint_every: options.Natural = 0


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
  """`config.train.early_stopping`.

  The parameters with the best validation metric are kept; training stops after `patience`
  evaluations without a gain above `min_delta`.

  Attributes:
    metric: 'mean' of the main metrics, 'loss', 'joint.exact_match', 'TASK.METRIC'.
    patience: evaluations; 0: train to the end.
    min_delta: a smaller gain is none.
  """

  metric: str = 'mean'
  patience: options.Natural = 0
  min_delta: options.Amount = 0.0


@dataclasses.dataclass(frozen=True)
class Eval:
  """`config.eval`.

  Attributes:
    batch_size: examples at once.
    test: evaluate the best parameters on the test split at the end.
  """

  batch_size: options.Count = 256
  test: bool = True


@dataclasses.dataclass(frozen=True)
class Task:
  """The options of every task, beside those of its kind and its head.

  Attributes:
    weight: multiplies the task's loss; 0: the task is evaluated, but not trained.
    l2: λ_i of λ_i‖φ_i‖² on the task's own parameters; not balanced.
    train_labels: how many labels of the training split are learned from, as if there were no
      others: those of the first examples that have one; 0: all.
    weight_column: the field of an example that says what it weighs in the loss, a number from 0 on,
      where there is none 1; '': all weigh the same.
    class_weights: of the labels of each class in the loss, in the order of the classes; of several
      labels an example, of one that holds beside one that does not. ('balanced',): as many labels
      as each has in training, all classes weigh the same. (): each label does.
    head: the task's own half, in place of the kind's: 'package.module:Name' or 'FILE.py:Name' of a
      Flax module class, `(features, inputs, train=False) -> outputs`, whose fields `num_classes`
      and `dtype` are given where it has them; '': the kind's.
    loss: likewise, a function `(outputs, targets) -> values`, elementwise, or `-> (values, valid)`;
      '': the kind's.
    batch_size: examples of the task at once, where each task has batches of its own; 0: as
      `train.batch_size`.
  """

  weight: options.Amount = 1.0
  l2: options.Amount = 0.0
  train_labels: options.Natural = 0
  weight_column: str = ''
  class_weights: Sequence[Any] = ()
  head: str = ''
  loss: str = ''
  batch_size: options.Natural = 0


LATER: dict[str, Any] = {
  'tasks.*.weight_column': '',
  'tasks.*.class_weights': (),
  'tasks.*.batch_size': 0,
  'tasks.*.head': '',
  'tasks.*.loss': '',
  'tasks.*.standardize': False,
  'dataset.normalize': (),
  'dataset.rates': (),
  'dataset.stride': 0,
  'dataset.augment': augment.DEFAULTS,
  'train.accumulate': 1,
  'encoder.resnet.norm': 'group',
  'balance.sharpness': 0.0,
  'balance.sharpness_kind': 'f_mtl',
}
"""Options that a single run's config has where they are not at these values alone: they came when
runs without them had been stored."""

OWNERS: dict[str, Callable[..., Any]] = {
  'dataset.augment': augment.Options,
  'transfer': transfer.Options,
  'balance': balance.Options,
  'optimizer': optimizer.Options,
  'optimizer.schedule': optimizer.ScheduleOptions,
  'train': Train,
  'train.early_stopping': EarlyStopping,
  'eval': Eval,
  'mesh': mesh.Options,
}
"""What has the options of a section in its signature."""

CHOICES: dict[str, dict[str, Callable[..., Any]]] = {
  'encoder': {name: encoders.owner_of(name) for name in (*encoders.ENCODERS, *encoders.PRETRAINED)},
  'sharing': dict(sharing.SHARING),
  'balance': dict(optim.METHODS),
  'optimizer': dict(optimizer.OPTIMIZERS),
  'optimizer.schedule': dict(optimizer.SCHEDULES),
}
"""`X.name` picks one of these, and `X.<name>` has its options; `balance.name` may join some by '+'.
`encoder.name` may be 'package.module:Name' too."""


def defaults(path: str) -> Plain:
  """The options of a section, and those of all that it chooses among, at their defaults."""
  own: Plain = options.defaults(OWNERS[path]) if path in OWNERS else {}
  return own | {name: found for name in CHOICES.get(path, ()) if (found := _chosen(path, name))}


def _chosen(path: str, name: str) -> Plain:
  if path == 'encoder':
    return encoders.options_of(name)
  if path == 'balance':
    return _listing.options(name)
  return options.defaults(CHOICES[path][name])


def check(run: Plain) -> None:
  """Checks the numbers of a run's config, whose sections have only the options of what is chosen.

  Raises:
    ConfigError: one is out of its range; its path is named.
  """
  for name, section in run['tasks'].items():
    options.check(Task, section, f'tasks.{name}')
  owners = OWNERS | {
    f'{path}.{name}': owner for path, chosen in CHOICES.items() for name, owner in chosen.items()
  }
  owners['encoder.embedding'] = encoders.owner_of('embedding')
  for path, owner in owners.items():
    node: Any = run
    for part in path.split('.'):
      node = node.get(part, {})
    # Methods that say nothing of a number have none below 0.
    balances = path.startswith('balance.')
    options.check(owner, node, path, options.NOT_NEGATIVE if balances else options.ANY)
