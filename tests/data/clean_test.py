"""What is made of texts first, in training and in prediction alike."""

import unicodedata

import pytest

from mtl_jax import errors
from mtl_jax.data import clean, pipeline, serving, specs

TEXTS = [
  'Caf\u0065\u0301 &amp; bar, see https://a.example/x?y=1 @anna',
  'mail me@home.example not @bob &lt;3',
  'www.example.org',
  '  plain  ',
]


def test_each_rule():
  assert clean.cleaner(['nfc'])(TEXTS[0]).startswith(unicodedata.normalize('NFC', 'Cafe\u0301'))
  assert clean.cleaner(['unescape'])(TEXTS[1]).endswith('not @bob <3')
  assert clean.cleaner(['users', 'urls'])(TEXTS[0]).endswith('see [URL] [USER]')
  assert clean.cleaner(['users'])(TEXTS[1]) == 'mail me@home.example not [USER] &lt;3'
  assert clean.cleaner(['nfkc'])('\ufb01n') == 'fin'
  assert clean.cleaner([])(TEXTS[3]) == TEXTS[3]
  assert clean.cleaner(['unescape'])('&nbsp;') == '&nbsp;'  # nothing would be left
  with pytest.raises(errors.ConfigError, match="normalize: no 'url'; did you mean 'urls'"):
    clean.cleaner(['url'])


def test_vocabularies_and_new_inputs_are_clean():
  rows = [{'text': text, 'label': 'ab'[i % 2]} for i, text in enumerate(TEXTS * 3)]
  spec = specs.InputSpec('text', 'text', 'words')
  tasks = {'label': specs.TaskSpec('classification', 'label', ('accuracy',))}
  options = {'normalize': ('urls', 'users', 'unescape')}
  data = pipeline.from_examples({'train': rows}, spec, tasks, options, 4, 0)
  words = data.vocabularies.tokenizer.backend.get_vocab()
  assert {'[URL]', '[USER]', '&', '<3'} <= set(words)
  assert '&amp;' not in words
  made = serving.Serving(spec, tasks, data.vocabularies, options)
  (batch,) = made.batches([{'text': 'see http://new.example @carl'}], 'inputs').batches
  ids = batch.inputs['tokens'][0][batch.inputs['mask'][0]].tolist()
  assert ids == [words['see'], words['[URL]'], words['[USER]']]
