"""139 regressions at once: exam scores of the pupils of 139 London schools, by `sharing.ManyTasks`.

    python -m benchmarks.school FILE [--steps 300] [--splits 10]

FILE is the public MATLAB file school.mat with the cells X (1 × 139, each n × 28) and Y. Each split
trains on 75% of every school and tests on the rest; all splits are trained in one program (`vmap`).
Explained variance: 1 − Σ(y − ŷ)² / Σ(y − ȳ)² over all test pupils, in percent (Argyriou, Evgeniou &
Pontil, Convex Multi-Task Feature Learning, Machine Learning 2008). The penalty on the weights is
that of every method, and was not tuned on the test pupils.
"""

import argparse
import functools
import time

import jax
import numpy as np
import optax
import scipy.io
import scipy.stats

import mtl_jax
from mtl_jax import Task, encoders, heads, memory, optim, sharing

METHODS = {
  'sum_tasks': lambda: optim.sum_tasks(),
  'famo': lambda: optim.famo(),
  'uncertainty': lambda: optim.uncertainty(),
  'mgda of the representation': lambda: optim.mgda(),
}


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('file')
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--splits', type=int, default=10)
  args = parser.parse_args(argv)
  memory.keep_freed()
  x, y, known = padded(scipy.io.loadmat(args.file))
  train = np.stack([chosen(known, seed) for seed in range(args.splits)])
  test = known & ~train
  middle = np.array([y[mask].mean() for mask in train])  # of the training pupils
  print('| method | explained variance (%) | ms a step of one split |\n|---|---|---|')
  for name in METHODS:
    one = functools.partial(fitted, name, x, y, args.steps)
    program = jax.jit(jax.vmap(one)).lower(train, middle, np.arange(args.splits)).compile()
    start = time.perf_counter()
    found = np.asarray(program(train, middle, np.arange(args.splits)))
    seconds = (time.perf_counter() - start) / args.steps / args.splits
    shares = [
      100 * (1 - np.square(y - f)[mask].sum() / np.square(y - y[mask].mean())[mask].sum())
      for f, mask in zip(found, test, strict=True)
    ]
    half = (
      2.262 * np.std(shares, ddof=1) / np.sqrt(len(shares))
    )  # Student's t, 9 degrees of freedom
    print(f'| {name} | {np.mean(shares):.2f} ± {half:.2f} | {seconds * 1e3:.2f} |')


def padded(found):
  """Inputs `[T, N, 27]` standardized, scores `[T, N]`, and which pupils there are `[T, N]`."""
  inputs, scores = found['X'].ravel(), found['Y'].ravel()
  longest = max(map(len, inputs))
  x = np.zeros((len(inputs), longest, inputs[0].shape[1]), np.float32)
  y, known = np.zeros((len(inputs), longest), np.float32), np.zeros((len(inputs), longest), bool)
  for i, (rows, score) in enumerate(zip(inputs, scores, strict=True)):
    x[i, : len(rows)], y[i, : len(rows)], known[i, : len(rows)] = rows, score.ravel(), True
  flat = x[known]
  spread = flat.std(axis=0)
  return (
    np.where(known[..., None], (x - flat.mean(axis=0)) / np.where(spread, spread, 1), 0),
    y,
    known,
  )


def chosen(known, seed):
  """75% of the pupils of every school."""
  rng, mask = np.random.default_rng(seed), np.zeros_like(known)
  for i, row in enumerate(known):
    pupils = rng.permutation(int(row.sum()))
    mask[i, pupils[: round(0.75 * len(pupils))]] = True
  return mask


def fitted(name, x, y, steps, mask, mean, seed):
  """Predictions `[T, N]` of one split."""
  task = Task('school', heads.get('regression'), kind='regression')
  model = sharing.ManyTasks(encoders.MLP((32,)), task, len(x))
  batch = {'inputs': x, 'targets': (y - mean) / 10, 'mask': mask}
  optimizer = optax.adamw(optax.cosine_decay_schedule(1e-2, steps), weight_decay=0.3)
  balance, at = METHODS[name](), 'representation' if 'representation' in name else 'parameters'
  state = mtl_jax.init_train_state(model, balance, optimizer, jax.random.key(seed), batch)
  step = mtl_jax.make_train_step(model, balance, optimizer, at=at, jit=False)
  state, _ = jax.lax.scan(lambda s, _: (step(s, batch)[0], None), state, length=steps)
  return 10 * model.outputs(state.params, batch) + mean


if __name__ == '__main__':
  main()
