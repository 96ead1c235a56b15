"""Models are trained from JAX, Flax, optax and what scores need: a run's packages serve runs alone.

In a process of its own, where those packages cannot be imported. Flax loads some of them itself.
"""

import json
import os
import subprocess
import sys

import numpy as np

BLOCKED = (
  'grain',
  'tensorflow_datasets',
  'ml_collections',
  'seqeval',
  'tensorboardX',
  'tokenizers',
  'matplotlib',
  'rich',
)
SCRIPT = """
import importlib.abc, json, sys, tempfile
import flax.linen, optax, orbax.checkpoint

blocked = set(json.loads(sys.argv[1]))

class Blocked(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in blocked:
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)

for name in [name for name in sys.modules if name.partition('.')[0] in blocked]:
  del sys.modules[name]
sys.meta_path.insert(0, Blocked())

import jax
import numpy as np
import mtl_jax
from mtl_jax import Task, checkpoint, encoders, heads, metrics, optim, sharing
from mtl_jax.build import flops, optimizer, transfer
from mtl_jax.toys import problems

rng = np.random.default_rng(0)
batch = {
  'inputs': rng.normal(size=(16, 8)).astype(np.float32),
  'targets': {
    'digit': rng.integers(0, 3, 16).astype(np.int32),
    'angle': rng.normal(size=16).astype(np.float32),
  },
}
model = sharing.hard(
  encoders.MLP((16, 16)),
  [
    Task('digit', heads.get('classification', num_classes=3)),
    Task('angle', heads.get('regression'), kind='regression'),
  ],
)
balance = optim.compose(optim.gradnorm(), optim.pcgrad())
adam = optax.adamw(1e-2)
state = mtl_jax.init_train_state(model, balance, adam, jax.random.key(0), batch)
step = mtl_jax.make_train_step(model, balance, adam)
losses = []
for _ in range(2):
  state, seen = step(state, batch)
  losses.append(seen['loss'].tolist())
with checkpoint.Checkpoints(tempfile.mkdtemp()) as checkpoints:
  checkpoints.save(2, state, {}, best=True)
  state, _ = checkpoints.restore(state)
result = mtl_jax.make_eval_step(model)(state.params, batch)
scored = {'digit': ('classification', ('accuracy',), None), 'angle': ('regression', ('mse',), None)}
accumulator = metrics.Accumulator(scored)
accumulator.add(batch['targets'], None, result)
outputs = {name: np.asarray(value).tolist() for name, value in result['outputs'].items()}
targets = {name: value.tolist() for name, value in batch['targets'].items()}
found = accumulator.compute()['metrics']
print(json.dumps({'losses': losses, 'outputs': outputs, 'targets': targets, 'metrics': found}))
"""


def test_a_model_is_trained_and_scored_without_the_packages_of_runs():
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT, json.dumps(BLOCKED)],
    env=environment | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  said = json.loads(done.stdout)
  first, second = np.array(said['losses'])
  assert np.all(second < first)
  outputs, targets = said['outputs'], said['targets']
  right = np.mean(np.array(outputs['digit']) == np.array(targets['digit']))
  error = np.mean((np.array(outputs['angle']) - np.array(targets['angle'])) ** 2)
  np.testing.assert_allclose(said['metrics']['digit']['accuracy'], right, rtol=1e-6)
  np.testing.assert_allclose(said['metrics']['angle']['mse'], error, rtol=1e-5)
