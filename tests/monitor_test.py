"""The monitor: what it measures against float64 NumPy, what it costs, what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_jax
from mtl_jax import monitor, sharding
from tests import models

PARAMS = {'w': jnp.array([0.3, -0.2, 0.7])}
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def losses(params, x, scale=1.0):
  """In an order that is not the alphabet's."""
  out = x @ params['w']
  return {
    'up': jnp.mean((out - 2.0) ** 2),
    'down': scale * jnp.mean((out + 2.0) ** 2),
    'narrow': jnp.mean(out**2),
  }


def rows(scale=1.0):
  out = X.astype(np.float64) @ np.array([0.3, -0.2, 0.7], np.float32).astype(np.float64)
  return np.stack([2 * (out - 2) @ X, scale * 2 * (out + 2) @ X, 2 * out @ X]) / len(X)


def test_measures_are_those_of_numpy():
  J = rows()
  seen = jax.jit(monitor.watch(losses, every=5))(10, PARAMS, X)
  G = J @ J.T
  norm = np.sqrt(np.diag(G))
  assert seen.names == ('up', 'down', 'narrow')
  np.testing.assert_allclose(seen.norm, norm, rtol=1e-5)
  np.testing.assert_allclose(seen.cosine, G / np.outer(norm, norm), rtol=1e-4, atol=1e-6)
  off = G[np.triu_indices(3, 1)]
  np.testing.assert_allclose(seen.conflict, np.mean(off < 0))
  np.testing.assert_allclose(seen.improved, np.mean(G.sum(axis=1) > 0))
  shares = np.linalg.svd(J, compute_uv=False)
  shares = shares[shares > 0] / shares.sum()
  np.testing.assert_allclose(seen.rank, np.exp(-np.sum(shares * np.log(shares))), rtol=1e-3)
  direct = monitor.of_gradients({'w': J.astype(np.float32)})
  np.testing.assert_allclose(direct.cosine, seen.cosine, rtol=1e-4, atol=1e-6)
  along_first = monitor.of_gradients(
    {'w': J.astype(np.float32)}, direction={'w': J[0].astype(np.float32)}
  )
  np.testing.assert_allclose(along_first.improved, np.mean(J @ J[0] > 0))


def test_nothing_is_measured_in_between():
  """The gradients stand in one branch of a conditional; a scan tells the steps apart."""
  watch = monitor.watch(losses, every=4)

  def train(params):
    def step(params, index):
      seen = watch(index, params, X)
      grads = jax.grad(lambda p: sum(losses(p, X).values()))(params)
      return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), seen

    return jax.lax.scan(step, params, jnp.arange(10))

  _, seen = jax.jit(train)(PARAMS)
  assert np.isfinite(seen.conflict).tolist() == [i % 4 == 0 for i in range(10)]
  assert np.isfinite(seen.cosine).all(axis=(1, 2)).tolist() == [i % 4 == 0 for i in range(10)]
  program = str(jax.make_jaxpr(train)(PARAMS))
  assert 'cond[' in program
  assert str(monitor.verdict(seen)).startswith('conflict: the tasks conflict')


@pytest.mark.parametrize('regime', ['shared', 'own'])
def test_models_and_meshes(regime):
  """An absent task is NaN, and takes no part in the shares."""
  model = models.model('mlp')
  batch = models.shared_batch('mlp')
  params = models.init(model, batch)
  if regime == 'own':
    batch = {
      name: {'inputs': batch['inputs'], 'targets': batch['targets'][name]}
      for name in ('intent', 'topics')
    }
  found = []
  for mesh in (None, sharding.make_mesh(8, 1)):
    placed = batch if mesh is None else sharding.shard_batch(batch, mesh)
    found.append(jax.jit(monitor.watch(model, every=1))(0, params, placed))
  models.assert_trees_close(found[1].norm[:2], found[0].norm[:2])
  assert found[0].names == ('intent', 'topics', 'score')
  assert np.isfinite(found[0].norm).tolist() == [True, True, regime == 'shared']
  _, grads = jax.jit(lambda p: mtl_jax.task_gradients(model, p, batch))(params)
  square = sum(np.sum(np.square(g[0])) for g in jax.tree.leaves(grads['shared']))
  np.testing.assert_allclose(found[0].norm[0], np.sqrt(square), rtol=1e-5)


def measured(steps, cosine, ratio=1.0, improved=1.0):
  """Two tasks with given cosines over time."""
  cosines = np.ones((steps, 2, 2))
  cosines[:, 0, 1] = cosines[:, 1, 0] = cosine
  return monitor.Measures(
    np.zeros((steps, 2)),
    np.tile([1.0, ratio], (steps, 1)),
    cosines,
    np.broadcast_to(np.less(cosine, 0), (steps,)).astype(float),
    np.full(steps, improved),
    np.full(steps, 1.5),
    ('pos', 'ner'),
  )


VERDICTS = {
  'alike': (measured(9, 0.5), ['hardly', 'of like size', 'not likely to matter']),
  'scales': (measured(9, 0.5, 0.01), ['hardly', '100-fold', 'pos has the largest', 'gradnorm']),
  'against': (
    measured(9, -0.9, 1.0, 0.5),
    [
      'conflict often',
      'pos and ner, mean cosine -0.90, negative in 100%',
      'likely to matter: by direction',
    ],
  ),
  'later': (
    measured(9, np.repeat([0.2, 0.1, -0.2], 3)),
    ['more and more as training goes on (0% > 0% > 100% by thirds)', 'directions may matter'],
  ),
  'both': (measured(9, -0.9, 100.0, 0.5), ['by scale first', 'ner has the largest']),
}


@pytest.mark.parametrize('case', VERDICTS)
def test_the_verdict_says_what_was_seen(case):
  seen, words = VERDICTS[case]
  text = str(monitor.verdict(seen))
  for word in words:
    assert word in text, text
  apart = [jax.tree.map(lambda leaf, i=i: leaf[i], seen) for i in range(9)]
  assert str(monitor.verdict(apart)) == text


def test_a_picture_and_errors(tmp_path):
  monitor.picture(measured(9, -0.2), tmp_path / 'seen.png', every=10)
  assert (tmp_path / 'seen.png').read_bytes().startswith(b'\x89PNG')
  with pytest.raises(ValueError, match=r'must end in \.png'):
    monitor.picture(measured(9, -0.2), tmp_path / 'seen.pdf')
  with pytest.raises(ValueError, match='every=0'):
    monitor.watch(losses, every=0)
  with pytest.raises(ValueError, match='Nothing was measured'):
    monitor.verdict(jax.jit(monitor.watch(losses, every=5))(1, PARAMS, X))
