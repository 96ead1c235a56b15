"""Losses as functions of a user's own: forms, arguments, what comes beside them, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_jax

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
PARAMS = {'w': jnp.array([1.0, -2.0, 0.5]), 'b': jnp.float32(0.3)}


def fit(params, x):
  return jnp.mean((x @ params['w'] + params['b']) ** 2)


def size(params, x):
  del x
  return jnp.sum(params['w'] ** 2)


def expected(x=X):
  """Losses and rows in float64."""
  w, b = np.array([1.0, -2.0, 0.5]), 0.3
  out = x.astype(np.float64) @ w + b
  rows = {'w': np.stack([2 * out @ x / len(x), 2 * w]), 'b': np.array([2 * out.mean(), 0.0])}
  return [np.mean(out**2), np.sum(w**2)], rows


def check(losses, grads):
  values, rows = expected()
  np.testing.assert_allclose(losses, values, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), grads, rows)


FORMS = {
  'array': lambda p, x: jnp.stack([fit(p, x), size(p, x)]),
  'dict': lambda p, x: {'fit': fit(p, x), 'a size': size(p, x)},
  'list': lambda p, x: [fit(p, x), size(p, x)],
  'functions': [fit, size],
  'mapping': {'fit': fit, 'a size': size},
}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_of_losses(form):
  """In the order in which they stand, also where their names sort otherwise."""
  check(*jax.jit(lambda p: mtl_jax.task_gradients(FORMS[form], p, X))(PARAMS))


@pytest.mark.parametrize('form', FORMS)
def test_aux_comes_once_and_unchanged(form):
  def with_aux(function):
    return lambda p, x: (function(p, x), {'mean': jnp.mean(x), 'n': jnp.int32(len(x))})

  given = FORMS[form]
  if callable(given):
    given = with_aux(given)
  else:
    functions = given.items() if isinstance(given, dict) else enumerate(given)
    given = {name: with_aux(function) for name, function in functions}
    given = given if form == 'mapping' else list(given.values())
  way = jax.jit(lambda p: mtl_jax.task_gradients(given, p, X, has_aux=True))
  (losses, aux), grads = way(PARAMS)
  check(losses, grads)
  if form == 'functions':
    assert len(aux) == 2
    aux = aux[1]
  elif form == 'mapping':
    assert set(aux) == {'fit', 'a size'}
    aux = aux['fit']
  np.testing.assert_allclose(aux['mean'], X.mean(), rtol=1e-5)
  assert aux['n'] == 6
  assert aux['n'].dtype == jnp.int32


@pytest.mark.parametrize('separate', [False, True])
def test_any_arguments_are_passed_on(separate):
  def loss(params, x, shift, key, *, scale, power=1):
    noise = jax.random.normal(key, ())
    return (scale * fit(params, x) + shift + noise) ** power

  functions = [loss, lambda params, *args, **more: size(params, args[0]) * more['scale']]
  if not separate:
    pair = functions
    functions = lambda *args, **more: jnp.stack([f(*args, **more) for f in pair])  # noqa: E731
  key = jax.random.key(3)
  losses, grads = mtl_jax.task_gradients(functions, PARAMS, X, 2.0, key, scale=3.0)
  values, rows = expected()
  noise = float(jax.random.normal(key, ()))
  np.testing.assert_allclose(losses, [3 * values[0] + 2 + noise, 3 * values[1]], rtol=1e-6)
  np.testing.assert_allclose(grads['w'], 3 * rows['w'], rtol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_loss_scale_shows_in_nothing_but_rounding(form):
  check(*mtl_jax.task_gradients(FORMS[form], PARAMS, X, loss_scale=2.0**10))


def test_loss_scale_saves_gradients_of_float16():
  """A slope of 1e-9 is below the smallest float16, 6e-8, on its way back."""

  def losses(w, x):
    halved = (w * x).astype(jnp.float16)
    return jnp.stack([halved.astype(jnp.float32) * 1e-9, w * 1.0])

  w = jnp.float32(0.5)
  _, lost = mtl_jax.task_gradients(losses, w, 2.0)
  _, kept = jax.jit(lambda s: mtl_jax.task_gradients(losses, w, 2.0, loss_scale=s))(2.0**14)
  assert lost[0] == 0.0
  np.testing.assert_allclose(kept, [2e-9, 1.0], rtol=1e-2)


ERRORS = {
  'scalar': (
    lambda p, x: fit(p, x),
    {},
    r'losses \[T\] or a dict of losses, not an array',
  ),
  'aux unsaid': (
    lambda p, x: (jnp.ones(2), x),
    {},
    'not a tuple of 2; with outputs beside them say has_aux=True',
  ),
  'aux missing': (FORMS['array'], {'has_aux': True}, r'must return a pair \(losses, aux\), not an'),
  'vector in dict': (lambda p, x: {'fit': x[0]}, {}, r"loss 'fit' must be a scalar.*shape \(3,\)"),
  'vector of a task': ({'fit': lambda p, x: x[0]}, {}, r"task 'fit' must be a scalar.*\(3,\)"),
  'arity': (lambda p: fit(p, X), {}, r'cannot be called with 2 arguments \(params, batch\)'),
  'keyword': (fit, {'shift': 1.0}, 'shift'),
}


@pytest.mark.parametrize('name', ERRORS)
def test_errors_are_in_the_words_of_the_caller(name):
  function, more, text = ERRORS[name]
  with pytest.raises(ValueError, match=text):
    mtl_jax.task_gradients(function, PARAMS, X, **more)


def test_leaves_without_a_gradient_are_named():
  with pytest.raises(ValueError, match=r"params: 'act' is custom_jvp, no array.*eqx\.partition"):
    mtl_jax.task_gradients(fit, PARAMS | {'act': jax.nn.relu}, X)
  with pytest.raises(ValueError, match=r"params: 'n' is int32, which has no gradient"):
    mtl_jax.task_gradients(fit, PARAMS | {'n': jnp.int32(3)}, X)
