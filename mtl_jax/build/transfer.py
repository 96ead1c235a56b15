"""Transfer: parameters that start from a checkpoint or an earlier run, and how gently they change.

Layers are counted from below: 0 is the embedding, or the first layer where there is none, and the
last is the task's own half. Reading the checkpoints of BERT is the work of `encoders.bert`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_jax import checkpoint, errors, sharding

LAYERS = r'(?:^|/)_?(?:Block|Residual|OptimizedLSTMCell|Conv|Dense)_(\d+)(?:/|$)'
"""The number of a layer in a parameter's path: the first that is found. The two directions of a
BiLSTM and the widths of a `CNN`, which are side by side, count as layers."""
_KINDS = ('Conv', 'Dense')  # an encoder's first layers, in this order, before its blocks
_HOLDERS = {'encoder', 'columns', 'experts'}  # of encoders, where θ has more than one
_BESIDE = {'heads', 'stitches', 'gates', 'parents', 'hyper', 'layers', 'places', 'discriminator'}
_EMBEDDING = re.compile(r'(?:^|/)(?:embedding|positions|class_token)(?:/|$)')
_STEM_NORM = re.compile(r'/GroupNorm_(\d+)/\w+$')
_BELOW, _TOP, _ABOVE = (-1, 0), (9, 0), (9, 1)  # the embedding; without a number; no encoder's


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


def read_run(run: Path) -> dict[str, np.ndarray]:
  """The best parameters of a run: path -> array.

  Raises:
    ConfigError: it has no checkpoint, or one that cannot be read.
  """
  try:
    found = checkpoint.read_best(run / 'checkpoints')
  except errors.WorkdirError as e:
    raise errors.ConfigError(f'init_from: {e}') from e
  prefix = 'params/'
  return {path[len(prefix) :]: v for path, v in found.items() if path.startswith(prefix)}


def layers_of(params: Any, pattern: str = LAYERS) -> dict[str, int]:
  """Path -> layer: 0 the embedding, 1 to L the encoder's, L + 1 all that is no encoder's.

  What of an encoder has no number, such as a last normalization, belongs to layer L. Tasks' own
  halves, adapters, and what an architecture has beside its encoders (stitches, gates, heads of
  lower tasks, a hypernetwork, a discriminator) belong to L + 1.

  Raises:
    ConfigError: what the pattern finds is no number.
  """
  number = re.compile(pattern)
  paths = list(params_at := _flat(params))
  inside = tuple(_encoders(paths, number))
  found: dict[str, tuple[int, int]] = {}
  for path in paths:
    # The normalization of a ResNet's first convolution goes with it.
    beside = _STEM_NORM.sub(r'/Conv_\1/kernel', path)
    match = number.search(beside if beside in params_at else path)
    if not path.startswith(inside):
      found[path] = _ABOVE
    elif _EMBEDDING.search(path):
      found[path] = _BELOW
    elif match is None:
      found[path] = _TOP
    elif not (match[1] or '').isdecimal():
      raise errors.ConfigError(
        f'transfer.layers: {pattern!r} finds {match[1]!r} in {path}, which is no number'
      )
    else:
      kind = [name in match[0] for name in _KINDS]
      found[path] = kind.index(True) if any(kind) else len(_KINDS), int(match[1])
  if _BELOW in found.values() and any(kind == len(_KINDS) for kind, _ in found.values()):
    # Before blocks, with positions, a convolution makes the patches that are embedded.
    found = {p: _BELOW if value[0] == _KINDS.index('Conv') else value for p, value in found.items()}
  numbers = sorted(set(found.values()) - {_BELOW, _TOP, _ABOVE})
  first = int(_BELOW in found.values())
  top = first + max(len(numbers), 1) - 1
  place = {key: first + i for i, key in enumerate(numbers)}
  place |= {_BELOW: 0, _TOP: top, _ABOVE: top + 1}
  return {path: place[value] for path, value in found.items()}


def _encoders(paths: Sequence[str], number: re.Pattern[str]) -> Iterator[str]:
  """The beginnings of the paths that lie in an encoder."""
  children = {path.split('/')[1] for path in paths if path.startswith('shared/')}
  holders = children & _HOLDERS
  if len(holders) == 1 and children - holders <= _BESIDE:
    yield f'shared/{next(iter(holders))}/'
  else:  # θ is one encoder
    yield 'shared/'
  for task in {path.split('/')[1] for path in paths if path.startswith('tasks/')}:
    start = f'tasks/{task}/encoder/'
    if any(path.startswith(start) and number.search(path) for path in paths):  # no adapters
      yield start


def lowest(layers: Mapping[str, int], count: int) -> list[str]:
  """The paths of the embedding and the `count` − 1 layers above it; none for 0."""
  return [path for path, layer in layers.items() if layer < count]


def highest(layers: Mapping[str, int], count: int) -> list[str]:
  """The paths of the `count` last layers of the encoder."""
  top = max(layers.values())
  return [path for path, layer in layers.items() if top - count <= layer < top]


def scale_by_layer(decay: float, pattern: str = LAYERS) -> optax.GradientTransformation:
  """Scales updates by decay^(L + 1 − layer): discriminative learning rates.

  It follows the optimizer in a chain.

  References:
    Howard & Ruder, Universal Language Model Fine-tuning for Text Classification, ACL 2018, section
    3.2 (decay = 1 / 2.6).
  """

  def update(updates, params):
    del params
    layers = layers_of(updates, pattern)
    top = max(layers.values())
    return _map(lambda path, u: u * jnp.asarray(decay ** (top - layers[path]), u.dtype), updates)

  return optax.stateless(update)


def unfreeze_gradually(every: int, pattern: str = LAYERS) -> optax.GradientTransformation:
  """Only the tasks' own halves are trained at first, and one layer more after every `every` steps.

  It follows the optimizer in a chain: its moments see all gradients from the start, and are warm
  when a layer thaws.

  References:
    Howard & Ruder, ACL 2018, section 3.3.
  """

  def update(updates, state, params=None):
    del params
    layers = layers_of(updates, pattern)
    top = max(layers.values())
    thawed = state.count // every
    made = _map(
      lambda path, u: jnp.where(thawed >= top - layers[path], u, jnp.zeros((), u.dtype)), updates
    )
    return made, optax.ScaleByScheduleState(optax.safe_increment(state.count))

  def init(params):
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

  def chosen(path):
    return path.startswith('shared/') if paths is None else path in paths

  def init(params):
    return L2SPState({path: jnp.copy(leaf) for path, leaf in _flat(params).items() if chosen(path)})

  def update(updates, state, params):
    values = _flat(params)

    def pull(path, g):
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

  def update(updates, params):
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
