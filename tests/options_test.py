"""Options: what signatures say of them, and that all of ours say it."""

import typing
from collections.abc import Sequence

import jax.numpy as jnp
import pytest
from flax import linen as nn

from mtl_jax import encoders, heads, options, sharing
from mtl_jax.config import sections

NOT_OPTIONS = ('dtype', 'padding_id', 'vectors')


def function(
  inputs,
  *,
  count: options.Count = 3,
  share: options.Share = 0.1,
  above: options.Positive = 1.0,
  half: typing.Annotated[float, options.Range(0.5, 2, closed_left=False)] = 1.0,
  free: float = 2.0,
  sizes: options.Counts = (3, 4),
  names: Sequence[str] = (),
  other: float | None = None,
):
  return inputs, count, share, above, half, free, sizes, names, other


def test_defaults():
  assert options.defaults(function, ('half', 'sizes')) == {
    'count': 3,
    'share': 0.1,
    'above': 1.0,
    'free': 2.0,
    'names': (),
    'other': (),
  }


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'count': 1, 'share': 0, 'half': 2, 'free': -3.0, 'names': ('a',), 'sizes': [1]}, None),
    ({'count': 0}, r'^x\.y\.count: need 1 or more, not 0$'),
    ({'share': 1.0}, r'^x\.y\.share: need less than 1, not 1\.0$'),
    ({'share': -0.1}, 'share: need 0 or more, not -0.1'),
    ({'share': float('nan')}, 'share: need 0 or more, not nan'),
    ({'above': 0.0}, 'above: need more than 0, not 0.0'),
    ({'above': float('inf')}, 'above: need a finite number, not inf'),
    ({'half': 0.5}, 'half: need more than 0.5'),
    ({'half': 2.1}, 'half: need at most 2, not 2.1'),
    ({'free': float('nan')}, 'free: need a finite number, not nan'),
    ({'sizes': ()}, r'sizes: need one or more integers from 1, not \(\)'),
    ({'sizes': (1, 0)}, r'sizes: need one or more integers from 1, not \(1, 0\)'),
    ({'sizes': (1.5,)}, 'sizes: need one or more integers'),
    ({'names': (1,)}, r"names: need texts, such as \('a', 'b'\), not \(1,\)"),
    ({'names': 'ab'}, 'names: need texts'),
  ],
)
def test_check(values, message):
  if message is None:
    options.check(function, values, 'x.y')
    return
  with pytest.raises(ValueError, match=message):
    options.check(function, values, 'x.y')


def test_what_has_no_range_may_be_bounded_by_the_caller():
  options.check(function, {'free': -1.0})
  with pytest.raises(ValueError, match=r'^free: need 0 or more'):
    options.check(function, {'free': -1.0}, otherwise=options.NOT_NEGATIVE)


def test_functions_and_modules_check_themselves():
  checked = options.checked(function)
  assert checked(7, count=2)[:2] == (7, 2)
  with pytest.raises(ValueError, match=r'^function\.count: need 1 or more'):
    checked(7, count=0)

  class Module(nn.Module):
    width: options.Count = 3

    def __post_init__(self):
      options.check_fields(self)
      super().__post_init__()

  with pytest.raises(ValueError, match=r'^width: need 1 or more'):
    Module(0)


OWNERS = {
  **sections.OWNERS,
  'tasks': sections.Task,
  'bert': encoders.Bert,
  'embedding': encoders.Embedding,
  'max_length': encoders.Transformer,
  **{f'heads.{head.__name__}': head for head in (heads.Classification, heads.Tagging)},
  **{
    f'{path}.{name}': owner
    for path, chosen in sections.CHOICES.items()
    for name, owner in chosen.items()
    if path != 'balance'  # a number of a method is not negative if it says nothing
  },
}


@pytest.mark.parametrize('path', OWNERS)
def test_every_number_of_ours_has_a_range_with_its_default_inside(path):
  """A new option is asked for one by this test."""
  owner = OWNERS[path]
  found = {k: v for k, v in options.defaults(owner).items() if k not in NOT_OPTIONS}
  options.check(owner, found, path)
  for name, value in found.items():
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and name not in ('parent', 'name'):
      with pytest.raises(ValueError, match=f'{name}: need'):
        options.check(owner, {name: float('nan')}, path)
      assert options._kinds(owner)[name][1] is not None, name


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: encoders.CNN(None, dropout=1.0), '^dropout: need less than 1'),
    (lambda: encoders.LSTM(None, layers=0), '^layers: need 1 or more'),
    (lambda: encoders.MLP((3, 0)), '^features: need one or more integers from 1'),
    (lambda: encoders.ViT(patch=0), '^patch: need 1 or more'),
    (lambda: encoders.Embedding(5, 0), '^features: need 1 or more'),
    (lambda: heads.Classification(2, hidden=-1), '^hidden: need 0 or more'),
    (lambda: sharing.mmoe(encoders.MLP(), [], experts=0), r'^mmoe\.experts: need 1 or more'),
  ],
)
def test_encoders_heads_and_architectures_check_their_own(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_a_default_of_dropout_is_the_same_in_python_and_in_a_config():
  """As the committed results were trained."""
  expected = {'cnn': 0.5, 'lstm': 0.1, 'bilstm': 0.1, 'transformer': 0.1, 'embedding': 0.1}
  expected |= {'bert': 0.1, 'mlp': 0.0, 'lenet': 0.0, 'vit': 0.0}
  assert expected == {name: encoders.options_of(name)['dropout'] for name in expected}
  for name in encoders.TEXT:
    assert encoders.get(name, embedding=None, dtype=jnp.float32).dropout == expected[name]
