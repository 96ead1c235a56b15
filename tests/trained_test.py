"""What was trained, ready for use: against the evaluator, one by one, in threads, as an ensemble.

How well a trained model predicts is no matter here.
"""

import concurrent.futures
import json
import shutil
import warnings

import jax
import numpy as np
import pytest

import mtl_jax
from mtl_jax import errors, evaluate, trained
from tests import small_runs


def same(found, expected):
  """Whether predictions are equal, numbers but for rounding."""
  if isinstance(expected, float):
    return found == pytest.approx(expected, rel=1e-4, abs=1e-5)
  return found == expected


@pytest.mark.parametrize('kind', small_runs.KINDS)
def test_predictions_are_those_of_the_evaluator(kind, small_run):
  """Every kind of input and of task, shared and own inputs, architectures that encode by task."""
  made = small_run(kind)
  model = made.loaded
  params = model.params[0]
  seen = 0
  evaluator = evaluate.Evaluator(made.model, made.data)
  expected = list(evaluator.predict(params, 'test'))
  by_task = {}
  for task in model.tasks:
    owner = made.source.owner
    own = [e for e in made.examples['test'] if not owner or e[owner] == task]
    by_task[task] = model.predict(small_runs.inputs_of(made.source, own), [task])
  for prediction in expected:
    for task, value in prediction.tasks.items():
      assert same(by_task[task][prediction.example][task]['label'], value), (prediction, task)
      seen += 1
  assert seen >= 12
  assert len({str(p.tasks) for p in expected}) > 1  # parameters that tell examples apart


@pytest.mark.parametrize('kind', ['text', 'pieces', 'numbers'])
def test_each_input_has_the_prediction_it_has_alone(kind, small_run):
  """Order is kept, whatever the lengths, and neighbours change nothing but the rounding."""
  made = small_run(kind)
  inputs = made.inputs['train'][:75]
  model = made.loaded
  together = model.predict(inputs)
  for index in (0, 1, 13, 40, 73, 74):
    (alone,) = model.predict(inputs[index : index + 1])
    for task, found in alone.items():
      assert same(together[index][task]['label'], found['label'])
      shares, others = (x[task].get('probabilities') for x in (together[index], alone))
      if isinstance(shares, dict):
        assert shares == pytest.approx(others, abs=1e-5)
      else:
        assert (shares is None) == (not model.classes[task])
  assert model.predict([]) == []


def test_probabilities_and_outputs(small_run):
  made = small_run('text')
  texts = made.inputs['test']
  model = made.loaded
  found, outputs = model.predict(texts), model.outputs(texts)
  for row, category, topics, urgency in zip(
    found, outputs['category'], outputs['topics'], outputs['urgency'], strict=True
  ):
    shares = np.exp(category.astype(np.float64))
    shares /= shares.sum()
    names = model.classes['category']
    assert row['category']['probabilities'] == pytest.approx(dict(zip(names, shares, strict=True)))
    assert row['category']['label'] == names[int(shares.argmax())]
    shares = 1 / (1 + np.exp(-topics.astype(np.float64)))
    expected = dict(zip(model.classes['topics'], shares, strict=True))
    assert row['topics']['probabilities'] == pytest.approx(expected)
    assert row['topics']['label'] == [name for name, share in expected.items() if share > 0.5]
    assert row['urgency'] == {'label': pytest.approx(float(urgency), rel=1e-6)}
  assert all(
    'probabilities' not in row['topics']
    for row in model.predict(texts, ['topics'], probabilities=False)
  )


def test_tags_are_one_a_word_with_the_probability_of_each(small_run):
  made = small_run('wordpiece')
  inputs = made.inputs['test']
  model = made.loaded
  found, outputs = model.predict(inputs), model.outputs(inputs, ['name'])['name']
  for words, row, logits in zip(inputs, found, outputs, strict=True):
    assert logits.shape == (len(words), 2)
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=-1, keepdims=True)
    names = model.classes['name']
    assert row['name']['label'] == [names[i] for i in shares.argmax(axis=-1)]
    assert row['name']['probabilities'] == pytest.approx(shares.max(axis=-1).tolist(), rel=1e-5)


@pytest.mark.parametrize('kind', ['text', 'soft', 'numbers'])
def test_features_are_those_of_the_shared_half(kind, small_run):
  made = small_run(kind)
  inputs = made.inputs['test']
  model = made.loaded
  task = model.tasks[-1]
  found = model.encode(inputs, task)
  for item in made.data.evaluation('test', 1):
    index = int(item.indices[0])
    inputs_of = item.batch['inputs']
    if kind == 'soft':
      features = made.model.encode_task(
        model.params[0]['shared'], {}, model.tasks.index(task), inputs_of
      )
    else:
      features = made.model.encode(model.params[0]['shared'], inputs_of)
    features = np.asarray(features)[0]
    if kind != 'numbers':
      features = features[: int(inputs_of['mask'].sum())]
    np.testing.assert_allclose(found[index], features, rtol=1e-4, atol=1e-5)


def test_an_ensemble_averages_probabilities(tmp_path):
  config = small_runs.config('text', tmp_path)
  config.seeds = (0, 1, 10)
  small_runs.write(config, tmp_path / 'runs')
  texts = [row['text'] for row in small_runs.texts(40)]
  members = [trained.load(tmp_path / 'runs', seeds=seed) for seed in (0, 1, 10)]
  together = mtl_jax.load(tmp_path / 'runs', seeds='all')
  assert len(together.params) == 3
  outputs = [member.outputs(texts) for member in members]

  def mean(task, function):
    rows = [[function(row.astype(np.float64)) for row in found[task]] for found in outputs]
    return np.mean(rows, axis=0)

  def softmax(row):
    return np.exp(row) / np.exp(row).sum()

  category = mean('category', softmax)
  topics = mean('topics', lambda row: 1 / (1 + np.exp(-row)))
  urgency = mean('urgency', lambda row: row)
  for index, row in enumerate(together.predict(texts)):
    names = together.classes['category']
    shares = dict(zip(names, category[index], strict=True))
    assert row['category']['probabilities'] == pytest.approx(shares, rel=1e-5)
    assert row['category']['label'] == names[int(category[index].argmax())]
    shares = dict(zip(together.classes['topics'], topics[index], strict=True))
    assert row['topics']['probabilities'] == pytest.approx(shares, rel=1e-5)
    assert row['topics']['label'] == [name for name, share in shares.items() if share > 0.5]
    assert row['urgency']['label'] == pytest.approx(float(urgency[index]), rel=1e-5)
  # Some text is decided otherwise than by the first member.
  alone = members[0].predict(texts, probabilities=False)
  assert [row['category'] for row in alone] != [
    {'label': row['category']['label']} for row in together.predict(texts)
  ]
  pair = trained.load(tmp_path / 'runs', seeds=[10, 0])
  assert len(pair.params) == 2
  for run, mean_of in (('seed_0', 0.1), ('seed_1', 0.9), ('seed_10', 0.2)):
    path = tmp_path / 'runs' / 'default' / run / 'results.json'
    path.write_text(json.dumps({'validation': {'mean': mean_of}}))
  assert trained.find(tmp_path / 'runs') == [tmp_path / 'runs' / 'default' / 'seed_1']


def test_longer_inputs_are_cut_with_a_warning(small_run):
  for kind, long in (('text', 'the box ' * 40), ('pieces', ['Anna'] * 30)):
    model = small_run(kind).loaded
    longest = model.serving.bucket_lengths[-1]
    words = long.split() if isinstance(long, str) else long
    cut = words[:longest]
    with pytest.warns(UserWarning, match=rf'1 of 2 inputs were longer .* cut at {longest} tokens'):
      found = model.predict([long, long[:1] if kind == 'pieces' else 'the box'])
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      (expected,) = model.predict([' '.join(cut) if kind == 'text' else cut])
    for task, value in expected.items():
      label = found[0][task]['label']
      if kind == 'pieces' and task == 'name':  # one a word; none for what was cut off
        assert label[longest:] == [None] * (len(words) - longest)
        assert found[0][task]['probabilities'][longest:] == label[longest:]
        label = label[:longest]
      assert same(label, value['label'])


def compilations(function):
  return function._cache_size()


def test_one_program_a_length_and_batch_size(small_run):
  made = small_run('text')
  model = trained.load(made.path)  # one that has compiled nothing yet
  texts = made.inputs['train']
  lengths = model.serving.bucket_lengths
  assert len(lengths) == 2
  for count in (1, 2, 3, 8, 9, 20, 50, 64, 65, 90):
    for order in (texts, texts[::-1], sorted(texts, key=len), sorted(texts, key=len)[::-1]):
      model.predict(order[:count])
  most = len(lengths) * 3  # batches have three sizes
  assert 2 < compilations(model._step) <= most
  before = compilations(model._step)
  model.outputs(texts)
  model.predict([text for text in texts for _ in range(3)], probabilities=False)
  assert compilations(model._step) <= max(before, most)


def program(model, tasks):
  """Floating-point operations and arguments of the compiled program for one short input."""
  (batch,) = model.serving.batches([{'input': 'the box'}], 'texts').batches
  compiled = model._step.lower(model._whole, batch.inputs, tasks).compile()
  entry = compiled.as_text().partition('\nENTRY')[2]
  return compiled.cost_analysis()['flops'], entry.count(' parameter(')


@pytest.mark.parametrize('kind', ['text', 'mmoe', 'soft'])
def test_only_the_heads_that_are_asked_for_are_computed(kind, small_run):
  """The compiled program does less, and is given no parameter of another task."""
  model = small_run(kind).loaded
  own = {name: len(jax.tree.leaves(of)) for name, of in model.params[0]['tasks'].items()}
  operations, given = program(model, model.tasks)
  for task in model.tasks:
    fewer, left = program(model, (task,))
    assert fewer < operations
    assert given - left == sum(own.values()) - own[task] > 0
  texts = ['my invoice', 'the box is a parcel']
  whole, part = model.predict(texts), model.predict(texts, ['urgency'])
  for found, row in zip(whole, part, strict=True):
    assert list(row) == ['urgency']
    assert same(row['urgency']['label'], found['urgency']['label'])
  assert list(model.outputs(texts, ['topics'])) == ['topics']


def test_threads_predict_as_one_does(small_run):
  made = small_run('pieces')
  model = made.loaded
  inputs = made.inputs['train']
  parts = [inputs[i : i + 9 + 5 * (i % 3)] for i in range(0, 64, 8)]
  expected = [made.loaded.predict(part) for part in parts]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = [list(pool.map(model.predict, parts)) for _ in range(3)]
  assert found == [expected] * 3


def test_a_text_alone_and_what_is_no_input_are_refused(small_run):
  model = small_run('text').loaded
  with pytest.raises(ValueError, match='need a list of texts'):
    model.predict('the box')
  with pytest.raises(ValueError, match="no task 'categry'; did you mean 'category'"):
    model.predict(['the box'], ['categry'])
  with pytest.raises(errors.DataError, match=r'inputs, example 1: .* should be a string, not 3'):
    model.predict(['the box', 3])
  with pytest.raises(errors.DataError, match=r'inputs, example 5000: .* is empty'):
    model.predict(['the box'] * 5000 + [' '])
  numbers = small_run('numbers').loaded
  with pytest.raises(errors.DataError, match='example 0: 2 numbers, and the model reads 3'):
    numbers.predict([[1.0, 2.0]])
  images = small_run('images').loaded
  with pytest.raises(errors.DataError, match=r'example 0: .*should be an array of numbers'):
    images.predict(['a'])
  with pytest.raises(errors.DataError, match=r'the model cannot read arrays \[2, 2, 1\]'):
    images.predict([np.zeros((2, 2, 1), np.uint8)])


def test_which_runs_are_found(tmp_path, small_run):
  made = small_run('text')
  with pytest.raises(errors.WorkdirError, match='holds no run that was trained'):
    mtl_jax.load(tmp_path)
  for variant, seed in (('one', 0), ('one', 1), ('two', 0)):
    shutil.copytree(made.path, tmp_path / variant / f'seed_{seed}')
  with pytest.raises(errors.ConfigError, match=r'several variants: .* one of one, two'):
    mtl_jax.load(tmp_path)
  with pytest.raises(errors.ConfigError, match=r"no variant 'onne'.*did you mean 'one'"):
    mtl_jax.load(tmp_path, variant='onne')
  with pytest.raises(errors.ConfigError, match='no seed 7 in'):
    mtl_jax.load(tmp_path / 'one', seeds=7)
  assert trained.find(tmp_path / 'one', seeds='all') == [
    tmp_path / 'one' / f'seed_{seed}' for seed in (0, 1)
  ]
  assert trained.find(tmp_path / 'one' / 'seed_1') == [tmp_path / 'one' / 'seed_1']
  with pytest.raises(errors.ConfigError, match='is one run'):
    trained.find(tmp_path / 'one' / 'seed_1', seeds='all')
  (tmp_path / 'one' / 'seed_0' / 'config.json').write_text('{')
  with pytest.raises(errors.WorkdirError, match='cannot be read as the config of a run'):
    mtl_jax.load(tmp_path / 'one', seeds=0)
  (tmp_path / 'one' / 'seed_1' / 'vocabulary.json').unlink()
  with pytest.raises(errors.WorkdirError, match='cannot be read as a vocabulary'):
    mtl_jax.load(tmp_path / 'one', seeds=1)
  shutil.rmtree(tmp_path / 'two' / 'seed_0' / 'checkpoints' / '1')
  with pytest.raises(errors.WorkdirError, match='holds no checkpoint'):
    mtl_jax.load(tmp_path / 'two')


def test_parameters_are_on_the_device_once(small_run):
  model = small_run('text').loaded
  leaves = jax.tree.leaves(model.params)
  assert all(isinstance(leaf, jax.Array) for leaf in leaves)
