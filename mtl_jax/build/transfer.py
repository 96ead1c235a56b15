"""Transfer: parameters that start from a checkpoint or an earlier run, and how gently they change.

Layers are counted from below: 0 is the embedding, or the first layer where there is none, and the
last is the task's own half (see `layers`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_jax import checkpoint, errors, options, sharding


@dataclasses.dataclass(frozen=True)
class Options:
  """`config.transfer`: how gently a trained model changes. Layers are numbered from below, from 0.

  Attributes:
    freeze_layers: the lowest so many are not trained.
    freeze: further parameters, as regular expressions of whole paths: 'shared/.*bias'.
    unfreeze_every: steps until one more layer is trained, from the top; 0: all at once.
    layer_decay: learning rate of a layer, as a share of that of the layer above.
    reinitialize: the top so many start fresh.
    l2_sp: λ of λ‖θ − θ⁰‖², θ⁰ where training began; not balanced.
    l2_sp_tasks: names of lower tasks: θ of `l2_sp` is what their outputs depend on, their own
      halves too (successive regularization); () for all shared parameters.
    layers: regular expression that finds a layer's number in a path, by its one group; '': layers
      are those that the encoder says, or that a forward pass meets.
  """

  freeze_layers: options.Natural = 0
  freeze: Sequence[str] = ()
  unfreeze_every: options.Natural = 0
  layer_decay: Annotated[float, options.Range(0, 1, closed_left=False)] = 1.0
  reinitialize: options.Natural = 0
  l2_sp: options.Amount = 0.0
  l2_sp_tasks: Sequence[str] = ()
  layers: str = ''


class Transplanted(NamedTuple):
  """Parameters with the values of another model, and what stayed as it was.

  Attributes:
    params: of the shapes and dtypes they had.
    fresh: paths of what the source has no values for, or was not to give.
    unused: paths in the source that found no place.
  """

  params: Any
  fresh: list[str]
  unused: list[str]


def from_encoder(params: Any, encoder: Any, *, fresh: Sequence[str] = ()) -> Transplanted:
  """Gives every encoder in `params` the values of a pretrained one.

  Args:
    params: of any architecture of `mtl_jax.sharing`. Where encoders are stacked (columns, experts)
      each starts with the same values.
    encoder: the parameters of one encoder, such as `encoders.bert.load(path).params`.
    fresh: paths in `params` that stay as they are.

  Returns:
    the parameters; what of `encoder` was not asked for is an error, unless it is fresh.

  Raises:
    ConfigError: a value has no place, or does not fit there.
  """
  values = _flat(encoder)
  used: set[str] = set()
  kept: list[str] = []
  wrong: list[str] = []

  def place(path: str, leaf: Any) -> Any:
    found = _longest_end(path, values)
    if found is None:
      kept.append(path)
      return leaf
    value = values[found]
    if value.shape not in (leaf.shape, leaf.shape[1:]):
      wrong.append(f'{path} is {list(leaf.shape)}, and {found} {list(value.shape)}')
      return leaf
    used.add(found)
    if path in fresh:
      kept.append(path)
      return leaf
    return np.broadcast_to(np.asarray(value, leaf.dtype), leaf.shape)

  made = _map(place, params)
  unused = sorted(set(values) - used)
  if wrong or unused:
    what = wrong or [f'{path} has no place in the model' for path in unused]
    raise errors.ConfigError(f'the pretrained encoder does not fit: {_some(what)}')
  return Transplanted(made, sorted(kept), [])


def from_params(
  params: Any, source: Mapping[str, Any], *, fresh: Sequence[str] = ()
) -> Transplanted:
  """Gives `params` the values of an earlier run of the same encoder and sharing.

  Args:
    params: `{'shared': θ, 'tasks': {name: φ}}`.
    source: path -> array, as of `read_run`; its tasks may be others.
    fresh: paths in `params` that stay as they are.

  Raises:
    ConfigError: θ has a parameter that the source lacks, or one has another shape there; they are
      named.
  """
  wrong: list[str] = []
  kept: list[str] = []

  def place(path: str, leaf: Any) -> Any:
    if path in fresh or (path not in source and path.startswith('tasks/')):
      kept.append(path)
      return leaf
    if path not in source:
      wrong.append(f'{path} is not there')
    elif source[path].shape != leaf.shape:
      hint = ' (dataset.max_length bounds learned positions)' if path.endswith('positions') else ''
      there = list(source[path].shape)
      wrong.append(f'{path} is {list(leaf.shape)} here and {there} there{hint}')
    else:
      return np.asarray(source[path], leaf.dtype)
    return leaf

  made = _map(place, params)
  if wrong:
    raise errors.ConfigError(f'the earlier run is of another model: {_some(wrong)}')
  return Transplanted(made, sorted(kept), sorted(set(source) - set(_flat(params))))


def find_run(directory: str | Path, seed: int) -> Path:
  """The run to start from: `directory` itself, or the only one in it, or the one of the same seed.

  Raises:
    ConfigError: there is none, or several.
  """
  root = Path(directory).expanduser()
  if (root / 'checkpoints').is_dir():
    return root
  runs = sorted(path.parent for path in root.glob('*/seed_*/checkpoints'))
  if len(runs) > 1:
    runs = [run for run in runs if run.name == f'seed_{seed}'] or runs
  if len(runs) != 1:
    found = f': it holds {_some([str(run.relative_to(root)) for run in runs])}' if runs else ''
    raise errors.ConfigError(
      f'init_from: {str(directory)!r} is not the directory of a run{found}; give '
      'WORKDIR/VARIANT/seed_K of a run that has been trained'
    )
  return runs[0]


def read_run(run: Path, part: str = 'params') -> dict[str, np.ndarray]:
  """The best parameters of a run, or its 'model_state': path -> array.

  Raises:
    ConfigError: it has no checkpoint, or one that cannot be read.
  """
  try:
    found = checkpoint.read_best(run / 'checkpoints')
  except errors.WorkdirError as e:
    raise errors.ConfigError(f'init_from: {e}') from e
  prefix = f'{part}/'
  return {path[len(prefix) :]: v for path, v in found.items() if path.startswith(prefix)}


def scale_by_layer(decay: float, layers: Mapping[str, int]) -> optax.GradientTransformation:
  """Scales updates by decay^(L + 1 − layer): discriminative learning rates.

  It follows the optimizer in a chain.

  Args:
    decay: the rate of a layer, as a share of that of the layer above.
    layers: path -> layer, of `layers.layers_of`.

  References:
    Howard & Ruder, Universal Language Model Fine-tuning for Text Classification, ACL 2018, section
    3.2 (decay = 1 / 2.6).
  """

  top = max(layers.values())

  def update(updates: Any, params: Any) -> Any:
    del params
    return _map(lambda path, u: u * jnp.asarray(decay ** (top - layers[path]), u.dtype), updates)

  return optax.stateless(update)


def unfreeze_gradually(every: int, layers: Mapping[str, int]) -> optax.GradientTransformation:
  """Only the tasks' own halves are trained at first, and one layer more after every `every` steps.

  It follows the optimizer in a chain: its moments see all gradients from the start, and are warm
  when a layer thaws.

  Args:
    every: steps from layer to layer.
    layers: path -> layer, of `layers.layers_of`.

  References:
    Howard & Ruder, ACL 2018, section 3.3.
  """

  top = max(layers.values())

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    thawed = state.count // every
    made = _map(
      lambda path, u: jnp.where(thawed >= top - layers[path], u, jnp.zeros((), u.dtype)), updates
    )
    return made, optax.ScaleByScheduleState(optax.safe_increment(state.count))

  def init(params: Any) -> optax.ScaleByScheduleState:
    del params
    return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

  return optax.GradientTransformation(init, update)


class L2SPState(NamedTuple):
  """Where θ began."""

  start: Any


def l2_sp(strength: float, paths: Sequence[str] | None = None) -> optax.GradientTransformation:
  """Adds the gradient 2λ(w − w⁰) of λ‖w − w⁰‖², w⁰ the first values of w.

  Args:
    strength: λ.
    paths: which parameters w are; None: the shared ones. With those that lower tasks depend on
      (`model.read_by`), this is the successive regularization of Hashimoto et al.

  References:
    Li, Grandvalet & Davoine, Explicit Inductive Bias for Transfer Learning with Convolutional
    Networks, ICML 2018, eq. 2 (their α is 2λ; their β is `l2` of the tasks). Hashimoto et al., A
    Joint Many-Task Model, EMNLP 2017, section 3.
  """

  def chosen(path: str) -> bool:
    return path.startswith('shared/') if paths is None else path in paths

  def init(params: Any) -> L2SPState:
    return L2SPState({path: jnp.copy(leaf) for path, leaf in _flat(params).items() if chosen(path)})

  def update(updates: Any, state: L2SPState, params: Any) -> tuple[Any, L2SPState]:
    values = _flat(params)

    def pull(path: str, g: jax.Array) -> jax.Array:
      if path not in state.start:
        return g
      return g + jnp.asarray(2 * strength, g.dtype) * (values[path] - state.start[path]).astype(
        g.dtype
      )

    return _map(pull, updates), state

  return optax.GradientTransformation(init, update)


def freeze(paths: Sequence[str]) -> optax.GradientTransformation:
  """Sets the updates of these parameters to zero; it comes last in a chain."""
  chosen = frozenset(paths)

  def update(updates: Any, params: Any) -> Any:
    del params
    return _map(lambda path, u: jnp.zeros_like(u) if path in chosen else u, updates)

  return optax.stateless(update)


def _map(function: Any, tree: Any) -> Any:
  """Maps `function(path, leaf)`."""
  return jax.tree_util.tree_map_with_path(lambda p, leaf: function(sharding.path_of(p), leaf), tree)


def _flat(tree: Any) -> dict[str, Any]:
  return {sharding.path_of(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _longest_end(path: str, values: Mapping[str, Any]) -> str | None:
  """The longest end of `path`, by whole parts, that is among `values`."""
  parts = path.split('/')
  ends = ('/'.join(parts[i:]) for i in range(len(parts)))
  return next((end for end in ends if end in values), None)


def _some(what: Sequence[str]) -> str:
  more = f' (and {len(what) - 5} more)' if len(what) > 5 else ''
  return '; '.join(what[:5]) + more
