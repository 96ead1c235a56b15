"""The tokenizer of a checkpoint of BERT's family, from the files beside its weights."""

import os
from collections.abc import Mapping
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from mtl_jax.encoders import _bert_files


def read(directory: str | os.PathLike[str]) -> tokenizers.Tokenizer:
  """See `bert.tokenizer`."""
  folder = _bert_files.find(directory)
  try:
    if (folder / 'tokenizer.json').is_file():
      made = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
    elif (folder / 'vocab.txt').is_file():
      made = _wordpiece(folder)
    elif (folder / 'vocab.json').is_file() and (folder / 'merges.txt').is_file():
      made = _byte_level(folder)
    else:
      raise ValueError(
        f'{folder} has no tokenizer: need tokenizer.json, vocab.txt, or vocab.json and merges.txt '
        '(of sentencepiece models transformers.AutoTokenizer writes tokenizer.json)'
      )
  except ValueError:
    raise
  except Exception as error:  # the library raises Exception itself
    raise ValueError(f'{folder}: the tokenizer cannot be read: {error}') from error
  made.no_padding()
  made.no_truncation()
  highest = max(made.get_vocab().values(), default=0)
  size = _bert_files.read_json(folder / 'config.json', {}).get('vocab_size')
  if isinstance(size, int) and highest >= size:
    raise ValueError(
      f'{folder}: the tokenizer has ids up to {highest}, and the model knows {size} tokens: they '
      'are not of one checkpoint'
    )
  return made


def _special(folder: Path, names: Mapping[str, str], vocabulary: Mapping[str, int]) -> list[str]:
  """The special tokens in the order of `names`, role -> default; the first three are needed."""
  options = _bert_files.read_json(folder / 'tokenizer_config.json', {})
  found = []
  for index, (role, default) in enumerate(names.items()):
    token = options.get(f'{role}_token') or default
    token = token['content'] if isinstance(token, dict) else token
    if token in vocabulary:
      found.append(token)
    elif index < 3:
      raise ValueError(f'{folder}: the vocabulary lacks the special token {token!r}')
  return found


def _wordpiece(folder: Path) -> tokenizers.Tokenizer:
  options = _bert_files.read_json(folder / 'tokenizer_config.json', {})
  vocabulary = models.WordPiece.read_file(str(folder / 'vocab.txt'))
  names = {'unk': '[UNK]', 'cls': '[CLS]', 'sep': '[SEP]', 'pad': '[PAD]', 'mask': '[MASK]'}
  special = _special(folder, names, vocabulary)
  unknown, first, last = special[:3]
  made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
  made.add_special_tokens(special)
  made.normalizer = normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=options.get('tokenize_chinese_chars', True),
    strip_accents=options.get('strip_accents'),
    lowercase=options.get('do_lower_case', True),
  )
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  made.post_processor = processors.TemplateProcessing(
    single=f'{first}:0 $A:0 {last}:0',
    pair=f'{first}:0 $A:0 {last}:0 $B:1 {last}:1',
    special_tokens=[(token, vocabulary[token]) for token in (first, last)],
  )
  made.decoder = decoders.WordPiece()
  return made


def _byte_level(folder: Path) -> tokenizers.Tokenizer:
  blank = _bert_files.read_json(folder / 'tokenizer_config.json', {}).get('add_prefix_space', False)
  vocabulary, merges = models.BPE.read_file(str(folder / 'vocab.json'), str(folder / 'merges.txt'))
  names = {'unk': '<unk>', 'cls': '<s>', 'sep': '</s>', 'pad': '<pad>', 'mask': '<mask>'}
  special = _special(folder, names, vocabulary)
  _, first, last = special[:3]
  made = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
  made.add_special_tokens(
    [  # the mask takes the blank before it
      tokenizers.AddedToken(token, lstrip=token == '<mask>', special=True, normalized=False)
      for token in special
    ]
  )
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=blank)
  made.post_processor = processors.RobertaProcessing(
    (last, vocabulary[last]), (first, vocabulary[first]), add_prefix_space=blank
  )
  made.decoder = decoders.ByteLevel()
  return made
