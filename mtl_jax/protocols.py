"""What a model or a balance may have beyond the minimum: a Protocol each, and one way to ask.

The minimum of a model is a function to losses `[T]`; that of a balance, an optax transformation of
stacked task gradients to one direction. Nothing else asks what members an object has.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import jax

Params = Any
Features = Any
Example = Mapping[str, Any]
State = Any


class LabelledTask(Protocol):
  """What a model asks of its tasks; `mtl_jax.Task` is one."""

  @property
  def name(self) -> str:
    """Its name."""

  @property
  def head(self) -> Any:
    """A Flax module `(features, inputs, train=False) -> outputs`."""

  @property
  def metrics(self) -> tuple[str, ...]:
    """Names of metrics of its kind, the main one first."""

  @property
  def rules(self) -> Any:
    """Its kind, a `mtl_jax.kinds.Kind`."""

  @property
  def weight(self) -> float:
    """What multiplies its loss."""

  def loss_sum(
    self,
    outputs: Any,
    targets: jax.Array,
    mask: jax.Array | None = None,
    weight: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Σ w·l `[]` over the labels, w of example and class, and Σ w `[]`."""

  def mean_loss(
    self,
    outputs: Any,
    targets: jax.Array,
    mask: jax.Array | None = None,
    weight: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """What multiplies the loss, times Σ w·l / Σ w `[]`, and Σ w `[]`."""

  def predictions(self, outputs: Any) -> jax.Array:
    """What the outputs predict, in the shape of the targets."""


# Models


@runtime_checkable
class TwoHalves(Protocol):
  """A model whose tasks meet in one shared half.

  `params` is `{'shared': θ, 'tasks': {name: φ}}`; features are any pytree, batch axis
  first.

  A model whose shared half works differently for each task (a column, an adapter) is `ByTask`.
  """

  @property
  def task_names(self) -> tuple[str, ...]:
    """The tasks' names; their order is that of every `[T]` array."""

  def encode(self, shared: Params, inputs: Any, key: jax.Array | None) -> Features:
    """Shared half: inputs (batch axis first) to features. `key` is None outside training."""

  def task_loss(
    self,
    name: str,
    task_params: Params,
    features: Features,
    example: Example,
    key: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array]:
    """Task half: its loss `[]`, and the labels that it is the mean of `[]` (0: absent): how many,
    or the sum of their weights.
    """


def has_two_halves(model: Any) -> TypeGuard[TwoHalves]:
  """Whether `model` is `TwoHalves`: it has `encode` and `task_loss`; or `StackedTasks`."""
  return hasattr(model, 'encode') and (hasattr(model, 'task_loss') or stacks_tasks(model))


class Variables(NamedTuple):
  """Parameters, and the state that goes with them: where a model is only read, in their place."""

  params: Params
  model_state: Any


@runtime_checkable
class StackedTasks(Protocol):
  """A model of two halves whose tasks' own parameters and labels are stacked, leaves `[T, ...]`.

  The tasks are alike: nothing loops over them. Inputs are `[T, B, ...]`, or those of all tasks.
  """

  shared_inputs: bool

  @property
  def task_names(self) -> tuple[str, ...]:
    """The tasks' names; their order is that of every `[T]` array."""

  def encode(self, shared: Params, inputs: Any, key: jax.Array | None) -> Features:
    """The shared half of one task's inputs."""

  def stacked_losses(
    self, tasks: Params, features: Features, batch: Any, key: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """Losses `[T]` of features `[T, ...]`, and the labels `[T]` that each is the mean of."""

  def spread(self, features: Features) -> Features:
    """What all tasks read, as a row of each."""

  def part(self, batch: Any, index: int, count: int) -> Any:
    """Every count-th example from `index` on, of each task."""

  def check(self, batch: Any) -> None:
    """Raises ValueError unless a batch is of these tasks."""


def stacks_tasks(model: Any) -> TypeGuard[StackedTasks]:
  """Whether the tasks' own parameters are stacked."""
  return isinstance(model, StackedTasks)


@runtime_checkable
class ByTask(Protocol):
  """A model of two halves whose shared half works differently for each task.

  Then φ_i is `{'encoder': own, 'head': ...}`, with `own` of the same shapes for every task, and the
  engine maps over tasks.
  """

  def encode_task(
    self, shared: Params, own: Params, index: jax.Array, inputs: Any, key: jax.Array | None
  ) -> Features:
    """In place of `encode`: θ, what of φ_i takes part, i as an int32 `[]`, inputs, key."""


def encodes_by_task(model: Any) -> TypeGuard[ByTask]:
  """Whether the shared half works differently for each task."""
  return isinstance(model, ByTask)


@runtime_checkable
class Stateful(Protocol):
  """A model of two halves whose modules may keep state that no gradient changes: running means.

  A state is `{'shared': s, 'tasks': {name: s}}`, each s any pytree.
  """

  model_state: Any  # what it reads; None: it is not bound to a state, or keeps none

  def init_with_state(self, key: jax.Array, batch: Any) -> tuple[Params, Any]:
    """Fresh parameters and the first state, None where it keeps none; of the batch only the shapes
    count.
    """

  def with_state(self, model_state: Any) -> Any:
    """The model that reads this state."""

  def encode_updating(
    self, shared: Params, inputs: Any, key: jax.Array | None
  ) -> tuple[Features, Any]:
    """`encode`, and what the shared half's state becomes."""

  def task_loss_updating(
    self,
    name: str,
    task_params: Params,
    features: Features,
    example: Example,
    key: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array, Any]:
    """`task_loss`, and what the state of the task's own half becomes."""


def can_keep_state(model: Any) -> TypeGuard[Stateful]:
  """Whether a model can be bound to a state."""
  return isinstance(model, Stateful)


def reads_state(model: Any) -> TypeGuard[Stateful]:
  """Whether a model is bound to a state."""
  return isinstance(model, Stateful) and model.model_state is not None


@runtime_checkable
class Changing(Protocol):
  """A model that changes over training, as by a falling temperature."""

  def at(self, step: jax.Array) -> Any:
    """The model of a step, int32 `[]`."""


def changes(model: Any) -> TypeGuard[Changing]:
  """Whether the model changes over training."""
  return isinstance(model, Changing)


@runtime_checkable
class Penalized(Protocol):
  """A model with a regularizer that is no task's loss, or with None in its place."""

  penalty: Callable[[Params], jax.Array] | None


def penalty_of(model: Any) -> Callable[[Params], jax.Array] | None:
  """The regularizer `params -> []`, whose gradient joins the direction unbalanced, or None."""
  return model.penalty if isinstance(model, Penalized) else None


@runtime_checkable
class OfWholeBatches(Protocol):
  """A model that says whether its losses are of a whole batch, and no means over labels.

  Those of the parts of a batch do not add up to such a loss.
  """

  whole_batch: bool


def needs_whole_batches(model: Any) -> bool:
  """Whether a batch must not be taken in parts."""
  return isinstance(model, OfWholeBatches) and model.whole_batch


@runtime_checkable
class Initializes(Protocol):
  """A model that makes its own first parameters."""

  def init(self, key: jax.Array, batch: Any) -> Params:
    """Fresh parameters; of the batch only the shapes count."""


def initializes(model: Any) -> TypeGuard[Initializes]:
  """Whether the model makes its own first parameters."""
  return isinstance(model, Initializes)


@runtime_checkable
class Evaluates(Protocol):
  """A model that says more of a batch than its losses."""

  def evaluate(self, params: Params, batch: Any) -> dict[str, Any]:
    """What an evaluation step returns."""


def evaluates(model: Any) -> TypeGuard[Evaluates]:
  """Whether the model says more of a batch than its losses."""
  return isinstance(model, Evaluates)


def task_names_of(model: Any) -> tuple[str, ...]:
  """The names of a model's tasks, or the keys of a mapping of loss functions; () without names."""
  return tuple(model) if isinstance(model, Mapping) else tuple(getattr(model, 'task_names', ()))


# Balances


class WeightingUpdate(Protocol):
  """`(state, *, present, losses, gramian, key, **extra_args) -> weights [T], state`."""

  def __call__(
    self,
    state: State,
    *,
    present: jax.Array,
    losses: jax.Array | None = None,
    gramian: jax.Array | None = None,
    key: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[jax.Array, State]:
    """Task weights for one step.

    Args:
      state: from `init` or the last update.
      present: `[T]` bool, the tasks of this step. An absent task's row and column of `gramian` are
        zero.
      losses: `[T]`, for methods that need them.
      gramian: `[T, T]` inner products of the task gradients; None for methods on losses only.
      key: PRNG key of this step, from the train step; None: methods draw from their state's key.
      **extra_args: ignored, as in optax.
    """


class Weighting(NamedTuple):
  """A balancing method as weights on task gradients.

  Attributes:
    init: num_tasks -> state.
    update: see `WeightingUpdate`. Called through `weigh`: what it reads is finite, an absent task's
      loss, row and column are zero, and the weight it gives an absent task is not used.
    needs: 'losses' or 'gramian'.
    follow: `(state, *, losses, new_losses, present) -> state`, for a method that looks at the
      losses `[T]` of the same batch after the parameters moved: the train step runs a second
      forward. None for all others.
    batches: how many independent batches the method reads. With more than one, `gramian` is J₁·J₂ᵀ
      of the first two, and the direction is that of the last.
    held: state -> (due `[]` bool, weights `[T]`, state): where not due, `update` would read nothing
      and give these weights and this state, so that the train step needs no Gramian. None: always
      due.
    max_norm: state before the step -> `[]`, > 0, for a method on the Gramian: where the combined
      direction is longer it is brought to this norm, at every step, and the weights shown with it
      (see `bounded`). None: never.
  """

  init: Callable[[int | None], State]
  update: WeightingUpdate
  needs: str
  follow: Callable[..., State] | None = None
  batches: int = 1
  held: Callable[[State], tuple[jax.Array, jax.Array, State]] | None = None
  max_norm: Callable[[State], jax.Array] | None = None


@runtime_checkable
class Weighed(Protocol):
  """A balance that is a weighting, or has None in its place."""

  weighting: Weighting | None


def weighting_of(balance: Any) -> Weighting | None:
  """The weighting that a balance is; None for one that looks inside the gradients."""
  return balance.weighting if isinstance(balance, Weighed) else None


@runtime_checkable
class Needing(Protocol):
  """A balance that says what it reads: 'losses', 'gramian', 'jacobian' or 'functions'."""

  needs: str


def needs_of(balance: Any) -> str:
  """What a balance reads; any other optax transformation reads the stacked gradients."""
  return balance.needs if isinstance(balance, Needing) else 'jacobian'


@runtime_checkable
class Validating(Protocol):
  """A balance on functions that says whether it reads a validation batch."""

  validates: bool


def validates(balance: Any) -> bool:
  """Whether a balance on functions reads a validation batch; it does unless it says otherwise."""
  return balance.validates if isinstance(balance, Validating) else True


@runtime_checkable
class InitTasks(Protocol):
  """A balance that wants to know T when it begins."""

  def init_tasks(self, params: Params, num_tasks: int | None) -> State:
    """The first state."""


def first_state_of(balance: Any, params: Params, num_tasks: int | None) -> State:
  """The first state of a balance, or of any other optax transformation."""
  if isinstance(balance, InitTasks):
    return balance.init_tasks(params, num_tasks)
  return balance.init(params)


@runtime_checkable
class Telling(Protocol):
  """A balance that can tell the weights its direction was made with, or has None in its place."""

  weighed: Callable[..., tuple[Any, State, jax.Array]] | None


def weighed_of(balance: Any) -> Callable[..., tuple[Any, State, jax.Array]] | None:
  """`update` with a third result, the weights `[T]`; None where a balance has none to tell."""
  return balance.weighed if isinstance(balance, Telling) else None
