"""The T5 encoder: padding is never felt, and every parameter has its names."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit import config
from video_dit.models.text import t5
from video_dit.parallel import partition

TEXT = config.Text(width=32, depth=3, heads=4, head_size=8, mlp_width=64)
CONFIG = t5.T5Config.of(TEXT, 300)


@pytest.fixture(scope="module")
def encode():
  graphdef, params = jax.jit(
    lambda: nnx.split(t5.T5Encoder(CONFIG, rngs=nnx.Rngs(0)), nnx.Param)
  )()

  def encode(ids, mask, dtype):
    return nnx.merge(graphdef, params)(ids, mask, dtype=dtype)

  return jax.jit(encode, static_argnames="dtype")


def test_padding_changes_nothing(encode):
  ids = np.random.default_rng(0).integers(3, 300, (2, 12))
  mask = np.arange(12) < np.array([[7], [12]])
  other = np.where(mask, ids, 299 - ids)
  a, b = (encode(x, mask, jnp.float32) for x in (ids, other))
  np.testing.assert_array_equal(np.asarray(a)[mask], np.asarray(b)[mask])
  assert np.isfinite(a).all()


def test_random_weights_give_unit_vectors_that_tell_words_apart(encode):
  ids = np.random.default_rng(1).integers(3, 300, (2, 12))
  ids[1] = ids[0]
  ids[1, 5] = 2
  out = np.asarray(encode(ids, np.ones((2, 12), bool), jnp.float32))
  assert abs(np.sqrt((out**2).mean()) - 1) < 0.01
  difference = np.sqrt(((out[0] - out[1]) ** 2).mean(-1))
  assert difference[5] > 0.8
  others = np.delete(difference, 5)
  assert others.min() > 0 and others.max() < 0.6


def test_every_parameter_is_named_for_the_partition():
  published = config.Text(width=4096, depth=24, heads=64, head_size=64, mlp_width=10240)
  model = nnx.eval_shape(
    lambda: t5.T5Encoder(t5.T5Config.of(published, 32128), rngs=nnx.Rngs(0))
  )
  state = nnx.state(model, nnx.Param)
  assert not jax.tree.leaves(nnx.state(model, nnx.Not(nnx.Param)))
  sizes = [np.prod(leaf.shape) for leaf in jax.tree.leaves(state)]
  assert sum(sizes) == 4_762_310_656  # the encoder of T5 v1.1 XXL
  mesh = jax.sharding.AbstractMesh((1, 4, 2, 1), ("data", "fsdp", "tensor", "context"))
  for path, variable in nnx.to_flat_state(state):
    spec = partition.spec_for(
      path, variable.shape, variable.get_metadata().get("axes"), mesh
    )
    assert ("fsdp" in spec) == (path[-1] != "position_bias"), path


def test_buckets_are_exact_nearby_and_shared_far_away():
  distances = np.array([0, 1, 7, 8, 127, 128, 5000])
  np.testing.assert_array_equal(t5.bucket(-distances, 32, 128), [0, 1, 7, 8, 15, 15, 15])
  ahead = t5.bucket(distances[1:], 32, 128)
  np.testing.assert_array_equal(ahead, 16 + t5.bucket(-distances[1:], 32, 128))
  table = t5.relative_buckets(3, 32, 128)
  np.testing.assert_array_equal(table, [[0, 17, 18], [1, 0, 17], [2, 1, 0]])


def test_it_computes_in_bfloat16_too(encode):
  ids = np.random.default_rng(0).integers(3, 300, (2, 12))
  mask = np.ones((2, 12), bool)
  whole, half = encode(ids, mask, jnp.float32), encode(ids, mask, jnp.bfloat16)
  assert half.dtype == jnp.bfloat16
  error = np.asarray(whole) - np.asarray(half.astype(jnp.float32))
  assert np.sqrt((error**2).mean()) < 0.03
