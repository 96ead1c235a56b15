"""Unigram tokenizers: pieces by sentencepiece, a model of the `tokenizers` library.

The trainer of the `tokenizers` library sums in hash order, so that it gives another model in every
process; that of sentencepiece, with one thread, gives the same. Needs `mtl_jax[unigram]`.
"""

import io
from collections.abc import Sequence

from tokenizers import decoders, models, pre_tokenizers

from mtl_jax import errors

MARK = '▁'  # before the first character of a word
_NEVER = -1e6  # score of a special token, so that text that reads like one is split
_LONGEST = 2**20  # bytes of a word; longer ones are left out of training


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
  """Words, each with the mark in front."""
  metaspace = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme='always', split=False)
  return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])


def decoder() -> decoders.Decoder:
  """Undoes `pre_tokenizer`."""
  return decoders.Metaspace(replacement=MARK, prepend_scheme='always')


def train(
  words: Sequence[str], vocab_size: int, special: Sequence[str], unknown: int
) -> models.Model:
  """Returns the model of words, which carry no mark yet.

  Args:
    words: all words of the training texts, as often as they stand there.
    vocab_size: the most pieces, `special` included; their characters are pieces in any case.
    special: the first ids.
    unknown: which of them stands for characters that were not seen.

  Raises:
    ConfigError: sentencepiece is not installed.

  References:
    Kudo, Subword Regularization, ACL 2018.
  """
  try:
    import sentencepiece
  except ImportError:
    raise errors.ConfigError(
      "tokenizer 'unigram' is trained by sentencepiece: pip install 'mtl_jax[unigram]'"
    ) from None
  characters = {character for word in words for character in word} | {MARK}
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(words),
    model_writer=written,
    model_type='unigram',
    vocab_size=max(vocab_size - len(special), len(characters)) + 1,  # and its own unknown piece
    hard_vocab_limit=False,
    character_coverage=1.0,
    normalization_rule_name='identity',
    max_sentence_length=_LONGEST,
    num_threads=1,
    unk_id=0,
    bos_id=-1,
    eos_id=-1,
    pad_id=-1,
    minloglevel=2,
  )
  processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
  found = [
    (processor.id_to_piece(i), processor.get_score(i)) for i in range(1, processor.get_piece_size())
  ]
  pieces = sorted(
    ((piece, score) for piece, score in found if piece not in special),
    key=lambda item: (-item[1], item[0]),
  )
  return models.Unigram([*((name, _NEVER) for name in special), *pieces], unknown, False)
