"""Large frames in tiles: covered, blended, and off at the seams by what is said."""

import itertools

import numpy as np
import pytest

from tests.models.autoencoder.inside_test import frozen
from video_dit.preprocess import tiles


@pytest.mark.parametrize(
  ("height", "width", "most"), [(60, 104, 2048), (7, 90, 100), (33, 33, 1088), (9, 9, 81)]
)
def test_tiles_cover_a_frame_and_overlap(height, width, most):
  grid = tiles.grid(height, width, most)
  assert grid.size[0] * grid.size[1] <= most
  for starts, side, extent in zip(grid.starts, grid.size, (height, width), strict=True):
    assert starts[0] == 0 and starts[-1] + side == extent
    assert all(b - a < side for a, b in itertools.pairwise(starts))


def test_a_frame_that_fits_is_one_tile():
  assert tiles.grid(9, 9, 81) == tiles.Grid((9, 9), ((0,), (0,)))


def test_too_small_a_budget_is_refused():
  with pytest.raises(ValueError, match=r"tile_pixels allows 0 latents"):
    tiles.grid(4, 4, 0)


def test_seams_are_measured_and_small():
  autoencoder = frozen("ours")
  space = autoencoder.space
  rng = np.random.default_rng(0)
  coarse = rng.integers(256, size=(2, 3, 6, 16, 3), dtype=np.uint8)
  clips_BFHWC = coarse.repeat(space, axis=2).repeat(space, axis=3)
  whole = autoencoder.encode_batch(clips_BFHWC)
  tiler = tiles.Tiler(autoencoder, 60 * space**2)
  assert tiler.settings(96 * space**2) and not tiler.settings(60 * space**2)
  tiled = tiler.encode(clips_BFHWC)
  assert tiled.shape == whole.shape
  off = np.abs(tiled - whole)
  # Far from the seam a convolution feels nothing of it; at the seam what is measured.
  assert off[:, :, :, :3].max() < 1e-4 and off[:, :, :, -3:].max() < 1e-4
  assert off.max() > 0 and tiler.most >= 0.3 * off.max()
  assert "2 clips in up to 2 tiles; seams are off by" in tiler.summary()
  small = clips_BFHWC[:, :, : 4 * space, : 8 * space]
  np.testing.assert_array_equal(tiler.encode(small), autoencoder.encode_batch(small))
