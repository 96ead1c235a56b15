"""Half a character, as JSON's "\\ud800" brings it, is told with its place wherever texts enter."""

import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from mtl_jax import config as config_lib
from mtl_jax import errors, train
from mtl_jax.data import pipeline, prepare, specs, text
from mtl_jax.data.builders import snips

HALF = json.loads('"a\\ud800b"')
WORDS = specs.InputSpec('words', 'words', 'words')
TEXT = specs.InputSpec('text', 'text', 'characters', pair='pair')
TASKS = {
  'intent': specs.TaskSpec('classification', 'intent', ('accuracy',)),
  'topics': specs.TaskSpec('multilabel', 'topics', ('micro_f1',)),
  'slots': specs.TaskSpec('tagging', 'slots', ('f1',)),
}
EXAMPLE = {
  'words': ['play', 'it'],
  'text': 'play it',
  'pair': 'now',
  'intent': 'play',
  'topics': ['x'],
  'slots': ['O', 'B-a'],
}


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('words', ['play', HALF]),
    ('intent', HALF),
    ('topics', ['x', HALF]),
    ('slots', [HALF, 'O']),
    ('text', HALF),
    ('pair', HALF),
  ],
)
@pytest.mark.parametrize('split', ['train', 'test'])
def test_examples(field, value, split):
  given = TEXT if field in ('text', 'pair') else WORDS
  tasks = dict(TASKS)
  if given is TEXT:
    del tasks['slots']
  examples = {'train': [EXAMPLE] * 3, 'test': [EXAMPLE] * 3}
  examples[split] = [EXAMPLE, EXAMPLE, EXAMPLE | {field: value}]
  with pytest.raises(errors.DataError) as caught:
    pipeline.from_examples(examples, given, tasks, {'name': 'mine'}, 2, 0)
  assert str(caught.value) == (
    f"data set 'mine', split '{split}', example 2: field '{field}' has a lone surrogate, half of a "
    r"character, at place 1: 'a\ud800b'"
  )
  str(caught.value).encode()  # can be printed anywhere


def test_whole_characters_are_texts():
  assert not errors.no_text('a\U0001f600b')
  assert not errors.no_text(['a', 'é', 3, None])
  assert errors.no_text(['a', '\ud83d', '\ude00'])  # both halves, but apart


@pytest.mark.parametrize('kind', text.KINDS)
def test_tokenizers(kind):
  with pytest.raises(errors.DataError, match='text 1 has a lone surrogate'):
    text.train(kind, ['a b', HALF])
  trained = text.train(kind, ['a b'], as_words=True)
  for encode in (trained.encode, trained.encode_words, trained.encode_framed):
    with pytest.raises(errors.DataError, match=r'text 2 has .* at place'):
      encode(['a', 'b', HALF])


def test_tokenizers_of_pairs_and_of_words_in_context():
  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel()
  backend.post_processor = processors.ByteLevel()
  given = text.pretrained(backend)
  with pytest.raises(errors.DataError, match='text 0 has a lone surrogate'):
    given.encode_words([HALF])
  with pytest.raises(errors.DataError, match='text 1 has a lone surrogate'):
    given.encode_framed([('a', 'b'), ('a', HALF)])
  with pytest.raises(TypeError):  # other mistakes stay what they are
    given.encode([3])


def test_builders(tmp_path, monkeypatch):
  example = {'words': ['play', 'it'], 'slots': ['O', HALF], 'intent': 'play'}
  monkeypatch.setattr(snips, 'read_split', lambda *_: [example])
  for folder in ('train', 'valid', 'test'):
    (tmp_path / folder).mkdir()
    for name in ('seq.in', 'seq.out', 'label'):
      (tmp_path / folder / name).write_text('x\n')
  with pytest.raises(
    errors.DataError, match=r"split 'train', example '00000': field 'slots' has a"
  ):
    prepare.prepare('snips', tmp_path / 'data', tmp_path)


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('dataset.data_dir', '/tmp/\udcff'),
    ('dataset.manual_dir', HALF),
    ('dataset.tokenizer', f'{HALF}.json'),
    ('encoder.embedding.vectors', HALF),
    ('encoder.bert.path', HALF),
    ('init_from', HALF),
    ('name', HALF),
    ('only', ('pos', HALF)),
  ],
)
def test_configs(key, value):
  config = config_lib.default()
  config.tasks = config_lib.tasks({'pos': {}})
  config.dataset.name = 'english_words'
  config.train.steps = 1
  config.update_from_flattened_dict({key: value})
  with pytest.raises(errors.ConfigError, match=rf'^{key} has a lone surrogate'):
    config_lib.resolve(config)


def test_names_in_configs_and_workdirs(tmp_path):
  config = config_lib.default()
  config.tasks = config_lib.tasks({'pos': {}})
  config.dataset.name = 'english_words'
  config.train.steps = 1
  with pytest.raises(errors.ConfigError, match=r'^workdir has a lone surrogate'):
    train.run(config, tmp_path / HALF)
  config.variants = config_lib.dotted({HALF: {'train.steps': 2}})
  with pytest.raises(errors.ConfigError, match=r'^variants has a lone surrogate'):
    config_lib.resolve(config)
