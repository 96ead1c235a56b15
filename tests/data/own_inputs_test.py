"""Tasks with examples of their own, texts and pairs: batches, mixing, tokens around texts."""

import collections
import itertools

import numpy as np
import pytest
import tokenizers

from mtl_jax import errors
from mtl_jax.data import _mixing, pipeline, specs, text

SIZES = {'long': 60, 'short': 24, 'pairs': 40}
INPUT = specs.InputSpec('text', 'text', 'words', pair='pair')
TASKS = {
  'long': specs.TaskSpec('classification', 'label', ('accuracy',), labels=('no', 'yes')),
  'short': specs.TaskSpec('classification', 'label', ('accuracy',)),
  'pairs': specs.TaskSpec('regression', 'score', ('pearson',)),
}


def make(sizes, seed):
  rng = np.random.default_rng(seed)
  examples = []
  for task, count in sizes.items():
    for i in range(count):

      def words(longest):
        return ' '.join(rng.choice(list('abcdefgh'), int(rng.integers(1, longest + 1))))

      examples.append(
        {
          'task': task,
          'text': f'{task}{i} ' + words(12 if task == 'long' else 4),
          'pair': words(4) if task == 'pairs' else '',
          'label': str(rng.choice(['no', 'yes'])),
          'score': float(rng.normal()) if task == 'pairs' else float('nan'),
        }
      )
  order = rng.permutation(len(examples))
  return [examples[i] for i in order]


EXAMPLES = {
  'train': make(SIZES, 0),
  'validation': make(dict.fromkeys(SIZES, 7), 1),
  'unlabelled': [e | {'label': '', 'text': f'un {e["text"]}'} for e in make({'long': 16}, 2)],
}


def data(config=None, seed=0, tasks=TASKS, examples=EXAMPLES, **kwargs):
  return pipeline.from_examples(
    examples, INPUT, tasks, config or {}, 8, seed, owner='task', **kwargs
  )


def texts(made, batch):
  """The words of each row."""
  names = {index: word for word, index in made.vocabularies.tokenizer.backend.get_vocab().items()}
  inputs = batch['inputs']
  return [
    [names[int(token)] for token in row[mask]]
    for row, mask in zip(inputs['tokens'], inputs['mask'], strict=True)
  ]


def test_every_task_in_every_step():
  made = data()
  assert made.own_inputs
  assert made.steps_per_epoch == sum(SIZES.values()) // (3 * 8)
  seen = {task: collections.Counter() for task in SIZES}
  widths = set()
  batches = list(itertools.islice(made.train(), 105))  # a multiple of 7, 3 and 5 batches an epoch
  for batch in batches:
    assert list(batch) == list(TASKS)
    shapes = {part['inputs']['tokens'].shape for part in batch.values()}
    assert len(shapes) == 1
    widths.add(shapes.pop()[1])
    for task, part in batch.items():
      assert set(part) == {'inputs', 'targets', 'mask'}
      assert part['targets'].dtype == (np.float32 if task == 'pairs' else np.int32)
      rows = texts(made, part)
      assert all(row[0].startswith(task) for row in rows)
      seen[task].update(row[0] for row in rows)
  assert widths <= set(made.bucket_lengths)
  for task, size in SIZES.items():
    epochs = 105 // (size // 8)
    assert len(seen[task]) == size
    assert max(seen[task].values()) <= epochs
  again = next(data().train(start=50))
  for task, part in batches[50].items():
    np.testing.assert_array_equal(part['inputs']['tokens'], again[task]['inputs']['tokens'])
  other = next(data(seed=1).train())
  assert texts(made, other['long']) != texts(made, batches[0]['long'])


def test_targets_and_segments_are_those_of_the_examples():
  made = data()
  by_text = {e['text'].split()[0]: e for e in EXAMPLES['train']}
  for batch in itertools.islice(made.train(), 5):
    for task, part in batch.items():
      assert part['mask'].all()
      for row, target, segments in zip(
        texts(made, part), part['targets'], part['inputs']['segments'], strict=True
      ):
        example = by_text[row[0]]
        first, second = example['text'].split(), example['pair'].split()
        assert row == first + (['[SEP]', *second] if second else [])
        ones = len(second)
        assert segments.tolist()[: len(row)] == [0] * (len(row) - ones) + [1] * ones
        if task == 'pairs':
          assert target == np.float32(example['score'])
        else:
          assert made.label_names[task][target] == example['label']


def test_long_batches_come_together():
  """With two buckets of two tasks of one size, hardly any batch is padded for the other task."""
  examples = {'train': make({'long': 80, 'short': 80}, 3)}
  for example in examples['train']:
    if int(example['text'].split()[0].lstrip('longshrt')) % 2:
      example['text'] += ' x' * 20
  tasks = {task: TASKS[task] for task in ('long', 'short')}
  made = data({'bucket_lengths': (13, 40)}, tasks=tasks, examples=examples)
  for number in range(100):
    assert len({made._training._trainings[task].width(number) for task in tasks}) == 1


def test_one_task_a_step_by_size_and_temperature():
  counts = collections.Counter()
  made = data({'mixing': 'one', 'temperature': 2.0, 'size_limit': 40})
  assert made.steps_per_epoch == sum(SIZES.values()) // 8
  places = collections.Counter()
  reference = data()._training._trainings
  for number, batch in enumerate(itertools.islice(made.train(threads=0), 3000)):
    (task,) = batch
    counts[task] += 1
    if number % 500 == 0:  # each task goes through its own stream
      width = batch[task]['inputs']['tokens'].shape[1]
      expected = reference[task].batch(places[task], width)
      np.testing.assert_array_equal(batch[task]['inputs']['tokens'], expected['inputs']['tokens'])
    places[task] += 1
  rates = np.sqrt([40, 24, 40])
  expected = 3000 * rates / rates.sum()
  got = [counts[task] for task in TASKS]
  assert (np.abs(got - expected) < 5 * np.sqrt(expected)).all(), (got, expected)
  assert list(made.example_batch()) == list(TASKS)
  # Beyond the first block of draws, from a fresh start.
  stream = data({'mixing': 'one', 'temperature': 2.0, 'size_limit': 40})._training
  drawn = np.concatenate([stream._draw(0), stream._draw(1)])
  for number in (4095, 4096, 5000):
    assert stream._task(number) == (
      list(TASKS)[drawn[number]],
      np.count_nonzero(drawn[:number] == drawn[number]),
    )


def test_shares():
  np.testing.assert_allclose(_mixing.shares([1, 3], 1.0, 0), [0.25, 0.75])
  np.testing.assert_allclose(_mixing.shares([4, 16], 2.0, 0), [1 / 3, 2 / 3])
  np.testing.assert_allclose(_mixing.shares([4, 160], 1.0, 12), [0.25, 0.75])


def test_evaluation_has_each_example_once():
  made = data()
  evaluation = made.evaluation('validation', 4)
  assert len(evaluation) == 6
  assert evaluation.num_examples == 21
  seen = collections.Counter()
  for item in evaluation:
    (task,) = item.batch
    assert len(item.batch[task]['mask']) == 4
    seen.update(row[0] for row in texts(made, item.batch[task])[: item.count])
    assert not item.batch[task]['mask'][item.count :].any()
  assert len(seen) == 21
  assert set(seen.values()) == {1}
  assert made.num_examples == {'train': 124, 'validation': 21}
  assert set(made.splits) == {f'{s}/{t}' for s in ('train', 'validation') for t in TASKS}


def test_unlabelled_examples_join_only_when_asked():
  made = data({'unlabelled': True})
  assert made.num_examples['train'] == 124 + 16
  targets = np.concatenate([made.train(start=i).__next__()['long']['targets'] for i in range(9)])
  masks = np.concatenate([made.train(start=i).__next__()['long']['mask'] for i in range(9)])
  assert (targets == -1).sum() > 8
  np.testing.assert_array_equal(masks, targets != -1)
  assert 'unlabelled' not in data().num_examples


def test_a_tokenizer_that_frames_texts(tmp_path):
  """[CLS] a [SEP] and [CLS] a [SEP] b [SEP], as BERT's; words keep their labels."""
  vocabulary = {'[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 3} | {
    piece: 4 + i for i, piece in enumerate([*'abcdefgh', '##b', 'ab'])
  }
  backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token='[UNK]'))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  backend.post_processor = tokenizers.processors.TemplateProcessing(
    '[CLS] $A [SEP]', '[CLS] $A [SEP] $B:1 [SEP]:1', [('[CLS]', 2), ('[SEP]', 3)]
  )
  backend.save(str(tmp_path / 'tokenizer.json'))
  options = {'tokenizer': str(tmp_path / 'tokenizer.json'), 'max_length': 8}
  made = data(options)
  for batch in itertools.islice(made.train(), 4):
    for part in batch.values():
      for row in texts(made, part):
        assert row[0] == '[CLS]'
        assert row[-1] == '[SEP]'
        assert len(row) <= 8
    assert [row.count('[SEP]') for row in texts(made, batch['pairs'])] == [2] * 8
  assert made.truncated['train'] > 10
  tokenizer = text.load(tmp_path / 'tokenizer.json')
  assert tokenizer.frame == ([2], [3])

  given = specs.InputSpec('words', 'words', 'words')
  tagging = {'tags': specs.TaskSpec('tagging', 'tags', ('token_accuracy',))}
  rows = [{'words': ['a', 'abb', 'c'], 'tags': ['X', 'Y', 'X']}, {'words': ['d'], 'tags': ['X']}]
  framed = pipeline.from_examples(
    {'train': rows}, given, tagging, options | {'max_length': 5}, 2, 0
  )
  split = framed.splits['train']
  assert split.tokens.padded(np.arange(2), 5, 0).tolist() == [[2, 4, 13, 12, 3], [2, 7, 3, 0, 0]]
  assert split.targets['tags'].padded(np.arange(2), 5, -1).tolist() == [
    [-1, 0, 1, -1, -1],
    [-1, 0, -1, -1, -1],
  ]
  assert split.truncated == 1


@pytest.mark.parametrize('kind', ['characters', 'wordpiece', 'bpe', 'unigram'])
def test_pairs_are_kept_apart_by_trained_tokenizers(kind):
  made = data({'tokenizer': kind, 'vocab_size': 60})
  backend = made.vocabularies.tokenizer.backend
  assert backend.token_to_id('[SEP]') == 2
  part = next(made.train())['pairs']
  assert ((part['inputs']['tokens'] == 2).sum(axis=1) == 1).all()
  assert not (next(made.train())['long']['inputs']['tokens'] == 2).any()


def test_errors():
  with pytest.raises(errors.ConfigError, match="task 'short', 24 examples"):
    pipeline.from_examples(EXAMPLES, INPUT, TASKS, {}, 32, 0, owner='task')
  with pytest.raises(errors.ConfigError, match=r"no 'al'.*all"):
    data({'mixing': 'al'})
  with pytest.raises(errors.ConfigError, match='temperature: need more than 0'):
    data({'temperature': 0.0})
  with pytest.raises(errors.ConfigError, match=r'temperature: 1e-300 is too low for tasks of 60'):
    data({'mixing': 'one', 'temperature': 1e-300})
  with pytest.raises(errors.DataError, match="split 'validation', task 'short': it is empty"):
    data(examples=EXAMPLES | {'validation': make({'long': 3, 'pairs': 3}, 4)})
  single = {'a': specs.TaskSpec('classification', 'label', ('accuracy',))}
  with pytest.raises(errors.ConfigError, match='share their examples'):
    pipeline.from_examples(EXAMPLES, INPUT, single, {'mixing': 'one'}, 8, 0)
  with pytest.raises(errors.ConfigError, match='unlabelled: data set'):
    data({'unlabelled': True}, examples={'train': EXAMPLES['train']})
  with pytest.raises(errors.ConfigError, match='not for pairs'):
    data({'pieces': 'characters'})
