"""What formats share: examples in docstrings, names of new columns, values as text and as JSON."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

from mtl_jax.data import formats
from mtl_jax.data.formats import _base


def test_examples_in_docstrings():
  tried = 0
  for module in pkgutil.iter_modules(formats.__path__, f'{formats.__name__}.'):
    failed, count = doctest.testmod(importlib.import_module(module.name))
    assert not failed, module.name
    tried += count
  assert tried >= 2


@pytest.mark.parametrize(
  ('new', 'taken', 'expected'),
  [
    (['a', 'b'], [], ['a', 'b']),
    (['a'], ['a'], ['a_predicted']),
    (['a'], ['a', 'a_predicted'], ['a_predicted_2']),
    (['a', 'a_predicted'], ['a'], ['a_predicted', 'a_predicted_predicted']),
  ],
)
def test_new_columns_get_names_of_their_own(new, taken, expected):
  names = _base.fresh(new, taken)
  assert list(names) == new
  assert list(names.values()) == expected


@pytest.mark.parametrize(
  ('value', 'expected'),
  [
    ('a\n', 'a\n'),
    (None, ''),
    (float('nan'), ''),
    (0.1, '0.1'),
    (np.float32(0.5), '0.5'),
    (np.int64(3), '3'),
    (True, 'True'),
    (['a', 'é', None], '["a", "é", null]'),
    (np.arange(3), '[0, 1, 2]'),
    ({'a': np.float32(0.5)}, '{"a": 0.5}'),
    ((1, float('inf')), '[1, null]'),
  ],
)
def test_values_as_text(value, expected):
  assert _base.as_text(value) == expected


def test_excerpts_stay_on_one_line():
  assert _base.excerpt('a\r\n\t\x00é\u2028b') == r'a\r\n\t\x00é\u2028b'
  assert len(_base.excerpt('x' * 1000)) == 80
