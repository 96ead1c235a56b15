"""The gate of DSelect-k against the paper's formulas in float64 NumPy."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import encoders, sharing
from mtl_jax.gradients import halves
from mtl_jax.sharing.dselect_k import select, smooth_step
from tests import models
from tests.encoders import oracles

SIZES = (16, 16)


def step(t, gamma):
  """S by its cases, for one number."""
  if abs(t) >= gamma / 2:
    return float(t > 0)
  return -2 / gamma**3 * t**3 + 3 / (2 * gamma) * t + 1 / 2


def selection(z, experts, gamma=1.0):
  """Bit by bit: `[m]` -> `[E]`."""
  s = [step(t, gamma) for t in z]
  return np.array(
    [math.prod(s[b] if e >> b & 1 else 1 - s[b] for b in range(len(s))) for e in range(experts)]
  )


def model(**options):
  return sharing.dselect_k(encoders.MLP(SIZES), models.tasks(text=False), **options)


@functools.cache
def made(**options):
  """A model, parameters away from their start as float32 and float64, and a batch."""
  batch = models.shared_batch('mlp')
  params = models.drawn(model(**options), batch)
  return model(**options), params, jax.tree.map(lambda x: np.asarray(x, np.float64), params), batch


def gate(own, x, experts, k):
  """Selections `[B, k, E]` and shares `[B, k]` of one task, both kinds of gate."""
  bits = math.ceil(math.log2(experts))
  if isinstance(own['codes'], dict):
    z, shares = oracles.dense(own['codes'], x), oracles.dense(own['shares'], x)
  else:
    z, shares = own['codes'].repeat(len(x), 0), own['shares'].repeat(len(x), 0)
  z = z.reshape(len(x), k, bits)
  return np.array([[selection(row, experts) for row in rows] for rows in z]), oracles.softmax(
    shares
  )


def regularizers(chosen, entropy):
  """Mean over the examples; 0 log 0 = 0, and 1/s goes on as its tangent below 0.01."""
  total = 0.0
  for rows in chosen:
    for row in rows:
      total -= entropy * sum(p * math.log(p) for p in row if p > 0)
      s = row.sum()
      total += (1 / s if s >= 0.01 else 200 - s / 0.01**2) - 1
  return total / len(chosen)


@pytest.mark.parametrize('gamma', [1.0, 3.0])
def test_smooth_step(gamma):
  """Values, and slopes 6/γ (1/4 − t²/γ²) inside; outside exactly 0, 1 and slope 0."""
  t = np.linspace(-gamma, gamma, 41)
  both = jax.jit(jax.vmap(jax.value_and_grad(lambda t: smooth_step(t, gamma))))
  values, slopes = both(t.astype(np.float32))
  np.testing.assert_allclose(values, [step(x, gamma) for x in t], atol=1e-6)
  inside = np.abs(t) < gamma / 2 - 1e-6
  np.testing.assert_allclose(
    np.asarray(slopes)[inside], 6 / gamma * (0.25 - t[inside] ** 2 / gamma**2), atol=1e-5
  )
  outside = np.abs(t) > gamma / 2 + 1e-6
  assert not np.asarray(slopes)[outside].any()
  assert set(np.asarray(values)[outside]) == {0.0, 1.0}


@pytest.mark.parametrize('experts', [2, 3, 4, 5])
def test_saturated_codes_select_one_expert(experts):
  """Exactly, each expert once, and none where the index has no expert; no slope is left."""
  bits = math.ceil(math.log2(experts))
  z = np.array(list(itertools.product((-0.7, 0.7), repeat=bits)), np.float32)

  def total(z):
    chosen = select(z, experts, 1.0)
    return jnp.sum(jnp.sin(chosen)), chosen

  slope, chosen = jax.jit(jax.grad(total, has_aux=True))(z)
  chosen = np.asarray(chosen)
  assert set(chosen.ravel()) == {0.0, 1.0}
  assert (chosen.sum(axis=0) == 1).all()
  assert (chosen.sum(axis=1) <= 1).all()
  assert not np.asarray(slope).any()


@pytest.mark.parametrize('per_example', [False, True])
def test_a_task_reads_its_selection(per_example):
  model, params, exact, batch = made(experts=3, k=2, per_example=per_example)
  x, own = batch['inputs'].astype(np.float64), exact['tasks']['score']
  chosen, shares = gate(own['gate'], x, 3, 2)
  weights = np.einsum('bk,bke->be', shares, chosen)
  states = []
  for e in range(3):
    layers = jax.tree.map(lambda leaf, e=e: leaf[e], exact['shared']['experts'])
    hidden = oracles.relu(oracles.dense(layers['Dense_0'], x))
    states.append(oracles.relu(oracles.dense(layers['Dense_1'], hidden)))
  features = np.einsum('be,ebd->bd', weights, np.stack(states))
  expected = oracles.dense(own['head']['Dense_0'], features)[:, 0]
  outputs = jax.jit(model.outputs)(params, {'inputs': batch['inputs']})
  np.testing.assert_allclose(outputs['score'], expected, atol=1e-5)


def test_the_penalty_of_constant_gates():
  """The value, and the slope by finite differences in float64."""
  model, params, exact, _ = made(experts=3, k=2, entropy=0.1)

  def total(gates):
    x = np.zeros((1, 1))
    return sum(regularizers(gate(own, x, 3, 2)[0], 0.1) for own in gates.values())

  gates = {name: own['gate'] for name, own in exact['tasks'].items()}
  value, slope = jax.jit(jax.value_and_grad(model.penalty))(params)
  np.testing.assert_allclose(value, total(gates), rtol=1e-5)
  for place in np.ndindex(1, 4):
    sides = []
    for h in (1e-5, -1e-5):
      codes = gates['score']['codes'].copy()
      codes[place] += h
      sides.append(total(gates | {'score': gates['score'] | {'codes': codes}}))
    actual = slope['tasks']['score']['gate']['codes'][place]
    np.testing.assert_allclose(actual, (sides[0] - sides[1]) / 2e-5, rtol=1e-3, atol=1e-5)
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(slope['shared']))


def test_gates_by_example_have_their_penalty_in_the_loss():
  """On top of the task's own; of a task without a label it is zero, and so is the slope."""
  model, params, exact, batch = made(experts=3, k=2, per_example=True)
  model = sharing.dselect_k(
    model.shared.encoder, model.tasks, experts=3, k=2, per_example=True, entropy=0.1
  )
  assert model.penalty is None
  batch = batch | {'mask': {'score': np.zeros(models.B, bool)}}
  losses, plain = jax.jit(lambda p: (model.losses(p, batch), model.evaluate(p, batch)))(params)
  x = batch['inputs'].astype(np.float64)
  for i, name in enumerate(('intent', 'topics')):
    chosen, _ = gate(exact['tasks'][name]['gate'], x, 3, 2)
    own = model.task(name).weight * plain['loss_sum'][i] / plain['loss_count'][i]
    np.testing.assert_allclose(losses[i], own + regularizers(chosen, 0.1), rtol=1e-4)
  assert losses[2] == 0
  slope = jax.jit(jax.grad(lambda p: halves.counted_losses(model, p, batch)[0][2]))(params)
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(slope))


def test_the_regularizers_alone_lead_to_one_expert_each():
  """From near zero, where gates begin: descent ends at one-hot selections of experts there are."""
  made = model(experts=3, entropy=1.0)
  start = np.random.default_rng(0).uniform(-0.01, 0.01, (3, 1, 4)).astype(np.float32)
  shares = np.zeros((1, 2), np.float32)

  def penalty(codes):
    gates = [{'gate': {'codes': row, 'shares': shares}} for row in codes]
    return made.penalty({'tasks': dict(zip(made.task_names, gates, strict=True))})

  def step(codes, _):
    return codes - 0.05 * jax.grad(penalty)(codes), None

  codes = np.asarray(jax.jit(lambda x: jax.lax.scan(step, x, None, length=500)[0])(start))
  for row in codes:
    chosen, _ = gate({'codes': row.astype(np.float64), 'shares': shares}, np.zeros((1, 1)), 3, 2)
    np.testing.assert_allclose(chosen.max(axis=-1), 1.0, atol=1e-3)


def test_a_power_of_two_without_entropy_has_no_penalty():
  made = model(experts=4, entropy=0.0)
  codes = {
    'gate': {'codes': np.full((1, 4), 0.2, np.float32), 'shares': np.zeros((1, 2), np.float32)}
  }
  assert float(made.penalty({'tasks': dict.fromkeys(made.task_names, codes)})) == 0


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'experts': 1, 'k': 1}, 'dselect_k.experts: need 2 or more'),
    ({'experts': 4, 'k': 5}, 'k=5'),
    ({'gamma': 0.0}, 'dselect_k.gamma: need more than 0'),
    ({'entropy': -1.0}, 'dselect_k.entropy: need 0 or more'),
    ({'common': '('}, 'no regular expression'),
  ],
)
def test_options_that_cannot_be(options, message):
  with pytest.raises(ValueError, match=message):
    model(**options)
