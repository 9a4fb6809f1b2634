"""A clip's times and noise are its own, whatever row and slot it lands in."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from video_dit import config
from video_dit.diffusion import times

CLIP = np.array([123456789, 4000000000], np.uint32)
OTHER = np.array([5, 6], np.uint32)
THIRD = np.array([7, 8], np.uint32)
EMPTY = np.zeros(2, np.uint32)

# The same clip of 3 tokens: first in its row, then third in another row.
KEYS_RS2 = jnp.asarray(
  np.stack([np.stack([CLIP, OTHER, EMPTY]), np.stack([THIRD, OTHER, CLIP])])
)
SEGMENTS_RN = jnp.int32([[1, 1, 1, 2, 2, 2, 0, 0], [1, 2, 2, 2, 3, 3, 3, 0]])
TOKENS_RS = jnp.int32([[3, 3, 0], [1, 3, 3]])
DIFFUSION = config.Diffusion(shift=2.0, shift_tokens=3)


@jax.jit
def draw(seed=0, step=0):
  indices_RN = times.token_indices(SEGMENTS_RN)
  return times.noise(KEYS_RS2, SEGMENTS_RN, indices_RN, seed, step, 5)


def test_token_indices_count_from_the_start_of_each_segment():
  np.testing.assert_array_equal(
    times.token_indices(SEGMENTS_RN),
    [[0, 1, 2, 0, 1, 2, 0, 1], [0, 0, 1, 2, 0, 1, 2, 0]],
  )


def test_a_clip_gets_the_same_noise_and_time_anywhere():
  noise_RNP = draw()
  np.testing.assert_array_equal(noise_RNP[0, 0:3], noise_RNP[1, 4:7])
  np.testing.assert_array_equal(noise_RNP[0, 3:6], noise_RNP[1, 1:4])
  times_RS = times.segment_times(KEYS_RS2, 0, 0, TOKENS_RS, DIFFUSION)
  assert times_RS[0, 0] == times_RS[1, 2] and times_RS[0, 1] == times_RS[1, 1]


def test_clips_tokens_steps_and_seeds_differ():
  noise_RNP = draw()
  assert len(np.unique(np.asarray(noise_RNP[0, :6]))) == 6 * 5
  assert not (draw(step=1) == noise_RNP)[0, :6].any()
  assert not (draw(seed=1) == noise_RNP)[0, :6].any()
  times_RS = times.segment_times(KEYS_RS2, 0, 0, TOKENS_RS, DIFFUSION)
  assert times_RS[0, 0] != times_RS[0, 1]


@pytest.mark.parametrize("std", [0.0, 1.0])
def test_times_are_shifted_by_size_and_drawn_anew_by_step_and_seed(std):
  keys_RS2 = jax.random.bits(jax.random.key(0), (1, 500, 2), jnp.uint32)
  tokens_RS = jnp.full((1, 500), 16)

  def draw_times(seed=0, step=0, shift=0.0):
    diffusion = config.Diffusion(time_std=std, shift=shift, shift_tokens=4, max_shift=9.0)
    found = times.segment_times(keys_RS2, seed, step, tokens_RS, diffusion)
    return np.asarray(found)

  plain = draw_times()
  shifted = draw_times(shift=1.5)  # of 16 tokens: 1.5 sqrt(16 / 4) = 3
  np.testing.assert_allclose(shifted, 3 * plain / (1 + 2 * plain), rtol=1e-5)
  assert (draw_times(step=1) != plain).all() and (draw_times(seed=1) != plain).all()


def test_no_two_purposes_and_steps_share_a_key():
  clip = jnp.asarray(CLIP)[None, None]
  keys = {
    jax.random.key_data(times.segment_keys(clip, 0, step, purpose)).tobytes()
    for step in range(4)
    for purpose in times.PURPOSES
  }
  assert len(keys) == 4 * len(times.PURPOSES)


def test_padding_is_silent():
  noise_RNP = draw()
  assert (noise_RNP[0, 6:] == 0).all() and (noise_RNP[1, 7:] == 0).all()
  times_RN = times.token_times(jnp.ones((2, 3)), SEGMENTS_RN)
  np.testing.assert_array_equal(times_RN, SEGMENTS_RN > 0)


def test_noise_is_standard_normal():
  segments_RN = jnp.ones((1, 4096), jnp.int32)
  indices_RN = times.token_indices(segments_RN)
  noise_RNP = times.noise(
    jnp.asarray(CLIP)[None, None], segments_RN, indices_RN, 0, 0, 16
  )
  assert abs(noise_RNP.mean()) < 0.02 and abs(noise_RNP.std() - 1) < 0.02
  neighbours = (noise_RNP[:, 1:] * noise_RNP[:, :-1]).mean()
  assert abs(neighbours) < 0.02


def test_any_layout_over_devices_draws_the_same_bits():
  mesh = jax.make_mesh((2, 4), ("data", "context"), axis_types=(AxisType.Auto,) * 2)
  expected = draw()

  def put(x, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))

  keys, segments = put(KEYS_RS2, "data"), put(SEGMENTS_RN, "data", "context")
  indices = put(times.token_indices(SEGMENTS_RN), "data", "context")

  @jax.jit
  def sharded(keys, segments, indices):
    return times.noise(keys, segments, indices, 0, 0, 5)

  got = sharded(keys, segments, indices)
  assert got.sharding.shard_shape(got.shape) == (1, 2, 5)
  np.testing.assert_array_equal(got, expected)


def test_times_follow_the_named_distribution():
  keys_RS2 = jax.random.bits(jax.random.key(1), (8, 2000, 2), jnp.uint32)
  tokens_RS = jnp.full((8, 2000), 3)

  def draw_times(diffusion):
    return np.asarray(times.segment_times(keys_RS2, 0, 0, tokens_RS, diffusion))

  uniform = draw_times(config.Diffusion(time_std=0.0))
  assert uniform.min() > 0 and uniform.max() < 1
  np.testing.assert_allclose(np.quantile(uniform, [0.25, 0.75]), [0.25, 0.75], atol=0.02)
  normal = draw_times(config.Diffusion(time_mean=0.5, time_std=0.8))
  logits = np.log(normal / (1 - normal))
  assert abs(logits.mean() - 0.5) < 0.03 and abs(logits.std() - 0.8) < 0.03


def test_larger_clips_are_shifted_to_more_noise():
  diffusion = config.Diffusion(shift=1.5, shift_tokens=100, max_shift=4.0)
  tokens_RS = jnp.int32([[0, 10, 100, 400, 10_000]])
  np.testing.assert_allclose(
    times.segment_shift(tokens_RS, diffusion), [[1.0, 1.0, 1.5, 3.0, 4.0]]
  )
  assert times.shift_times(jnp.float32(0.5), 3.0) == 0.75
  ends = jnp.float32([0.0, 1.0])
  np.testing.assert_array_equal(times.shift_times(ends, 3.0), ends)
  off = times.segment_shift(tokens_RS, config.Diffusion(shift=0.0))
  np.testing.assert_array_equal(off, jnp.ones((1, 5)))
