"""Another family of pretrained encoders is one class: all else follows from what it says."""

import dataclasses
import types

import numpy as np
import pytest
import tokenizers
from flax import linen as nn
from tokenizers import models, pre_tokenizers

from mtl_jax import config as config_lib
from mtl_jax import encoders, errors
from mtl_jax import options as options_lib
from mtl_jax.build import encoder as encoder_lib
from mtl_jax.build import start
from mtl_jax.config import sections
from tests import train_test
from tests.encoders import modules

config_file, config = train_test.config_file, train_test.config  # the tiny lexicon
LETTERS = ['[PAD]', '[UNK]', *'abdeghiklmnorstu']


class Bag(nn.Module):
  """A table of letters."""

  vocab_size: int

  @nn.compact
  def __call__(self, inputs, train=False):
    return nn.Embed(self.vocab_size, 4)(inputs['tokens'])


@dataclasses.dataclass(frozen=True)
class Letters:
  """A family whose tables hold one number everywhere."""

  path: str = ''
  pretrained: bool = True
  value: options_lib.Amount = 0.5

  def check(self, where):
    if not self.path:
      raise errors.ConfigError(f'{where}.path: which letters?')

  def tokenizer(self):
    vocabulary = {letter: i for i, letter in enumerate(LETTERS)}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token='[UNK]'))
    made.pre_tokenizer = pre_tokenizers.Split('', 'isolated')
    return made

  def sizes(self):
    return encoders.protocol.Sizes(len(LETTERS), 12)

  def encoder(self, dtype):
    del dtype
    return Bag(len(LETTERS))

  def params(self):
    return {'Embed_0': {'embedding': np.full((len(LETTERS), 4), self.value, np.float32)}}


@pytest.fixture
def run(config, monkeypatch):
  monkeypatch.setitem(encoders.PRETRAINED, 'letters', Letters)
  monkeypatch.setitem(sections.CHOICES['encoder'], 'letters', Letters)

  def resolve(**changes):
    plain = config_lib.plain(config)
    plain['encoder'] |= {'name': 'letters', 'letters': {'path': '/here/abc', **changes}}
    plain['dataset'] |= {'tokenizer': '', 'max_length': 12}
    plain['balance']['name'], plain['only'] = 'sum_tasks', ('pos', 'inflection')
    return config_lib.resolve(plain)[0]

  return resolve


def test_a_family_of_ones_own_from_a_config(run):
  resolved = run(value=0.25)
  assert resolved['encoder']['letters'] == {'path': '/here/abc', 'pretrained': True, 'value': 0.25}
  assert '/here' not in config_lib.to_json(resolved)
  data = start.load_data(resolved)
  assert data.vocab_size == len(LETTERS)
  before, after = modules.two_steps(resolved, data)
  table = before['shared']['Embed_0']['embedding']
  assert (table == 0.25).all()
  assert (after['shared']['Embed_0']['embedding'] != table).any()


def test_what_it_cannot_be(run):
  with pytest.raises(errors.ConfigError, match=r'encoder\.letters\.path: which letters'):
    run(path='')
  with pytest.raises(errors.ConfigError, match=r'encoder\.letters\.value: need 0 or more, not -1'):
    run(value=-1)
  with pytest.raises(errors.ConfigError, match=r"no key 'valu' in encoder\.letters; did you mean"):
    run(valu=1.0)
  fresh = run(pretrained=False)
  with pytest.raises(errors.ConfigError, match=r'transfer\.reinitialize: every layer is fresh'):
    start.check_transfer(fresh | {'transfer': fresh['transfer'] | {'reinitialize': 1}})


def test_texts_that_it_cannot_read(run):
  resolved, wide = run(), types.SimpleNamespace(vocab_size=5, bucket_lengths=(4, 13))
  with pytest.raises(errors.ConfigError, match=r'encoder\.letters reads 12 tokens.*max_length=12'):
    encoder_lib.build_encoder(resolved, wide)
