"""Balancers of balancers, and what optax puts around any of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import gradients, optim
from mtl_jax.optim import _base
from tests.optim.contract_test import LOSSES, PARAMS, T, close, stacked


def run(tx, steps, present=None, **given):
  """Directions of several steps on fresh random gradients."""
  state, directions = tx.init(PARAMS), []
  update = jax.jit(lambda g, s: tx.update(g, s, PARAMS, losses=LOSSES, present=present, **given))
  for seed in range(steps):
    direction, state = update(stacked(seed), state)
    directions.append(direction)
  return directions, state


def test_by_group_balances_each_part_alone():
  grads = {'layer_0': {'w': stacked(0)['w'], 'b': stacked(0)['b']}, 'layer_1': stacked(1)}
  params = {'layer_0': PARAMS, 'layer_1': PARAMS}
  alone = optim.mgda()

  def direction(tree):
    return alone.update(tree, alone.init(tree))[0]

  def grouped(groups):
    tx = optim.by_group(optim.mgda(), groups)
    return tx.update(grads, tx.init(params), params, losses=LOSSES)[0]

  close(grouped('whole'), direction(grads))
  close(grouped('layer'), {name: direction(grads[name]) for name in grads})
  matrix = {name: {k: direction({k: v})[k] for k, v in grads[name].items()} for name in grads}
  close(grouped('matrix'), matrix)
  by_kind = grouped(('.*/w',))
  for leaf in ('w', 'b'):
    part = direction({name: grads[name][leaf] for name in grads})
    close({name: by_kind[name][leaf] for name in grads}, part)
  with pytest.raises(ValueError, match=r"no parameter matches 'layer_7"):
    optim.by_group(optim.mgda(), ('layer_7/.*',)).init(params)
  with pytest.raises(ValueError, match='groups must be'):
    optim.by_group(optim.mgda(), 'row')


def test_by_group_keeps_a_state_a_group_and_different_orders():
  tx = optim.by_group(optim.gradvac(num_tasks=T), 'matrix')
  _, state = run(tx, 2)
  assert set(state) == {'w', 'b'}
  assert not np.allclose(state['w'].targets, state['b'].targets)
  assert state['w'].targets.shape == (T, T)


def test_every_k_keeps_the_weights():
  tx = optim.every_k(optim.mgda(), 3, num_tasks=T)
  directions, state = run(tx, 5)
  kept = None
  for seed, direction in enumerate(directions):
    if seed % 3 == 0:
      gram = gradients.gramian(stacked(seed))
      kept, _ = optim.mgda().weighting.update((), gramian=gram, present=jnp.ones(T, bool))
    close(direction, gradients.combine(kept, stacked(seed)))
  assert int(state.age) == 2
  assert optim.every_k(tx, 1) is tx
  with pytest.raises(ValueError, match='k must be 1'):
    optim.every_k(optim.mgda(), 0)
  with pytest.raises(ValueError, match='after every step'):
    optim.every_k(optim.famo(), 2)


def test_every_k_gives_a_task_that_comes_later_the_mean_weight_of_the_others():
  tx = optim.every_k(optim.mgda(), 3, num_tasks=T)
  everyone, first = jnp.ones(T, bool), jnp.array([True, True, False])
  gram = jnp.diag(jnp.array([1.0, 3.0, 0.0]))
  _, state = tx.weighting.update(tx.weighting.init(T), gramian=gram, present=first)
  due, held, _ = tx.weighting.held(state)
  weights, state = tx.weighting.update(state, gramian=jnp.zeros((T, T)), present=everyone)
  assert not due
  np.testing.assert_array_equal(held, weights)
  np.testing.assert_allclose(weights, [0.75, 0.25, 0.5], atol=1e-6)
  weights, state = tx.weighting.update(state, gramian=jnp.zeros((T, T)), present=everyone)
  weights, state = tx.weighting.update(
    state, gramian=jnp.diag(jnp.array([1.0, 1, 2])), present=everyone
  )
  np.testing.assert_allclose(weights, [0.4, 0.4, 0.2], atol=1e-6)  # its own, once it can have one


def test_every_k_waits_for_a_task_to_make_weights_from():
  tx = optim.every_k(optim.mgda(), 3, num_tasks=T)
  nobody, everyone = jnp.zeros(T, bool), jnp.ones(T, bool)
  weights, state = tx.weighting.update(
    tx.weighting.init(T), gramian=jnp.zeros((T, T)), present=nobody
  )
  np.testing.assert_array_equal(weights, 0.0)
  assert tx.weighting.held(state)[0]
  weights, _ = tx.weighting.update(state, gramian=jnp.eye(T), present=everyone)
  np.testing.assert_allclose(weights, 1 / T, atol=1e-6)


WITHIN = {
  'every_k': lambda tx: optim.every_k(tx, 3, num_tasks=T),
  'ema_weights': lambda tx: optim.ema_weights(tx, 0.9, num_tasks=T),
  'ema_gramian': lambda tx: optim.ema_gramian(tx, 0.9, num_tasks=T),
  'clip_conflict': optim.clip_conflict,
  'compose': lambda tx: optim.compose(optim.gradnorm(num_tasks=T), tx),
  'after a warm-up': lambda tx: optim.with_warmup(optim.every_k(tx, 2, num_tasks=T), 1),
}


@pytest.mark.parametrize('wrapper', WITHIN)
def test_a_bound_on_the_direction_holds_in_every_wrapper(wrapper):
  """On gradients that grow tenfold a step smoothed or held weights would make longer directions."""
  tx = WITHIN[wrapper](optim.nash_mtl(max_norm=0.5))
  state, lengths = tx.init(PARAMS), []
  update = jax.jit(lambda g, s: tx.update(g, s, PARAMS, losses=LOSSES))
  for seed in range(6):
    grads = _base.scale_rows(jnp.full(T, 10.0**seed), stacked(seed))
    direction, state = update(grads, state)
    lengths.append(float(optax.tree.norm(direction)))
  if wrapper == 'after a warm-up':  # the plain mean has no bound
    np.testing.assert_allclose(
      lengths[0], optax.tree.norm(jax.tree.map(lambda g: g.mean(0), stacked(0))), rtol=1e-5
    )
    lengths = lengths[1:]
  assert max(lengths) <= 0.5 * (1 + 1e-6)


@pytest.mark.parametrize('name', ['mgda', 'graddrop'])
def test_warmup_is_the_mean_then_the_method_from_its_start(name):
  inner = optim.get(name)
  directions, state = run(optim.with_warmup(inner, 2), 4)
  late = inner.init(PARAMS)
  for seed, direction in enumerate(directions):
    if seed < 2:
      close(direction, jax.tree.map(lambda g: g.mean(0), stacked(seed)))
    else:
      expected, late = inner.update(stacked(seed), late, PARAMS)
      close(direction, expected)
  assert int(state.step) == 3


def test_ema_weights_and_gramian_are_running_averages():
  weights, average, smooth = [], None, None
  ema = optim.ema_weights(optim.mgda(), 0.7, num_tasks=T)
  smoothed = optim.ema_gramian(optim.mgda(), 0.6, num_tasks=T)
  one, two = ema.weighting.init(T), smoothed.weighting.init(T)
  known = {'present': jnp.ones(T, bool)}
  for seed in range(4):
    gram = gradients.gramian(stacked(seed))
    fresh, _ = optim.mgda().weighting.update((), gramian=gram, **known)
    average = fresh if average is None else 0.7 * average + 0.3 * fresh
    smooth = gram if smooth is None else 0.6 * smooth + 0.4 * gram
    weights, one = ema.weighting.update(one, gramian=gram, **known)
    np.testing.assert_allclose(weights, average, rtol=1e-5)
    expected, _ = optim.mgda().weighting.update((), gramian=smooth, **known)
    weights, two = smoothed.weighting.update(two, gramian=gram, **known)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
  absent = jnp.array([True, False, True])
  _, later = ema.weighting.update(one, gramian=jnp.eye(T), present=absent)
  assert later.average[1] == one.average[1]


def test_cr_mogm_is_smoothed_weights_of_a_method_by_name():
  named, _ = run(optim.cr_mogm('upgrad', alpha=0.5, num_tasks=T, options={'reg_eps': 1e-3}), 3)
  wrapped, _ = run(optim.ema_weights(optim.upgrad(reg_eps=1e-3), 0.5, num_tasks=T), 3)
  close(named, wrapped)
  with pytest.raises(ValueError, match='takes a balancer with weights'):
    optim.cr_mogm('graddrop')


def test_clip_conflict_is_the_nearest_direction_within_the_bound():
  """Against a long projected-gradient solution of the primal problem in float64."""
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(4, 6))
  rows[1] = -0.9 * rows[0] + 0.1 * rows[1]
  rows = rows.astype(np.float32).astype(np.float64)
  from scipy import optimize

  for bound in (0.0, 0.2):
    tx = optim.clip_conflict(optim.static(weights=(1.0, 0.2, 1.0, 1.0)), bound, reg_eps=1e-9)
    actual = tx.update({'x': jnp.asarray(rows, jnp.float32)}, tx.init({}))[0]['x']
    plain = np.array([1.0, 0.2, 1.0, 1.0]) @ rows
    limit = -bound * np.linalg.norm(plain) * np.linalg.norm(rows, axis=1)
    dual = optimize.minimize(
      lambda u, limit=limit, plain=plain: (
        0.5 * np.sum((u @ rows) ** 2) + u @ (rows @ plain - limit)
      ),
      np.ones(4),
      bounds=[(0, None)] * 4,
      method='L-BFGS-B',
      options={'ftol': 1e-15, 'gtol': 1e-12, 'maxiter': 10000},
    )
    expected = plain + dual.x @ rows
    np.testing.assert_allclose(actual, expected, atol=2e-4 * np.linalg.norm(expected))
    assert (rows @ np.asarray(actual) >= limit - 1e-4).all()
  free = optim.clip_conflict(optim.sum_tasks(), 1.0)
  close(free.update(stacked(), free.init(PARAMS))[0], optim.sum_tasks().update(stacked(), ())[0])


def test_wrappers_nest_and_keep_the_second_forward():
  tx = optim.with_warmup(optim.ema_weights(optim.famo(num_tasks=T), 0.5, num_tasks=T), 1)
  assert tx.weighting.follow is not None
  weights, state = tx.weighting.update(
    tx.weighting.init(T), losses=LOSSES, present=jnp.ones(T, bool)
  )
  np.testing.assert_allclose(weights, 1 / T, rtol=1e-6)
  seen = {'losses': LOSSES, 'new_losses': 0.5 * LOSSES, 'present': jnp.ones(T, bool)}
  assert jax.tree.structure(tx.weighting.follow(state, **seen)) == jax.tree.structure(state)


def test_warmup_keeps_a_second_forward_out_until_it_is_over():
  tx = optim.with_warmup(optim.famo(num_tasks=T), 2)
  state, known = tx.weighting.init(T), {'present': jnp.ones(T, bool)}
  for step in range(3):
    _, state = tx.weighting.update(state, losses=LOSSES, **known)
    seen = {'losses': LOSSES, 'new_losses': LOSSES * jnp.array([0.5, 1.0, 1.0]), **known}
    state = tx.weighting.follow(state, **seen)
    assert bool(state.inner.logits.any()) == (step == 2)


def test_groups_draw_apart_in_a_chain():
  same = {'a': stacked()['w'], 'b': stacked()['w']}
  tx = optim.by_group(optim.graddrop(), 'matrix')
  direction, _ = tx.update(same, tx.init({'a': PARAMS['w'], 'b': PARAMS['w']}))
  assert not np.allclose(direction['a'], direction['b'])


def test_compose_scales_what_gradnorm_reads_of_named_parameters():
  links = [optim.normalize_task_gradients(), optim.gradnorm(num_tasks=T, parameters='b')]
  composed, chained = optim.compose(*links, optim.sum_tasks()), optax.chain(*links)
  state, chain_state = composed.init(PARAMS), chained.init(PARAMS)
  for seed in range(3):
    grads = _base.scale_rows(jnp.array([1.0, 10.0, 100.0]), stacked(seed))
    _, state = composed.update(grads, state, losses=LOSSES)
    _, chain_state = chained.update(grads, chain_state, losses=LOSSES)
  np.testing.assert_allclose(state[1].weights, chain_state[1].weights, rtol=1e-5)


@pytest.mark.parametrize('wrap', [optim.ema_weights, optim.ema_gramian, optim.clip_conflict])
def test_wrappers_of_weights_refuse_methods_without(wrap):
  with pytest.raises(ValueError, match='takes a balancer with weights'):
    wrap(optim.graddrop())


def test_multi_steps_accumulates_the_balanced_gradient():
  balance = optim.pcgrad(order='index')
  with jax.numpy_dtype_promotion('standard'):
    tx = optax.chain(balance, optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation())
    state = tx.init(PARAMS)
    first, state = tx.update(stacked(0), state, PARAMS, losses=LOSSES)
    second, state = tx.update(stacked(1), state, PARAMS, losses=LOSSES)
  assert all(not leaf.any() for leaf in jax.tree.leaves(first))
  (one, two), _ = run(balance, 2)
  close(second, jax.tree.map(lambda a, b: -(a + b) / 2, one, two))


def test_gradnorm_reads_the_norms_of_named_parameters():
  tx = optim.gradnorm(num_tasks=T, parameters='b')
  _, state = tx.update(stacked(), tx.init(PARAMS), losses=LOSSES)
  only = optim.gradnorm(num_tasks=T)
  _, expected = only.update({'b': stacked()['b']}, only.init(PARAMS), losses=LOSSES)
  np.testing.assert_allclose(state.weights, expected.weights, rtol=1e-6)
  tx = optim.gradnorm(num_tasks=T, parameters='head')
  with pytest.raises(ValueError, match=r"no parameter matches 'head'; there are"):
    tx.update(stacked(), tx.init(PARAMS), losses=LOSSES)
