"""Windows of long texts, held against loops in NumPy: where they are cut, what is learned of them,
and how what is predicted of them is put together.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from mtl_jax import config as config_lib
from mtl_jax import errors, evaluate, evaluation, predict, trained
from mtl_jax.build import start
from mtl_jax.build.model import build_model
from mtl_jax.data import inspect, pipeline, sources, text, windows
from mtl_jax.data import specs as specs_lib
from tests import small_runs

LENGTH, STRIDE = 8, 3


def by_hand(length, width, stride):
  """First and last + 1 token of each window: one after the other, until one reaches the end."""
  found = [(0, min(width, length))]
  while found[-1][1] < length:
    first = found[-1][0] + width - stride
    found.append((first, min(first + width, length)))
  return found


def read_in(length, width, stride):
  """For each token the window with the most context, by the definition."""
  spans = by_hand(length, width, stride)
  best = []
  for token in range(length):
    context = [
      min(token - first, last - 1 - token) if first <= token < last else -1 for first, last in spans
    ]
    best.append(int(np.argmax(context)))
  return best


@pytest.mark.parametrize(('width', 'stride'), [(8, 3), (8, 1), (8, 7), (2, 1), (5, 3)])
def test_windows_and_the_one_that_a_token_is_read_in(width, stride):
  lengths = np.array([1, width, width + 1, 3 * width, 40, 7])
  found = windows.cuts(lengths, width, stride)
  spans = [(row, *span) for row, n in enumerate(lengths) for span in by_hand(n, width, stride)]
  assert found.owners.tolist() == [row for row, _, _ in spans]
  assert found.starts.tolist() == [first for _, first, _ in spans]
  assert found.lengths.tolist() == [last - first for _, first, last in spans]
  best = found.best()
  expected = []
  for n in lengths:
    chosen = read_in(n, width, stride)
    assert chosen == sorted(chosen)  # so that the words of a text stand in their order
    for number, (first, last) in enumerate(by_hand(n, width, stride)):
      expected.append([int(chosen[token] == number) for token in range(first, last)])
    assert sum(map(sum, expected[-len(by_hand(n, width, stride)) :])) == n
  assert [
    best.values[a:b].tolist() for a, b in zip(best.offsets, best.offsets[1:], strict=False)
  ] == expected


def framing():
  """A tokenizer that puts [CLS] and [SEP] around texts, as BERT's."""
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *(f'w{i}' for i in range(60))]
  backend = tokenizers.Tokenizer(
    models.WordLevel({word: i for i, word in enumerate(words)}, '[UNK]')
  )
  backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  backend.post_processor = processors.TemplateProcessing(
    '[CLS] $A [SEP]', '[CLS] $A [SEP] $B:1 [SEP]:1', [('[CLS]', 2), ('[SEP]', 3)]
  )
  return text.pretrained(backend)


def words(count, first=0):
  return ' '.join(f'w{(first + i) % 60}' for i in range(count))


def test_framed_texts_and_pairs():
  tokenizer = framing()
  texts = [words(n) for n in (3, 6, 7, 25)]
  found = tokenizer.encode_framed(texts, LENGTH, STRIDE)
  expected, owners = [], []
  for number, item in enumerate(texts):
    ids = tokenizer.encode([item]).values.tolist()
    for first, last in by_hand(len(ids), LENGTH - 2, STRIDE):
      expected.append([2, *ids[first:last], 3])
      owners.append(number)
  rows = np.split(found.ids.values, found.ids.offsets[1:-1])
  assert [row.tolist() for row in rows] == expected
  assert found.owners.tolist() == owners
  assert found.truncated == 0
  pairs = [(words(3), words(20, 9)), words(15), (words(4), words(2, 7)), (words(30), '')]
  with pytest.raises(errors.DataError, match='text 3: the first of the pair has 30 tokens'):
    tokenizer.encode_framed([*pairs[:3], (words(30), words(2))], 12, STRIDE)
  found = tokenizer.encode_framed(pairs[:3], 12, STRIDE)
  expected, segments, owners = [], [], []
  for number, item in enumerate(pairs[:3]):
    one, two = item if isinstance(item, tuple) else (item, '')
    first, second = (
      tokenizer.encode([part]).values.tolist() if part else [] for part in (one, two)
    )
    if not second:
      for a, b in by_hand(len(first), 10, STRIDE):
        expected.append([2, *first[a:b], 3])
        segments.append([0] * (b - a + 2))
        owners.append(number)
      continue
    for a, b in by_hand(len(second), 12 - 3 - len(first), STRIDE):
      expected.append([2, *first, 3, *second[a:b], 3])
      segments.append([0] * (len(first) + 2) + [1] * (b - a + 1))
      owners.append(number)
  rows = np.split(found.ids.values, found.ids.offsets[1:-1])
  assert [row.tolist() for row in rows] == expected
  assert [r.tolist() for r in np.split(found.segments.values, found.segments.offsets[1:-1])] == (
    segments
  )
  assert found.owners.tolist() == owners


def encoded(examples, kind='words', **options):
  spec = specs_lib.InputSpec('text', kind, 'words')
  tasks = {
    'label': specs_lib.TaskSpec('classification', 'label', ('accuracy',), weight_field='weight'),
    'size': specs_lib.TaskSpec('regression', 'size', ('mae',)),
  }
  if kind == 'words':
    tasks['tag'] = specs_lib.TaskSpec('tagging', 'tag', ('token_accuracy',))
  options = {'max_length': LENGTH, 'stride': STRIDE, **options}
  splits = dict.fromkeys(('train', 'validation', 'test'), examples)
  return pipeline.from_examples(splits, spec, tasks, options, 2, 0)


def rows(lengths=(3, 20, 8, 9), seed=0):
  rng = np.random.default_rng(seed)
  return [
    {
      'text': [f'w{i}' for i in rng.integers(0, 9, n)],
      'label': 'ab'[number % 2],
      'size': number / 3,
      'tag': [str(t) for t in rng.integers(0, 3, n)],
      'weight': 1.0 + number,
    }
    for number, n in enumerate(lengths)
  ]


def test_what_is_learned_of_windows():
  """Each is an example with the label of its text, which all of them together have once."""
  examples = rows()
  data = encoded(examples)
  assert data.num_examples == dict.fromkeys(('train', 'validation', 'test'), 4)
  assert data.windowed == dict.fromkeys(('train', 'validation', 'test'), 2)
  assert data.truncated == dict.fromkeys(('train', 'validation', 'test'), 0)
  part = data.splits['train']
  spans = [(i, s) for i, e in enumerate(examples) for s in by_hand(len(e['text']), LENGTH, STRIDE)]
  assert len(part) == len(spans)
  counts = np.bincount([i for i, _ in spans])
  names = data.label_names
  for row, (i, (first, last)) in enumerate(spans):
    assert part.targets['label'][row] == names['label'].index(examples[i]['label'])
    assert part.targets['size'][row] == np.float32(examples[i]['size'])
    assert part.weights['label'][row] == pytest.approx((1 + i) / counts[i])
    assert part.weights['size'][row] == pytest.approx(1 / counts[i])
    tags = part.targets['tag']
    found = tags.values[tags.offsets[row] : tags.offsets[row + 1]].tolist()
    assert found == [names['tag'].index(tag) for tag in examples[i]['tag'][first:last]]
  assert 'tag' not in part.weights
  judged = [t for batch in data.evaluation('test') for t in batch.batch['targets']['tag'].ravel()]
  assert np.bincount([t for t in judged if t >= 0]).sum() == sum(len(e['tag']) for e in examples)
  assert data.labelled('train') == {'label': 4, 'size': 4, 'tag': 4}
  assert sorted(data.targets('train', 'label')) == [0, 0, 1, 1]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'stride': 8}, 'stride 8: .* less than max_length'),
    ({'max_length': 0}, 'stride 3: .* less than max_length'),
    ({'stride': -1}, 'stride: need an integer'),
  ],
)
def test_strides_that_cannot_be(options, message):
  with pytest.raises(errors.ConfigError, match=message):
    encoded(rows(), **options)


def made_run(folder, kind, seed=0):
  """A run with a stride, of random parameters: its config, data, model and what is loaded."""
  folder.mkdir()
  rng = np.random.default_rng(seed)
  made = []
  for number in range(60):
    n = int(rng.integers(1, 30))
    tokens = [f'w{i}' for i in rng.integers(0, 12, n)]
    row = {'text': tokens if kind == 'words' else ' '.join(tokens), 'label': 'ab'[number % 2]}
    row |= {'size': number / 7, 'topics': [t for t in 'xyz' if rng.random() < 0.5]}
    if kind == 'words':
      row['tag'] = ['O' if t < 'w4' else 'B-x' if t < 'w6' else 'I-x' for t in tokens]
    if kind == 'pair':
      row['one'] = ' '.join(tokens[:2])
    made.append(row)
  path = small_runs.write_rows(folder / 'rows.jsonl', made)
  tasks = {'label': {}, 'size': {'kind': 'regression'}, 'topics': {}}
  if kind == 'words':
    tasks['tag'] = {}
  fields = ('one', 'text') if kind == 'pair' else 'text'
  config = {
    'name': kind,
    'tasks': tasks,
    'encoder': small_runs.TRANSFORMER,
    'train': {'batch_size': 8, 'steps': 2},
    'dataset': {
      'files': {'rows': {'input': fields, 'train': path, 'test': 0.3}},
      'buckets': 2,
      'max_length': LENGTH,
      'stride': STRIDE,
    },
  }
  (run,) = small_runs.write(config_lib.complete(config), folder / 'runs')
  return run, trained.load(folder / 'runs' / 'default' / 'seed_0')


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def expected_of(model, example, kind):
  """What is predicted of one example: each window by itself through the model, then by hand."""
  outputs = {}
  tokenizer = model.serving.vocabularies.tokenizer
  second = example['text'] if kind == 'pair' else ''
  first = example['one'] if kind == 'pair' else example['text']
  items = first if kind == 'words' else first.split()
  ids = tokenizer.encode_words(items).values.tolist()
  if second:
    more = tokenizer.encode(second.split()).values.tolist()
    room = LENGTH - 1 - len(ids)
    spans = by_hand(len(more), room, STRIDE)
    rows = [[*ids, 2, *more[a:b]] for a, b in spans]
    segments = [[0] * (len(ids) + 1) + [1] * (b - a) for a, b in spans]
  else:
    spans = by_hand(len(ids), LENGTH, STRIDE)
    rows = [ids[a:b] for a, b in spans]
    segments = [[0] * len(row) for row in rows]
  for row, segment in zip(rows, segments, strict=True):
    inputs = {'tokens': jnp.array([row], jnp.int32), 'mask': jnp.ones((1, len(row)), bool)}
    if kind == 'pair':
      inputs['segments'] = jnp.array([segment], jnp.int32)
    found = model.model.outputs(model.params[0], {'inputs': inputs})
    for task, value in found.items():
      outputs.setdefault(task, []).append(np.asarray(value[0], np.float64))
  logs = np.mean([np.log(softmax(x)) for x in outputs['label']], axis=0)
  found = {
    'label': softmax(logs),
    'size': np.mean(outputs['size']),
    'topics': 1 / (1 + np.exp(-np.mean(outputs['topics'], axis=0))),
  }
  if 'tag' in outputs:
    chosen = read_in(len(ids), LENGTH, STRIDE)
    found['tag'] = softmax(
      np.array([outputs['tag'][w][token - spans[w][0]] for token, w in enumerate(chosen)])
    )
  return found


@pytest.mark.parametrize('kind', ['text', 'words', 'pair'])
def test_predictions_of_long_texts(kind, tmp_path):
  """In memory, as the evaluator gives them, and what is reported of a split; texts count once."""
  run, model = made_run(tmp_path / 'made', kind)
  source = sources.of(run['dataset'], run['tasks'])
  data = start.load_data(run)
  examples = source.read()['test']
  assert data.num_examples['test'] == len(examples)
  assert data.windowed['test'] > 3
  spec = source.input
  raw = [{'one': e[spec.field], 'text': e[spec.pair]} if kind == 'pair' else {'text': e[spec.field]}
         for e in examples]  # fmt: skip
  expected = [expected_of(model, row, kind) for row in raw]
  found = model.predict(raw)
  names = model.classes
  for row, want in zip(found, expected, strict=True):
    shares = dict(zip(names['label'], want['label'], strict=True))
    assert row['label']['probabilities'] == pytest.approx(shares, abs=2e-5)
    assert row['label']['label'] == max(shares, key=shares.get)
    assert row['size']['label'] == pytest.approx(want['size'], abs=2e-5)
    topics = dict(zip(names['topics'], want['topics'], strict=True))
    assert row['topics']['probabilities'] == pytest.approx(topics, abs=2e-5)
    if 'tag' in want:
      assert row['tag']['label'] == [names['tag'][i] for i in want['tag'].argmax(-1)]
      assert row['tag']['probabilities'] == pytest.approx(want['tag'].max(-1).tolist(), abs=2e-5)
  longest = max(range(len(raw)), key=lambda i: len(raw[i]['text']))
  (alone,) = model.predict([raw[longest]])  # a batch of nothing but windows of one text
  for task, value in found[longest].items():
    if task == 'size':
      assert alone[task]['label'] == pytest.approx(value['label'], abs=1e-5)
    else:
      assert alone[task]['label'] == value['label']
  outputs = model.outputs(raw, ['size'])['size']
  assert np.asarray(outputs).ravel() == pytest.approx([w['size'] for w in expected], abs=2e-5)
  # The evaluator of a run, and the command's judgement.
  built = build_model(run, data)
  evaluator = evaluate.Evaluator(built, data)
  params = jax.device_get(model.params[0])
  predicted = {p.example: p.tasks for p in evaluator.predict(params, 'test')}
  assert sorted(predicted) == list(range(len(examples)))
  for number, row in enumerate(found):
    for task, value in predicted[number].items():
      assert (
        value == pytest.approx(row[task]['label'], abs=1e-4)
        if task == 'size'
        else (value == row[task]['label'])
      )
  metrics = evaluator.evaluate(params, 'test')['metrics']
  right = [row['label']['label'] == e['label'] for row, e in zip(found, examples, strict=True)]
  assert metrics['label']['accuracy'] == pytest.approx(np.mean(right))
  errors_of = [abs(w['size'] - e['size']) for w, e in zip(expected, examples, strict=True)]
  assert metrics['size']['mae'] == pytest.approx(np.mean(errors_of), abs=1e-4)
  # The same where each task has batches of its own.
  apart = start.load_data({**run, 'dataset': {**run['dataset'], 'own_batches': True}})
  assert apart.own_inputs
  of_apart = evaluate.Evaluator(built, apart).evaluate(params, 'test')['metrics']
  for task, values in metrics.items():
    assert of_apart[task] == pytest.approx(values, abs=1e-5), task
  judged = evaluation.judge(model, examples)
  for task in model.tasks:
    for name, value in metrics[task].items():
      assert judged[task].value(name) == pytest.approx(value, abs=1e-5), (task, name)
  look = inspect.look(source, data, LENGTH)
  assert look.windowed == data.windowed
  shown = '\n'.join(str(part.columns[0]._cells) for part in inspect.tables(look))
  assert f'in windows of {LENGTH}, sharing {STRIDE}' in shown
  with pytest.raises(errors.DataError, match='longer than max_length, and its features'):
    model.encode(raw)


def test_a_file_with_long_texts(tmp_path):
  _, model = made_run(tmp_path / 'made', 'text')
  texts = [' '.join(['w1', 'w2', 'w7'] * n) for n in (1, 9, 2, 30)]
  path = small_runs.write_rows(tmp_path / 'new.jsonl', [{'text': item} for item in texts])
  predict.predict_file(model, path, tmp_path / 'out.jsonl', probabilities=True)
  written = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
  for row, found in zip(written, model.predict(texts), strict=True):
    assert row['label'] == found['label']['label']
    assert row['label_probabilities'] == found['label']['probabilities']
