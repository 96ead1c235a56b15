"""New inputs as batches: of few sizes and lengths, with what the pipeline makes of each."""

import numpy as np
import pytest

from mtl_jax import errors
from mtl_jax.data import pipeline, serving, specs
from mtl_jax.data import vocabularies as vocabularies_lib

TASK = {'label': specs.TaskSpec('classification', 'label', ('accuracy',))}
TEXT = specs.InputSpec('text', 'text', 'words')


def rows(count, longest=20):
  rng = np.random.default_rng(0)
  return [
    {
      'text': ' '.join(f'w{j}' for j in rng.integers(0, 30, rng.integers(1, longest + 1))),
      'label': 'ab'[i % 2],
    }
    for i in range(count)
  ]


def of(data, spec, **options):
  return serving.Serving(spec, TASK, data.vocabularies, options)


@pytest.mark.parametrize(
  'options', [{}, {'pieces': 'characters'}, {'tokenizer': 'wordpiece'}, {'tokenizer': 'characters'}]
)
def test_rows_are_those_of_the_pipeline(options, tmp_path):
  examples = {'train': rows(200), 'validation': rows(50)}
  data = pipeline.from_examples(examples, TEXT, TASK, options, 16, 0)
  data.write(tmp_path)
  served = serving.Serving(TEXT, TASK, vocabularies_lib.read(tmp_path), options)
  expected = {}
  for item in data.evaluation('validation', 1):
    expected[int(item.indices[0])] = {k: v[0] for k, v in item.batch['inputs'].items()}
  made = served.batches(examples['validation'], 'inputs')
  assert made.cut == 0
  seen = []
  for batch in made.batches:
    for place, index in enumerate(batch.rows):
      for name, values in expected[index].items():
        found = batch.inputs[name][place]
        np.testing.assert_array_equal(found[: len(values)], values)
        assert not found[len(values) :].any()
    seen += batch.rows.tolist()
  assert sorted(seen) == list(range(50))


@pytest.mark.parametrize('count', [1, 2, 7, 8, 9, 24, 25, 63, 64, 65, 88, 89, 500])
def test_batches_have_few_sizes(count):
  data = pipeline.from_examples({'train': rows(300)}, TEXT, TASK, {'buckets': 3}, 16, 0)
  examples = rows(count)
  batches = list(of(data, TEXT).batches(examples, 'inputs').batches)
  lengths = data.bucket_lengths
  assert {b.inputs['tokens'].shape for b in batches} <= {
    (size, length) for size in (1, 8, serving.BATCH) for length in lengths
  }
  assert sorted(np.concatenate([b.rows for b in batches])) == list(range(count))
  padding = sum(len(b.inputs['tokens']) - len(b.rows) for b in batches)
  assert padding < 0.65 * serving.BATCH
  # Whole batches are no longer than their examples need.
  for batch in batches:
    longest = batch.inputs['mask'].sum(axis=1).max()
    width = batch.inputs['tokens'].shape[1]
    assert width == min(length for length in lengths if length >= longest)


def test_what_is_longer_than_in_training_is_cut_and_counted():
  data = pipeline.from_examples({'train': rows(100, 10)}, TEXT, TASK, {}, 16, 0)
  served = of(data, TEXT)
  longest = data.bucket_lengths[-1]
  examples = [{'text': 'w1 ' * 50}, {'text': 'w1'}, {'text': 'w2 ' * longest}]
  made = served.batches(examples, 'inputs')
  assert made.cut == 1
  (batch,) = made.batches
  order = {int(index): place for place, index in enumerate(batch.rows)}
  assert batch.inputs['mask'].sum(axis=1)[[order[0], order[1], order[2]]].tolist() == [
    longest,
    1,
    longest,
  ]


def test_numbers_are_standardized_as_in_training():
  spec = specs.InputSpec('x', 'array', standardize=True)
  rng = np.random.default_rng(0)
  values = rng.normal(3, 2, (100, 4)).astype(np.float32)
  values[3, 1] = np.nan
  examples = [{'x': x, 'label': 'ab'[i % 2]} for i, x in enumerate(values)]
  data = pipeline.from_examples({'train': examples}, spec, TASK, {}, 16, 0)
  new = np.array([[1, 2, np.nan, 4]], np.float32)
  (batch,) = of(data, spec).batches([{'x': new[0]}], 'inputs').batches
  mean, std = np.nanmean(values.astype(np.float64), 0), np.nanstd(values.astype(np.float64), 0)
  expected = np.nan_to_num((new - mean) / std)  # a gap is the mean
  np.testing.assert_allclose(batch.inputs, expected, rtol=1e-4, atol=1e-6)
  assert batch.starts is None
  with pytest.raises(errors.DataError, match='inputs, example 7: 3 numbers, and the model reads 4'):
    list(of(data, spec).batches([{'x': new[0, :3]}], 'inputs', 7).batches)


@pytest.mark.parametrize(
  ('example', 'message'),
  [
    ({}, "no field 'text'"),
    ({'text': 3}, 'should be a string, not 3'),
    ({'text': '  '}, 'is empty'),
    ({'text': 'a\ud800'}, 'has a lone surrogate'),
  ],
)
def test_what_cannot_be_read_has_its_number(example, message):
  data = pipeline.from_examples({'train': rows(100)}, TEXT, TASK, {}, 16, 0)
  with pytest.raises(errors.DataError, match=f'here, example 41: .*{message}'):
    of(data, TEXT).batches([{'text': 'w1'}, example], 'here', 40)


def test_nothing_gives_no_batch():
  data = pipeline.from_examples({'train': rows(100)}, TEXT, TASK, {}, 16, 0)
  assert list(of(data, TEXT).batches([], 'inputs').batches) == []
