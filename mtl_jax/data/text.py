"""Text to ids by the `tokenizers` library: tokenizers trained on a training split, or pretrained.

Batches are made elsewhere.
"""

import collections
import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from mtl_jax import errors, files
from mtl_jax.data import _framing, _ragged, _unigram

PAD, UNKNOWN, SEPARATOR = '[PAD]', '[UNK]', '[SEP]'
PAD_ID, UNKNOWN_ID = 0, 1

KINDS = ('characters', 'words', 'wordpiece', 'bpe', 'unigram')
"""What a tokenizer can be trained to split text into."""

SUBWORDS = ('characters', 'wordpiece', 'bpe', 'unigram')
"""The kinds that split words."""

_SUBWORD_SIZE = 8000  # vocabulary of what splits words where none is asked for
_CHUNK = 8192  # texts encoded at once
_ANY = r'[\s\S]'  # one character; the library's regular expressions lack (?s)


class Framed(NamedTuple):
  """Texts or pairs of texts with the tokens around them.

  Attributes:
    ids: of each example.
    segments: 0 for tokens of the first text, 1 for those of the second.
    truncated: how many examples were cut.
    owners: int64, of each row the text or pair that it is, or is a window of.
  """

  ids: _ragged.Ragged
  segments: _ragged.Ragged
  truncated: int
  owners: np.ndarray


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Splits texts and numbers the pieces.

  Attributes:
    kind: one of `KINDS`, or `'pretrained'`.
    backend: the tokenizer of the `tokenizers` library.
    pad_id: fills up short rows; 0 unless pretrained otherwise.
    unknown_id: stands for what the vocabulary lacks; 1 unless pretrained otherwise.
  """

  kind: str
  backend: tokenizers.Tokenizer
  pad_id: int = PAD_ID
  unknown_id: int = UNKNOWN_ID

  @property
  def size(self) -> int:
    """The number of ids, padding and unknown included."""
    return max(self.backend.get_vocab().values()) + 1

  def encode(self, texts: Sequence[str]) -> _ragged.Ragged:
    """Returns the ids of each text: at least one, the unknown id for a text without pieces.

    Raises:
      DataError: a text has a lone surrogate.
    """
    rows: list[Sequence[int]] = []
    for start in range(0, len(texts), _CHUNK):
      chunk = list(texts[start : start + _CHUNK])
      with _explained(chunk, start):
        encoded = self.backend.encode_batch_fast(chunk, add_special_tokens=False)
      rows.extend(item.ids for item in encoded)
    return self._known(rows)

  def _known(self, rows: Sequence[Sequence[int]]) -> _ragged.Ragged:
    """The rows with at least one id each; a text that spells the padding token is not padding."""
    result = _ragged.from_rows([row or [self.unknown_id] for row in rows])
    result.values[result.values == self.pad_id] = self.unknown_id
    return result

  @property
  def frames(self) -> bool:
    """Whether it puts tokens of its own around a text or between two, as BERT's [CLS] and [SEP]."""
    return any(self.backend.num_special_tokens_to_add(pair) for pair in (False, True))

  @property
  def frame(self) -> tuple[list[int], list[int]]:
    """The ids that it puts before and after a single text."""
    encoded = self.backend.encode('a')
    inside = [i for i, special in enumerate(encoded.special_tokens_mask) if not special]
    return encoded.ids[: inside[0]], encoded.ids[inside[-1] + 1 :]

  @property
  def special_ids(self) -> list[int]:
    """The ids that it puts around a text or between two."""
    found: set[int] = set()
    for texts in (('a',), ('a', 'a')):
      encoded = self.backend.encode(*texts)
      marks = zip(encoded.ids, encoded.special_tokens_mask, strict=True)
      found |= {number for number, special in marks if special}
    return sorted(found)

  @property
  def of_words(self) -> bool:
    """Whether each id is a whole word."""
    return self.kind != 'characters' and isinstance(self.backend.model, models.WordLevel)

  @functools.cached_property
  def _framing(self) -> _framing.Framing:
    return _framing.Framing(self.backend)

  def encode_framed(
    self, texts: Sequence[str | tuple[str, str]], max_length: int = 0, stride: int = 0
  ) -> Framed:
    """Returns the ids of each text, or pair of texts, with its frame.

    Args:
      texts: each a string or two.
      max_length: most ids of an example, the frame included; see `_framing`. 0: no bound.
      stride: with more than 0, what is longer is not cut, but becomes several rows, windows.

    Raises:
      DataError: a text has a lone surrogate; beside the first of a pair no window has room.
    """
    ids: list[Sequence[int]] = []
    segments: list[Sequence[int]] = []
    owners: list[int] = []
    truncated = 0
    for start in range(0, len(texts), _CHUNK):
      chunk = list(texts[start : start + _CHUNK])
      with _explained(chunk, start):
        encoded = self._framing.encode(chunk, start, max_length, stride)
      for number, item in enumerate(encoded, start):
        for part in (item, *item.overflowing) if stride else (item,):
          ids.append(part.ids or [self.unknown_id])
          segments.append(part.type_ids or [0])
          owners.append(number)
        truncated += bool(item.overflowing) and not stride
    rows = _ragged.from_rows(ids), _ragged.from_rows(segments)
    return Framed(*rows, truncated, np.array(owners, np.int64))

  @property
  def splits_at_blanks(self) -> bool:
    """Whether no piece can be of two words."""
    return self.kind != 'pretrained' or len(_split(self.backend, 'a b')) > 1

  def encode_words(self, words: Sequence[str], first: bool = False) -> _ragged.Ragged:
    """Returns the ids of each word of running text, at least one a word.

    They are those that the tokenizer gives for the text, the words with a blank between any two;
    where not `splits_at_blanks`, a text can have other ones. Characters begin with the blank before
    the word, the first one's too, which keeps word boundaries in the ids.

    Args:
      words: the words.
      first: each stands at the beginning of a text, else after another word: the pieces of
        byte-level and SentencePiece tokenizers may begin with the blank.

    Raises:
      DataError: a word has a lone surrogate.
    """
    if self.kind == 'characters':
      return self.encode([f' {word}' for word in words])
    if first or self.kind != 'pretrained':
      return self.encode(words)
    before = 'a'
    rows: list[Sequence[int]] = []
    for start in range(0, len(words), _CHUNK):
      texts = [f'{before} {word}' for word in words[start : start + _CHUNK]]
      with _explained(texts, start):
        encoded = self.backend.encode_batch(texts, add_special_tokens=False)
      for item in encoded:
        ends = [end for _, end in item.offsets]
        rows.append([i for i, end in zip(item.ids, ends, strict=True) if end > len(before)])
    return self._known(rows)

  def save(self, path: str | Path) -> None:
    """Writes the tokenizer as JSON; a file of this name is replaced whole or not at all."""
    files.write(Path(path), self.backend.to_str(pretty=True))


def train(
  kind: str,
  texts: Sequence[str],
  vocab_size: int = 0,
  min_count: int = 1,
  lowercase: bool = False,
  as_words: bool = False,
  pairs: bool = False,
) -> Tokenizer:
  """Returns a tokenizer for `texts`; the same texts always give the same ids.

  Args:
    kind: one of `KINDS`.
    texts: the training texts.
    vocab_size: the most ids, padding (0) and unknown (1) included; 0: no bound for characters and
      words, 8000 for wordpiece, bpe and unigram (which exceed it if their characters alone do).
    min_count: a piece seen fewer times is unknown (wordpiece and bpe: is not merged; unigram: plays
      no part).
    lowercase: fold case first.
    as_words: `texts` are words, and `Tokenizer.encode_words` will be used.
    pairs: pairs of texts will be encoded, with the token [SEP] (id 2) between them.

  Raises:
    ConfigError: an unknown kind, one whose library is not installed, or a vocabulary too small.
    DataError: no text to train on, or one with a lone surrogate.
  """
  if kind not in KINDS:
    raise errors.ConfigError(f'no tokenizer {kind!r}{errors.nearest(kind, KINDS)}')
  special = [PAD, UNKNOWN, *([SEPARATOR] if pairs else [])]
  if vocab_size and vocab_size <= len(special):
    raise errors.ConfigError(
      f'a vocabulary of {vocab_size} has no room: {", ".join(special)} take {len(special)}'
    )
  if not any(texts):
    raise errors.DataError(f'no text to train the {kind} tokenizer on')
  if kind == 'characters' and as_words:
    texts = [f' {text}' for text in texts]
  backend = _untrained(kind, lowercase)
  with _explained(texts):
    if kind in ('characters', 'words'):
      vocabulary = _vocabulary(backend, texts, vocab_size, min_count, special)
      model: models.Model = models.WordLevel(vocabulary, UNKNOWN)
    elif kind == 'unigram':
      words = [word for string in texts for word in _split(backend, string)]
      words = [word.removeprefix(_unigram.MARK) for word in words]
      model = _unigram.train(words, vocab_size or _SUBWORD_SIZE, special, UNKNOWN_ID)
    else:
      model = _train_subwords(backend, kind, texts, vocab_size or _SUBWORD_SIZE, min_count, special)
      backend = _untrained(kind, lowercase)
  backend.model = model
  if pairs:
    backend.post_processor = processors.TemplateProcessing(
      '$A', f'$A {SEPARATOR} $B:1', [(SEPARATOR, special.index(SEPARATOR))]
    )
  return Tokenizer(kind, backend)


def load(path: str | Path) -> Tokenizer:
  """Returns the tokenizer in a `tokenizer.json`, of this library's making or pretrained.

  Raises:
    ConfigError: there is no such file, or it holds no tokenizer.
  """
  try:
    backend = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises Exception itself
    reason = 'no such file' if not Path(path).is_file() else error
    raise errors.ConfigError(
      f'tokenizer {str(path)!r} cannot be read: {reason}; it should be a tokenizer.json of the '
      f'tokenizers library, or one of {", ".join(KINDS)}'
    ) from error
  if not backend.get_vocab_size():
    raise errors.ConfigError(f'tokenizer {str(path)!r} has an empty vocabulary')
  return pretrained(backend)


def pretrained(backend: tokenizers.Tokenizer) -> Tokenizer:
  """Returns a tokenizer of the `tokenizers` library as ours; its padding and truncation end."""
  backend.no_padding()
  backend.no_truncation()
  pad = _first_id(backend, PAD, '<pad>', '<|padding|>')
  unknown = _first_id(backend, UNKNOWN, '<unk>', '<|unknown|>')
  pad_id = PAD_ID if pad is None else pad
  # Byte-level vocabularies know every text and have no unknown id: padding serves, under the mask.
  return Tokenizer(_kind(backend), backend, pad_id, pad_id if unknown is None else unknown)


@contextlib.contextmanager
def _explained(texts: Sequence[str | tuple[str, str]], start: int = 0) -> Iterator[None]:
  """Raises DataError for a text that the library refused; the first is number `start`."""
  try:
    yield
  except (TypeError, UnicodeEncodeError):
    for index, item in enumerate(texts, start):
      if complaint := errors.no_text(item):
        raise errors.DataError(f'text {index} {complaint}') from None
    raise


def _untrained(kind: str, lowercase: bool) -> tokenizers.Tokenizer:
  if kind == 'wordpiece':
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    backend.decoder = decoders.WordPiece()
  elif kind == 'bpe':
    backend = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN, end_of_word_suffix='</w>'))
    backend.decoder = decoders.BPEDecoder()
  elif kind == 'unigram':
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.decoder = _unigram.decoder()
  else:
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
  if kind == 'characters':
    # Between any two characters, line ends included.
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(_ANY), 'isolated')
    backend.decoder = decoders.Fuse()
  elif kind == 'unigram':
    backend.pre_tokenizer = _unigram.pre_tokenizer()
  else:
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  if lowercase:
    backend.normalizer = normalizers.Lowercase()
  return backend


def _split(backend: tokenizers.Tokenizer, string: str) -> list[str]:
  if backend.normalizer is not None:
    string = backend.normalizer.normalize_str(string)
  if backend.pre_tokenizer is None:
    return [string]
  return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(string)]


def _vocabulary(
  backend: tokenizers.Tokenizer,
  texts: Sequence[str],
  vocab_size: int,
  min_count: int,
  special: Sequence[str],
) -> dict[str, int]:
  """Returns the ids: the most frequent piece first, equals by name."""
  counts: collections.Counter[str] = collections.Counter()
  for string, times in collections.Counter(texts).items():
    for piece in _split(backend, string):
      counts[piece] += times
  kept = (p for p, count in counts.items() if count >= min_count and p not in special)
  pieces = [*special, *sorted(kept, key=lambda piece: (-counts[piece], piece))]
  return {piece: index for index, piece in enumerate(pieces[: vocab_size or None])}


def _train_subwords(
  backend: tokenizers.Tokenizer,
  kind: str,
  texts: Sequence[str],
  vocab_size: int,
  min_count: int,
  special: Sequence[str],
) -> models.Model:
  """Returns the trained model of a wordpiece or bpe tokenizer.

  The library's trainers number the marked characters, `##c` or `c</w>`, in hash order, and break
  ties between merges by these numbers. Named as special tokens, in order, they have fixed numbers.
  """
  words = {word for text in set(texts) for word in _split(backend, text)}
  # The trainers make room for all pieces asked for; each is a part of a word, marked or not.
  parts = sum(len(word) * (len(word) + 1) for word in words)
  if kind == 'wordpiece':
    marked = sorted({f'##{character}' for word in words for character in word[1:]})
    trainer: trainers.Trainer = trainers.WordPieceTrainer(
      vocab_size=min(vocab_size, len(special) + parts),
      min_frequency=min_count,
      special_tokens=[*special, *marked],
      show_progress=False,
    )
  else:
    marked = sorted({f'{word[-1]}</w>' for word in words})
    trainer = trainers.BpeTrainer(
      vocab_size=min(vocab_size, len(special) + parts),
      min_frequency=min_count,
      special_tokens=[*special, *marked],
      end_of_word_suffix='</w>',
      show_progress=False,
    )
  backend.train_from_iterator(texts, trainer)
  # A model of its own, so that the marked characters are not special in what is encoded.
  trained = json.loads(backend.to_str())['model']
  if kind == 'wordpiece':
    return models.WordPiece(trained['vocab'], unk_token=UNKNOWN)
  merges = [tuple(merge) for merge in trained['merges']]
  return models.BPE(
    trained['vocab'], merges, unk_token=UNKNOWN, end_of_word_suffix='</w>', fuse_unk=True
  )


def _first_id(backend: tokenizers.Tokenizer, *names: str) -> int | None:
  ids = (backend.token_to_id(name) for name in names)
  return next((found for found in ids if found is not None), None)


def _kind(backend: tokenizers.Tokenizer) -> str:
  """Characters need a blank before each word also after they were saved and loaded."""
  splitter = (json.loads(backend.to_str()).get('pre_tokenizer') or {}).get('pattern', {})
  return 'characters' if splitter == {'Regex': _ANY} else 'pretrained'
