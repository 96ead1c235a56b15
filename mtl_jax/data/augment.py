"""Training examples changed at random, batch by batch: texts as tokens, and images.

Everything follows from the seed and the number of the batch. Evaluation sees what there is.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl_jax import errors
from mtl_jax import options as options_lib
from mtl_jax.data import text

_LOG = logging.getLogger(__name__)

Draw = Callable[[int, int], np.ndarray]
"""`(stream, columns) -> uint64 [B, columns]`: random bits for the rows of a batch."""

_REPLACED, _SYNONYM, _CHOSEN, _PLACE, _GONE, _HIDDEN, _IMAGE = range(7)  # streams


@dataclasses.dataclass(frozen=True)
class Options:
  """`config.dataset.augment`: what is done to training inputs, in this order; by default nothing.

  The tokens around texts and between two, as [CLS] and [SEP], are left alone.

  Attributes:
    synonyms: a file of tab-separated columns: a word, and words that can stand for it. Inputs are
      words (tokenizer 'words'); what is not in the vocabulary is not used.
    replace: each word that has synonyms becomes one of them with this probability.
    swap: each token is chosen with this probability, and those chosen of a text change places (Wei
      & Zou, EDA, EMNLP 2019, there for pairs of words). Not where a task labels words.
    delete: each token is left out with this probability; one of each text stays (EDA). Not where a
      task labels words.
    cutoff: each token becomes the unknown one with this probability (token cutoff, Shen et al.
      2020, there of a span's embeddings).
    flip: an image is mirrored, left and right, with this probability.
    crop: an image moves by up to so many pixels each way; what comes in is black (0 before it is
      normalized).
    cutout: the side in pixels of a square around a random pixel that becomes 0, the mean; at the
      border a part of it (DeVries & Taylor, 2017).
  """

  synonyms: str = ''
  replace: options_lib.Share = 0.0
  swap: options_lib.Share = 0.0
  delete: options_lib.Share = 0.0
  cutoff: options_lib.Share = 0.0
  flip: options_lib.Fraction = 0.0
  crop: options_lib.Natural = 0
  cutout: options_lib.Natural = 0


DEFAULTS = options_lib.defaults(Options)
"""Nothing is done."""

_OF_IMAGES = ('flip', 'crop', 'cutout')
_OF_TEXTS = tuple(name for name in DEFAULTS if name not in _OF_IMAGES)


def read(given: Mapping[str, Any]) -> dict[str, Any]:
  """Returns `DEFAULTS` with the given values.

  Raises:
    ConfigError: an unknown option, or a value that it does not take.
  """
  for name, value in given.items():
    if name not in DEFAULTS:
      raise errors.ConfigError(f'augment: no option {name!r}{errors.nearest(name, DEFAULTS)}')
    usual = DEFAULTS[name]
    numbers = not isinstance(usual, str) and isinstance(value, int | float)
    if isinstance(value, bool) or not (numbers or isinstance(value, type(usual))):
      raise errors.ConfigError(f'augment.{name}: need a {type(usual).__name__}, not {value!r}')
  with errors.as_config_errors():
    options_lib.check(Options, given, 'augment')
  found = DEFAULTS | dict(given)
  if bool(found['synonyms']) != bool(found['replace']):
    raise errors.ConfigError(
      'augment: synonyms is the file of those words, and replace how many are replaced: give both'
    )
  return found


def check_kind(given: Mapping[str, Any], words_labelled: Sequence[str], images: bool) -> None:
  """Raises ConfigError for options of other inputs, or that would move labelled words.

  Args:
    given: from `read`.
    words_labelled: the tasks that label words.
    images: whether the inputs are arrays, else texts.
  """
  for name in _OF_TEXTS if images else _OF_IMAGES:
    if given[name] != DEFAULTS[name]:
      of = 'texts, and the inputs are arrays' if images else 'images, and the inputs are texts'
      raise errors.ConfigError(f'augment.{name}: is for {of}')
  for name in ('swap', 'delete'):
    if given[name] and words_labelled:
      raise errors.ConfigError(
        f'augment.{name}: task {words_labelled[0]!r} labels words, which would change their places'
      )


class Texts:
  """Changes the tokens of batches as the options say."""

  def __init__(
    self, given: Mapping[str, Any], tokenizer: text.Tokenizer, pieces: text.Tokenizer | None
  ):
    """Reads the synonyms, where there are some.

    Raises:
      ConfigError: synonyms, and the tokens are no words; or their file cannot be read.
      DataError: the file is not as it should be, or has no word that occurs.
    """
    self._options = Options(**given)
    self._tokenizer, self._pieces = tokenizer, pieces
    self._special = np.array(tokenizer.special_ids, np.int32)
    self._synonyms = None
    if self._options.synonyms:
      self._synonyms = Synonyms(Path(self._options.synonyms), tokenizer, pieces)

  def __call__(self, batch: dict[str, Any], draw: Draw) -> None:
    """Changes `batch['inputs']`; its shapes stay."""
    options, inputs = self._options, batch['inputs']
    width = inputs['tokens'].shape[1]

    def chosen(stream: int, share: float) -> np.ndarray:
      return self._free(inputs) & (_uniform(draw(stream, width)) < share)

    if self._synonyms is not None:
      self._synonyms.replace(inputs, chosen(_REPLACED, options.replace), draw(_SYNONYM, width))
    if options.swap:
      places = _shuffled(inputs, chosen(_CHOSEN, options.swap), _uniform(draw(_PLACE, width)))
      self._take(inputs, places)
    if options.delete:
      drawn = _uniform(draw(_GONE, width))
      kept = inputs['mask'] & ~_deleted(inputs, self._free(inputs), drawn, options.delete)
      self._take(inputs, np.argsort(~kept, axis=1, kind='stable'))
      inputs['mask'] = np.arange(width) < kept.sum(axis=1, keepdims=True)
      self._blank(inputs)
    if options.cutoff:
      hidden = chosen(_HIDDEN, options.cutoff)
      inputs['tokens'] = np.where(hidden, np.int32(self._tokenizer.unknown_id), inputs['tokens'])
      if self._pieces is not None and 'pieces' in inputs:
        unknown = np.full(inputs['pieces'].shape[2], text.PAD_ID, np.int32)
        unknown[0] = self._pieces.unknown_id
        inputs['pieces'] = np.where(hidden[..., None], unknown, inputs['pieces'])

  def _free(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The tokens of the texts themselves, bool `[B, S]`."""
    if not len(self._special):
      return inputs['mask']
    return inputs['mask'] & ~np.isin(inputs['tokens'], self._special)

  def _take(self, inputs: dict[str, np.ndarray], places: np.ndarray) -> None:
    """Brings to each place what is at `places`, int64 `[B, S]`."""
    for name in ('tokens', 'segments'):
      if name in inputs:
        inputs[name] = np.take_along_axis(inputs[name], places, axis=1)
    if 'pieces' in inputs:
      inputs['pieces'] = np.take_along_axis(inputs['pieces'], places[..., None], axis=1)

  def _blank(self, inputs: dict[str, np.ndarray]) -> None:
    """Fills up what is beyond the end of a text."""
    mask = inputs['mask']
    inputs['tokens'] = np.where(mask, inputs['tokens'], np.int32(self._tokenizer.pad_id))
    if 'segments' in inputs:
      inputs['segments'] = np.where(mask, inputs['segments'], np.int32(0))
    if 'pieces' in inputs:
      inputs['pieces'] = np.where(mask[..., None], inputs['pieces'], np.int32(text.PAD_ID))


class Synonyms:
  """Words that can stand for others, by token id."""

  def __init__(self, path: Path, tokenizer: text.Tokenizer, pieces: text.Tokenizer | None):
    if not tokenizer.of_words:
      raise errors.ConfigError("augment.synonyms: need words as tokens: tokenizer='words'")
    found: dict[int, dict[str, int]] = {}  # by the id of a word: its synonyms and their ids
    unused = 0
    for word, others in _lines(path):
      number = _id_of(tokenizer, word)
      for other in others:
        if number is None or (same := _id_of(tokenizer, other)) is None or same == number:
          unused += 1
        else:
          found.setdefault(number, {})[other] = same
    if not found:
      raise errors.DataError(f'{path}: no word and synonym of it are both in the vocabulary')
    if unused:
      _LOG.info('%s: %d synonyms are not used: they, or their words, do not occur', path, unused)
    counts = np.zeros(tokenizer.size, np.int64)
    counts[list(found)] = [len(others) for others in found.values()]
    order = sorted(found)
    words = [other for number in order for other in found[number]]
    self._counts = counts
    self._starts = np.cumsum(counts) - counts
    self._ids = np.array([i for number in order for i in found[number].values()], np.int32)
    self._pieces = None if pieces is None else pieces.encode_words(words)

  def replace(self, inputs: dict[str, np.ndarray], chosen: np.ndarray, bits: np.ndarray) -> None:
    """Changes the chosen words, bool `[B, S]`, that have synonyms; `bits` say into which."""
    tokens = inputs['tokens']
    counts = self._counts[tokens]
    chosen = chosen & (counts > 0)
    which = self._starts[tokens] + (_uniform(bits) * counts).astype(np.int64)
    which = np.where(chosen, which, 0)
    inputs['tokens'] = np.where(chosen, self._ids[which], tokens)
    if self._pieces is not None and 'pieces' in inputs:
      width = inputs['pieces'].shape[2]
      rows = self._pieces.padded(which[chosen], width, text.PAD_ID)
      inputs['pieces'] = inputs['pieces'].copy()
      inputs['pieces'][chosen] = rows


class Images:
  """Changes the images of batches, `[B, H, W, C]`, as the options say."""

  def __init__(self, given: Mapping[str, Any], shape: tuple[int, ...], black: np.ndarray):
    """Creates it.

    Args:
      given: from `read`.
      shape: of an input.
      black: float32 `[C]` or `[1]`, what an array of zeros is after it was normalized.

    Raises:
      ConfigError: the inputs are no images, or smaller than what is done to them.
    """
    self._options = Options(**given)
    if len(shape) != 3:
      raise errors.ConfigError(
        f'augment: {", ".join(_OF_IMAGES)} are for images [H, W, C], not inputs of shape {shape}'
      )
    for name in ('crop', 'cutout'):
      if given[name] > min(shape[:2]):
        raise errors.ConfigError(
          f'augment.{name}: {given[name]} pixels are more than an image of {shape[0]} × {shape[1]} '
          'has'
        )
    self._height, self._width, _ = shape
    self._black = black

  def __call__(self, batch: dict[str, Any], draw: Draw) -> None:
    """Changes `batch['inputs']`, float32 of its own."""
    options, x = self._options, batch['inputs']
    drawn = _uniform(draw(_IMAGE, 5))
    if options.flip:
      mirrored = np.flatnonzero(drawn[:, 0] < options.flip)
      x[mirrored] = x[mirrored, :, ::-1]
    if options.crop:
      x = self._moved(x, np.floor(drawn[:, 1:3] * (2 * options.crop + 1)).astype(np.int64))
    if options.cutout:
      size = options.cutout
      corner = np.floor(drawn[:, 3:] * (self._height, self._width)).astype(np.int64) - size // 2
      down = _within(np.arange(self._height)[None] - corner[:, :1], size)
      right = _within(np.arange(self._width)[None] - corner[:, 1:], size)
      x[down[:, :, None] & right[:, None, :]] = 0
    batch['inputs'] = x

  def _moved(self, x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The parts of the padded images that begin at `by`, int64 `[B, 2]`."""
    count, height, width, channels = x.shape
    pad = self._options.crop
    padded = np.empty((count, height + 2 * pad, width + 2 * pad, channels), x.dtype)
    padded[:] = self._black
    padded[:, pad : pad + height, pad : pad + width] = x
    # A row's pixels and channels lie together, so that windows are copied row by row.
    rows = padded.reshape(count, height + 2 * pad, -1)
    windows = np.lib.stride_tricks.sliding_window_view(rows, (height, width * channels), (1, 2))
    return windows[np.arange(count), by[:, 0], by[:, 1] * channels].reshape(x.shape)


def _uniform(bits: np.ndarray) -> np.ndarray:
  """Numbers from 0 to below 1, of all bits that a float64 holds."""
  return (bits >> np.uint64(11)) * 2.0**-53


def _within(places: np.ndarray, size: int) -> np.ndarray:
  return (places >= 0) & (places < size)


def _shuffled(inputs: Mapping[str, np.ndarray], chosen: np.ndarray, drawn: np.ndarray) -> Any:
  """Where each place takes its token from, int64 `[B, S]`: the chosen of a text change places."""
  width = chosen.shape[1]
  columns = np.arange(width)[None]
  first = np.argsort(np.where(chosen, columns, width + columns), axis=1)  # the chosen, in order
  of_text = inputs.get('segments', 0)
  order = np.argsort(np.where(chosen, of_text + drawn, width + 2 + columns), axis=1)
  places = np.empty_like(first)
  np.put_along_axis(places, first, order, axis=1)
  return places


def _deleted(
  inputs: Mapping[str, np.ndarray], free: np.ndarray, drawn: np.ndarray, share: float
) -> np.ndarray:
  """The tokens that are left out, bool `[B, S]`: of no text all."""
  gone = free & (drawn < share)
  numbers = np.arange(len(gone))
  for segment in (0, 1) if 'segments' in inputs else (0,):
    of_text = free & (inputs['segments'] == segment) if 'segments' in inputs else free
    gone[numbers, np.where(of_text, drawn, -1.0).argmax(axis=1)] = False
  return gone


def _lines(path: Path) -> list[tuple[str, list[str]]]:
  """A word and its synonyms of each line that is not blank."""
  try:
    content = path.expanduser().read_text(encoding='utf-8-sig')
  except (OSError, ValueError, RuntimeError) as e:
    raise errors.ConfigError(f'augment.synonyms: {str(path)!r} cannot be read: {e}') from None
  found = []
  for number, line in enumerate(content.splitlines(), start=1):
    word, *others = (part.strip() for part in line.split('\t'))
    if not word and not any(others):
      continue
    others = [other for other in others if other]
    if not word or not others:
      raise errors.DataError(f'{path}, line {number}: need a word, a tab and synonyms: {line!r}')
    found.append((word, others))
  return found


def _id_of(tokenizer: text.Tokenizer, word: str) -> int | None:
  """The id of a word; None for one that the vocabulary lacks."""
  ids = tokenizer.encode([word]).values.tolist()
  return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unknown_id else None
