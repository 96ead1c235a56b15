"""Texts and pairs of texts with a tokenizer's frame, cut at a bound or as overlapping windows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from mtl_jax import errors


class Framing:
  """The backend of a tokenizer with bounds; for each it is parsed anew, once."""

  def __init__(self, backend: tokenizers.Tokenizer):
    self._backend = backend
    self._bounded: dict[tuple[Any, ...], tokenizers.Tokenizer] = {}

  def _cutting(self, max_length: int, stride: int, strategy: str) -> tokenizers.Tokenizer:
    bound = max_length, stride, strategy
    if bound not in self._bounded:
      backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
      backend.enable_truncation(max_length, stride=stride, strategy=strategy)
      self._bounded[bound] = backend
    return self._bounded[bound]

  def encode(
    self, texts: Sequence[Any], start: int, max_length: int, stride: int
  ) -> list[tokenizers.Encoding]:
    """Encodes texts and pairs; what does not fit is in `overflowing`, with a stride as windows.

    Args:
      texts: each a string or two.
      start: the number of the first one, for messages.
      max_length: most ids, the frame included; 0: no bound. Without a stride the longer of two
        texts is cut first.
      stride: how many ids a window shares with the one before; 0: no windows. Those of a pair are
        of the second text, each beside the first as a whole.

    Raises:
      DataError: beside the first of a pair a window of the second has no room.
    """
    if not max_length:
      return self._backend.encode_batch(texts)
    if not stride:
      return self._cutting(max_length, 0, 'longest_first').encode_batch(texts)
    pairs = [isinstance(text, tuple) for text in texts]
    found = {}
    for of, strategy in ((False, 'only_first'), (True, 'only_second')):
      some = [text for text, pair in zip(texts, pairs, strict=True) if pair == of]
      if of and some:
        self._check(texts, start, max_length, stride)
      found[of] = iter(self._cutting(max_length, stride, strategy).encode_batch(some))
    return [next(found[pair]) for pair in pairs]

  def _check(self, texts: Sequence[Any], start: int, max_length: int, stride: int) -> None:
    """Raises DataError for a pair that does not fit, and whose first text leaves no room."""
    pairs = [(number, text) for number, text in enumerate(texts, start) if isinstance(text, tuple)]
    firsts, seconds = (
      np.array(
        [len(item.ids) for item in self._backend.encode_batch(part, add_special_tokens=False)]
      )
      for part in ([text[of] for _, text in pairs] for of in (0, 1))
    )
    room = max_length - self._backend.num_special_tokens_to_add(True) - firsts
    wrong = np.flatnonzero((seconds > room) & (room <= stride))
    if len(wrong):
      at = int(wrong[0])
      raise errors.DataError(
        f'text {pairs[at][0]}: the first of the pair has {int(firsts[at])} tokens, and stands '
        f'whole beside every window of the second. Of max_length {max_length} that leaves '
        f'{max(int(room[at]), 0)} tokens, and a window needs more than stride, {stride}: raise '
        'max_length, lower stride, or set stride to 0, so that long texts are cut'
      )
