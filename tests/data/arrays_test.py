"""Inputs that are arrays: normalization, batches of both regimes, what is refused."""

import numpy as np
import pytest

from mtl_jax import errors
from mtl_jax.data import pipeline, specs, text
from mtl_jax.data import vocabularies as vocabularies_lib
from mtl_jax.run import workdir

TASKS = {
  'kind': specs.TaskSpec('classification', 'kind', ('accuracy',), labels=('a', 'b')),
  'size': specs.TaskSpec('regression', 'size', ('pearson',)),
}
IMAGE = specs.InputSpec('image', 'array', mean=(0.5, 0.0, 0.25), std=(1.0, 0.5, 2.0))
VECTOR = specs.InputSpec('image', 'array')


def make(count, seed, draw):
  rng = np.random.default_rng(seed)
  return [
    {'image': draw(rng), 'kind': str(rng.choice(['a', 'b', ''])), 'size': float(i)}
    for i in range(count)
  ]


def _image(rng):
  return rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)


def _vector(rng):
  return rng.normal(size=6).tolist()


def examples(draw=_image):
  return {'train': make(20, 0, draw), 'validation': make(5, 1, draw)}


def data(config=None, given=IMAGE, items=None, **kwargs):
  return pipeline.from_examples(items or examples(), given, TASKS, config or {}, 8, 0, **kwargs)


def test_images_are_normalized_by_channel():
  made = data()
  assert (made.bucket_lengths, made.vocab_size, made.steps_per_epoch) == ((1,), 0, 2)
  rows = {item['size']: item for item in examples()['train']}
  seen = []
  for batch in (made.example_batch(), next(made.train(start=1))):
    assert batch['inputs'].shape == (8, 4, 5, 3)
    assert batch['inputs'].dtype == np.float32
    for i, size in enumerate(batch['targets']['size'].tolist()):
      seen.append(size)
      x = rows[size]['image'].astype(np.float64) / 255
      expected = (x - [0.5, 0, 0.25]) / [1, 0.5, 2]
      np.testing.assert_allclose(batch['inputs'][i], expected, rtol=1e-5, atol=1e-6)
      assert batch['targets']['kind'][i] == {'a': 0, 'b': 1, '': -1}[rows[size]['kind']]
      assert batch['mask']['kind'][i] == bool(rows[size]['kind'])
  assert len(set(seen)) == 16


def test_vectors_are_as_they_are_given():
  items = examples(_vector)
  made = data(given=VECTOR, items=items)
  batch = made.example_batch()
  rows = {item['size']: item['image'] for item in items['train']}
  expected = [rows[size] for size in batch['targets']['size'].tolist()]
  np.testing.assert_array_equal(batch['inputs'], np.array(expected, np.float32))


def test_evaluation_has_each_example_once():
  made = data()
  batches = list(made.evaluation('validation', 4))
  assert [b.count for b in batches] == [4, 1]
  sizes = [s for b in batches for s in b.batch['targets']['size'][: b.count].tolist()]
  assert sizes == [0, 1, 2, 3, 4]
  assert not batches[-1].batch['mask']['size'][1:].any()
  assert not batches[-1].batch['inputs'][1:].any()


@pytest.mark.parametrize('mixing', ['all', 'one'])
def test_own_inputs(mixing):
  items = {
    split: [e | {'owner': ('kind', 'size')[i % 2]} for i, e in enumerate(rows)]
    for split, rows in examples(_vector).items()
  }
  made = data({'mixing': mixing}, VECTOR, items, owner='owner')
  for number, (task, own) in enumerate(made.example_batch().items()):
    found = sorted(items['train'][2 * i + number]['image'] for i in range(10))
    assert own['inputs'].shape == (8, 6)
    assert all(np.isclose(row, found).all(axis=1).any() for row in own['inputs']), task
  assert len(next(made.train())) == (2 if mixing == 'all' else 1)


def test_vocabularies_hold_the_classes_alone(tmp_path):
  made = data()
  made.write(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['vocabulary.json']
  known = vocabularies_lib.read(tmp_path)
  assert known == made.vocabularies
  again = data(vocabularies=known)
  np.testing.assert_array_equal(again.example_batch()['inputs'], made.example_batch()['inputs'])
  given = specs.InputSpec('image', 'text', 'characters')
  words = {'train': [{'image': 'a', 'kind': 'a', 'size': 0.0}] * 8}
  with pytest.raises(errors.ConfigError, match='are of a data set without texts'):
    data(given=given, items=words, vocabularies=known)


def test_one_number_for_all_channels():
  one = specs.InputSpec('image', 'array', mean=(0.5,), std=(0.25,))
  plain = data(given=specs.InputSpec('image', 'array')).example_batch()['inputs']
  np.testing.assert_allclose(data(given=one).example_batch()['inputs'], (plain - 0.5) / 0.25, 1e-5)


def test_what_is_encoded_has_its_own_fingerprint():
  other = examples()
  other['validation'][0]['image'] = other['validation'][0]['image'] ^ 1
  brighter = specs.InputSpec('image', 'array', mean=(0.5, 0.0, 0.26), std=(1.0, 0.5, 2.0))
  made = [data(), data(), data(items=other), data(given=brighter)]
  prints = [workdir.identity(each)['fingerprint'] for each in made]
  assert prints[0] == prints[1]
  assert len(set(prints)) == 3


@pytest.mark.parametrize(
  ('value', 'match'),
  [
    ('a text', "field 'image' should be an array of numbers"),
    (
      np.zeros((4, 5, 3)),
      r"field 'image' is float32 \[4, 5, 3\], and in other examples uint8 \[4, 5, 3\]",
    ),
    (np.zeros((4, 4, 3), np.uint8), r"field 'image' is uint8 \[4, 4, 3\], and in other examples"),
    (3, "field 'image' should be an array of numbers"),
    ([[1, 2], [3]], "field 'image' should be an array of numbers"),
    (None, "field 'image' should be an array of numbers"),
    (KeyError, "no field 'image'"),
  ],
)
def test_examples_that_are_not_like_the_others(value, match):
  items = examples()
  items['validation'][2] = dict(items['validation'][2], image=value)
  if value is KeyError:
    del items['validation'][2]['image']
  where = f"data set 'given examples', split 'validation', example 2: {match}"
  with pytest.raises(errors.DataError, match=where):
    data(items=items)


def test_numbers_must_be_finite():
  items = examples(_vector)
  items['train'][3]['image'][0] = float('nan')
  with pytest.raises(errors.DataError, match="'train', example 3: field 'image' is not finite"):
    data(given=VECTOR, items=items)


@pytest.mark.parametrize(
  'config',
  [
    {'tokenizer': 'words'},
    {'lowercase': True},
    {'max_length': 3},
    {'max_pieces': 3},
    {'buckets': 1},
    {'word_dropout': 0.1},
    {'min_count': 2},
  ],
)
def test_options_for_texts_are_refused(config):
  with pytest.raises(errors.ConfigError, match=f'{next(iter(config))}: the inputs are arrays'):
    data(config)


def test_what_a_data_set_of_arrays_cannot_say():
  tagging = {'tags': specs.TaskSpec('tagging', 'tags', ('f1',))}
  rows = {'train': [{'image': [1.0], 'tags': ['a']}] * 8}
  with pytest.raises(errors.ConfigError, match="task 'tags' labels words"):
    pipeline.from_examples(rows, VECTOR, tagging, {}, 8, 0)
  with pytest.raises(errors.ConfigError, match='a tokenizer is given'):
    data(tokenizer=text.train('characters', ['ab'], 0, 1, False, False, False))
  for options in ({'kind': 'pixels'}, {'tokenizer': 'words'}, {'std': (0.0,)}, {'mean': (np.nan,)}):
    with pytest.raises(ValueError, match='need'):
      specs.InputSpec(**{'field': 'image', 'kind': 'array', **options})
  with pytest.raises(ValueError, match='texts need one'):
    specs.InputSpec('words', 'text')
  with pytest.raises(errors.ConfigError, match='one for each of the 3 channels'):
    data(given=specs.InputSpec('image', 'array', mean=(0.1, 0.2)))
