"""What a run trains, from its resolved config: model, balance, optimizer, compiled steps."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mtl_jax import errors, sharding, train_step
from mtl_jax.build import layers as layers_lib
from mtl_jax.build import optimizer as optimizer_lib
from mtl_jax.build import start as start_lib
from mtl_jax.build.balance import build_balance
from mtl_jax.build.mesh import build_mesh
from mtl_jax.build.model import build_model
from mtl_jax.data import pipeline
from mtl_jax.model import MultiTaskModel

Run = Mapping[str, Any]
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Program:
  """All that is the same for every seed of a variant, so that it is compiled once.

  Attributes:
    model: the model.
    balance: the balancing method.
    optimizer: what follows it.
    schedule: step -> learning rate.
    mesh: None on a single device.
    step: compiled `(state, batch) -> (state, metrics)`.
    init: seed -> a fresh state, compiled.
    eval_step: compiled `(params, batch) -> sums and predictions`.
    compilations: how often `step` was compiled so far.
  """

  model: MultiTaskModel
  balance: optax.GradientTransformation
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  mesh: Mesh | None
  init: Callable[[int], train_step.TrainState]
  step: Callable[..., Any]
  eval_step: Callable[..., Any]
  compilations: Callable[[], int]

  def put(self, batch: Any) -> Any:
    """Brings a batch of NumPy arrays to where the steps expect it."""
    if self.mesh is None:
      return batch
    if jax.process_count() > 1:
      batch = jax.tree.map(_own_rows, batch)
    return sharding.shard_batch(batch, self.mesh)


def program(run: Run, data: pipeline.Data, steps: int) -> Program:
  """Builds what a run trains.

  Args:
    run: a config from `config.resolve`.
    data: its data set, from `data.pipeline.load`.
    steps: number of training steps, for the learning-rate schedule.

  Raises:
    ConfigError: an option does not fit another, or the devices.
  """
  with _of_model(run):
    model = build_model(run, data)
  if run['dataset'].get('stride'):
    model = dataclasses.replace(model, windows=True)
  balance = build_balance(run)
  schedule = optimizer_lib.build_schedule(run, steps)
  mesh = build_mesh(run)
  batch = data.example_batch()  # the same for every seed: only its shapes count
  with _of_model(run):
    model, frozen = start_lib.freeze(start_lib.with_first_state(model, batch), run, batch)
    anchored = start_lib.anchored(model, run, batch)
    parts = layers_lib.parts_of(model, batch, run['transfer']['layers'])
  model = model.with_state(None)
  optimizer = optimizer_lib.build(run, schedule, parts, frozen, anchored)
  options = run['balance']

  def init(key: jax.Array, params: Any = None, state: Any = None) -> train_step.TrainState:
    return train_step.init_train_state(
      model, balance, optimizer, key, batch, params=params, model_state=state, mesh=mesh
    )

  compiled = jax.jit(init) if mesh is None else init
  fresh = jax.jit(model.init_with_state)

  def start(seed: int) -> train_step.TrainState:
    key = jax.random.key(seed)
    if not start_lib.elsewhere(run):
      return compiled(key)
    # With the key that `init_train_state` would give the model.
    first = fresh(jax.random.split(key)[0], batch)
    with errors.as_config_errors():
      return compiled(key, *start_lib.transplant(run, data, model, batch, first, seed))

  with _of_model(run):  # before any work; jit keeps the trace
    step = train_step.make_train_step(
      model,
      balance,
      optimizer,
      mesh=mesh,
      at=options['at'],
      jacobian=options['jacobian'],
      tasks_at_once=options['tasks_at_once'] or None,
      unit_task_weights=options['unit_task_weights'],
      monitor=options['monitor'],
      accumulate=run['train'].get('accumulate', 1),
    )
    jax.eval_shape(step, jax.eval_shape(init, jax.random.key(0)), batch)
  if mesh is None:
    eval_step = train_step.make_eval_step(model)
  else:  # every process gets the whole result
    everywhere = NamedSharding(mesh, PartitionSpec())
    eval_step = jax.jit(train_step.make_eval_step(model, jit=False), out_shardings=everywhere)
  count = step._cache_size  # type: ignore[attr-defined]
  return Program(
    model,
    balance,
    optimizer,
    schedule,
    mesh,
    start,
    step,
    eval_step,
    count,
  )


@contextlib.contextmanager
def _of_model(run: Run) -> Iterator[None]:
  """What goes wrong in here names the model, and is one line if the library says it."""
  try:
    with errors.as_config_errors():
      yield
  except errors.ConfigError:
    raise
  except Exception as error:
    name = run['encoder']['name']
    error.add_note(
      f'This was raised by the model: encoder {name!r}, sharing {run["sharing"]["name"]!r}.'
    )
    raise


def _own_rows(leaf: Any) -> Any:
  """This process's rows of a whole batch."""
  rows = leaf.shape[0] // jax.process_count()
  return leaf[jax.process_index() * rows : (jax.process_index() + 1) * rows]
