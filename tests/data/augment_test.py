"""Inputs changed at random: against slow readings of each rule, the same at each resume."""

import collections
import itertools

import numpy as np
import pytest
import tokenizers

from mtl_jax import config as config_lib
from mtl_jax import errors
from mtl_jax.data import augment, pipeline, specs
from mtl_jax.plain import leaves, portable
from tests.config.config_test import _config
from tests.data import arrays_test, own_inputs_test, pipeline_test

PLAIN = {name: pipeline_test.TASKS[name] for name in ('intent', 'topics')}


def data(given, tasks=PLAIN, **config):
  return pipeline_test.data({'augment': given, **config}, tasks=tasks)


def pairs(given, count=12, **kwargs):
  """Batches with and without the change, of the same numbers."""
  plain, made = data({}, **kwargs), data(given, **kwargs)
  return list(zip(itertools.islice(plain.train(), count), made.train(), strict=False)), made


def rows(batch):
  inputs = batch['inputs']
  return [t[m].tolist() for t, m in zip(inputs['tokens'], inputs['mask'], strict=True)]


def same_labels(before, after):
  for task, target in before['targets'].items():
    np.testing.assert_array_equal(after['targets'][task], target)


def test_cutoff_hides_a_share_of_the_tokens():
  found, made = pairs({'cutoff': 0.3}, 40, tasks=pipeline_test.TASKS)  # tags stay where they were
  unknown = made.vocabularies.tokenizer.unknown_id
  hidden = total = 0
  for before, after in found:
    same_labels(before, after)
    old, new, mask = before['inputs']['tokens'], after['inputs']['tokens'], before['inputs']['mask']
    np.testing.assert_array_equal(after['inputs']['mask'], mask)
    changed = old != new
    assert (new[changed] == unknown).all()
    assert not changed[~mask].any()
    hidden, total = hidden + changed.sum(), total + mask.sum()
  assert abs(hidden / total - 0.3) < 5 * np.sqrt(0.3 * 0.7 / total)


def test_what_is_hidden_has_no_pieces():
  found, made = pairs({'cutoff': 0.5}, pieces='characters')
  unknown, table = made.vocabularies.pieces.unknown_id, made._assembler.pieces
  word_of = {tuple(row): i for i, row in enumerate(table.tolist())}
  seen = 0
  for before, after in found:
    hidden = before['inputs']['tokens'] != after['inputs']['tokens']
    pieces = after['inputs']['pieces']
    assert (pieces[hidden][:, 0] == unknown).all()
    assert not pieces[hidden][:, 1:].any()
    np.testing.assert_array_equal(pieces[~hidden], before['inputs']['pieces'][~hidden])
    seen += hidden.sum()
  assert seen
  assert len(word_of) > 2


def test_swap_changes_places_and_nothing_else():
  found, made = pairs({'swap': 0.4}, 40, pieces='characters')
  names = {i: w for w, i in made.vocabularies.tokenizer.backend.get_vocab().items()}
  letters = {i: w for w, i in made.vocabularies.pieces.backend.get_vocab().items()}
  moved = total = 0
  for before, after in found:
    same_labels(before, after)
    np.testing.assert_array_equal(after['inputs']['mask'], before['inputs']['mask'])
    for old, new in zip(rows(before), rows(after), strict=True):
      assert collections.Counter(old) == collections.Counter(new)
      moved += sum(a != b for a, b in zip(old, new, strict=True))
      total += len(old)
    inputs = after['inputs']
    for token, pieces in zip(
      inputs['tokens'][inputs['mask']], inputs['pieces'][inputs['mask']], strict=True
    ):  # a word's pieces go with it
      assert ''.join(letters[i] for i in pieces if i).strip() == names[token]
  assert 0.1 < moved / total < 0.4  # some of the chosen stay, or are alone in their text


def test_delete_leaves_out_a_share_and_never_all():
  found, _ = pairs({'delete': 0.5}, 60, pieces='characters')
  gone = total = 0
  for before, after in found:
    same_labels(before, after)
    assert after['inputs']['tokens'].shape == before['inputs']['tokens'].shape
    for old, new in zip(rows(before), rows(after), strict=True):
      assert 1 <= len(new) <= len(old)
      places = iter(old)
      assert all(token in places for token in new)  # in order
      if len(old) > 6:  # where all would seldom go
        gone, total = gone + len(old) - len(new), total + len(old)
    mask = after['inputs']['mask']
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()  # padding is at the end
    assert not after['inputs']['tokens'][~mask].any()
    assert not after['inputs']['pieces'][~mask].any()
    assert after['inputs']['pieces'][mask].any(axis=1).all()
  assert abs(gone / total - 0.5) < 5 * np.sqrt(0.25 / total)
  nearly, _ = pairs({'delete': 0.999_999}, 8)
  for _, after in nearly:
    assert {len(row) for row in rows(after)} == {1}


def test_the_tokens_around_texts_and_between_two_stay(tmp_path):
  vocabulary = {'[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 3} | {
    piece: 4 + i for i, piece in enumerate('abcdefgh')
  }
  backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token='[UNK]'))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  backend.post_processor = tokenizers.processors.TemplateProcessing(
    '[CLS] $A [SEP]', '[CLS] $A [SEP] $B:1 [SEP]:1', [('[CLS]', 2), ('[SEP]', 3)]
  )
  backend.save(str(tmp_path / 'tokenizer.json'))
  options = {'tokenizer': str(tmp_path / 'tokenizer.json')}
  plain = own_inputs_test.data(options)
  given = {'swap': 0.5, 'delete': 0.4, 'cutoff': 0.2}
  made = own_inputs_test.data(options | {'augment': given})
  changed = 0
  for before, after in zip(itertools.islice(plain.train(), 10), made.train(), strict=False):
    for task, part in after.items():
      for old, new in zip(rows(before[task]), own_inputs_test.texts(made, part), strict=True):
        assert new[0] == '[CLS]'
        assert new[-1] == '[SEP]'
        assert new.count('[SEP]') == old.count(3)
        assert '[CLS]' not in new[1:]
        parts = ' '.join(new[1:-1]).split('[SEP]')
        assert all(part.strip() for part in parts)  # no text is empty
        changed += len(old) != len(new)
      inputs = part['inputs']
      for tokens, segments, mask in zip(
        inputs['tokens'], inputs['segments'], inputs['mask'], strict=True
      ):
        expected = np.cumsum(tokens[mask] == 3) - (tokens[mask] == 3)
        np.testing.assert_array_equal(segments[mask], expected)
        assert not segments[~mask].any()
  assert changed > 20


def test_swap_keeps_two_texts_apart():
  plain, made = (own_inputs_test.data({'augment': a}) for a in ({}, {'swap': 0.9}))
  moved = 0
  for before, after in zip(itertools.islice(plain.train(), 10), made.train(), strict=False):
    parts = [own_inputs_test.texts(made, batch['pairs']) for batch in (before, after)]
    for old, new in zip(*parts, strict=True):
      at = old.index('[SEP]') if '[SEP]' in old else len(old)
      assert sorted(old[:at]) == sorted(new[:at])
      assert sorted(old[at:]) == sorted(new[at:])
      moved += old != new
  assert moved > 20


def synonyms(tmp_path, content):
  path = tmp_path / 'synonyms.tsv'
  path.write_text(content, encoding='utf-8')
  return {'synonyms': str(path), 'replace': 0.5}


def test_words_become_their_synonyms(tmp_path):
  words = collections.Counter(w for e in pipeline_test.EXAMPLES['train'] for w in e['words'])
  (a, _), (b, _), (c, _), (d, _) = words.most_common(4)
  given = synonyms(tmp_path, f'{a}\t{b}\t{c}\n\n{b}\tnowhere\t{d}\nnobody\t{a}\n')
  found, made = pairs(given, 60, tasks=pipeline_test.TASKS, pieces='characters')
  names = {i: w for w, i in made.vocabularies.tokenizer.backend.get_vocab().items()}
  letters = {i: w for w, i in made.vocabularies.pieces.backend.get_vocab().items()}
  became = collections.defaultdict(collections.Counter)
  for before, after in found:
    same_labels(before, after)
    mask = before['inputs']['mask']
    for old, new, pieces in zip(
      before['inputs']['tokens'][mask],
      after['inputs']['tokens'][mask],
      after['inputs']['pieces'][mask],
      strict=True,
    ):
      became[names[old]][names[new]] += 1
      assert ''.join(letters[i] for i in pieces if i).strip() == names[new]
  assert set(became[a]) == {a, b, c}
  assert set(became[b]) == {b, d}
  for word, counts in became.items():
    if word not in (a, b):
      assert set(counts) == {word}
  total = became[a].total()
  assert abs(became[a][a] / total - 0.5) < 5 * np.sqrt(0.25 / total)
  assert abs(became[a][b] / total - 0.25) < 5 * np.sqrt(0.1875 / total)


def image_data(given):
  return arrays_test.data({'augment': given})


def images(given, count=30):
  plain, made = image_data({}), image_data(given)
  for before, after in zip(itertools.islice(plain.train(), count), made.train(), strict=False):
    same_labels(before, after)
    assert after['inputs'].dtype == np.float32
    yield from zip(before['inputs'], after['inputs'], strict=True)


def test_flip():
  flipped = [np.array_equal(new, old[:, ::-1]) for old, new in images({'flip': 0.5})]
  kept = [np.array_equal(new, old) for old, new in images({'flip': 0.5})]
  assert (np.array(flipped) ^ np.array(kept)).all()
  assert abs(np.mean(flipped) - 0.5) < 5 * np.sqrt(0.25 / len(flipped))
  assert all(np.array_equal(new, old[:, ::-1]) for old, new in images({'flip': 1.0}, 3))


def test_crop_moves_an_image_over_black():
  black = -np.array([0.5, 0.0, 0.25]) / [1.0, 0.5, 2.0]  # what 0 becomes
  seen = collections.Counter()
  for old, new in images({'crop': 2}, 60):
    padded = np.full((8, 9, 3), black, np.float32)
    padded[2:6, 2:7] = old
    places = [
      (y, x)
      for y in range(5)
      for x in range(5)
      if np.array_equal(new, padded[y : y + 4, x : x + 5])
    ]
    assert len(places) == 1
    seen.update(places)
  assert len(seen) == 25


def test_cutout_blanks_a_square_at_the_mean():
  sizes = collections.Counter()
  for old, new in images({'cutout': 3}, 60):
    gone = (new == 0).all(axis=-1) & ~(old == 0).all(axis=-1)
    np.testing.assert_array_equal(new[~gone], old[~gone])
    y, x = np.flatnonzero(gone.any(axis=1)), np.flatnonzero(gone.any(axis=0))
    assert gone[np.ix_(y, x)].all()
    assert gone.sum() == len(y) * len(x)
    sizes[len(y), len(x)] += 1
  assert set(sizes) == {(h, w) for h in (2, 3) for w in (2, 3)}


def test_a_batch_follows_from_its_number():
  """Whatever was asked for before, by how many threads, over how many processes."""
  given = {'swap': 0.3, 'delete': 0.2, 'cutoff': 0.1}
  made = data(given, word_dropout=0.5)
  batches = list(itertools.islice(made.train(threads=2), 12))
  for number in (0, 5, 11):
    again = next(data(given, word_dropout=0.5).train(start=number))
    for name, array in batches[number]['inputs'].items():
      np.testing.assert_array_equal(again['inputs'][name], array)
  options = {'augment': given, 'word_dropout': 0.5}
  parts = [
    pipeline_test.data(options, tasks=PLAIN, process_index=i, process_count=2) for i in range(2)
  ]
  joined = [next(part.train(start=5))['inputs']['tokens'] for part in parts]
  np.testing.assert_array_equal(np.concatenate(joined), batches[5]['inputs']['tokens'])
  other = next(made.with_seed(1).train())
  assert rows(other) != rows(batches[0])


def test_evaluation_sees_what_there_is():
  plain, made = data({}), data({'swap': 0.9, 'delete': 0.9, 'cutoff': 0.9})
  for split in ('train', 'validation'):
    for one, other in zip(plain.evaluation(split), made.evaluation(split), strict=True):
      np.testing.assert_array_equal(one.batch['inputs']['tokens'], other.batch['inputs']['tokens'])


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'swop': 0.1}, "augment: no option 'swop'; did you mean 'swap'"),
    ({'swap': 1.0}, 'augment.swap: need less than 1'),
    ({'swap': 'x'}, 'augment.swap: need a float'),
    ({'cutoff': float('nan')}, 'augment.cutoff: need 0 or more'),
    ({'flip': 0.5}, 'augment.flip: is for images, and the inputs are texts'),
    ({'replace': 0.5}, 'augment: synonyms is the file'),
    ({'synonyms': 'a.tsv'}, 'augment: synonyms is the file'),
    ({'synonyms': 'nowhere.tsv', 'replace': 0.5}, "synonyms: 'nowhere.tsv' cannot be read"),
  ],
)
def test_options_that_cannot_be(given, message):
  with pytest.raises(errors.ConfigError, match=message):
    data(given)


def test_what_moves_words_and_their_labels_apart_is_refused():
  for name in ('swap', 'delete'):
    with pytest.raises(errors.ConfigError, match=f"augment.{name}: task 'slots' labels words"):
      data({name: 0.1}, tasks=pipeline_test.TASKS)


def test_files_of_synonyms_that_cannot_be(tmp_path):
  with pytest.raises(errors.DataError, match=r'synonyms.tsv, line 2: need a word, a tab'):
    data(synonyms(tmp_path, 'a\tb\nc d e\n'))
  with pytest.raises(errors.DataError, match='no word and synonym of it'):
    data(synonyms(tmp_path, 'nobody\tnowhere\n'))
  given = specs.InputSpec('words', 'words', 'characters')
  with pytest.raises(errors.ConfigError, match='need words as tokens'):
    pipeline_test.data({'augment': synonyms(tmp_path, 'a\tb\n')}, tasks=PLAIN, given=given)


def test_images_that_cannot_be():
  for given, message in [
    ({'swap': 0.5}, 'augment.swap: is for texts, and the inputs are arrays'),
    ({'crop': 5}, 'augment.crop: 5 pixels are more than an image of 4 × 5'),
    ({'cutout': 5}, 'augment.cutout: 5 pixels'),
  ]:
    with pytest.raises(errors.ConfigError, match=message):
      image_data(given)
  with pytest.raises(errors.ConfigError, match=r'for images \[H, W, C\], not inputs of shape \(6,'):
    arrays_test.data(
      {'augment': {'flip': 0.5}}, arrays_test.VECTOR, arrays_test.examples(arrays_test._vector)
    )


def test_the_section_of_a_config():
  (run,) = config_lib.resolve(_config())
  assert 'augment' not in run['dataset']
  (run,) = config_lib.resolve(
    _config(**{'dataset.augment.cutoff': 0.1, 'dataset.augment.synonyms': '/a/b.tsv'})
  )
  assert run['dataset']['augment'] == augment.DEFAULTS | {'cutoff': 0.1, 'synonyms': '/a/b.tsv'}
  assert portable(run)['dataset']['augment']['synonyms'] == 'b.tsv'
  with pytest.raises(errors.ConfigError, match=r'dataset.augment.crop: need 0 or more'):
    config_lib.resolve(_config(**{'dataset.augment.crop': -1}))
  plain = config_lib.plain(_config())
  plain['dataset']['augment'] = {'cutof': 0.1}
  with pytest.raises(
    errors.ConfigError, match=r"'cutof' in dataset.augment; did you mean 'cutoff'"
  ):
    config_lib.resolve(plain)
  assert {path for path, _ in leaves({'augment': pipeline.DEFAULTS['augment']})} == {
    f'augment.{name}' for name in augment.DEFAULTS
  }
