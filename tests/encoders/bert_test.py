"""Pretrained trunks against float64 NumPy and, where MiniLM is installed, against transformers.

Tiny checkpoints of each family are computed from the stored tensors, one sentence at a time; the
numbers of transformers on torch are in bert_reference.json.
"""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from mtl_jax import heads, sharing
from mtl_jax.encoders import Bert, bert
from mtl_jax.tasks import Task
from tests.encoders import modules, oracles

V, D, LAYERS, HEADS, F, S = 30, 16, 2, 2, 24, 8

BERT = {
  'model_type': 'bert',
  'vocab_size': V,
  'hidden_size': D,
  'num_hidden_layers': LAYERS,
  'num_attention_heads': HEADS,
  'intermediate_size': F,
  'max_position_embeddings': 12,
  'type_vocab_size': 2,
  'hidden_act': 'gelu',
  'layer_norm_eps': 1e-12,
  'pad_token_id': 0,
}
ROBERTA = BERT | {
  'model_type': 'roberta',
  'max_position_embeddings': 14,
  'type_vocab_size': 1,
  'layer_norm_eps': 1e-5,
  'pad_token_id': 1,
}
DISTILBERT = {
  'model_type': 'distilbert',
  'vocab_size': V,
  'dim': D,
  'n_layers': LAYERS,
  'n_heads': HEADS,
  'hidden_dim': F,
  'max_position_embeddings': 12,
  'activation': 'gelu',
  'pad_token_id': 0,
}

# Of a block, in the order of the computation.
BERT_BLOCK = (
  'encoder.layer.{}.attention.self.query',
  'encoder.layer.{}.attention.self.key',
  'encoder.layer.{}.attention.self.value',
  'encoder.layer.{}.attention.output.dense',
  'encoder.layer.{}.attention.output.LayerNorm',
  'encoder.layer.{}.intermediate.dense',
  'encoder.layer.{}.output.dense',
  'encoder.layer.{}.output.LayerNorm',
)
DISTILBERT_BLOCK = (
  'transformer.layer.{}.attention.q_lin',
  'transformer.layer.{}.attention.k_lin',
  'transformer.layer.{}.attention.v_lin',
  'transformer.layer.{}.attention.out_lin',
  'transformer.layer.{}.sa_layer_norm',
  'transformer.layer.{}.ffn.lin1',
  'transformer.layer.{}.ffn.lin2',
  'transformer.layer.{}.output_layer_norm',
)


def block_names(config):
  return DISTILBERT_BLOCK if config['model_type'] == 'distilbert' else BERT_BLOCK


def tensors(config, seed=0):
  """Random tensors of the trunk, by their plain names."""
  rng = np.random.default_rng(seed)
  shapes = {
    'embeddings.word_embeddings.weight': (V, D),
    'embeddings.position_embeddings.weight': (config['max_position_embeddings'], D),
    'embeddings.LayerNorm.weight': (D,),
    'embeddings.LayerNorm.bias': (D,),
  }
  if 'type_vocab_size' in config:
    shapes['embeddings.token_type_embeddings.weight'] = (config['type_vocab_size'], D)
  for i in range(LAYERS):
    sizes = [(D, D)] * 4 + [(D,), (F, D), (D, F), (D,)]
    for name, shape in zip(block_names(config), sizes, strict=True):
      shapes[f'{name.format(i)}.weight'] = shape
      shapes[f'{name.format(i)}.bias'] = shape[:1]
  return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder, config, values, shards=1):
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  if shards == 1:
    save_file(values, folder / 'model.safetensors')
    return folder
  names = sorted(values)
  files = {
    name: f'model-{1 + i % shards:05}-of-{shards:05}.safetensors' for i, name in enumerate(names)
  }
  for file in set(files.values()):
    save_file({name: values[name] for name in names if files[name] == file}, folder / file)
  (folder / 'model.safetensors.index.json').write_text(
    json.dumps({'metadata': {}, 'weight_map': files})
  )
  return folder


def plain_bert(folder):
  """BERT as BertModel is saved: no prefix, with the pooler."""
  extra = {
    'pooler.dense.weight': np.ones((D, D), np.float32),
    'embeddings.position_ids': np.arange(12)[None],
  }
  return write(folder, BERT, tensors(BERT) | extra)


def old_bert(folder):
  """BERT as it was saved first: gamma and beta, heads; here with ReLU and an epsilon that shows."""
  config = BERT | {'hidden_act': 'relu', 'layer_norm_eps': 0.1}
  values = {
    'bert.' + name.replace('Norm.weight', 'Norm.gamma').replace('Norm.bias', 'Norm.beta'): value
    for name, value in tensors(config).items()
  }
  values['cls.predictions.bias'] = np.ones(V, np.float32)
  return write(folder, config, values)


def roberta(folder):
  """In half precision, in two files, with the head of its language model; here with GELU's tanh."""
  config = ROBERTA | {'hidden_act': 'gelu_new'}
  values = {f'roberta.{k}': v.astype(np.float16) for k, v in tensors(config).items()}
  values['lm_head.bias'] = np.ones(V, np.float16)
  return write(folder, config, values, shards=2)


def xlm_roberta(folder):
  config = ROBERTA | {'model_type': 'xlm-roberta'}
  values = {f'roberta.{k}': v.astype(ml_dtypes.bfloat16) for k, v in tensors(config).items()}
  return write(folder, config, values)


def distilbert(folder):
  values = {f'distilbert.{k}': v for k, v in tensors(DISTILBERT).items()}
  values['vocab_projector.bias'] = np.ones(V, np.float32)
  return write(folder, DISTILBERT, values)


CHECKPOINTS = {f.__name__: f for f in (plain_bert, old_bert, roberta, xlm_roberta, distilbert)}
ROUNDED = {'roberta': np.float16, 'xlm_roberta': ml_dtypes.bfloat16}


def inputs(config):
  """Three sentences; RoBERTa's second one has its padding in front, the others behind."""
  rng = np.random.default_rng(1)
  lengths = np.array((6, 4, 1))
  mask = np.arange(S) < lengths[:, None]
  if 'roberta' in config['model_type']:
    mask[1] = mask[1, ::-1]
  tokens = np.where(mask, rng.integers(2, V, (3, S)), config['pad_token_id'])
  return {
    'tokens': tokens.astype(np.int32),
    'mask': mask,
    'segments': rng.integers(0, config.get('type_vocab_size', 1), (3, S)).astype(np.int32),
  }


ACTIVATIONS = {
  'gelu': lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
  'gelu_new': oracles.gelu,
  'relu': oracles.relu,
}


def forward(config, values, tokens, segments):
  """Devlin et al., section 3, on one sentence `[S]`: post-norm blocks of Vaswani et al."""

  def linear(name, x):
    return x @ values[f'{name}.weight'].T + values[f'{name}.bias']

  def norm(name, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True) + config.get('layer_norm_eps', 1e-12)
    return centred / np.sqrt(variance) * values[f'{name}.weight'] + values[f'{name}.bias']

  first = config['pad_token_id'] + 1 if 'roberta' in config['model_type'] else 0
  x = values['embeddings.word_embeddings.weight'][tokens]
  x = x + values['embeddings.position_embeddings.weight'][first : first + len(tokens)]
  if 'type_vocab_size' in config:
    x = x + values['embeddings.token_type_embeddings.weight'][segments]
  x = norm('embeddings.LayerNorm', x)
  activation = ACTIVATIONS[config.get('hidden_act') or config['activation']]
  for i in range(LAYERS):
    q, k, v, out, norm_0, dense_0, dense_1, norm_1 = (n.format(i) for n in block_names(config))
    read = []
    for head in np.split(np.arange(D), HEADS):
      queries, keys, states = (linear(name, x)[:, head] for name in (q, k, v))
      read.append(oracles.softmax(queries @ keys.T / math.sqrt(D / HEADS)) @ states)
    x = norm(norm_0, x + linear(out, np.concatenate(read, axis=-1)))
    x = norm(norm_1, x + linear(dense_1, activation(linear(dense_0, x))))
  return x


@pytest.mark.parametrize('case', CHECKPOINTS)
def test_forward(case, tmp_path):
  folder = CHECKPOINTS[case](tmp_path)
  config = json.loads((folder / 'config.json').read_text())
  read = bert.load(folder)
  module, batch = Bert(**read.options), inputs(config)
  shapes = jax.eval_shape(module.init, jax.random.key(0), batch)['params']
  assert jax.tree.structure(read.params) == jax.tree.structure(shapes)
  for leaf, shape in zip(jax.tree.leaves(read.params), jax.tree.leaves(shapes), strict=True):
    assert isinstance(leaf, np.ndarray)
    assert leaf.dtype == np.float32
    assert leaf.shape == shape.shape
  got = np.asarray(jax.jit(module.apply)({'params': read.params}, batch))
  values = {
    name: value.astype(ROUNDED.get(case, np.float32)).astype(np.float64)
    for name, value in tensors(config).items()
  }
  for row, mask in enumerate(batch['mask']):
    expected = forward(config, values, batch['tokens'][row, mask], batch['segments'][row, mask])
    np.testing.assert_allclose(got[row, mask], expected, rtol=2e-5, atol=2e-5)


def test_the_first_layers_alone(tmp_path):
  folder = plain_bert(tmp_path)
  whole, one = bert.load(folder), bert.load(str(folder), layers=1)
  assert one.options == whole.options | {'layers': 1}
  kept = {name: whole.params[name] for name in ('embedding', '_Block_0')}
  jax.tree.map(np.testing.assert_array_equal, one.params, kept)
  with pytest.raises(ValueError, match='layers=3: the model has 2'):
    bert.load(folder, layers=3)


def small(dropout=0.0, dtype=jnp.float32, layers=1, remat=False):
  return Bert(V, D, layers, HEADS, F, 12, dropout=dropout, dtype=dtype, remat=remat)


def test_modes():
  got = modules.check_modes(small, inputs(BERT))
  assert not np.allclose(got['one'], got['without'])
  assert not np.allclose(got['one'], got['other'])


def test_dropout_is_where_bert_has_it():
  """On the embeddings, the attention's weights, and what each half of a block adds."""
  module, batch = small(dropout=0.5), inputs(BERT)
  params = modules.params(module, batch)

  def train(key):
    return module.apply({'params': params}, batch, train=True, rngs={'dropout': key})

  assert str(jax.make_jaxpr(train)(jax.random.key(0))).count('name=_bernoulli') == 4


def test_rematerialization_keeps_the_parameters():
  batch = inputs(BERT)
  plain, remat = (jax.eval_shape(small(remat=r).init, jax.random.key(0), batch) for r in (0, 1))
  assert jax.tree.structure(plain) == jax.tree.structure(remat)
  program = jax.make_jaxpr(small(remat=True).apply)(jax.tree.map(jnp.zeros_like, plain), batch)
  assert sum(e.primitive.name in ('remat2', 'checkpoint') for e in program.eqns) == 1


def test_segments_are_zero_where_they_are_not_given():
  module, batch = small(layers=0), inputs(BERT)
  params = {'params': modules.params(module, batch)}
  apply = jax.jit(module.apply)
  zeros = apply(params, batch | {'segments': np.zeros_like(batch['segments'])})
  assert not np.allclose(zeros, apply(params, batch))
  del batch['segments']
  np.testing.assert_array_equal(zeros, apply(params, batch))


@pytest.mark.parametrize('name', ['adapters', 'cross_stitch', 'hyper_adapters', 'lora', 'mmoe'])
def test_sharing_finds_its_layers(name):
  """By the default patterns, with a gate on `embedding`; all in shapes, nothing is compiled."""
  tasks = [Task(task, heads.Classification(2)) for task in 'ab']
  model = sharing.get(name)(small(), tasks)
  batch = {'inputs': inputs(BERT), 'targets': dict.fromkeys('ab', np.zeros(3, np.int32))}
  params = jax.eval_shape(model.init, jax.random.key(0), batch)
  losses = jax.eval_shape(model.losses, params, batch)
  assert losses.shape == (2,)


@pytest.mark.parametrize(
  ('options', 'length', 'message'),
  [
    ({}, 13, 'A sequence of 13 tokens is longer than the 12 positions'),
    ({'padding_id': 1}, 11, 'A sequence of 11 tokens is longer than the 10 positions'),
    ({'activation': 'gelu_nwe'}, 1, "no activation 'gelu_nwe'; did you mean 'gelu_new'"),
    ({'heads': 3}, 1, '3 heads do not divide 16 features'),
  ],
)
def test_what_the_model_cannot_do(options, length, message):
  kwargs = {'vocab_size': V, 'features': D, 'heads': HEADS, 'positions': 12} | options
  batch = {'tokens': np.zeros((1, length), np.int32), 'mask': np.ones((1, length), bool)}
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(Bert(**kwargs).init, jax.random.key(0), batch)


def removed(folder, config, values):
  del values['encoder.layer.1.output.dense.bias'], values['embeddings.LayerNorm.bias']
  write(folder, config, values)


def misshapen(folder, config, values):
  values['encoder.layer.0.intermediate.dense.weight'] = np.zeros((D, F), np.float32)
  write(folder, config, values)


def unexpected(folder, config, values):
  write(folder, config, values | {'encoder.layer.2.output.dense.bias': np.zeros(D, np.float32)})


def integers(folder, config, values):
  values['embeddings.LayerNorm.bias'] = np.zeros(D, np.int8)
  write(folder, config, values)


def twice(folder, config, values):
  name = 'embeddings.LayerNorm.bias'
  write(folder, config, values | {f'bert.{name}': values[name]})


def cut(folder, config, values):
  path = write(folder, config, values) / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])


def lost_shard(folder, config, values):
  write(folder, config, values, shards=2)
  (folder / 'model-00002-of-00002.safetensors').unlink()


def pickled(folder, config, values):
  (write(folder, config, values) / 'model.safetensors').rename(folder / 'pytorch_model.bin')


def nothing(folder, config, values):
  (write(folder, config, values) / 'model.safetensors').unlink()


def no_config(folder, config, values):
  (write(folder, config, values) / 'config.json').unlink()


def no_json(folder, config, values):
  (write(folder, config, values) / 'config.json').write_text('{')


def options(**changes):
  def break_it(folder, config, values):
    write(folder, config | changes, values)

  return break_it


BROKEN = [
  (removed, r'1.output.dense.bias is missing, need \[16\]; embeddings.LayerNorm.bias is missing'),
  (misshapen, r'intermediate.dense.weight in model.safetensors is \[16, 24\], need \[24, 16\]$'),
  (unexpected, 'encoder.layer.2.output.dense.bias in model.safetensors is unexpected$'),
  (integers, 'embeddings.LayerNorm.bias in model.safetensors holds I8, need one of'),
  (twice, "'embeddings.LayerNorm.bias' is there again as 'bert.embeddings.LayerNorm.bias'"),
  (cut, 'model.safetensors cannot be read'),
  (lost_shard, 'model-00002-of-00002.safetensors cannot be read'),
  (pickled, 'pytorch_model.bin only, a pickle, .*save_pretrained'),
  (nothing, 'has neither model.safetensors nor model.safetensors.index.json'),
  (no_config, 'config.json cannot be read: No such file'),
  (no_json, 'config.json cannot be read: it is no JSON'),
  (options(model_type='robert'), "no model_type 'robert'; did you mean 'roberta'.*distilbert"),
  (options(hidden_act='swish'), "no hidden_act 'swish'; Valid: gelu, gelu_new, relu"),
  (options(position_embedding_type='relative_key'), "no position_embedding_type 'relative_key'"),
  (options(is_decoder=True), 'no is_decoder True'),
  (options(num_attention_heads=3), '3 heads do not divide 16 features'),
  (options(hidden_size='16'), "hidden_size='16': need an integer from 1 on"),
  (options(layer_norm_eps=0), 'layer_norm_eps=0: need a positive number'),
]


@pytest.mark.parametrize(('break_it', 'message'), BROKEN)
def test_broken_checkpoints(break_it, message, tmp_path):
  break_it(tmp_path, dict(BERT), tensors(BERT))
  with pytest.raises(ValueError, match=message) as raised:
    bert.load(tmp_path)
  assert str(tmp_path) in str(raised.value)


def test_a_folder_in_a_package_that_is_not_imported(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  package = tmp_path / 'some_weights'
  package.mkdir()
  (package / '__init__.py').write_text('raise RuntimeError("imported")')
  plain_bert(package / 'inside')
  assert bert.load('some_weights:inside').directory == package / 'inside'
  plain_bert(package)
  assert bert.load('some_weights:').options['features'] == D
  for name, message in (
    ('some_weights:insid', "no folder 'insid'; did you mean 'inside'"),
    ('other_weights:inside', "no package 'other_weights' is installed"),
    ('inside', 'no such folder'),
  ):
    with pytest.raises(ValueError, match=message):
      bert.load(name)


WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'cafe', 'Café', 'play', '##ing', '##s', '!']


@pytest.mark.parametrize(
  ('given', 'ids'),
  [
    ({}, [2, 5, 7, 8, 3, 7, 9, 10, 4, 3]),
    ({'do_lower_case': False, 'cls_token': {'content': '[CLS]'}}, [2, 6, 7, 8, 3, 1, 10, 4, 3]),
  ],
)
def test_wordpiece(given, ids, tmp_path):
  (tmp_path / 'vocab.txt').write_text('\n'.join(WORDS) + '\n', encoding='utf-8')
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(given))
  made = bert.tokenizer(tmp_path)
  found = made.encode('Café playing', 'Plays![MASK]')
  assert found.ids == ids
  assert found.type_ids == [0] * 5 + [1] * (len(ids) - 5)
  assert made.encode('Café', add_special_tokens=False).ids == ids[1:2]
  made.enable_truncation(7)
  made.enable_padding(length=20)
  made.save(str(tmp_path / 'tokenizer.json'))
  assert bert.tokenizer(tmp_path).encode('Café playing', 'Plays![MASK]').ids == ids


def test_byte_level_bpe(tmp_path):
  """Sennrich et al. 2016 over bytes: Ġ is the blank, and é are the two bytes Ã ©."""
  merges = [('h', 'e'), ('he', 'l'), ('Ġ', 'hel'), ('Ã', '©')]
  words = ['<s>', '<pad>', '</s>', '<unk>', *'helĠÃ©', *map(''.join, merges), '<mask>']
  ids = {word: index for index, word in enumerate(words)}
  (tmp_path / 'vocab.json').write_text(json.dumps(ids))
  lines = ['#version: 0.2', *map(' '.join, merges)]
  (tmp_path / 'merges.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
  found = bert.tokenizer(tmp_path).encode('hel helé', 'he <mask>')
  tokens = ['<s>', 'hel', 'Ġhel', 'Ã©', '</s>', '</s>', 'he', '<mask>', '</s>']
  assert found.ids == [ids[token] for token in tokens]
  assert not any(found.type_ids)
  (tmp_path / 'tokenizer_config.json').write_text('{"add_prefix_space": true}')
  assert bert.tokenizer(tmp_path).encode('hel').tokens == ['<s>', 'Ġhel', '</s>']


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ({}, 'has no tokenizer: need tokenizer.json, vocab.txt, or'),
    ({'tokenizer.json': '{}'}, 'the tokenizer cannot be read'),
    ({'vocab.txt': '[PAD]\n[UNK]\n[CLS]'}, r"lacks the special token '\[SEP\]'"),
    ({'vocab.txt': '\n'.join(WORDS), 'config.json': '{"vocab_size": 9}'}, 'ids up to 10, and'),
  ],
)
def test_broken_tokenizers(files, message, tmp_path):
  for name, content in files.items():
    (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=message):
    bert.tokenizer(tmp_path)


@pytest.fixture(scope='module')
def minilm():
  try:
    return bert.load(bert.MINILM)
  except ValueError as error:
    if 'is installed' not in str(error):
      raise
    pytest.skip(f'MiniLM is no requirement: {error}')


def test_minilm_is_that_of_transformers(minilm):
  path = pathlib.Path(__file__).with_name('bert_reference.json')
  reference = json.loads(path.read_text(encoding='utf-8'))
  examples = reference['examples']
  encoded = bert.tokenizer(minilm.directory).encode_batch(
    [
      example['texts'][0] if len(example['texts']) == 1 else example['texts']
      for example in examples
    ]
  )
  longest = max(len(row.ids) for row in encoded)

  def padded(rows):
    return np.array([row + [0] * (longest - len(row)) for row in rows], np.int32)

  for row, example in zip(encoded, examples, strict=True):
    assert row.ids == example['tokens']
    assert row.type_ids == example['segments']
  batch = {
    'tokens': padded([row.ids for row in encoded]),
    'mask': padded([row.attention_mask for row in encoded]) > 0,
    'segments': padded([row.type_ids for row in encoded]),
  }
  states = jax.jit(Bert(**minilm.options).apply)({'params': minilm.params}, batch)
  for found, example in zip(np.asarray(states), examples, strict=True):
    found = found[: len(example['tokens'])]
    np.testing.assert_allclose(found[:, :: reference['stride']], example['states'], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), example['norms'], atol=1e-4)


def test_vocab_txt_makes_the_tokenizer_of_tokenizer_json(minilm, tmp_path):
  for name in ('vocab.txt', 'tokenizer_config.json'):
    (tmp_path / name).write_bytes((minilm.directory / name).read_bytes())
  texts = ['Ünïcode, CamelCase & 東京!', 'a [MASK] token\tof\u00a0sorts', '', 'ﬁ ２ \u0000 x' * 100]
  made, given = bert.tokenizer(tmp_path), bert.tokenizer(minilm.directory)
  assert isinstance(made, tokenizers.Tokenizer)
  for first in texts:
    for pair in (None, texts[0]):
      ours, theirs = made.encode(first, pair), given.encode(first, pair)
      assert (ours.ids, ours.type_ids) == (theirs.ids, theirs.type_ids)
