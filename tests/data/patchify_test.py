"""Patches: exact inverses, and where tokens stand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit import config
from video_dit.data import patchify

_DIT = config.DiT(patch=(1, 2, 2), rope_seconds=0.25, rope_side=0.0)


@pytest.mark.parametrize("size", [(1, 2, 2), (2, 1, 3), (1, 1, 1)])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_unpatchify_after_patchify_is_the_identity(size, array):
  latent = array(np.random.default_rng(0).normal(size=(4, 6, 12, 3)).astype(np.float32))
  tokens = patchify.patchify(latent, size)
  grid = patchify.grid((4, 6, 12), size)
  assert tokens.shape == (np.prod(grid), np.prod(size) * 3)
  assert isinstance(tokens, jax.Array) == isinstance(latent, jax.Array)
  np.testing.assert_array_equal(patchify.unpatchify(tokens, grid, size), latent)


def test_tokens_run_frame_major_then_row_major():
  latent = np.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
  tokens = patchify.patchify(latent, (1, 2, 2))
  np.testing.assert_array_equal(tokens[0], [0, 1, 6, 7])
  np.testing.assert_array_equal(tokens[1], [2, 3, 8, 9])
  np.testing.assert_array_equal(tokens[3], [12, 13, 18, 19])
  np.testing.assert_array_equal(tokens[6], [24, 25, 30, 31])


def test_an_extent_off_the_grid_is_refused():
  with pytest.raises(ValueError, match=r"\(1, 3, 4\).*\(1, 2, 2\).*dit.patch"):
    patchify.patchify(np.zeros((1, 3, 4, 1)), (1, 2, 2))


def test_positions_are_seconds_and_centred_rows_and_columns():
  points = patchify.positions((3, 2, 4), dit=_DIT, time=4, frames_per_second=8.0)
  assert points.shape == (24, 3)
  assert points.dtype == np.float32
  np.testing.assert_allclose(np.unique(points[:, 0]), [0, 2, 4])  # half seconds
  np.testing.assert_allclose(np.unique(points[:, 1]), [-0.5, 0.5])
  np.testing.assert_allclose(np.unique(points[:, 2]), [-1.5, -0.5, 0.5, 1.5])
  np.testing.assert_allclose(points[1], [0, -0.5, -0.5])


def test_rows_and_columns_scale_to_one_area():
  dit = dataclasses.replace(_DIT, rope_side=8.0)
  small = patchify.positions((1, 4, 4), dit=dit, time=4, frames_per_second=0)
  large = patchify.positions((1, 16, 16), dit=dit, time=4, frames_per_second=0)
  np.testing.assert_allclose(small[:, 1:].std(), large[:, 1:].std(), rtol=0.05)
  assert small[:, 0].max() == 0


def test_a_run_continues_its_clip():
  whole = patchify.positions((5, 2, 2), dit=_DIT, time=4, frames_per_second=10.0)
  rest = patchify.positions((3, 2, 2), dit=_DIT, time=4, frames_per_second=10.0, first=2)
  np.testing.assert_array_equal(rest, whole[8:])
  np.testing.assert_array_equal(
    patchify.frames((3, 2, 2), (1, 2, 2), first=2), np.repeat([2, 3, 4], 4)
  )


def test_video_needs_a_frame_rate():
  with pytest.raises(ValueError, match=r"0 frames per second.*media.frames_per_second"):
    patchify.positions((2, 1, 1), dit=_DIT, time=4, frames_per_second=0)


def test_positions_of_a_clip_that_is_not_square_and_of_tokens_that_span_frames():
  dit = config.DiT(patch=(2, 1, 1), rope_seconds=0.5, rope_side=8.0)
  found = patchify.positions((2, 2, 8), dit=dit, time=4, frames_per_second=16.0, first=4)
  # Latent frames 4 and 6 of 4 / 16 s each, in units of half a second.
  np.testing.assert_allclose(np.unique(found[:, 0]), [2.0, 3.0])
  np.testing.assert_allclose(np.unique(found[:, 1]), [-1.0, 1.0])  # 8 / sqrt(2 8) = 2
  np.testing.assert_allclose(np.unique(found[:, 2]), np.arange(-7, 8, 2))
  np.testing.assert_array_equal(patchify.frames((3, 1, 1), (2, 1, 1), 4), [4, 6, 8])
  counted = dataclasses.replace(dit, rope_seconds=0.0)
  found = patchify.positions((3, 1, 1), dit=counted, time=4, frames_per_second=0.0)
  np.testing.assert_array_equal(found[:, 0], [0, 1, 2])  # in tokens
