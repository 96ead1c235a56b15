"""Tokenizers: ids, determinism over processes, files, and what is wrong with bad ones."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from mtl_jax import errors
from mtl_jax.data import text

TEXTS = ['play a song', 'play the song', 'Playing songs', 'ünïcode a\tb\nc']


def rows(ragged):
  return [row.tolist() for row in np.split(ragged.values, ragged.offsets[1:-1])]


def pieces(tokenizer, string):
  return [tokenizer.backend.id_to_token(i) for i in rows(tokenizer.encode([string]))[0]]


def test_characters():
  tokenizer = text.train('characters', ['ab', 'b\nb'])
  assert tokenizer.backend.get_vocab() == {'[PAD]': 0, '[UNK]': 1, 'b': 2, '\n': 3, 'a': 4}
  assert rows(tokenizer.encode(['ba\n', 'xb'])) == [[2, 4, 3], [1, 2]]
  assert tokenizer.size == 5


def test_words_by_count_then_name():
  tokenizer = text.train('words', ['b a c', 'a  c', 'd'])
  assert tokenizer.backend.get_vocab() == {'[PAD]': 0, '[UNK]': 1, 'a': 2, 'c': 3, 'b': 4, 'd': 5}
  assert rows(tokenizer.encode(['d a', 'A'])) == [[5, 2], [1]]


def test_bounds():
  assert text.train('words', ['b a c', 'a c', 'd'], min_count=2).size == 4
  assert text.train('words', ['b a c', 'a c', 'd'], vocab_size=3).size == 3
  assert text.train('words', ['A a'], lowercase=True).size == 3
  assert text.train('bpe', TEXTS * 10, vocab_size=30).size == 30
  with pytest.raises(errors.ConfigError, match='no room'):
    text.train('words', TEXTS, vocab_size=2)


@pytest.mark.parametrize('kind', ['wordpiece', 'bpe', 'unigram'])
def test_subwords(kind):
  tokenizer = text.train(kind, TEXTS * 10, vocab_size=60)
  joined = (
    ''.join(pieces(tokenizer, 'songs')).replace('##', '').replace('</w>', '').replace('▁', '')
  )
  assert joined == 'songs'
  assert 1 < len(pieces(tokenizer, 'playsong')) < 8
  *mark, last = rows(tokenizer.encode(['ж']))[0]
  assert last == text.UNKNOWN_ID
  assert [tokenizer.backend.id_to_token(i) for i in mark] == ['▁'] * (kind == 'unigram')


def test_unigram_is_the_likeliest_way_to_split():
  """By all ways to split a word, and their sums of scores."""
  tokenizer = text.train('unigram', TEXTS * 10, vocab_size=40)
  model = json.loads(tokenizer.backend.to_str())['model']
  scores = dict(map(tuple, model['vocab']))

  def best(word):
    ways = [(0.0, [])] if not word else []
    for end in range(1, len(word) + 1):
      if (piece := word[:end]) in scores:
        score, rest = best(word[end:])
        ways.append((scores[piece] + score, [piece, *rest]))
    return max(ways)

  for word in {word for string in TEXTS for word in string.split()} | {'playsong'}:
    score, _ = best('▁' + word)
    assert sum(scores[piece] for piece in pieces(tokenizer, word)) == pytest.approx(score)
  assert tokenizer.backend.decode(rows(tokenizer.encode(['play songs']))[0]) == 'play songs'


def test_unigram_says_what_it_needs(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sentencepiece', None)
  with pytest.raises(errors.ConfigError, match=r"pip install 'mtl_jax\[unigram\]'"):
    text.train('unigram', TEXTS)


@pytest.mark.parametrize('kind', text.KINDS)
def test_nothing_encodes_to_nothing_or_to_padding(kind):
  tokenizer = text.train(kind, [*TEXTS, '[PAD]'])
  encoded = rows(tokenizer.encode(['', '[PAD]', 'play']))
  assert encoded[0] == [text.UNKNOWN_ID]
  assert all(text.PAD_ID not in row for row in encoded)


@pytest.mark.parametrize('kind', text.KINDS)
def test_save_and_load(kind, tmp_path):
  tokenizer = text.train(kind, TEXTS, lowercase=True, as_words=True)
  tokenizer.save(tmp_path / 'tokenizer.json')
  assert os.listdir(tmp_path) == ['tokenizer.json']
  loaded = text.load(tmp_path / 'tokenizer.json')
  assert loaded.size == tokenizer.size
  assert (loaded.pad_id, loaded.unknown_id) == (0, 1)
  words = ['play', 'Songs', 'new']
  assert rows(loaded.encode_words(words)) == rows(tokenizer.encode_words(words))


def test_characters_of_words_begin_with_the_blank():
  tokenizer = text.train('characters', ['ab'], as_words=True)
  assert [tokenizer.backend.id_to_token(i) for i in rows(tokenizer.encode_words(['ba']))[0]] == [
    ' ',
    'b',
    'a',
  ]


def test_the_same_in_every_process():
  # Hash seeds and thread counts differ from process to process.
  code = (
    'from mtl_jax.data import text\n'
    'words = [f"{a}{b}{c}" for a in "abcdef" for b in "ghijk" for c in "lmnop"]\n'
    'for kind in text.KINDS:\n'
    '  print(text.train(kind, words, vocab_size=80).backend.to_str())\n'
  )
  outputs = {
    subprocess.run(
      [sys.executable, '-c', code],
      env={**os.environ, 'PYTHONHASHSEED': seed, 'RAYON_NUM_THREADS': threads},
      capture_output=True,
      check=True,
    ).stdout
    for seed, threads in (('1', '1'), ('2', '4'), ('3', '2'))
  }
  (output,) = outputs
  assert len(output.splitlines()) >= len(text.KINDS)


def test_pretrained_ids(tmp_path):
  backend = tokenizers.Tokenizer(
    models.WordPiece({'a': 0, '##b': 1, '[UNK]': 2, '[PAD]': 3}, unk_token='[UNK]')
  )
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  backend.enable_truncation(1)
  backend.enable_padding(length=7, pad_id=3)
  backend.save(str(tmp_path / 'bert.json'))
  tokenizer = text.load(tmp_path / 'bert.json')
  assert (tokenizer.kind, tokenizer.pad_id, tokenizer.unknown_id) == ('pretrained', 3, 2)
  assert rows(tokenizer.encode(['ab a', 'x'])) == [[0, 1, 0], [2]]


@pytest.mark.parametrize('content', [None, '', '{"a": 1}', 'not json', '\x00'])
def test_not_a_tokenizer(tmp_path, content):
  path = tmp_path / 'tokenizer.json'
  if content is not None:
    path.write_text(content)
  with pytest.raises(errors.ConfigError, match=r'tokenizer.json. cannot be read: .+; it should be'):
    text.load(path)


def test_unknown_kind_and_no_text():
  with pytest.raises(errors.ConfigError, match="no tokenizer 'word'; did you mean 'words'"):
    text.train('word', TEXTS)
  with pytest.raises(errors.DataError, match='no text'):
    text.train('words', [])
