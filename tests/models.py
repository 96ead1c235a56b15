"""Small models and batches that the core's tests share: four kinds of task, two regimes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

import mtl_jax
from mtl_jax import Task, encoders, heads, sharing

B, S, P = 16, 8, 4
NAMES = ('intent', 'slots', 'topics', 'score')


def tasks(text=True):
  pooling = 'attention' if text else 'mean'
  made = [
    Task('intent', heads.get('classification', num_classes=5, pooling=pooling)),
    Task('slots', heads.get('tagging', num_classes=7, sentence='max'), kind='tagging', weight=0.5),
    Task('topics', heads.get('multilabel', num_classes=3), kind='multilabel'),
    Task('score', heads.get('regression', pooling='first'), kind='regression'),
  ]
  return made if text else [made[0], *made[2:]]


def model(encoder='transformer', dropout=0.0, share=sharing.hard):
  if encoder == 'mlp':
    return share(encoders.MLP((16, 16), dropout), tasks(text=False))
  embedding = encoders.Embedding(50, 16, pieces_vocab_size=20, dropout=dropout)
  return share(
    encoders.get(encoder, embedding=embedding, features=16, layers=1, dropout=dropout), tasks()
  )


def inputs(seed=0, length=S, batch=B):
  rng = np.random.default_rng(seed)
  mask = np.arange(length) < rng.integers(1, length + 1, (batch, 1))
  return {
    'tokens': (rng.integers(2, 50, (batch, length)) * mask).astype(np.int32),
    'mask': mask,
    'pieces': rng.integers(0, 20, (batch, length, P)).astype(np.int32) * mask[..., None],
  }


def targets(seed=0, length=S, batch=B):
  rng = np.random.default_rng(seed)
  return {
    'intent': rng.integers(-1, 5, (batch,)).astype(np.int32),
    'slots': rng.integers(-1, 7, (batch, length)).astype(np.int32),
    'topics': rng.integers(0, 2, (batch, 3)).astype(np.int32),
    'score': rng.normal(size=(batch,)).astype(np.float32),
  }


def shared_batch(encoder='transformer', seed=0):
  mask = {'score': np.arange(B) < B // 2}
  labels = targets(seed)
  if encoder == 'mlp':
    del labels['slots']
    x = np.random.default_rng(seed).normal(size=(B, 6)).astype(np.float32)
    return {'inputs': x, 'targets': labels, 'mask': mask}
  return {'inputs': inputs(seed), 'targets': labels, 'mask': mask}


def own_batch(lengths=(S, S, S, S)):
  """One example set a task; equal lengths give equal shapes."""
  return {
    name: {'inputs': inputs(i, length), 'targets': targets(i, length)[name]}
    for i, (name, length) in enumerate(zip(NAMES, lengths, strict=True))
  }


def init(model, batch):
  """Fresh parameters; compiled, since thousands of eager operations take longer."""
  return jax.jit(model.init)(jax.random.key(0), batch)


def drawn(model, batch, seed=0):
  """Normal numbers in place of `init`, which takes longer to compile."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


@functools.cache
def first_params(encoder):
  """Parameters of `model(encoder)` as they are initialized, compiled once; no step takes them."""
  return jax.tree.map(np.asarray, init(model(encoder), shared_batch(encoder)))


def losses(model, params, batch, key=None):
  """The plain losses `[T]`, compiled."""
  return jax.jit(model.losses)(params, batch, key)


def jacobian(model, params, batch, key=None):
  """The plain losses `[T]` and each one's gradient, leaves `[T, ...]`: a backward pass for each."""
  losses, pull = jax.vjp(lambda p: model.losses(p, batch, key), params)
  return losses, jax.lax.map(lambda one: pull(one)[0], jnp.eye(len(losses)))


def halves(model, rows):
  """The Jacobian of all parameters as the task gradients: of a task's own parameters its row."""
  own = {
    name: jax.tree.map(lambda leaf, i=i: leaf[i], rows['tasks'][name])
    for i, name in enumerate(model.task_names)
  }
  return {'shared': rows['shared'], 'tasks': own}


def loss_by_loss(model, params, batch, key=None):
  """The plain losses and each one's gradient, compiled: the way that is independent of ours."""
  losses, rows = jax.jit(lambda p, b: jacobian(model, p, b, key))(params, batch)
  return losses, halves(model, rows)


def both_ways(model, params, batch, key=None, **options):
  """Losses and gradients by `task_gradients` and loss by loss, in one program."""

  def find(params, batch):
    ours = mtl_jax.task_gradients(model, params, batch, key, **options)
    return ours, jacobian(model, params, batch, key)

  ours, (losses, rows) = jax.jit(find)(params, batch)
  return ours, (losses, halves(model, rows))


def assert_trees_close(actual, expected, tolerance=2e-5):
  """Leaf by leaf, relative to the leaf's largest entry or 1e-2, whichever is more."""
  scales = jax.tree.map(lambda e: max(np.abs(e).max(initial=0.0), 1e-2), expected)

  def scaled(tree):
    return jax.tree.map(lambda x, scale: np.asarray(x, np.float64) / scale, tree, scales)

  chex.assert_trees_all_close(scaled(actual), scaled(expected), rtol=0, atol=tolerance)
