"""Hundreds of tasks of one kind: their heads are stacked, so that T of them are one product."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mtl_jax.gradients import halves
from mtl_jax.model import apply_module, init_module
from mtl_jax.protocols import LabelledTask

_LABELS = ('targets', 'mask', 'weight')


@dataclasses.dataclass(frozen=True)
class ManyTasks:
  """One trunk, and T heads of one kind with parameters of their own.

  Parameters are `{'shared': θ, 'tasks': φ}` with every leaf of φ `[T, ...]`, in place of a dict by
  name: neither the time to compile a step nor the number of its operations grows with T. Batches
  are stacked likewise, `[T, B, ...]`:

  * own inputs: `{'inputs': [T, B, ...], 'targets': [T, B, ...]}`;
  * `shared_inputs`: `{'inputs': [B, ...], 'targets': [T, B, ...]}`;

  and in either 'mask' bool `[T, B]` and 'weight' float `[T, B]`, where given. A task without a
  label in the batch is absent.

  Attributes:
    shared: Flax module `(inputs, train=False) -> features`, without state.
    task: what the tasks have in common: head, kind, loss, metrics; its name says what they are.
    names: the tasks' names, in the order of every `[T]` array; or their number.
    shared_inputs: all tasks read the same examples.
    weights: of the tasks' losses, `[T]`; None: each that of `task`.

  Raises:
    ValueError: no names, equal names, or weights that do not fit them.

  Example:
    >>> import jax, numpy as np, optax, mtl_jax
    >>> from mtl_jax import Task, encoders, heads, optim, sharing
    >>> school = Task('school', heads.get('regression'), kind='regression')
    >>> model = sharing.ManyTasks(encoders.MLP((16,)), school, 139)
    >>> batch = {'inputs': np.zeros((139, 4, 27), 'f'), 'targets': np.zeros((139, 4), 'f')}
    >>> state = mtl_jax.init_train_state(
    ...   model, optim.upgrad(), optax.sgd(0.1), jax.random.key(0), batch)
    >>> state.params['tasks']['Dense_0']['kernel'].shape
    (139, 16, 1)
  """

  shared: nn.Module
  task: LabelledTask
  names: Sequence[str] | int
  shared_inputs: bool = False
  weights: Sequence[float] | None = None

  def __post_init__(self) -> None:
    names = self.names
    if isinstance(names, int):
      names = tuple(f'{self.task.name}_{i}' for i in range(names))
    object.__setattr__(self, 'names', tuple(names))
    if not names or len(set(names)) < len(names):
      raise ValueError(f'ManyTasks needs one or more different names, not {list(names)[:5]}.')
    if self.weights is not None:
      weights = tuple(map(float, self.weights))
      object.__setattr__(self, 'weights', weights)
      if len(weights) != len(names) or not all(0 <= w < float('inf') for w in weights):
        raise ValueError(
          f'ManyTasks: weights are {len(names)} finite numbers from 0 on, one a task, not '
          f'{list(weights)[:5]} ({len(weights)}).'
        )

  @property
  def task_names(self) -> tuple[str, ...]:
    """The tasks' names in order."""
    assert isinstance(self.names, tuple)
    return self.names

  def init(self, key: jax.Array, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Fresh parameters, of each head by a key of its own; labels are not read.

    Raises:
      ValueError: the batch is of other tasks, or a module keeps variables besides parameters.
    """
    self.check(batch)
    shared_key, task_key = jax.random.split(key)
    inputs = batch['inputs']
    one = inputs if self.shared_inputs else halves.take_row(inputs, 0)
    shared = init_module(self.shared, 'the shared module', shared_key, one)
    features = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(self.encode, shared, one)
    )
    keys = jax.random.split(task_key, len(self.task_names))
    tasks = jax.vmap(
      lambda key: init_module(self.task.head, f'task {self.task.name!r}', key, features, one)
    )(keys)
    return {'shared': shared, 'tasks': tasks}

  def encode(self, shared: Any, inputs: Any, key: jax.Array | None = None) -> Any:
    """Shared half of one task's inputs, or of all tasks' common ones; with a key, in training."""
    return apply_module(self.shared, shared, key, inputs)

  def stacked_losses(
    self, tasks: Any, features: Any, batch: Mapping[str, Any], key: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Losses `[T]` and labels `[T]`, each of its own row of φ and of the features `[T, ...]`."""

    def one(own: Any, features: Any, inputs: Any, labels: Any, key: Any) -> Any:
      outputs = apply_module(self.task.head, own, key, features, inputs)
      return self.task.mean_loss(
        outputs, labels['targets'], labels.get('mask'), labels.get('weight')
      )

    losses, labels = self._mapped(one, tasks, features, batch, key)
    if self.weights is None:
      return losses, labels
    weights = jnp.asarray(self.weights, jnp.float32)
    return weights * losses, jnp.where(weights > 0, labels, 0.0)

  def outputs(self, params: Any, batch: Mapping[str, Any]) -> Any:
    """Outputs `[T, B, ...]` without dropout; labels are not read."""
    batch = {'inputs': batch['inputs']}

    def one(own: Any, features: Any, inputs: Any, labels: Any, key: None) -> Any:
      del labels, key
      return apply_module(self.task.head, own, None, features, inputs)

    return self._mapped(one, params['tasks'], self._features(params, batch), batch, None)

  def evaluate(self, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Losses and predictions of one batch; weights of tasks play no part.

    Returns:
      `{'loss_sum': [T], 'loss_count': [T], 'outputs': predictions [T, B, ...]}`, as
      `MultiTaskModel.evaluate`.
    """
    self.check(batch)

    def one(own: Any, features: Any, inputs: Any, labels: Any, key: None) -> Any:
      del key
      outputs = apply_module(self.task.head, own, None, features, inputs)
      sums = self.task.loss_sum(
        outputs, labels['targets'], labels.get('mask'), labels.get('weight')
      )
      return *sums, self.task.predictions(outputs)

    features = self._features(params, batch)
    sums, counts, made = self._mapped(one, params['tasks'], features, batch, None)
    return {'loss_sum': sums, 'loss_count': counts, 'outputs': made}

  def part(self, batch: Mapping[str, Any], index: int, count: int) -> dict[str, Any]:
    """Every count-th example from `index` on, of each task."""

    def of_all(leaf: Any) -> Any:
      return leaf[index::count]

    def of_each(leaf: Any) -> Any:
      return leaf[:, index::count]

    common = {'inputs'} if self.shared_inputs else set()
    return {
      name: jax.tree.map(of_all if name in common else of_each, value)
      for name, value in batch.items()
    }

  def check(self, batch: Mapping[str, Any]) -> None:
    """Raises ValueError unless a batch is of these tasks."""
    names, tasks = [n for n in ('inputs', *_LABELS) if n in batch], len(self.task_names)
    if not {'inputs', 'targets'} <= set(names) or len(names) < len(batch):
      raise ValueError(
        "ManyTasks reads {'inputs', 'targets'[, 'mask'][, 'weight']}, stacked over the tasks, not "
        f'{sorted(batch)}.'
      )
    for name in names[1:] if self.shared_inputs else names:
      for leaf in jax.tree.leaves(batch[name]):
        if jnp.shape(leaf)[:1] != (tasks,):
          raise ValueError(
            f'ManyTasks: {name!r} has the shape {jnp.shape(leaf)}, but its first axis is of the '
            f'{tasks} tasks.'
          )

  def _features(self, params: Any, batch: Mapping[str, Any]) -> Any:
    """`[T, B, ...]`."""
    if self.shared_inputs:
      return self.spread(self.encode(params['shared'], batch['inputs']))
    return jax.vmap(lambda inputs: self.encode(params['shared'], inputs))(batch['inputs'])

  def spread(self, features: Any) -> Any:
    """What all tasks read, as a row of each."""
    tasks = len(self.task_names)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (tasks, *leaf.shape)), features)

  def _mapped(
    self, one: Any, tasks: Any, features: Any, batch: Mapping[str, Any], key: jax.Array | None
  ) -> Any:
    places = jnp.arange(len(self.task_names))
    keys = None if key is None else jax.vmap(lambda i: halves.head_key(key, i))(places)
    labels = {name: batch[name] for name in _LABELS if name in batch}
    axes = (0, 0, None if self.shared_inputs else 0, 0, 0)
    return jax.vmap(one, axes)(tasks, features, batch['inputs'], labels, keys)
