"""What is held out: shares, strata, groups, and the same draw for the same seed."""

import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mtl_jax.data.described import splits


@pytest.mark.parametrize(('count', 'validation', 'test'), [(1000, 0.1, 0.2), (7, 0.1, 0.1)])
def test_shares_are_met_and_none_is_empty(count, validation, test):
  drawn = splits.held_out(count, validation, test, 0)
  sizes = np.bincount(drawn, minlength=3)
  assert sizes[splits.TEST] == max(1, round(test * count))
  assert sizes[splits.VALIDATION] == max(1, round(validation * count))
  np.testing.assert_array_equal(drawn, splits.held_out(count, validation, test, 0))
  assert (drawn != splits.held_out(count, validation, test, 1)).any()


def test_nothing_is_held_out_where_nothing_is_to_be():
  assert not splits.held_out(50, 0.0, 0.0, 0).any()


@hypothesis.given(
  st.lists(st.integers(0, 5), min_size=30, max_size=300),
  st.floats(0.05, 0.3),
  st.floats(0.05, 0.3),
  st.integers(0, 2**31),
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_every_stratum_has_its_share(values, validation, test, seed):
  drawn = splits.held_out(len(values), validation, test, seed, strata=values)
  for value, count in collections.Counter(values).items():
    own = drawn[[v == value for v in values]]
    assert abs(np.sum(own == splits.TEST) - test * count) <= 1.5
    assert abs(np.sum(own == splits.VALIDATION) - validation * count) <= 2.5


@hypothesis.given(st.lists(st.integers(0, 40), min_size=40, max_size=300), st.integers(0, 2**31))
@hypothesis.settings(max_examples=100, deadline=None)
def test_no_group_is_in_two_splits(values, seed):
  drawn = splits.held_out(len(values), 0.1, 0.2, seed, groups=values)
  found = collections.defaultdict(set)
  for value, split in zip(values, drawn.tolist(), strict=True):
    found[value].add(split)
  assert all(len(own) == 1 for own in found.values())
  if len(found) >= 3:
    assert set(drawn.tolist()) == {0, 1, 2}


def test_groups_come_near_their_shares():
  rng = np.random.default_rng(0)
  values = rng.integers(0, 500, 10_000).tolist()
  sizes = np.bincount(splits.held_out(len(values), 0.1, 0.2, 3, groups=values))
  np.testing.assert_allclose(sizes / len(values), [0.7, 0.1, 0.2], atol=0.01)


def test_inputs_that_stand_in_two_splits_are_counted():
  found = splits.overlap({'train': ['a', 'b', 'a'], 'validation': ['c'], 'test': ['a', 'c', 'd']})
  assert found == {
    'examples of train whose input stood in it before': 1,
    'examples of test whose input stands in train too': 1,
    'examples of test whose input stands in validation too': 1,
  }
