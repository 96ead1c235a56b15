"""TrainState: all that training changes, and how it begins."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mtl_jax import gradients, protocols, sharding
from mtl_jax.train_step import _path


@flax.struct.dataclass
class TrainState:
  """All that training changes: a plain pytree.

  Attributes:
    step: int32 `[]`, the number of steps taken.
    params: `{'shared': θ, 'tasks': {name: φ}}`, or any pytree that is all shared.
    opt_state: the optimizer's.
    balance_state: the balancing method's.
    key: PRNG key `[]`; it never changes: a step's randomness is `fold_in(key, step)`.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  balance_state: Any
  key: jax.Array


def init_train_state(
  model: Any,
  balance: optax.GradientTransformation,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  batch: Any = None,
  *,
  params: Any = None,
  mesh: Mesh | None = None,
  rules: sharding.Rules = sharding.DEFAULT_RULES,
) -> TrainState:
  """A fresh state; on a mesh its arrays are born sharded.

  Args:
    model: `MultiTaskModel`, another `gradients.TwoHalves`, or loss functions: see `task_gradients`.
    balance: a balancing method, such as `mtl_jax.optim.pcgrad()`.
    optimizer: any optax transformation.
    key: PRNG key of the initial parameters and of training.
    batch: one batch with every task, for `model.init`.
    params: initial parameters in place of `model.init(key, batch)`.
    mesh: from `sharding.make_mesh`.
    rules: which parameters are split how (see `sharding.partition`).

  Returns:
    the state of step 0.

  Raises:
    ValueError: neither parameters nor a model with `init` and a batch.
  """
  if params is None and (batch is None or not protocols.initializes(model)):
    raise ValueError('init_train_state needs params=, or a model with init and a batch.')
  init_key, train_key = jax.random.split(key)

  def init(init_key: jax.Array, train_key: jax.Array, batch: Any, params: Any) -> TrainState:
    if params is None:
      params = model.init(init_key, batch)
    # Weak types would compile the second step anew.
    params = jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), params)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=optimizer.init(params),
      balance_state=_init_balance(balance, model, params, batch),
      key=train_key,
    )

  args = (init_key, train_key, batch, params)
  if mesh is None:
    return jax.jit(init)(*args)
  placed = sharding.partition(jax.eval_shape(init, *args), mesh, rules)
  return jax.jit(init, out_shardings=placed)(*args)


def _init_balance(balance: Any, model: Any, params: Any, batch: Any) -> Any:
  split = gradients.is_split(params)
  owner = params['shared'] if split else params
  tasks = _path.tasks_in(model, params, batch)
  whole = protocols.needs_of(balance) == 'functions'
  return protocols.first_state_of(balance, params if whole else owner, tasks)
