"""SNIPS: spoken-language requests with intent and slots, in the split of Goo et al. (2018)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from mtl_jax import errors
from mtl_jax.data import specs
from mtl_jax.data.builders import _base, _raw

_HOME = (
  'https://raw.githubusercontent.com/MiuLab/SlotGated-SLU/'
  '61f0307c729b1fad479ef1de94aa5ac5dee601b0/data/snips'
)
_SPLITS = {'train': 'train', 'validation': 'valid', 'test': 'test'}  # split -> folder
_NAMES = ('seq.in', 'seq.out', 'label')
_IOB = re.compile(r'O|[BI]-\S+')
# Folder/file -> size and SHA-256.
_CHECKSUMS = {
  'train/seq.in': (
    617079,
    '04ad1e3f2121d83c6478f9a4b17d2dbdc21d06d6127f73cb7af835ed733f9855',
  ),
  'train/seq.out': (
    950926,
    'fd5f2121d8055827e5d6b3d3bac30f3d7e94e82a5d437751960cbdd9e1b4f6d3',
  ),
  'train/label': (
    184532,
    'bfd7df6cf9dd76c5da5d8b61bc85f90386197bdd3d7510c1d324c051537b962f',
  ),
  'valid/seq.in': (
    33629,
    '64e0f6d8ad8aab3a3828164d7d53731a0993d3ca1aed437ceaca6d3d568d410e',
  ),
  'valid/seq.out': (
    50626,
    '712e6d34feb8d52d208b820a5f8bae6e6ff990f08374507dfde22de389088319',
  ),
  'valid/label': (
    9900,
    '9c1dd041216f647bcfca838aaf1a48eb5781e4404256d31ff07cd38a5436c52f',
  ),
  'test/seq.in': (
    33121,
    'c1e341173fcea2951a8ca371956a6f81c76de87b9583c62eb87edd6158fa3a7c',
  ),
  'test/seq.out': (
    50918,
    '58c07c9097d5e1f78889765c2a535a160f6455b90b3142055c8051847afcca47',
  ),
  'test/label': (
    10120,
    '37a26da3ad079bb41c42c85a3a8f827eb47efec4c5917ce5d08f4b2736e4f830',
  ),
}


class Snips(_base.Builder):
  """13,084 / 700 / 700 requests: `words`, one IOB tag a word in `slots`, and the `intent`.

  Seven intents. References: Coucke et al. 2018, "Snips Voice Platform"; Goo et al. 2018,
  "Slot-Gated Modeling for Joint Slot Filling and Intent Prediction" (the split and the tokens).
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012
  NEEDS = 'files'
  FILES = {  # noqa: RUF012
    f'{_HOME}/{name}': checksums.UrlInfo(
      size=tfds.core.utils.Size(size), checksum=digest, filename=None
    )
    for name, (size, digest) in _CHECKSUMS.items()
  }
  RAW = tuple(_CHECKSUMS)
  PUBLISHED = {name: digest for name, (_, digest) in _CHECKSUMS.items()}  # noqa: RUF012
  INPUT = specs.InputSpec(field='words', kind='words', tokenizer='words')
  TASKS = {  # noqa: RUF012
    'intent': specs.TaskSpec('classification', 'intent', ('accuracy',)),
    'slots': specs.TaskSpec('tagging', 'slots', ('f1',)),
  }

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    return self.dataset_info_from_configs(
      description='Requests to a voice assistant with intent and slots.',
      homepage='https://github.com/MiuLab/SlotGated-SLU',
      license='CC0-1.0',
      features=tfds.features.FeaturesDict(
        {
          'words': tfds.features.Sequence(text),
          'slots': tfds.features.Sequence(text),
          'intent': text,
        }
      ),
    )

  def find(self, dl_manager: Any) -> Any:
    """Returns the paths of the files, fetched from the network."""
    return self.fetch(dl_manager, {name: f'{_HOME}/{name}' for name in self.RAW})

  def read(self, paths: Mapping[str, Path]) -> _base.Examples:
    """Returns the examples of each split."""
    splits = {}
    for split, folder in _SPLITS.items():
      files = [paths[f'{folder}/{name}'] for name in _NAMES]
      examples = read_split(*files)
      if not examples:
        raise errors.DataError(
          f'data set {self.name!r}: the split {split!r} is empty: no line in '
          f'{", ".join(map(str, files))}'
        )
      splits[split] = [(f'{number:05d}', example) for number, example in enumerate(examples)]
    return splits


def read_split(words_path: Path, slots_path: Path, intents_path: Path) -> list[dict[str, Any]]:
  """Returns the examples of three parallel files, one line an example.

  Raises:
    DataError: with file and line, where the files do not agree or a tag is not IOB.
  """
  words, slots, intents = map(_raw.read_lines, (words_path, slots_path, intents_path))
  if not len(words) == len(slots) == len(intents):
    raise errors.DataError(
      f'{words_path} has {len(words)} lines, {slots_path} {len(slots)} and {intents_path} '
      f'{len(intents)}: one of them is cut off'
    )
  examples = []
  for line, (sentence, tags, intent) in enumerate(zip(words, slots, intents, strict=True), start=1):
    example = {'words': sentence.split(), 'slots': tags.split(), 'intent': intent.strip()}
    if not example['words']:
      raise errors.DataError(f'{words_path}, line {line}: no words')
    if len(example['words']) != len(example['slots']):
      raise errors.DataError(
        f'{slots_path}, line {line}: {len(example["slots"])} tags for the '
        f'{len(example["words"])} words of {words_path.name}'
      )
    for tag in example['slots']:
      if not _IOB.fullmatch(tag):
        raise errors.DataError(
          f'{slots_path}, line {line}: {tag!r} is not an IOB tag (O, B-name or I-name)'
        )
    if not example['intent']:
      raise errors.DataError(f'{intents_path}, line {line}: no intent')
    examples.append(example)
  return examples
