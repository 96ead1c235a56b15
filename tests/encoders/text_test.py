"""Text encoders against float64 NumPy on the unpadded sentences, so padding is tested with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import encoders
from mtl_jax.encoders import _attention
from tests.encoders import modules, oracles

V, PIECES, LENGTHS, S = 20, 9, (6, 4, 1), 8


def inputs(seed=0, length=S):
  """Three sentences; what stands in the padding of `tokens` must not matter."""
  rng = np.random.default_rng(seed)
  tokens, pieces = rng.integers(0, V, (3, 12)), rng.integers(0, PIECES, (3, 12, 4))
  return {
    'tokens': tokens[:, :length].astype(np.int32),
    'mask': np.arange(length) < np.array(LENGTHS)[:, None],
    'pieces': pieces[:, :length].astype(np.int32),
  }


def embedding(features=6, pieces=0, dropout=0.0, dtype=jnp.float32):
  return encoders.Embedding(
    V, features, pieces_vocab_size=pieces, pieces_features=2, dropout=dropout, dtype=dtype
  )


def transformer(features=6, **kwargs):
  return encoders.Transformer(
    embedding(features), features=8, layers=2, heads=2, mlp_features=10, **kwargs
  )


CASES = {
  'cnn': (encoders.CNN(embedding(), features=3), oracles.cnn),
  'cnn of states': (
    encoders.CNN(embedding(), features=3, widths=(2, 3), pool=False),
    lambda p, x: oracles.cnn(p, x, (2, 3), pool=False),
  ),
  'lstm': (
    encoders.LSTM(embedding(), features=4, layers=2),
    lambda p, x: oracles.lstm(p, x, layers=2),
  ),
  'bilstm': (
    encoders.BiLSTM(embedding(pieces=PIECES), features=4, layers=2),
    lambda p, x: oracles.bilstm(p, x, layers=2),
  ),
  'transformer': (transformer(), lambda p, x: oracles.transformer(p, x, 2)),
  'post-norm, sinusoidal': (
    transformer(8, norm='post', position='sinusoidal', max_length=1),
    lambda p, x: oracles.transformer(p, x, 2, 'post', 'sinusoidal'),
  ),
  'pre-norm, rotary': (
    transformer(8, position='rotary', max_length=1),
    lambda p, x: oracles.transformer(p, x, 2, 'pre', 'rotary'),
  ),
}


@pytest.mark.parametrize('case', CASES)
def test_forward(case):
  module, oracle = CASES[case]
  batch = inputs()
  params = modules.params(module, batch)
  got = jax.jit(module.apply)({'params': params}, batch)
  p = modules.exact(params)
  pieces = batch['pieces'] if module.embedding.pieces_vocab_size else None
  for row, length in enumerate(LENGTHS):
    parts = None if pieces is None else pieces[row, :length]
    expected = oracle(p, oracles.embed(p['embedding'], batch['tokens'][row, :length], parts))
    states = got[row] if expected.ndim == 1 else got[row, :length]
    np.testing.assert_allclose(states, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('case', ['cnn', 'bilstm', 'transformer'])
def test_the_length_of_a_batch_changes_nothing(case):
  """The test above has one length of batches; this one gives each its own program."""
  module, _ = CASES[case]
  params = {'params': modules.params(module, inputs())}
  short, long = (jax.jit(module.apply)(params, inputs(length=length)) for length in (6, 12))
  for row, length in enumerate(LENGTHS):
    a, b = (x[row] if x.ndim == 2 else x[row, :length] for x in (short, long))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', encoders.TEXT)
def test_modes(name):
  def make(dropout, dtype):
    width = {} if name == 'cnn' else {'layers': 1}
    width |= {'heads': 2, 'mlp_features': 10} if name == 'transformer' else {}
    inner = embedding(pieces=PIECES, dropout=dropout, dtype=dtype)
    return encoders.get(name, embedding=inner, features=8, dropout=dropout, dtype=dtype, **width)

  got = modules.check_modes(make, inputs())
  assert not np.allclose(got['one'], got['without'])
  assert not np.allclose(got['one'], got['other'])


def test_rematerialization_changes_no_number():
  batch = inputs()
  plain, remat = (transformer(dropout=0.3, remat=remat) for remat in (False, True))
  params = modules.params(plain, batch)
  shapes = jax.eval_shape(remat.init, jax.random.key(0), batch)['params']
  assert jax.tree.structure(shapes) == jax.tree.structure(params)
  for module, count in ((plain, 0), (remat, 2)):  # once a block
    program = jax.make_jaxpr(module.apply)({'params': params}, batch)
    assert sum(e.primitive.name in ('remat2', 'checkpoint') for e in program.eqns) == count

  @jax.jit
  def both(params):
    def loss(params, module):
      rngs = {'dropout': jax.random.key(0)}
      return jnp.sum(module.apply({'params': params}, batch, train=True, rngs=rngs) ** 2)

    return [jax.value_and_grad(loss)(params, module) for module in (plain, remat)]

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *both(params))


def test_attention_drops_weights_of_every_example_and_head_by_themselves():
  """As in the papers; Flax by default drops the same ones of the whole batch."""
  states = jnp.ones((2, 4, 2, 3))  # equal examples and heads
  out = np.asarray(
    _attention._attention(
      states, states, states, dropout_rate=0.5, dropout_rng=jax.random.key(0), deterministic=False
    )
  )
  assert not np.array_equal(out[0], out[1])
  assert not np.array_equal(out[:, :, 0], out[:, :, 1])


def test_rotary_products_depend_on_the_distance():
  rng = np.random.default_rng(0)
  q, k = (np.tile(rng.normal(size=(1, 1, 1, 6)), (1, 9, 1, 1)).astype(np.float32) for _ in 'qk')
  products = np.einsum('bqhd,bkhd->qk', _attention.rotate(q), _attention.rotate(k))
  for distance in (0, 3, -5):
    diagonal = np.diagonal(products, distance)
    np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-5)
  assert np.ptp(products) > 0.1


def test_a_row_without_tokens_is_finite():
  """Evaluation fills its last batch up with such rows."""
  batch = inputs()
  batch['mask'] = np.zeros_like(batch['mask'])
  for case in ('cnn', 'bilstm', 'transformer'):
    module, _ = CASES[case]
    got = jax.jit(module.apply)({'params': modules.params(module, batch)}, batch)
    assert np.isfinite(got).all(), case


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: transformer(norm='pos'), "no norm 'pos'; did you mean 'post'"),
    (lambda: transformer(position='rotery'), "no position 'rotery'; did you mean 'rotary'"),
    (lambda: encoders.Transformer(embedding(), 9, heads=2), '2 heads do not divide 9 features'),
    (lambda: encoders.Transformer(embedding(), 6, heads=2, position='rotary'), 'are 3 a head'),
    (lambda: encoders.CNN(embedding(), widths=()), 'widths: need one or more integers from 1'),
    (lambda: encoders.CNN(embedding(), widths=(0,)), 'widths: need'),
  ],
)
def test_options_that_do_not_fit(make, message):
  with pytest.raises(ValueError, match=message):
    make()
