"""What is wrong with an example, an option or an argument is said, with the place."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from mtl_jax import errors
from mtl_jax.data import pipeline, specs
from mtl_jax.plain import is_int

WORDS = specs.InputSpec('words', 'words', 'words')
TEXT = specs.InputSpec('form', 'text', 'characters')
TASKS = {
  'intent': specs.TaskSpec('classification', 'intent', ('accuracy',)),
  'slots': specs.TaskSpec('tagging', 'slots', ('f1',)),
  'topics': specs.TaskSpec('multilabel', 'topics', ('micro_f1',), labels=('x', 'y', 'z')),
  'score': specs.TaskSpec('regression', 'score', ('mse',)),
}
EXAMPLE = {
  'words': ['play', 'it'],
  'intent': 'play',
  'slots': ['O', 'B-a'],
  'topics': ['x', 'z'],
  'score': 1.5,
}
EXAMPLES = {'train': [EXAMPLE] * 50, 'validation': [EXAMPLE] * 3, 'test': [EXAMPLE] * 5}


def data(config=None, batch_size=8, seed=0, examples=EXAMPLES, given=WORDS):
  return pipeline.from_examples(examples, given, TASKS, config or {}, batch_size, seed)


def changed(field, value):
  """The examples with the third one of the test split changed; no value: the field removed."""
  examples = {split: [dict(e) for e in items] for split, items in EXAMPLES.items()}
  if value is KeyError:
    del examples['test'][2][field]
  else:
    examples['test'][2][field] = value
  return examples


@pytest.mark.parametrize(
  ('field', 'value', 'match'),
  [
    ('intent', 3, r"task 'intent': label 3 should be one string"),
    ('intent', ['play'], r"task 'intent': label \['play'\] should be one string"),
    ('intent', KeyError, r"no field 'intent', which task 'intent' reads"),
    ('topics', ['w'], r"task 'topics': no label 'w'"),
    ('topics', [3], r"task 'topics': label 3 is out of range, there are 3 classes"),
    ('topics', [-1], r"task 'topics': label -1 is out of range"),
    ('topics', [True], r"task 'topics': label \[True\] should be a list of strings, or an index"),
    ('topics', 'x', r"task 'topics': label 'x' should be a list"),
    ('slots', ['O'] * 40, r"task 'slots': 40 tags for \d words"),
    ('slots', None, r"task 'slots': label None should be a list of strings, one a word"),
    ('score', 'high', r"task 'score': label 'high' should be a finite number"),
    ('score', float('inf'), r"task 'score': label inf should be a finite number"),
    ('words', KeyError, r"no field 'words'"),
    ('words', 'a b', r"field 'words' should be a list of strings, not 'a b'"),
    ('words', [], r"field 'words' is empty"),
  ],
)
def test_bad_examples(field, value, match):
  with pytest.raises(errors.DataError, match=rf"data set 'mine', split 'test', example 2.*{match}"):
    data({'name': 'mine'}, examples=changed(field, value))


def test_an_index_into_fixed_labels():
  (first, second) = (data(examples=changed('topics', value)) for value in ([0, 2], ['x', 'z']))
  for a, b in zip(first.evaluation('test'), second.evaluation('test'), strict=True):
    np.testing.assert_array_equal(a.batch['targets']['topics'], b.batch['targets']['topics'])


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_empty_split(split):
  with pytest.raises(errors.DataError, match=f"split '{split}': it is empty"):
    data(examples=EXAMPLES | {split: []})


@pytest.mark.parametrize(
  ('config', 'match'),
  [
    ({'tokeniser': 'words'}, "no option 'tokeniser'; did you mean 'tokenizer'"),
    ({'tokenizer': 'word'}, "no tokenizer 'word'; did you mean 'words'"),
    ({'tokenizer': 'bpe', 'pieces': 'bpe'}, "pieces need tokenizer='words', not 'bpe'"),
    ({'tokenizer': 'missing.json'}, 'no such file'),
    ({'word_dropout': -1.0}, 'word_dropout'),
    ({'buckets': 0}, 'buckets: need an integer from 1'),
    ({'max_length': -1}, 'max_length: need an integer from 0'),
    ({'vocab_size': 2.5}, 'vocab_size: need an integer'),
    ({'bucket_lengths': (0, 9)}, 'bucket_lengths: need an integer from 1 to 2147483647, not 0'),
    ({'bucket_lengths': (9, 2**40)}, f'bucket_lengths: .* to 2147483647, not {2**40}'),
    ({'bucket_lengths': (2**28,)}, 'a batch of 8 examples, 268435456 tokens each, does not fit'),
  ],
)
def test_bad_options(config, match):
  with pytest.raises(errors.ConfigError, match=match):
    data(config)


SIZES = [key for key, value in pipeline.DEFAULTS.items() if is_int(value)]


@pytest.mark.parametrize('key', SIZES)
@pytest.mark.parametrize('value', [2**31, 2**64, -(2**64)])
def test_sizes_that_cannot_be(key, value):
  with pytest.raises(errors.ConfigError, match=f'^{key}: need an integer from . to 2147483647'):
    data({key: value})


@pytest.mark.parametrize('key', [key for key in SIZES if key not in ('label_min_count', 'stride')])
def test_the_largest_sizes_are_no_bound(key):
  """Nothing makes room for what is asked for and never comes."""
  largest = 2**31 - 1
  kind = {'pieces': 'bpe'} if 'pieces' in key else {'tokenizer': 'wordpiece'}
  given, usual = data(kind | {key: largest}), data(kind)
  assert given.num_examples == usual.num_examples
  for tokenizer in ('tokenizer', 'pieces'):
    made, other = (getattr(d.vocabularies, tokenizer) for d in (given, usual))
    if key == 'min_count':
      assert not made or made.size <= other.size
    else:
      assert (made and made.backend.to_str()) == (other and other.backend.to_str())


@pytest.mark.parametrize(('pair', 'around'), [('', 2), ('intent', 3)])
def test_a_max_length_without_room_for_words(pair, around, tmp_path):
  backend = tokenizers.Tokenizer(
    models.WordLevel({'[UNK]': 0, '[CLS]': 1, '[SEP]': 2}, unk_token='[UNK]')
  )
  backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  backend.post_processor = processors.BertProcessing(('[SEP]', 2), ('[CLS]', 1))
  backend.save(str(tmp_path / 'tokenizer.json'))
  given = specs.InputSpec('form', 'text', 'words', pair=pair)
  examples = {'train': [EXAMPLE | {'form': 'play it'}] * 8}
  options = {'tokenizer': str(tmp_path / 'tokenizer.json'), 'max_length': around}
  tasks = {'topics': TASKS['topics']}
  with pytest.raises(errors.ConfigError, match=f'puts {around} tokens around each text'):
    pipeline.from_examples(examples, given, tasks, options, 8, 0)
  options['max_length'] += 1
  assert pipeline.from_examples(examples, given, tasks, options, 8, 0).bucket_lengths == (
    around + 1,
  )


def test_other_bad_arguments():
  message = 'batch_size 51 is larger than the training split.*set train.batch_size to 50 or less'
  with pytest.raises(errors.ConfigError, match=message):
    data(batch_size=51)
  with pytest.raises(errors.ConfigError, match='batch_size 10 is larger'):
    data({'train_limit': 9}, batch_size=10)
  with pytest.raises(errors.ConfigError, match='seed -1'):
    data(seed=-1)
  with pytest.raises(errors.ConfigError, match="no split 'dev'"):
    data().evaluation('dev')
  with pytest.raises(errors.ConfigError, match="labels words and needs tokenizer='words'"):
    data(given=TEXT)
  with pytest.raises(errors.ConfigError, match="no task 'slot'; did you mean 'slots'"):
    pipeline.load({'name': 'snips'}, ['slot'], 8, 0)
  with pytest.raises(errors.ConfigError, match="no data set 'snip'"):
    pipeline.load({'name': 'snip'}, [], 8, 0)


def test_a_data_set_that_is_not_prepared(tmp_path):
  with pytest.raises(errors.DataError, match=r'data\.prepare snips --download --data_dir'):
    pipeline.load({'name': 'snips', 'data_dir': str(tmp_path)}, [], 16, 0)
