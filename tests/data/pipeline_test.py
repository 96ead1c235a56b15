"""Batches against a plain-Python reading of the examples; order, resuming, sharing.

Bad examples and options are in pipeline_errors_test. The examples here are random, in memory; the
real data sets are read where they are at hand.
"""

import collections
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from mtl_jax import errors
from mtl_jax.data import _batches, pipeline, prepare, specs, text, vocabularies

SNIPS = Path(__file__).parents[2].parent / 'shared' / 'data' / 'slu-snips'

WORDS = specs.InputSpec('words', 'words', 'words')
TEXT = specs.InputSpec('form', 'text', 'characters')
TASKS = {
  'intent': specs.TaskSpec('classification', 'intent', ('accuracy',)),
  'slots': specs.TaskSpec('tagging', 'slots', ('f1',)),
  'topics': specs.TaskSpec('multilabel', 'topics', ('micro_f1',), labels=('x', 'y', 'z')),
  'score': specs.TaskSpec('regression', 'score', ('mse',)),
}


def make(count, seed, longest=9):
  rng = np.random.default_rng(seed)
  examples = []
  for _ in range(count):
    length = int(rng.integers(1, longest + 1))
    words = [''.join(rng.choice(list('abcde'), rng.integers(1, 4))) for _ in range(length)]
    examples.append(
      {
        'words': words,
        'intent': str(rng.choice(['play', 'stop', ''])),
        'slots': [str(tag) for tag in rng.choice(['O', 'B-a', 'I-a'], length)],
        'topics': None if rng.random() < 0.2 else [t for t in 'xyz' if rng.random() < 0.5],
        'score': None if rng.random() < 0.2 else float(rng.normal()),
      }
    )
  return examples


EXAMPLES = {'train': make(50, 0), 'validation': make(11, 1), 'test': make(9, 2)}


def data(config=None, batch_size=8, seed=0, examples=EXAMPLES, tasks=TASKS, given=WORDS, **kwargs):
  return pipeline.from_examples(examples, given, tasks, config or {}, batch_size, seed, **kwargs)


def equal(first, second):
  assert {k: set(v) for k, v in first.items()} == {k: set(v) for k, v in second.items()}
  for part, arrays in first.items():
    for name, array in arrays.items():
      assert array.dtype == second[part][name].dtype, (part, name)
      np.testing.assert_array_equal(array, second[part][name], err_msg=f'{part} {name}')


def words_of(loaded, batch, row):
  ids = {i: word for word, i in loaded.vocabularies.tokenizer.backend.get_vocab().items()}
  tokens = batch['inputs']['tokens'][row][batch['inputs']['mask'][row]]
  return [ids[int(token)] for token in tokens]


def test_evaluation_rows_are_the_examples():
  loaded = data({'buckets': 3})
  names = loaded.label_names
  seen = []
  for item in loaded.evaluation('train'):
    batch, width = item.batch, item.batch['inputs']['tokens'].shape[1]
    assert width in loaded.bucket_lengths
    for row, index in enumerate(item.indices):
      example = EXAMPLES['train'][index]
      length = len(example['words'])
      assert words_of(loaded, batch, row) == example['words']
      assert batch['inputs']['mask'][row].tolist() == [True] * length + [False] * (width - length)
      assert (batch['inputs']['tokens'][row, length:] == 0).all()
      intent = names['intent'].index(example['intent']) if example['intent'] else -1
      assert batch['targets']['intent'][row] == intent
      slots = [names['slots'].index(tag) for tag in example['slots']]
      assert batch['targets']['slots'][row].tolist() == slots + [-1] * (width - length)
      topics = example['topics']
      topics = [-1] * 3 if topics is None else [int(topic in topics) for topic in 'xyz']
      assert batch['targets']['topics'][row].tolist() == topics
      score = np.nan if example['score'] is None else example['score']
      np.testing.assert_equal(batch['targets']['score'][row], np.float32(score))
      assert {task: bool(mask[row]) for task, mask in batch['mask'].items()} == {
        'intent': intent >= 0,
        'slots': True,
        'topics': example['topics'] is not None,
        'score': example['score'] is not None,
      }
      seen.append(index)
    for part in batch.values():
      assert all(len(array) == 8 for array in part.values())
    assert not any(mask[item.count :].any() for mask in batch['mask'].values())
    assert not batch['inputs']['mask'][item.count :].any()
    for task in ('intent', 'slots', 'topics'):
      assert (batch['targets'][task][item.count :] == -1).all()
  assert sorted(seen) == list(range(50))
  assert sum(item.count for item in loaded.evaluation('train', 16)) == 50
  assert len(list(loaded.evaluation('train', 16))) == len(loaded.evaluation('train', 16)) == 4


def test_an_evaluation_batch_is_no_larger_than_its_examples():
  """Two processes and four devices share the batches of 8 and of 10**9."""
  small, large = data().evaluation('validation', 8), data().evaluation('validation', 10**9)
  (whole,) = large
  assert len(large) == 1
  assert whole.count == 11
  assert len(whole.batch['inputs']['tokens']) == 16
  rows = np.concatenate([item.indices for item in small])
  np.testing.assert_array_equal(whole.indices, rows)
  for task in ('intent', 'topics', 'score'):
    targets = [item.batch['targets'][task][: item.count] for item in small]
    np.testing.assert_array_equal(whole.batch['targets'][task][:11], np.concatenate(targets))
  parts = [
    next(iter(data(process_index=i, process_count=2).evaluation('validation', 10**9)))
    for i in range(2)
  ]
  equal(
    {
      part: {
        name: np.concatenate([item.batch[part][name] for item in parts])
        for name in whole.batch[part]
      }
      for part in whole.batch
    },
    whole.batch,
  )
  assert [len(item.batch['mask']['intent']) for item in data().evaluation('train', 40)] == [40, 40]
  assert [len(item.batch['mask']['intent']) for item in data().evaluation('train', 64)] == [56]


def test_dtypes_and_sizes():
  loaded = data()
  batch = loaded.example_batch()
  dtypes = {k: {n: a.dtype.name for n, a in v.items()} for k, v in batch.items()}
  assert dtypes == {
    'inputs': {'tokens': 'int32', 'mask': 'bool'},
    'targets': {'intent': 'int32', 'slots': 'int32', 'topics': 'int32', 'score': 'float32'},
    'mask': dict.fromkeys(TASKS, 'bool'),
  }
  assert loaded.num_classes == {'intent': 2, 'slots': 3, 'topics': 3, 'score': 1}
  assert loaded.steps_per_epoch == 6
  assert loaded.num_examples == {'train': 50, 'validation': 11, 'test': 9}
  assert loaded.pieces_vocab_size == 0
  assert loaded.vocab_size == 2 + len({w for e in EXAMPLES['train'] for w in e['words']})


def keys(loaded, batch):
  return [tuple(words_of(loaded, batch, row)) for row in range(len(batch['inputs']['tokens']))]


def test_an_epoch_has_each_example_at_most_once_and_leaves_out_fewer_than_a_batch():
  examples = [{'words': [f'w{i}'] * (1 + i % 9), 'intent': 'a'} for i in range(50)]
  loaded = data(
    {'buckets': 4}, examples={'train': examples}, tasks={'intent': TASKS['intent']}, seed=3
  )
  stream = loaded.train()
  left_out = collections.Counter()
  orders = set()
  for _ in range(40):
    batches = [next(stream) for _ in range(loaded.steps_per_epoch)]
    rows = [key for batch in batches for key in keys(loaded, batch)]
    assert len(rows) == len(set(rows)) == 48
    left_out.update({tuple(e['words']) for e in examples} - set(rows))
    orders.add(tuple(rows))
    assert {batch['inputs']['tokens'].shape[1] for batch in batches} <= set(loaded.bucket_lengths)
  assert len(orders) == 40
  # 80 places among 50 examples: long and short ones alike.
  assert sum(left_out.values()) == 80
  assert len(left_out) > 25
  assert max(left_out.values()) <= 8


@pytest.mark.parametrize(('threads', 'prefetch'), [(0, 0), (1, 2), (3, 16)])
def test_the_stream_does_not_depend_on_threads(threads, prefetch):
  expected = data({'word_dropout': 0.3})
  stream = data({'word_dropout': 0.3}).train(threads=threads, prefetch=prefetch)
  for number in range(20):
    equal(next(stream), expected._training[number])


def test_another_seed_is_another_order():
  first, second = data(seed=0), data(seed=1)
  assert keys(first, next(first.train())) != keys(second, next(second.train()))
  equal(next(first.with_seed(1).train()), next(second.train()))
  assert first.with_seed(1).evaluation('test').num_examples == 9
  equal(next(first.train()), next(data(seed=0).train()))


def test_resume():
  config = {'word_dropout': 0.2}
  stream = data(config).train()
  whole = [next(stream) for _ in range(20)]
  interrupted = data(config).train()
  for _ in range(7):
    next(interrupted)
  state = interrupted.get_state()
  resumed = data(config).train()
  next(resumed)
  resumed.set_state(state)
  for batch in whole[7:]:
    equal(next(resumed), batch)
  started = data(config).train(start=7)
  equal(next(started), whole[7])
  assert started.get_state() == {'next_index': 8}


def test_word_dropout():
  plain, dropped = data(), data({'word_dropout': 2.0})
  counts = np.bincount(plain.splits['train'].tokens.values)
  expected = unknown = 0
  places = set()
  for number in range(60):
    a, b = plain._training[number], dropped._training[number]
    changed = a['inputs']['tokens'] != b['inputs']['tokens']
    assert (b['inputs']['tokens'][changed] == text.UNKNOWN_ID).all()
    assert not changed[~a['inputs']['mask']].any()
    seen = counts[a['inputs']['tokens'][a['inputs']['mask']]]
    expected += (2.0 / (2.0 + seen)).sum()
    # A token that is the unknown id already cannot be seen to change.
    expected -= (2.0 / (2.0 + seen))[
      a['inputs']['tokens'][a['inputs']['mask']] == text.UNKNOWN_ID
    ].sum()
    unknown += changed.sum()
    places.add(changed.tobytes())
    b['inputs']['tokens'] = a['inputs']['tokens']
    equal(a, b)
  assert abs(unknown - expected) < 4 * np.sqrt(expected)
  assert len(places) == 60
  for item in dropped.evaluation('train'):
    real = item.batch['inputs']['mask']
    assert (item.batch['inputs']['tokens'][real] != text.UNKNOWN_ID).all()


def test_processes_share_each_batch():
  config = {'word_dropout': 0.2, 'pieces': 'characters'}
  whole = data(config)
  parts = [data(config, process_index=i, process_count=4) for i in range(4)]

  def joined(batches):
    return {
      part: {name: np.concatenate([b[part][name] for b in batches]) for name in batches[0][part]}
      for part in batches[0]
    }

  for number in range(8):
    equal(joined([part._training[number] for part in parts]), whole._training[number])
  for items in zip(whole.evaluation('test'), *(p.evaluation('test') for p in parts), strict=True):
    equal(joined([item.batch for item in items[1:]]), items[0].batch)
    assert sum(item.count for item in items[1:]) == items[0].count
  with pytest.raises(errors.ConfigError, match='batch_size 8: need a positive multiple of the 3'):
    data(process_count=3)
  with pytest.raises(errors.ConfigError, match='process_index 4'):
    data(process_index=4, process_count=4)


@pytest.mark.parametrize('kind', ['characters', 'wordpiece', 'bpe', 'unigram'])
def test_subword_tokens_carry_tags_at_first_pieces(kind):
  loaded = data({'tokenizer': kind, 'vocab_size': 40})
  tokenizer = loaded.vocabularies.tokenizer
  names = loaded.label_names['slots']
  for item in loaded.evaluation('validation'):
    for row, index in enumerate(item.indices):
      example = EXAMPLES['validation'][index]
      tokens, tags = [], []
      for word, tag in zip(example['words'], example['slots'], strict=True):
        string = f' {word}' if kind == 'characters' else word
        ids = tokenizer.backend.encode(string).ids
        tokens += ids
        tags += [names.index(tag)] + [-1] * (len(ids) - 1)
      width = item.batch['inputs']['tokens'].shape[1]
      assert item.batch['inputs']['tokens'][row].tolist() == tokens + [0] * (width - len(tokens))
      assert item.batch['targets']['slots'][row].tolist() == tags + [-1] * (width - len(tags))


@pytest.mark.parametrize('kind', ['characters', 'wordpiece', 'bpe', 'unigram'])
def test_pieces_of_words(kind):
  loaded = data({'pieces': kind, 'pieces_vocab_size': 40, 'max_pieces': 3, 'min_count': 1})
  tokenizer = loaded.vocabularies.pieces
  assert loaded.pieces_vocab_size == tokenizer.size
  for item in loaded.evaluation('test'):
    inputs = item.batch['inputs']
    assert inputs['pieces'].shape == (*inputs['tokens'].shape, inputs['pieces'].shape[2])
    assert inputs['pieces'].shape[2] <= 3
    assert not inputs['pieces'][~inputs['mask']].any()
    for row, index in enumerate(item.indices):
      for column, word in enumerate(EXAMPLES['test'][index]['words']):
        string = f' {word}' if kind == 'characters' else word
        ids = tokenizer.backend.encode(string).ids[:3]
        assert (
          inputs['pieces'][row, column].tolist() == (ids + [0] * 3)[: inputs['pieces'].shape[2]]
        )


def test_max_length_and_buckets():
  loaded = data({'max_length': 4, 'buckets': 2})
  assert loaded.bucket_lengths[-1] == 4
  assert loaded.truncated == {
    split: sum(len(e['words']) > 4 for e in items) for split, items in EXAMPLES.items()
  }
  for item in loaded.evaluation('test'):
    assert item.batch['targets']['slots'].shape == item.batch['inputs']['tokens'].shape
  assert data({'bucket_lengths': (12, 5)}).bucket_lengths == (5, 12)
  with pytest.raises(errors.ConfigError, match='end at 5, but the longest example has 9 tokens'):
    data({'bucket_lengths': (5,)})


def test_buckets_have_the_least_padding():
  lengths = np.random.default_rng(0).integers(1, 12, 200)

  def padded(widths):
    return sum(min(w for w in widths if w >= length) for length in lengths)

  for buckets in (1, 2, 3):
    chosen = _batches.bucket_lengths(lengths, 15, buckets, ())
    assert chosen[-1] == 15
    assert len(chosen) == buckets
    best = min(
      padded((*widths, 15)) for widths in itertools.combinations(range(1, 15), buckets - 1)
    )
    assert padded(chosen) == best
  assert _batches.bucket_lengths(np.array([3, 3]), 3, 4, ()) == (3,)


def test_texts_as_characters():
  examples = {'train': [{'form': 'abc', 'tag': 'x'}, {'form': 'b a', 'tag': 'y'}]}
  loaded = data(
    batch_size=2,
    examples=examples,
    given=TEXT,
    tasks={'tag': specs.TaskSpec('classification', 'tag', ('accuracy',))},
  )
  (item,) = loaded.evaluation('train')
  found = {tuple(words_of(loaded, item.batch, row)) for row in range(2)}
  assert found == {('a', 'b', 'c'), ('b', ' ', 'a')}


def test_rare_and_unseen_labels():
  spec = {'tag': specs.TaskSpec('classification', 'tag', ('accuracy',), min_count=2)}

  def items(tags):
    return [{'form': 'a', 'tag': tag} for tag in tags]

  examples = {'train': items('bbbaacaa'), 'test': items(['a', 'b', 'c', 'd', ''])}
  loaded = data(examples=examples, given=TEXT, tasks=spec, batch_size=5)
  assert loaded.label_names['tag'] == ('a', 'b')
  (item,) = loaded.evaluation('test')
  assert item.batch['targets']['tag'].tolist() == [0, 1, -2, -2, -1]
  assert item.batch['mask']['tag'].tolist() == [True, True, True, True, False]
  loaded = data({'label_min_count': 4}, examples=examples, given=TEXT, tasks=spec, batch_size=5)
  assert loaded.label_names['tag'] == ('a',)
  with pytest.raises(errors.DataError, match="task 'tag' has no labels in the training split"):
    data({'label_min_count': 9}, examples=examples, given=TEXT, tasks=spec, batch_size=5)


def test_vocabularies_of_an_earlier_run(tmp_path):
  config = {'pieces': 'characters', 'lowercase': True, 'bucket_lengths': (9,)}
  first = data(config)
  first.write(tmp_path)
  read = vocabularies.read(tmp_path)
  assert read.labels == first.label_names
  # Trained on other examples, but with the ids of the first.
  other = EXAMPLES | {'train': make(30, 5)}
  second = data(config, examples=other, vocabularies=read)
  for a, b in zip(first.evaluation('test'), second.evaluation('test'), strict=True):
    equal(a.batch, b.batch)
  assert second.vocab_size == first.vocab_size
  with pytest.raises(errors.ConfigError, match="the vocabularies have no task 'more'"):
    data(config, tasks={'more': TASKS['intent']}, vocabularies=read)
  (tmp_path / 'vocabulary.json').write_text('{"labels": 1')
  with pytest.raises(errors.ConfigError, match='cannot be read as a vocabulary'):
    vocabularies.read(tmp_path)


def test_pretrained_tokenizer_from_a_file(tmp_path):
  path = tmp_path / 'tokenizer.json'
  data({'tokenizer': 'bpe', 'vocab_size': 30}).vocabularies.tokenizer.save(path)
  first = data({'tokenizer': str(path)})
  second = data({'tokenizer': 'bpe', 'vocab_size': 30})
  equal(first.example_batch(), second.example_batch())


def test_labels_are_the_same_whatever_else_is_trained():
  alone = data(tasks={'intent': TASKS['intent']})
  together = data()
  np.testing.assert_array_equal(
    alone.example_batch()['targets']['intent'], together.example_batch()['targets']['intent']
  )


@pytest.mark.skipif(importlib.util.find_spec('lemminflect') is None, reason='no lemminflect')
def test_english_words(tmp_path):
  # Prepares by itself: the package is all it needs.
  loaded = pipeline.load({'name': 'english_words', 'data_dir': str(tmp_path)}, [], 256, 0)
  assert tuple(loaded.specs) == ('pos', 'inflection', 'lemma')
  assert loaded.label_names['pos'] == ('ADJ', 'ADV', 'AUX', 'NOUN', 'VERB')
  assert loaded.label_names['lemma'][:2] == (';|', ';|-')
  assert 40 <= loaded.num_classes['inflection'] <= 60
  batch = next(loaded.train())
  assert batch['inputs']['tokens'].shape[0] == 256
  assert batch['inputs']['tokens'].shape[1] in loaded.bucket_lengths
  known = [item.batch['targets']['lemma'] for item in loaded.evaluation('test')]
  assert np.mean(np.concatenate(known) >= 0) > 0.95


@pytest.mark.skipif(not SNIPS.is_dir(), reason='the SNIPS files are not beside the repository')
def test_snips(tmp_path):
  config = {'name': 'snips', 'data_dir': str(tmp_path), 'manual_dir': str(SNIPS)}
  loaded = pipeline.load(config, ['slots', 'intent'], 16, 0)
  assert list(loaded.specs) == list(loaded.label_names) == ['slots', 'intent']
  assert loaded.num_classes == {'slots': 72, 'intent': 7}
  examples = prepare.read('snips', tmp_path)['test']
  for item in loaded.evaluation('test', 64):
    for row, index in enumerate(item.indices):
      tags = item.batch['targets']['slots'][row]
      gold = [
        loaded.label_names['slots'].index(tag) if tag in loaded.label_names['slots'] else -2
        for tag in examples[index]['slots']
      ]
      assert tags[: len(gold)].tolist() == gold
      assert (tags[len(gold) :] == -1).all()
