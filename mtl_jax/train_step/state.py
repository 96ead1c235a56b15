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
    model_state: what the model keeps beside its parameters and a step changes without a gradient,
      such as running means of BatchNorm; None where there is none.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  balance_state: Any
  key: jax.Array
  model_state: Any = None

  @property
  def variables(self) -> Any:
    """What evaluation reads: the parameters, and with a model state both."""
    if self.model_state is None:
      return self.params
    return protocols.Variables(self.params, self.model_state)


def init_train_state(
  model: Any,
  balance: optax.GradientTransformation,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  batch: Any = None,
  *,
  params: Any = None,
  model_state: Any = None,
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
    model_state: the model's first state, for loss functions that take one (see `make_train_step`),
      and beside `params` for a model that keeps one (`MultiTaskModel.init_state`).
    mesh: from `sharding.make_mesh`.
    rules: which parameters are split how (see `sharding.partition`).

  Returns:
    the state of step 0.

  Raises:
    ValueError: neither parameters nor a model with `init` and a batch; a leaf of the parameters is
      no floating array.
  """
  if params is None and (batch is None or not protocols.initializes(model)):
    raise ValueError('init_train_state needs params=, or a model with init and a batch.')
  if params is not None:
    gradients.check_params(params)
  init_key, train_key = jax.random.split(key)

  def init(
    init_key: jax.Array, train_key: jax.Array, batch: Any, params: Any, model_state: Any
  ) -> TrainState:
    if params is None and protocols.can_keep_state(model):
      params, first = model.init_with_state(init_key, batch)
      model_state = first if model_state is None else model_state
    elif params is None:
      params = model.init(init_key, batch)
    params, model_state = _strong(params), _strong(model_state)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=optimizer.init(params),
      balance_state=_init_balance(balance, model, params, batch, model_state),
      key=train_key,
      model_state=model_state,
    )

  args = (init_key, train_key, batch, params, model_state)
  if mesh is None:
    return jax.jit(init)(*args)
  placed = sharding.partition(jax.eval_shape(init, *args), mesh, rules)
  return jax.jit(init, out_shardings=placed)(*args)


def _strong(tree: Any) -> Any:
  """The same without weak types, which would compile the second step anew."""
  return jax.tree.map(
    lambda x: x if _is_key(x) else jax.lax.convert_element_type(x, jnp.result_type(x)), tree
  )


def _is_key(x: Any) -> bool:
  return jax.dtypes.issubdtype(getattr(x, 'dtype', None), jax.dtypes.prng_key)


def _init_balance(balance: Any, model: Any, params: Any, batch: Any, model_state: Any) -> Any:
  split = gradients.is_split(params)
  owner = params['shared'] if split else params
  if model_state is not None and not gradients.has_two_halves(model):
    model = gradients.bind(model, model_state)
  tasks = _path.tasks_in(model, params, batch)
  whole = protocols.needs_of(balance) == 'functions'
  return protocols.first_state_of(balance, params if whole else owner, tasks)
