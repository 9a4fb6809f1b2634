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


class _Columns:
  """An autoencoder whose latents all say at which column their tile begins."""

  space = 1

  def __init__(self):
    self.sizes = []

  def parts(self):
    return [self]

  def encode_batch(self, clips_BFHWC, sizes_B2):
    self.sizes.append(sizes_B2.tolist())
    first = clips_BFHWC[:, :, :1, :1, :1].astype(np.float32)
    return np.broadcast_to(first, (*clips_BFHWC.shape[:4], 1))


def test_tiles_pass_linearly_into_each_other_and_know_where_clips_end():
  columns_W = np.arange(40, dtype=np.uint8)
  clip = np.broadcast_to(columns_W[None, None, None, :, None], (1, 1, 4, 40, 3))
  grid = tiles.grid(4, 40, 120)
  side, (_, right) = grid.size[1], grid.starts[1]
  autoencoder = _Columns()
  found = tiles.Tiler(autoencoder, 120).encode(clip, np.array([[3, right + 2]]))
  share = np.clip((np.arange(40) - right + 0.5) / (side - right), 0, 1)
  np.testing.assert_allclose(found[0, 0, 0, :, 0], right * share, rtol=1e-5)
  assert autoencoder.sizes[:2] == [[[3, min(side, right + 2)]], [[3, 2]]]
