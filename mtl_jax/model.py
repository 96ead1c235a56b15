"""MultiTaskModel: a shared Flax module and one module a task, as pure functions of parameters."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import flax.errors
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.interpreters import partial_eval

from mtl_jax import sharding
from mtl_jax.gradients import halves
from mtl_jax.protocols import Example, LabelledTask, Variables


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the parameters of a model have encoders, and what of the rest is no weight.

  An architecture says it; rates by layer, freezing and weight decay follow from it, and from what
  the encoder says of itself (`encoders.protocol`). All that is in no encoder is above them.

  Attributes:
    encoder: the Flax module, the same in every place.
    places: paths of its parameters, of one encoder or of several stacked along a first axis; '*'
      stands for each task: 'shared/columns', 'tasks/*/encoder'. Those in θ are the trunk.
    mixing: regular expressions of whole paths of what mixes or selects and does not transform,
      which weight decay would draw to nowhere; vectors and biases need none.
  """

  encoder: Any
  places: tuple[str, ...]
  mixing: tuple[str, ...] = ()

  def inside(self, path: str) -> str | None:
    """The path in its encoder of the parameter at `path`; None where it is in no encoder."""
    parts = path.split('/')
    for place in self.places:
      start = place.split('/')
      pairs = list(zip(start, parts, strict=False))
      if len(parts) > len(start) and all(a in (b, '*') for a, b in pairs):
        return '/'.join(parts[len(start) :])
    return None

  @property
  def trunk(self) -> tuple[str, ...]:
    """Regular expressions of the encoders' parameters in θ."""
    shared = (place for place in self.places if place.split('/')[0] == 'shared')
    return tuple(f'{re.escape(place)}/.*' for place in shared)


@dataclasses.dataclass(frozen=True)
class MultiTaskModel:
  """The two halves of a multi-task model (see `gradients.TwoHalves`).

  Attributes:
    shared: Flax module `(inputs, train=False) -> features`, any pytree with the batch axis first.
    tasks: the tasks, in the order of every `[T]` array.
    modules: the tasks' own halves by name, each `(features, inputs, train=False) -> outputs`; by
      default the tasks' heads.
    penalty: regularizer `params -> []`, minimized beside the balanced losses; None for none.
    frozen: regular expressions of paths in θ, such as 'shared/trunk/.*': what matches one fully
      gets no gradient from any loss. An optimizer that decays weights must leave it alone too
      (see `is_frozen`).
    windows: whether `evaluate` gives outputs too, of which those of a text's windows are put
      together.
    layout: where the encoders are; by default all of θ is one, if `shared` is a Flax module. Any
      other shared half has to say it before layers are asked for (see `layout_of`).
    model_state: what the modules keep beside their parameters, such as BatchNorm's running means:
      `{'shared': variables, 'tasks': {name: variables}}`, Flax variables by collection. Given by
      `with_state`; the train step threads it (see `TrainState`).

  Raises:
    ValueError: no task, two tasks of one name, or modules for other names than the tasks'; an
      expression of `frozen` that finds nothing (when the parameters are used).
  """

  shared: nn.Module
  tasks: tuple[LabelledTask, ...]
  modules: Mapping[str, nn.Module] | None = None
  penalty: Callable[[Any], jax.Array] | None = None
  frozen: tuple[str, ...] = ()
  layout: Layout | None = None
  windows: bool = False
  model_state: Any = None

  def __post_init__(self) -> None:
    object.__setattr__(self, 'tasks', tuple(self.tasks))
    names = [task.name for task in self.tasks]
    if not names or len(set(names)) < len(names):
      raise ValueError(f'A model needs one or more tasks of different names, not {names}.')
    if self.modules is None:
      object.__setattr__(self, 'modules', {task.name: task.head for task in self.tasks})
    elif set(self.modules) != set(names):
      raise ValueError(f'There are modules for {list(self.modules)}, but the tasks are {names}.')

  @property
  def task_names(self) -> tuple[str, ...]:
    """The tasks' names in order."""
    return tuple(task.name for task in self.tasks)

  def task(self, name: str) -> LabelledTask:
    """The task called `name`; KeyError if there is none."""
    return {task.name: task for task in self.tasks}[name]

  def init(self, key: jax.Array, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Fresh parameters `{'shared': θ, 'tasks': {name: φ}}`, plain dicts of arrays.

    Args:
      key: PRNG key.
      batch: either regime, with every task (labels are not read).

    Raises:
      ValueError: a task is missing from the batch.
    """
    return self.init_with_state(key, batch)[0]

  def init_state(self, batch: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the modules keep beside their parameters, at first; None where they keep nothing.

    Args:
      batch: as for `init`.

    Raises:
      ValueError: a task is missing from the batch.
    """
    return self.init_with_state(jax.random.key(0), batch)[1]

  def with_state(self, model_state: Any) -> Self:
    """The model that reads a state; in training, see `encode_updating` and `task_loss_updating`."""
    return dataclasses.replace(self, model_state=model_state)

  def init_with_state(
    self, key: jax.Array, batch: Mapping[str, Any]
  ) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """`init` and `init_state` at once."""
    by_task = self._all_tasks(batch)
    shared_key, task_key = jax.random.split(key)
    inputs = {name: example['inputs'] for name, example in by_task.items()}
    shared, shared_state = init_variables(self.shared, shared_key, inputs[self.task_names[0]])
    encoding = self.with_state({'shared': shared_state})
    tasks, states = {}, {}
    for index, name in enumerate(self.task_names):
      features = encoding.encode(shared, inputs[name])
      tasks[name], states[name] = init_variables(
        self._module(name), jax.random.fold_in(task_key, index), features, inputs[name]
      )
    state = {'shared': shared_state, 'tasks': states}
    return {'shared': shared, 'tasks': tasks}, state if jax.tree.leaves(state) else None

  def unpacked(self, params: Any) -> tuple[Self, Any]:
    """The model and its parameters, where they may come with a state (`protocols.Variables`)."""
    if isinstance(params, Variables):
      return self.with_state(params.model_state), params.params
    return self, params

  def encode(self, shared: Any, inputs: Any, key: jax.Array | None = None) -> Any:
    """Shared half; with a key, in training mode (dropout)."""
    return self.encode_updating(shared, inputs, key)[0]

  def encode_updating(
    self, shared: Any, inputs: Any, key: jax.Array | None = None
  ) -> tuple[Any, Any]:
    """`encode`, and what the state of the shared half becomes."""
    state = self.model_state['shared'] if self.model_state else {}
    return apply_updating(self.shared, self._held(shared), state, key, inputs)

  def task_outputs(
    self, name: str, task_params: Any, features: Any, inputs: Any, key: jax.Array | None = None
  ) -> Any:
    """The own half of task `name`."""
    return self._task_outputs(name, task_params, features, inputs, key)[0]

  def _task_outputs(
    self, name: str, task_params: Any, features: Any, inputs: Any, key: jax.Array | None
  ) -> tuple[Any, Any]:
    """The outputs, and what the state of the task's own half becomes."""
    state = self.model_state['tasks'][name] if self.model_state else {}
    return apply_updating(self._module(name), task_params, state, key, features, inputs)

  def task_loss(
    self,
    name: str,
    task_params: Any,
    features: Any,
    example: Example,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """The mean loss `[]` of task `name`, times its weight, and its labels `[]`; 0 if it is off."""
    outputs = self.task_outputs(name, task_params, features, example['inputs'], key)
    return self._mean_loss(name, outputs, example)

  def task_loss_updating(
    self,
    name: str,
    task_params: Any,
    features: Any,
    example: Example,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array, Any]:
    """`task_loss`, and what the state of the task's own half becomes."""
    outputs, state = self._task_outputs(name, task_params, features, example['inputs'], key)
    return *self._mean_loss(name, outputs, example), state

  def _mean_loss(self, name: str, outputs: Any, example: Example) -> tuple[jax.Array, jax.Array]:
    return self.task(name).mean_loss(
      outputs, example['targets'], example.get('mask'), example.get('weight')
    )

  def losses(
    self, params: Any, batch: Mapping[str, Any], key: jax.Array | None = None
  ) -> jax.Array:
    """Every task's weighted loss `[T]` on a batch of either regime; 0 for an absent task."""
    return halves.counted_losses(self, params, batch, key)[0]

  def outputs(
    self, params: Any, batch: Mapping[str, Any], tasks: Sequence[str] = ()
  ) -> dict[str, Any]:
    """`{task: outputs}` without dropout; labels are not read.

    Args:
      params: `{'shared': θ, 'tasks': {name: φ}}`, or with their state `protocols.Variables`.
      batch: `{'inputs': x}`, which all tasks read, or `{task: {'inputs': x}}`.
      tasks: of `{'inputs': x}`, the tasks whose outputs are computed; (): all.
    """
    if 'inputs' in batch:
      batch = {'inputs': batch['inputs'], 'targets': dict.fromkeys(tasks or self.task_names)}
    model, params = self.unpacked(params)
    features, _ = halves.encode_examples(model, params, batch)
    return {
      name: model.task_outputs(name, params['tasks'][name], features[name], example['inputs'])
      for name, example in halves.examples(batch, self.task_names).items()
    }

  def evaluate(self, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Losses and predictions of one batch; `Task.weight` plays no part.

    Returns:
      `{'loss_sum': [T], 'loss_count': [T], 'outputs': {task: predictions}}`, summed over the valid
      labels so that batches add up; 0 for a task that the batch leaves out. Where examples or
      classes have weights, Σ w·l and Σ w. Where a task has a metric that needs them, also
      `'scores': {task: scores}`, of such tasks alone. With `windows` also `'raw': {task: outputs}`
      of the tasks that do not label words, in the form of `Kind.of_windows`.
    """
    outputs = self.outputs(params, batch)
    by_task = halves.examples(batch, self.task_names)
    zero = jnp.zeros((), jnp.float32)
    sums, counts = dict.fromkeys(self.task_names, zero), dict.fromkeys(self.task_names, zero)
    for name, example in by_task.items():
      sums[name], counts[name] = self.task(name).loss_sum(
        outputs[name], example['targets'], example.get('mask'), example.get('weight')
      )
    result: dict[str, Any] = {
      'loss_sum': jnp.stack(list(sums.values())),
      'loss_count': jnp.stack(list(counts.values())),
      'outputs': {name: self.task(name).predictions(outputs[name]) for name in by_task},
    }
    if self.windows:
      whole = (task for task in map(self.task, by_task) if not task.rules.per_token)
      result['raw'] = {task.name: task.rules.of_windows(outputs[task.name]) for task in whole}
    ranked = [n for n in by_task if self.task(n).rules.needs_scores(self.task(n).metrics)]
    if ranked:
      result['scores'] = {name: self.task(name).rules.scores(outputs[name]) for name in ranked}
    return result

  def _all_tasks(self, batch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    by_task = halves.examples(batch, self.task_names)
    missing = [name for name in self.task_names if name not in by_task]
    if missing:
      raise ValueError(f'The first batch must hold every task; it lacks {missing}.')
    return by_task

  def _held(self, shared: Any) -> Any:
    """θ, without a gradient where it is frozen."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(shared)
    paths = [f'shared/{sharding.path_of(path)}' for path, _ in leaves]
    for pattern in self.frozen:
      if not any(is_frozen(path, [pattern]) for path in paths):
        raise ValueError(f'frozen: {pattern!r} matches no parameter; there are {", ".join(paths)}')
    held = [
      jax.lax.stop_gradient(leaf) if is_frozen(path, self.frozen) else leaf
      for path, (_, leaf) in zip(paths, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, held)

  def _module(self, name: str) -> nn.Module:
    assert self.modules is not None
    return self.modules[name]


def is_frozen(path: str, patterns: Sequence[str]) -> bool:
  """Whether a path such as 'shared/trunk/Dense_0/kernel' matches one of the patterns fully."""
  return any(re.fullmatch(pattern, path) for pattern in patterns)


def layout_of(model: MultiTaskModel) -> Layout:
  """Where a model has its encoders.

  Raises:
    ValueError: its shared half is no Flax module, and it does not say.
  """
  if model.layout is not None:
    return model.layout
  if not isinstance(model.shared, nn.Module):
    raise ValueError(
      f'The shared half {type(model.shared).__name__} is no Flax module: say where its encoders '
      'are by MultiTaskModel(..., layout=Layout(...)).'
    )
  return Layout(model.shared, ('shared',))


def read_by(
  model: MultiTaskModel, params: Any, batch: Mapping[str, Any], tasks: Sequence[str]
) -> list[str]:
  """Paths of the parameters that the outputs of some tasks depend on.

  Args:
    model: the model.
    params: its parameters, or their shapes.
    batch: either regime, with these tasks; only its shapes count.
    tasks: their names.
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(params)

  def outputs(*leaves: Any) -> list[Any]:
    made = model.outputs(jax.tree.unflatten(structure, leaves), batch)
    return [made[name] for name in tasks]

  program = jax.make_jaxpr(outputs)(*(leaf for _, leaf in leaves)).jaxpr
  _, used = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
  return [sharding.path_of(path) for (path, _), u in zip(leaves, used, strict=True) if u]


def init_module(module: nn.Module, owner: str, key: jax.Array, *args: Any) -> Any:
  """Fresh parameters of a Flax module; ValueError naming `owner` if it has any other variables."""
  params, others = init_variables(module, key, *args)
  if others:
    raise ValueError(
      f'{owner} keeps the variables {sorted(others)}, which this way of sharing does not carry '
      "from step to step: take sharing 'hard', or layers without running statistics (LayerNorm, "
      'GroupNorm).'
    )
  return params


def init_variables(module: nn.Module, key: jax.Array, *args: Any) -> tuple[Any, dict[str, Any]]:
  """Fresh parameters of a Flax module, and its other variables by collection."""
  variables = dict(nn.meta.unbox(module.init(key, *args)))
  return variables.pop('params', {}), variables


def apply_module(module: nn.Module, params: Any, key: jax.Array | None, *args: Any) -> Any:
  """The output of a module without state; with a key, in training mode."""
  return apply_updating(module, params, {}, key, *args)[0]


def apply_updating(
  module: nn.Module, params: Any, state: Mapping[str, Any], key: jax.Array | None, *args: Any
) -> tuple[Any, Any]:
  """The module's output and its other variables, by collection; with a key, in training mode."""
  training: dict[str, Any] = {} if key is None else {'train': True, 'rngs': {'dropout': key}}
  try:
    if key is None or not state:
      return module.apply({'params': params, **state}, *args, **training), state
    return module.apply({'params': params, **state}, *args, mutable=list(state), **training)
  except flax.errors.ScopeCollectionNotFound as error:
    raise ValueError(
      f'{type(module).__name__} keeps variables beside its parameters, and the model is not bound '
      'to them: model.with_state(model.init_state(batch)), or the state of a train step; '
      'init_train_state(..., params=params, model_state=model.init_state(batch)) for parameters of '
      'your own.'
    ) from error
