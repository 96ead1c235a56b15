"""FDU-MTL: sentiment of reviews from sixteen domains, one task each (Liu et al. 2017)."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from mtl_jax import errors
from mtl_jax.data import specs
from mtl_jax.data.builders import _base, _raw

_HOME = (
  'https://raw.githubusercontent.com/ccsasuke/man/'
  'b57b4c14340db1ca7bffb5d9737b7c2601dc8df2/data/fdu-mtl'
)
_PARTS = ('train', 'test', 'unlabel')
_HELD_OUT = 200  # lines of each train file
# Domain as files call it -> size and SHA-256 of its parts.
_CHECKSUMS = {
  'apparel': (
    (519173, '589702d71eded8ca23907acf6e434f203c8c6feb09737106f77f03707641ffc3'),
    (127187, '8e591ec14fa0e3d26837b9a40c99d3a93b49f47e7a3fbe4d0afe1b4e1dd45439'),
    (572626, '7dc0cf126e07552b41d2574627a3a6d0d9c3f958a368fe5e41d8cd353b0f4a3f'),
  ),
  'baby': (
    (849433, '0d884186f3aef0e12dafac0a875887fe631de0df992b15158ab177763882bf57'),
    (220031, '8763bb4b8bbf83b93b6aab03706719fc742fb7d89830a6bd95ea1c2490ea58f7'),
    (1054703, 'f4f2be61dddc8165ba40d9fc90d51a21c0c9d1f4b6eaa20c93fd3f9d9a8c95e2'),
  ),
  'books': (
    (1517583, '40c4c5971165b9e0a509a60472c3bf06c8e1430d4944833141eb3c34d986b65e'),
    (351857, 'b451ac03e48b599bf35dd1a450158389e1ac9018950e95c631053ac14a5b10ad'),
    (1816355, '5121a335a736523b5bd0dc47e05da2b085bf6f42aec2ca20ba7142d620241563'),
  ),
  'camera_photo': (
    (1077961, '425bf93c303b2f38d2f53649508ea9e55d0114679ecb00fda5c2c15ebbe9e708'),
    (258814, '3fdea0837d6c41f04720dce8d2e690bbdeb5019ecac749f8f38472ac1dcfa439'),
    (1481764, 'd94c682441e8b8a57ff992e244ef0137e07528cd9f3631874f89e2d40aefca04'),
  ),
  'dvd': (
    (1581172, '47334240d9cef76ac5f15a10f9082c3d2c6e7f9a9bb0478a3800ede2a0300771'),
    (402497, '762e6e030892375eda4f211be58624a3bb6a07c966901c79b803837d21fca4b5'),
    (1957469, '5673c05efcefbf5d38a1ca7e1110cbf58a95e1b02a7a0c729c46f2ba21f223bf'),
  ),
  'electronics': (
    (918340, 'bb2f28c4a20e3d075dd71ff049970bd445f4d47bcc8404a68eb03850413a8da7'),
    (222978, 'a4d2e7d2a5b8b501a6611e45e1b241aa0d601388b79265cfc94c203cb52f8b8c'),
    (1063574, 'da24efbec0053b8b8383e530dab3e4a358e75ae2e65d09624c6843bad30f69a8'),
  ),
  'health_personal_care': (
    (736321, '384f1ec3d76a2f755844cac4bd7725b86bc79910dae60fc33f133e380f827b4a'),
    (173498, '07f289177da7ebe71f1ac2ee3d5a25f190913e2a11116f0fb55862e01b60a331'),
    (834792, '70bd1a5b004f2d0edc6bcf0ec6ff5c464f232a351bdcf4b88d4a655d97110355'),
  ),
  'imdb': (
    (2254776, '16dd91ee7aebde130cfeb4d1c58bfe221ad87f1862fdb8ae694693eec3432caa'),
    (486414, 'dc708b7338157a6be56a1ded26abd97f82284d0e736876a6b833ad59e8a2cd53'),
    (2860588, 'ea4e02252cf95661af402ef7b7b6b9addc0a0666a03d8d7b81eefb08af0b413d'),
  ),
  'kitchen_housewares': (
    (762961, 'df5c9e8473b084a6b252dfbb5e074adcaacb9638a882fee3f20d62d747f45d6f'),
    (193578, '86bcc015f7cfa773880951830ac6161dc2b8717e8a69773ca11a5bd6529b2020'),
    (961543, '6255b3597385952d45920ce4451291a246ecd997ef75d964ff56fff9e31ad9e7'),
  ),
  'magazines': (
    (1027102, 'd4805a9f094c1c7befa64bc42ea846261b1290a2fd120c46f45c9e89faf782ae'),
    (263233, '620ecd0ccd7b7f73483b8cdcef5ca07dff92e2d57c9cf4b6e9f7d669a681f6c3'),
    (1394818, '87de41f73d65b525d2918833a944427196cd4a0346d9d083086b4814333fd9bd'),
  ),
  'MR': (
    (191447, 'a6f222085a50061dd560c3beafc968679abae74683e3d18a66b619c5e2d178dc'),
    (47573, '82ec2a6d570978d173240dfd655c25e151761d7d0ace365725745a361e6fabea'),
    (229919, 'fa9dee0e94afe5a6d58f1670ac7db53c450e0f806f158dea78fb766f1ee053bb'),
  ),
  'music': (
    (1170332, 'f0b41243475c16391a02e91d87710ed87d68927d4d77f526a3d2369a98ac572e'),
    (275218, '54a157c56930b9e587b6b955fe4b2e3258d2f70d0d58ccbbf40a4bfd846ee204'),
    (1603351, '3f2ee8a5becb232368d2bc599ab131778558e05009f8f6957ce2a10106a6ea9a'),
  ),
  'software': (
    (1137236, 'a050cb3ea22b94b21ce70acff3a23eabd1f39307bd862d6c0cc23170eb4830f4'),
    (270384, '3b92617a5b3ad618b7aaab98546d49c2a69f46dedbceb4ec14dee1cbb4ff02d3'),
    (330988, 'a34c6f844ba0ac1a8d3325b396451c6b6f8928f219f22408192c417357497b80'),
  ),
  'sports_outdoors': (
    (827286, '062ac0e2fb04a81c1f06f15b219634810a323a2ee187750e2f479030ebad0326'),
    (216957, '77394d7c91fbc69cc16bfaf79f1f945999fe2d8e0fc536f1f79d17089e611f49'),
    (981970, '7742f40a8b02cd5701a647d6ccaf3746bb863af28cdd6fa0404b507b131b9ca4'),
  ),
  'toys_games': (
    (785692, 'bb8404d3b48ab02bca2a75bb1e245297aac36b8143a81549f6485b4c2d24dd10'),
    (194694, '6ee304a53f25697ee96bcb60fe07cc36d282ef343c3e0f8ae09df669ec39b116'),
    (922984, '8808944481c5478a94f231f2fb9541036c5f882de225e2cb8357ab42fd59696d'),
  ),
  'video': (
    (1304633, '2867b3e5fffc44132aa61ff49dd608eeacc503b2c9c2133680f0cb4a7a258f3e'),
    (341154, '8de7a49ee3001409c9049b1f52949d78c7875cb92e031b43f5cef681dfd341e4'),
    (1915737, '0178424fe97c0203c0f3cabcb31e1370bf656895b76a189ecf1ecfd151abe3f2'),
  ),
}
_RAW = {
  f'{domain}.task.{part}': checksum
  for domain, row in _CHECKSUMS.items()
  for part, checksum in zip(_PARTS, row, strict=True)
}
_LABELS = {'0': 'negative', '1': 'positive'}
# How files are read that are not UTF-8. In `dvd` it is one line, with cut-off replacement marks.
_DECODING: Mapping[str, Mapping[str, Any]] = {
  **{f'MR.task.{part}': {'encoding': 'cp1252'} for part in _PARTS},
  'dvd.task.train': {'replace': True},
}
_NO_TEXT = {'sports_outdoors.task.train': 1121}  # file -> the line with a label alone


class Fudan16(_base.Builder):
  """Reviews of products (14 domains) and films (`imdb`, `mr`): `text`, and `label` or `''`.

  | domain | train | validation | test | unlabelled |
  | --- | --- | --- | --- | --- |
  | baby | 1,300 | 200 | 400 | 2,000 |
  | camera_photo | 1,397 | 200 | 400 | 2,000 |
  | electronics | 1,398 | 200 | 400 | 2,000 |
  | magazines | 1,370 | 200 | 400 | 2,000 |
  | software | 1,315 | 200 | 400 | 475 |
  | sports_outdoors | 1,399 | 200 | 400 | 2,000 |
  | each of the other ten | 1,400 | 200 | 400 | 2,000 |
  | all | 22,179 | 3,200 | 6,400 | 30,475 |

  Papers hold out 200 lines of each train file, and do not say which. Here they are the 200 whose
  text has the smallest SHA-256, but for a text that comes more than once and would not fit in
  whole: no seed, and equal texts stay together. One train line of `sports_outdoors` has a label
  and no text, and is left out.

  As distributed, 539 test lines (8.4 %) are also in the train file of their domain: magazines 169,
  video 99, camera_photo 72, software 62, health_personal_care 30, sports_outdoors 28, at most 14 in
  the others, none in mr and imdb. They are kept, since papers report on them.

  Labelled texts are tokenized, with blanks between the tokens, and nearly all in lower case. Most
  of the unlabelled ones are neither: those of the products are as their authors wrote them.

  The home states no licence for the texts: for research, not to be passed on. References: Liu, Qiu
  and Huang 2017, "Adversarial Multi-task Learning for Text Classification" (ACL); Blitzer et al.
  2007 (products), Maas et al. 2011 (imdb), Pang and Lee 2005 (mr); Chen and Cardie 2018,
  "Multinomial Adversarial Networks for Multi-Domain Text Classification" (NAACL), whose files
  these are.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012
  NEEDS = 'files'
  FILES = {  # noqa: RUF012
    f'{_HOME}/{name}': checksums.UrlInfo(
      size=tfds.core.utils.Size(size), checksum=digest, filename=None
    )
    for name, (size, digest) in _RAW.items()
  }
  RAW = tuple(_RAW)
  PUBLISHED = {name: digest for name, (_, digest) in _RAW.items()}  # noqa: RUF012
  INPUT = specs.InputSpec(field='text', kind='text', tokenizer='words')
  OWNER = 'task'
  TASKS = {  # noqa: RUF012
    domain.lower(): specs.TaskSpec(
      'classification', 'label', ('accuracy',), labels=tuple(_LABELS.values())
    )
    for domain in _CHECKSUMS
  }

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    return self.dataset_info_from_configs(
      description='Reviews from sixteen domains with their sentiment.',
      homepage='https://github.com/ccsasuke/man',
      features=tfds.features.FeaturesDict({'task': text, 'text': text, 'label': text}),
    )

  def find(self, dl_manager: Any) -> Any:
    """Returns the paths of the files, fetched from the network."""
    return self.fetch(dl_manager, {name: f'{_HOME}/{name}' for name in self.RAW})

  def read(self, paths: Mapping[str, Path]) -> _base.Examples:
    """Returns the examples of each split; see the class."""
    splits: dict[str, list[tuple[str, dict[str, Any]]]] = {
      split: [] for split in ('train', 'validation', 'test', 'unlabelled')
    }
    for domain in _CHECKSUMS:
      names = [f'{domain}.task.{part}' for part in _PARTS]
      train, test, unlabelled = (read_file(paths[name], name) for name in names)
      if len(train) <= _HELD_OUT:
        raise errors.DataError(
          f'{paths[names[0]]}: {len(train)} examples, of which {_HELD_OUT} are for validation: '
          'is it cut off?'
        )
      held_out = _hold_out(train)
      parts = {
        'train': [row for number, row in enumerate(train) if number not in held_out],
        'validation': [train[number] for number in sorted(held_out)],
        'test': test,
        'unlabelled': unlabelled,
      }
      for split, rows in parts.items():
        splits[split] += [
          (f'{domain}-{number:04d}', {'task': domain.lower(), 'text': text, 'label': label})
          for number, (text, label) in enumerate(rows)
        ]
    return splits


def read_file(path: Path, name: str) -> list[tuple[str, str]]:
  """Returns text and label of each line of a raw file: `label<TAB>text`, unlabelled ones `text`.

  Args:
    path: the file.
    name: what it is called at its home, which says how to read it.

  Raises:
    DataError: the file is empty, or a line is not of this form (with file and line).
  """
  examples = []
  labelled = not name.endswith('unlabel')
  for number, line in enumerate(_raw.read_lines(path, **_DECODING.get(name, {})), start=1):
    where = f'{path}, line {number}'
    cells = line.split('\t')
    if len(cells) != 1 + labelled:
      expected = 'label<TAB>text' if labelled else 'text without a tab'
      raise errors.DataError(f'{where}: expected {expected}, got {len(cells)} columns: {line!r}')
    label, text = cells if labelled else ('', line)
    if labelled and label not in _LABELS:
      raise errors.DataError(f'{where}: expected the label 0 (negative) or 1, got {label!r}')
    if text.strip():
      examples.append((text.strip(), _LABELS.get(label, '')))
    elif _NO_TEXT.get(name) != number:
      raise errors.DataError(f'{where}: no text')
  if not examples:
    raise errors.DataError(f'{path}: no lines')
  return examples


def _hold_out(train: list[tuple[str, str]]) -> set[int]:
  """Returns the numbers of the examples for validation."""
  numbers = defaultdict(list)
  for number, (text, _) in enumerate(train):
    numbers[hashlib.sha256(text.encode()).digest()].append(number)
  held_out: set[int] = set()
  for _, same in sorted(numbers.items()):
    if len(held_out) + len(same) <= _HELD_OUT:
      held_out.update(same)
  return held_out
