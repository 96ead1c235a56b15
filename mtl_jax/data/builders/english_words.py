"""English word forms with part of speech, inflection and lemma, from the package lemminflect.

lemminflect (MIT) derives its two tables from the NIH SPECIALIST lexicon. They are read as data: the
package is neither imported nor are its pickled models touched. Its override tables are left out:
they tune its guesses and contradict the lexicon in places.
"""

import csv
import hashlib
import importlib.util
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mtl_jax import errors
from mtl_jax.data import edit_rules, specs
from mtl_jax.data.builders import _base, _raw

_FORMS, _LEMMAS = 'infl_lu.csv.gz', 'lemma_lu.csv.gz'
_UPOS = ('ADJ', 'ADV', 'AUX', 'NOUN', 'VERB')
# The lexicon's part of speech -> the Penn tags of a row's cells, the lemma itself first.
_TAGS = {
  'adj': ('JJ', 'JJR', 'JJS'),
  'adv': ('RB', 'RBR', 'RBS'),
  'noun': ('NN', 'NNS'),
  'verb': ('VB', 'VBD', 'VBN', 'VBG', 'VBZ'),
}


class EnglishWords(_base.Builder):
  """One example a distinct word form; forms with a blank in them are left out.

  `form`: the word. `upos`: all its universal parts of speech. `tag`: its ambiguity class, the Penn
  tags it can have, sorted and joined by `|` (Cutting et al. 1992, "A Practical Part-of-Speech
  Tagger"), empty where the lexicon gives no inflection. `lemma` and `rule`: its lemma and the edit
  rule that leads there (`edit_rules`), empty for a form of more than one lemma.

  Words that share a lemma, spelled in upper or lower case, are in the same split.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012
  NEEDS = 'package'
  RAW = (_FORMS, _LEMMAS)
  INPUT = specs.InputSpec(field='form', kind='text', tokenizer='characters')
  TASKS = {  # noqa: RUF012
    'pos': specs.TaskSpec('multilabel', 'upos', ('micro_f1', 'exact_match'), labels=_UPOS),
    'inflection': specs.TaskSpec('classification', 'tag', ('accuracy', 'macro_f1'), min_count=5),
    'lemma': specs.TaskSpec('classification', 'rule', ('accuracy', 'macro_f1'), min_count=5),
  }

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    return self.dataset_info_from_configs(
      description='English word forms: part of speech, inflection, lemma.',
      homepage='https://pypi.org/project/lemminflect/',
      license='MIT',
      features=tfds.features.FeaturesDict(
        {
          'form': text,
          'upos': tfds.features.Sequence(text),
          'tag': text,
          'lemma': text,
          'rule': text,
        }
      ),
    )

  def find(self, dl_manager: Any) -> dict[str, Path]:
    """Returns the paths of the two tables in the installed package."""
    del dl_manager
    directory = _package_dir()
    return {name: directory / name for name in self.RAW}

  def read(self, paths: Mapping[str, Path]) -> _base.Examples:
    """Returns the examples of each split; see the class."""
    return read_lexicon(paths[_FORMS], paths[_LEMMAS])


def _package_dir() -> Path:
  # find_spec of a top-level name finds the package without importing it.
  spec = importlib.util.find_spec('lemminflect')
  if spec is None or not spec.submodule_search_locations:
    raise errors.DataError(
      "data set 'english_words' reads its word lists from the package lemminflect, which is not "
      "installed: run `pip install 'mtl_jax[quickstart]'`, or give --manual_dir with "
      f'{_FORMS} and {_LEMMAS}'
    )
  return Path(next(iter(spec.submodule_search_locations))) / 'resources'


def read_lexicon(forms_path: Path, lemmas_path: Path) -> _base.Examples:
  """Returns the examples of each split from the two tables.

  Args:
    forms_path: rows `lemma,pos,forms,...`: noun NNS; adj JJR, JJS; adv RBR, RBS; verb VBD, VBN,
      VBG, VBZ, an empty VBN being the same as VBD. Alternatives are separated by `/`.
    lemmas_path: rows `form,pos,lemma`, several lemmas separated by `/`.

  Raises:
    DataError: a row is not of this form (with file and line).
  """
  upos: dict[str, set[str]] = defaultdict(set)
  tags: dict[str, set[str]] = defaultdict(set)
  lemmas: dict[str, set[str]] = defaultdict(set)
  for where, row in _rows(lemmas_path):
    if len(row) != 3 or row[1].upper() not in _UPOS or not row[0] or not row[2]:
      raise errors.DataError(f'{where}: expected form,pos,lemma with pos in {_UPOS}, got {row}')
    upos[row[0]].add(row[1].upper())
    lemmas[row[0]].update(row[2].split('/'))
  for where, (lemma, pos, *cells) in _rows(forms_path):
    if len(cells) + 1 != len(_TAGS.get(pos, ())) or not lemma:
      expected = ', '.join(f'{name} with {len(names) - 1}' for name, names in _TAGS.items())
      raise errors.DataError(
        f'{where}: expected lemma,pos,forms... with pos and number of forms {expected}; '
        f'got {[lemma, pos, *cells]}'
      )
    if pos == 'verb' and not cells[1]:
      cells[1] = cells[0]
    for tag, cell in zip(_TAGS[pos], [lemma, *cells], strict=True):
      for form in filter(None, cell.split('/')):
        upos[form].add(pos.upper())
        tags[form].add(tag)
        lemmas[form].add(lemma)

  group = _groups(lemmas)
  splits: dict[str, list[tuple[str, dict[str, Any]]]] = {'train': [], 'validation': [], 'test': []}
  for form in sorted(lemmas):
    if ' ' in form:
      continue
    lemma = next(iter(lemmas[form])) if len(lemmas[form]) == 1 else ''
    example = {
      'form': form,
      'upos': sorted(upos[form]),
      'tag': '|'.join(sorted(tags[form])),
      'lemma': lemma,
      'rule': edit_rules.edit_rule(form, lemma) if lemma else '',
    }
    splits[_split(group[form.casefold()])].append((form, example))
  return splits


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
  for number, row in enumerate(csv.reader(_raw.read_lines(path)), start=1):
    where = f'{path}, line {number}'
    if len(row) < 3:
      raise errors.DataError(f'{where}: expected at least 3 values, got {row}; is it cut off?')
    yield where, row


def _groups(lemmas: dict[str, set[str]]) -> dict[str, str]:
  """Returns, for each form and lemma in lower case, the smallest word of its group (union-find)."""
  parent: dict[str, str] = {}

  def find(word: str) -> str:
    root = parent.setdefault(word, word)
    while parent[root] != root:
      root = parent[root]
    while parent[word] != root:
      parent[word], word = root, parent[word]
    return root

  for form, bases in lemmas.items():
    for base in bases:
      first, second = sorted((find(form.casefold()), find(base.casefold())))
      parent[second] = first  # so a root is the smallest of its group, whatever the order
  return {word: find(word) for word in list(parent)}


def _split(group: str) -> str:
  share = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64
  return 'train' if share < 0.8 else 'validation' if share < 0.9 else 'test'
