"""The pieces of words are those that the `tokenizers` library gives for the sentence they make.

Tokenizers of every kind that blanks tell apart, trained here; the oracle is the library itself.
"""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from mtl_jax import errors
from mtl_jax.data import pipeline, specs, text

SENTENCES = [
  'play the song of the week',
  "isn't it the song again ?",
  'the week , the song and the play',
  'Xyz of ünïcode 字 字字 the unseen playful weeks',
  'again again again',
]
WORDS = specs.InputSpec('words', 'words', 'words')
TASKS = {'tags': specs.TaskSpec('tagging', 'tags', ('token_accuracy',))}
EXAMPLES = {
  'train': [{'words': s.split(), 'tags': [w[0] for w in s.split()]} for s in SENTENCES],
  'test': [{'words': ['week', 'it'], 'tags': ['w', 'i']}],
}


def trained(model, trainer, pre_tokenizer, normalizer=None, **options):
  backend = tokenizers.Tokenizer(model)
  backend.pre_tokenizer = pre_tokenizer
  if normalizer is not None:
    backend.normalizer = normalizer
  backend.train_from_iterator(SENTENCES[:3] * 9, trainer(show_progress=False, **options))
  return backend


def byte_level(prefix=False, use_regex=True):
  return trained(
    models.BPE(),
    trainers.BpeTrainer,
    pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex),
    vocab_size=300,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
  )


def roberta():
  backend = byte_level()
  backend.add_special_tokens(['<s>', '</s>'])
  last, first = (('</s>', backend.token_to_id('</s>')), ('<s>', backend.token_to_id('<s>')))
  backend.post_processor = processors.RobertaProcessing(last, first, add_prefix_space=False)
  return backend


def metaspace(scheme, split=True):
  return trained(
    models.Unigram(),
    trainers.UnigramTrainer,
    pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split),
    vocab_size=70,
    unk_token='<unk>',
    special_tokens=['<pad>', '<unk>'],
  )


def llama():
  """Blanks are marked by the normalizer, and nothing splits at them but what was learned."""
  backend = trained(
    models.BPE(unk_token='<unk>', fuse_unk=True),
    trainers.BpeTrainer,
    pre_tokenizers.Metaspace(),
    vocab_size=90,
    special_tokens=['<unk>'],
  )
  marked = [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
  backend.normalizer = normalizers.Sequence(marked)
  backend.pre_tokenizer = None
  return tokenizers.Tokenizer.from_str(backend.to_str())


def wordpiece():
  return trained(
    models.WordPiece(unk_token='[UNK]'),
    trainers.WordPieceTrainer,
    pre_tokenizers.BertPreTokenizer(),
    normalizers.BertNormalizer(),
    vocab_size=70,
    special_tokens=['[PAD]', '[UNK]'],
  )


TOKENIZERS = {
  'byte-level': byte_level,
  'byte-level, prefix': lambda: byte_level(prefix=True),
  'roberta': roberta,
  'sentencepiece, always': lambda: metaspace('always'),
  'sentencepiece, first': lambda: metaspace('first'),
  'sentencepiece, never': lambda: metaspace('never'),
  'llama': llama,
  'wordpiece': wordpiece,
}


def load(tmp_path, backend, option='tokenizer'):
  path = str(tmp_path / 'tokenizer.json')
  backend.save(path)
  return pipeline.from_examples(EXAMPLES, WORDS, TASKS, {option: path, 'max_pieces': 30}, 2, 0)


@pytest.mark.parametrize('name', TOKENIZERS)
def test_a_sentence_of_words_has_the_pieces_of_the_sentence(name, tmp_path):
  backend = TOKENIZERS[name]()
  made = load(tmp_path, backend)
  for split, examples in EXAMPLES.items():
    tokens, tags = made.splits[split].tokens, made.splits[split].targets['tags']
    for row, example in enumerate(examples):
      string = ' '.join(example['words'])
      whole = backend.encode(string)
      ids = tokens.take(np.array([row])).values.tolist()
      assert ids == whole.ids
      # The tags stand at the pieces in which the words begin.
      labels = tags.take(np.array([row])).values
      names = made.label_names['tags']
      assert [names[i] for i in labels[labels >= 0]] == example['tags']
      inside = [end for (_, end), s in zip(whole.offsets, whole.special_tokens_mask, strict=True)]
      begins = np.cumsum([0, *(len(word) + 1 for word in example['words'][:-1])])
      firsts = [next(i for i, end in enumerate(inside) if end > begin) for begin in begins]
      placed = np.flatnonzero(labels >= 0)
      # A blank on its own is the first piece of the word that follows it.
      blank = [i - 1 if whole.tokens[i - 1] in ('Ġ', '▁') and i else i for i in firsts]
      assert placed.tolist() == blank


def test_all_words_but_the_first_carry_the_blank(tmp_path):
  made = load(tmp_path, byte_level())
  backend = made.vocabularies.tokenizer.backend
  pieces = [backend.id_to_token(i) for i in made.splits['test'].tokens.values.tolist()]
  assert ''.join(pieces) == 'weekĠit'


def test_with_a_prefix_space_words_are_split_as_words_given_apart(tmp_path):
  """What RoBERTa tokenizers ask for where words are given, `add_prefix_space`."""
  backend = byte_level(prefix=True)
  made = load(tmp_path, backend)
  for row, example in enumerate(EXAMPLES['train']):
    expected = backend.encode(example['words'], is_pretokenized=True).ids
    assert made.splits['train'].tokens.take(np.array([row])).values.tolist() == expected


def test_the_pieces_beside_words_know_the_place_too(tmp_path):
  backend = byte_level()
  made = load(tmp_path, backend, 'pieces')
  assert made.vocabularies.tokenizer.kind == 'words'
  pad = made.vocabularies.pieces.pad_id
  for item in made.evaluation('train'):
    for row, index in enumerate(item.indices):
      pieces = item.batch['inputs']['pieces'][row].ravel()
      whole = [i for i in backend.encode(SENTENCES[index]).ids if i != pad]
      assert pieces[pieces != pad].tolist() == whole


def test_a_tokenizer_that_joins_words(tmp_path):
  with pytest.raises(errors.ConfigError, match=r"example 0: the tokenizer joins words: 'play the"):
    load(tmp_path, metaspace('always', split=False))
  with pytest.raises(errors.ConfigError, match='choose one that splits texts at blanks'):
    load(tmp_path, byte_level(use_regex=False))
  assert not text.pretrained(byte_level(use_regex=False)).splits_at_blanks
  assert text.pretrained(byte_level()).splits_at_blanks
