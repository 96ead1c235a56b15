"""Rules place every parameter; what does not fit is an error that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mtl_jax import sharding

TREE = {
  'shared': {'kernel': jnp.zeros((6, 16)), 'bias': jnp.zeros(16)},
  'count': jnp.zeros(()),
  'key': jax.random.key(0),
}


def specs(mesh, rules=sharding.DEFAULT_RULES):
  return jax.tree.map(lambda s: s.spec, sharding.partition(TREE, mesh, rules))


def test_default_rule_splits_the_longest_divisible_axis():
  placed = specs(sharding.make_mesh(2, 4))
  assert placed['shared']['kernel'] == PartitionSpec(None, 'fsdp')
  assert placed['shared']['bias'] == placed['count'] == placed['key'] == PartitionSpec()
  assert specs(sharding.make_mesh(8, 1))['shared']['kernel'] == PartitionSpec()


def test_first_matching_rule_wins_and_all_must_be_covered():
  mesh = sharding.make_mesh(4, 2)
  rules = [(r'kernel$', PartitionSpec('fsdp')), (r'shared/', PartitionSpec())]
  assert specs(mesh, rules)['shared']['kernel'] == PartitionSpec('fsdp')
  with pytest.raises(ValueError, match="No sharding rule matches 'shared/bias'"):
    specs(mesh, rules[:1])
  with pytest.raises(ValueError, match='does not fit'):
    specs(mesh, [(r'.*', PartitionSpec('data'))])


def test_mesh_must_fit_the_devices():
  assert dict(sharding.make_mesh().shape) == {'data': 8, 'fsdp': 1}
  with pytest.raises(ValueError, match='does not fit 8 devices'):
    sharding.make_mesh(3, 2)


def test_batches_are_split_over_both_axes():
  mesh = sharding.make_mesh(2, 4)
  batch = sharding.shard_batch({'x': np.arange(16.0, dtype=np.float32)}, mesh)
  assert [s.data.shape for s in batch['x'].addressable_shards] == [(2,)] * 8
  with pytest.raises(ValueError, match='x: 12 examples cannot be split over 8 devices'):
    sharding.shard_batch({'x': np.zeros(12)}, mesh)
