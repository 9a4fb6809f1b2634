"""Guidance is the line through both predictions."""

import jax.numpy as jnp
import numpy as np

from video_dit.diffusion import guidance

WITH, WITHOUT = jnp.full((2, 3, 4), 3.0), jnp.ones((2, 3, 4))


def test_one_is_the_caption_zero_is_none():
  np.testing.assert_array_equal(guidance.guide(WITH, WITHOUT, 1.0), WITH)
  np.testing.assert_array_equal(guidance.guide(WITH, WITHOUT, 0.0), WITHOUT)
  np.testing.assert_array_equal(guidance.guide(WITH, WITHOUT, 5.0), 11 * WITHOUT)


def test_each_row_may_have_its_own_scale():
  out = guidance.guide(WITH, WITHOUT, jnp.float32([1.0, 5.0]))
  np.testing.assert_array_equal(out[0], WITH[0])
  np.testing.assert_array_equal(out[1], 11 * WITHOUT[1])


def test_guidance_acts_at_the_noise_levels_of_its_interval_alone():
  times = jnp.float32([0.0, 0.5, 0.6, 0.8, 1.0])
  scale = guidance.within(jnp.full((5,), 4.0), times, (0.6, 0.8))
  np.testing.assert_array_equal(scale, [1, 1, 4, 4, 1])
  everywhere = guidance.within(jnp.full((5,), 4.0), times, (0.0, 1.0))
  np.testing.assert_array_equal(everywhere, [4] * 5)
