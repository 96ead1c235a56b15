"""Gramians, directions and cosines on this device beside float64 on the host.

python -m benchmarks.exactness

* Task gradients of 512 numbers in float32 and bfloat16: random, nearly cancelling, and of lengths
  from 1e-4 to 1e4. Errors are the largest: of the Gramian relative to ‖gᵢ‖‖gⱼ‖; of a direction
  relative to its length, where rows nearly cancel at least to a tenth of the longest. The oracles
  are those of the tests, on the float64 values of the same rows.
* Gradients of 200,003 numbers ±(1 + 2⁻¹²), which TF32 rounds to ±1: over random numbers, so many
  roundings would average out.
* Cosines of an MLP's gradients, whose own products are as precise as JAX is told.

`J @ J.T` is what JAX multiplies without being told a precision: on a GPU, TF32. Exits with 1 where
a bound is missed.
"""

import argparse
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtl_jax
from benchmarks import machine, steps
from mtl_jax import gradients, optim
from tests.optim import oracles, oracles_gramian, oracles_solvers

COLUMNS, MANY = 512, 200_003
KINDS = ('random', 'conflicting', 'scaled')
Oracle = Callable[[np.ndarray], np.ndarray]


def methods(tasks: int) -> dict[str, tuple[optim.Balancer, Oracle]]:
  order, equal = np.tile(np.arange(tasks), (tasks, 1)), np.full(tasks, 1 / tasks)
  return {
    'pcgrad': (optim.pcgrad(order='index'), lambda rows: oracles.pcgrad(rows, order)),
    'mgda': (optim.mgda(), oracles_solvers.shortest_in_hull),
    'upgrad': (optim.upgrad(), lambda rows: oracles_solvers.upgrad(rows, 1e-4)),
    'cagrad': (optim.cagrad(), lambda rows: oracles_solvers.cagrad(rows, 0.5)),
    'nash_mtl': (optim.nash_mtl(max_norm=0.0), lambda rows: oracles_solvers.fair(rows) @ rows),
    'imtl_g': (optim.imtl_g(), oracles_gramian.imtl_g),
    'aligned_mtl': (
      optim.aligned_mtl(scale_mode='min'),
      lambda rows: oracles_gramian.aligned_mtl(rows, equal, 'min'),
    ),
    'config': (optim.config(), lambda rows: oracles_gramian.config(rows, equal)),
  }


def jacobian(kind: str, tasks: int) -> np.ndarray:
  rows = np.random.default_rng(tasks).normal(size=(tasks, COLUMNS))
  if kind == 'conflicting':
    rows -= 0.99 * rows.mean(axis=0)
  if kind == 'scaled':
    rows *= np.logspace(-4, 4, tasks)[:, None]
  return rows.astype(np.float32)


Errors = dict[str, tuple[float, float | None]]
"""What was measured: the largest error, and its bound."""


def of_methods(tasks: int, dtype: jnp.dtype) -> Errors:
  table = methods(tasks)

  @jax.jit
  def on_device(rows):
    tree = split(rows)
    gram, present = gradients.gramian(tree), jnp.ones(tasks, bool)
    weights = {
      name: tx.weighting.update(tx.init({}), present=present, gramian=gram)[0]
      for name, (tx, _) in table.items()
    }
    directions = {name: gradients.combine(w, tree) for name, w in weights.items()}
    return gram, jnp.dot(rows, rows.T), weights, directions

  worst: dict[str, float] = {}

  def note(name: str, error: float) -> None:
    worst[name] = max(worst.get(name, 0.0), float(error))

  for kind in KINDS:
    rows = jnp.asarray(jacobian(kind, tasks)).astype(dtype)
    exact = np.asarray(rows.astype(jnp.float32), np.float64)
    norms = np.linalg.norm(exact, axis=1)
    gram, plain, weights, directions = jax.device_get(on_device(rows))
    for name, found in (('Gramian', gram), ('J @ J.T', plain)):
      difference = np.asarray(found, np.float64) - exact @ exact.T
      note(name, np.max(np.abs(difference) / np.outer(norms, norms)))
    basis, small = np.linalg.qr(exact.T)  # inner products decide: T coordinates are enough
    for name, (_, oracle) in table.items():
      if name == 'nash_mtl' and kind == 'conflicting':
        continue  # its weights grow without bound as rows cancel
      expected = basis @ oracle(small.T)
      length = np.linalg.norm(expected)
      length = max(length, 0.1 * norms.max()) if kind == 'conflicting' else length
      w = np.asarray(weights[name], np.float64)
      note(name, np.linalg.norm(w @ exact - expected) / length)
      flat = np.concatenate([np.ravel(leaf) for leaf in directions[name].values()])
      terms = np.abs(w) @ np.abs(exact) + np.finfo(np.float32).tiny
      note('Jᵀw', np.max(np.abs(flat.astype(np.float64) - w @ exact) / terms))
  rounding = 2**-8 if dtype == jnp.bfloat16 else 1e-6  # of the direction, in the gradients' dtype
  bounds = {'Gramian': 2e-6, 'Jᵀw': rounding} | dict.fromkeys(table, 1e-5)
  return {name: (error, bounds.get(name)) for name, error in worst.items()}


def of_many(dtype: jnp.dtype) -> Errors:
  """Gramian and Jᵀw of rows whose numbers are all rounded alike."""
  signs = np.random.default_rng(0).choice([-1.0, 1.0], (8, MANY))
  rows = jnp.asarray(signs * (1 + 2**-12), jnp.float32).astype(dtype)
  exact, w = np.asarray(rows.astype(jnp.float32), np.float64), np.linspace(0.1, 1.3, 8)

  @jax.jit
  def on_device(rows, w):
    tree = split(rows)
    return gradients.gramian(tree), jnp.dot(rows, rows.T), gradients.combine(w, tree)

  gram, plain, tree = jax.device_get(on_device(rows, jnp.asarray(w, jnp.float32)))
  norms = np.linalg.norm(exact, axis=1)
  flat = np.concatenate([np.ravel(leaf) for leaf in tree.values()]).astype(np.float64)
  errors = [
    np.max(np.abs(np.asarray(found, np.float64) - exact @ exact.T) / np.outer(norms, norms))
    for found in (gram, plain)
  ]
  weighed = np.max(np.abs(flat - w @ exact) / (w @ np.abs(exact)))
  rounding = 2**-8 if dtype == jnp.bfloat16 else 1e-6
  names = ('Gramian', 'J @ J.T', 'Jᵀw')
  bounds = (2e-5, None, rounding)  # float32 adds up so many numbers to 1e-5, in some orders
  found = (*errors, weighed)
  return {
    f'{name}, D = {MANY}': (float(error), bound)
    for name, error, bound in zip(names, found, bounds, strict=True)
  }


def split(rows: jax.Array) -> dict[str, jax.Array]:
  """Two leaves, so that a leaf's mistake shows."""
  cut = rows.shape[1] // 3
  return {'a': rows[:, :cut], 'b': rows[:, cut:, None]}


def cosines() -> Errors:
  """Matrix-free beside stacked gradients, on an MLP whose products are the model's own."""
  setup = steps.Setup()
  model, batch = steps.mlp(4, setup), steps.batch_of(steps.vectors, 4, 256, setup)
  found = {}
  for precision in ('default', 'highest'):
    for way in ('stacked', 'matrix_free'):
      state = mtl_jax.init_train_state(
        model, optim.pcgrad(), optax.sgd(0.1), jax.random.key(0), batch
      )
      step = mtl_jax.make_train_step(model, optim.pcgrad(), optax.sgd(0.1), jacobian=way)
      with jax.default_matmul_precision(precision):
        found[precision, way] = np.asarray(step(state, batch)[1]['cosine'])
  exact = found['highest', 'stacked']
  return {
    'cosines, the model in float32: matrix-free': (
      float(np.abs(found['highest', 'matrix_free'] - exact).max()),
      1e-5,
    ),
    'cosines, the model as JAX multiplies: stacked': (
      float(np.abs(found['default', 'stacked'] - exact).max()),
      None,
    ),
    'cosines, the model as JAX multiplies: matrix-free': (
      float(np.abs(found['default', 'matrix_free'] - exact).max()),
      None,
    ),
  }


def main() -> int:
  argparse.ArgumentParser(
    description=__doc__.split('\n', maxsplit=1)[0], prog='python -m benchmarks.exactness'
  ).parse_args()
  print(machine.begin(), end='\n\n')
  print('| T | gradients | | largest error | at most | |\n| --- | --- | --- | --- | --- | --- |')
  missed = 0

  def show(tasks: int, gradient: str, rows: Errors) -> None:
    nonlocal missed
    for name, (error, bound) in rows.items():
      bad = bound is not None and not error <= bound
      missed += bad
      limit = '' if bound is None else f'{bound:.0e}'
      print(
        f'| {tasks} | {gradient} | {name} | {error:.1e} | {limit} | {"MISSED" if bad else ""} |',
        flush=True,
      )
      machine.record(
        'exactness', tasks=tasks, gradients=gradient, of=name, error=error, at_most=bound
      )

  for tasks, dtype in ((8, jnp.float32), (8, jnp.bfloat16), (2, jnp.float32)):
    show(tasks, jnp.dtype(dtype).name, of_methods(tasks, dtype))
  for dtype in (jnp.float32, jnp.bfloat16):
    show(8, jnp.dtype(dtype).name, of_many(dtype))
  show(4, 'float32', cosines())
  print(f'\n{missed} bounds missed')
  return 1 if missed else 0


if __name__ == '__main__':
  sys.exit(main())
