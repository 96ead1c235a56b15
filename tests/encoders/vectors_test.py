"""Word vectors: files in both formats, what is wrong with a file, and how an embedding begins."""

import jax
import numpy as np
import pytest

from mtl_jax import encoders, errors

WORDS = ('[PAD]', '[UNK]', 'paris', 'Paris', 'Rome', 'naïve', '\u00a0', 'oslo')
TABLE = {
  'the': [9.0, 9.0, 9.0],
  'paris': [1.0, 2.0, 3.0],
  'Paris': [-1.0, 0.5, 1e-3],
  'rome': [4.0, -5.0, 0.125],
  'naïve': [0.1, 0.2, 0.3],
  '\u00a0': [7.0, 8.0, 9.0],
}


def write(path, table=TABLE, header=False, end='\n'):
  lines = [f'{len(table)} 3'] if header else []
  lines += [f'{word} {" ".join(map(str, numbers))}' for word, numbers in table.items()]
  path.write_bytes(''.join(line + end for line in lines).encode())
  return path


@pytest.mark.parametrize(('header', 'end'), [(False, '\n'), (True, ' \n'), (True, '\r\n')])
def test_round_trip(header, end, tmp_path):
  """Own vectors come before those of the lower case; fastText ends its lines with a blank."""
  vectors = encoders.load_vectors(write(tmp_path / 'v.vec', header=header, end=end), WORDS, 3)
  zeros = [0.0] * 3
  expected = [
    zeros,
    zeros,
    *(TABLE[w] for w in ('paris', 'Paris', 'rome', 'naïve', '\u00a0')),
    zeros,
  ]
  np.testing.assert_array_equal(vectors.table, np.array(expected, np.float32))
  assert vectors.known.tolist() == [False, False, True, True, True, True, True, False]
  assert vectors.coverage == 5 / 8


def test_words_of_several_parts_and_repeated_words(tmp_path):
  """GloVe's 840B has tokens with blanks; the first of two lines for a word counts."""
  path = tmp_path / 'glove.txt'
  path.write_text('paris 1 2\n. . . 3 4\nat paris 5 6\nparis 7 8\n')
  vectors = encoders.load_vectors(path, ['paris', 'x'])
  assert vectors.table.tolist() == [[1.0, 2.0], [0.0, 0.0]]


@pytest.mark.parametrize(
  ('content', 'error', 'message'),
  [
    ('the 1 2 3\nparis 1 2\n', errors.DataError, 'line 2: need a word and 3 numbers'),
    ('the 1 2 3\nparis 1 2 3 4\n', errors.DataError, 'line 2: need a word and 3 numbers'),
    ('2 3\nthe 1 2 3\nparis 1 2\n', errors.DataError, 'line 3: need a word and 3 numbers'),
    ('the 1 2 3\nparis 1 x 3\n', errors.DataError, "line 2: 'x' is no finite number"),
    ('the 1 2 3\nparis 1 nan 3\n', errors.DataError, "line 2: 'nan' is no finite number"),
    ('the 1 2 3\n\nparis 1 2 3\n', errors.DataError, 'line 2: need a word'),
    ('the 1 2 3\n 1 2 3\n', errors.DataError, 'line 2: need a word'),
    ('3 3\nthe 1 2 3\nparis 1 2 3\n', errors.DataError, 'promises 3 words, and 2 follow'),
    ('\x80\0\0abc\n', errors.DataError, 'line 1: .* binary or packed'),
    ('2 3\nthe \0\0\0\0\n', errors.DataError, 'line 2: .* binary or packed'),
    ('', errors.DataError, 'is empty'),
    ('paris 1 2\n', ValueError, 'vectors of 2 numbers.*features=3: set features=2'),
    ('9 300\n', ValueError, 'vectors of 300 numbers'),
    ('the 1 2 3\n', ValueError, "for none of 8 tokens.*tokenizer='words'"),
  ],
)
def test_files_that_are_refused(content, error, message, tmp_path):
  path = tmp_path / 'v.txt'
  path.write_text(content)
  with pytest.raises(error, match=message):
    encoders.load_vectors(path, WORDS, 3)


def test_no_file(tmp_path):
  with pytest.raises(ValueError, match='cannot be read: No such file'):
    encoders.load_vectors(tmp_path / 'v.txt', WORDS)


def test_an_embedding_begins_with_them(tmp_path):
  """Words without a vector are drawn like those with one, by the key."""
  rng = np.random.default_rng(0)
  words = [f'w{i}' for i in range(4000)]
  table = {word: rng.normal([5.0, -1.0, 0.0], [0.1, 1.0, 3.0]).tolist() for word in words[:2000]}
  vectors = encoders.load_vectors(write(tmp_path / 'v.txt', table), words)
  module = encoders.Embedding(4000, 3, vectors=vectors)
  inputs = {'tokens': np.zeros((1, 2), np.int32)}
  first, second = (
    np.asarray(module.init(jax.random.key(seed), inputs)['params']['Embed_0']['embedding'])
    for seed in (0, 1)
  )
  np.testing.assert_array_equal(first[:2000], np.array(list(table.values()), np.float32))
  assert not np.any(first[2000:] == second[2000:])
  known, drawn = first[:2000], first[2000:]
  np.testing.assert_allclose(drawn.mean(0), known.mean(0), atol=5 * 3 / 2000**0.5)
  np.testing.assert_allclose(drawn.std(0), known.std(0), rtol=0.1)


@pytest.mark.parametrize('freeze', [False, True])
def test_frozen_vectors_have_no_gradient(freeze, tmp_path):
  vectors = encoders.load_vectors(write(tmp_path / 'v.txt'), WORDS)
  module = encoders.Embedding(8, 3, 5, 2, 2, vectors=vectors, freeze_vectors=freeze)
  inputs = {'tokens': np.array([[2, 3]], np.int32), 'pieces': np.ones((1, 2, 3), np.int32)}
  params = module.init(jax.random.key(0), inputs)['params']
  name = encoders.FROZEN if freeze else 'Embed_0'
  np.testing.assert_array_equal(params[name]['embedding'][2:4], vectors.table[2:4])
  grads = jax.grad(lambda p: (module.apply({'params': p}, inputs) ** 2).sum())(params)
  assert np.any(grads[name]['embedding']) == (not freeze)
  assert np.any(grads['Conv_0']['kernel'])


def test_vectors_of_another_vocabulary(tmp_path):
  vectors = encoders.load_vectors(write(tmp_path / 'v.txt'), WORDS)
  with pytest.raises(ValueError, match=r'vectors \[8, 3\] are not for 9 tokens of 3 features'):
    encoders.Embedding(9, 3, vectors=vectors)
  with pytest.raises(ValueError, match='no vectors to freeze'):
    encoders.Embedding(9, 3, freeze_vectors=True)
