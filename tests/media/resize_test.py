"""Sizes on the grid, within the budget, of the same shape."""

import math

import numpy as np
import pytest

from video_dit.media.resize import resize, target_size


@pytest.mark.parametrize("grid", [1, 8, 16, 32])
def test_target_sizes_keep_grid_budget_and_shape(grid):
  rng = np.random.default_rng(grid)
  for _ in range(500):
    height, width = (int(side) for side in rng.integers(grid, 3000, 2))
    budget = int(rng.integers(16 * grid * grid, 600_000))
    rows, columns = target_size(height, width, max_pixels=budget, grid=grid)
    assert rows % grid == 0 and columns % grid == 0
    assert rows * columns <= budget
    assert rows <= height and columns <= width
    if min(rows, columns) >= 8 * grid:
      assert abs(math.log(rows * width / (columns * height))) < 0.07
      wanted = min(budget, height * width)
      assert rows * columns > 0.6 * wanted


def test_sizes_on_the_grid_are_kept():
  assert target_size(480, 848, max_pixels=480 * 848, grid=16) == (480, 848)
  assert target_size(64, 96, max_pixels=10**6, grid=16) == (64, 96)


def test_known_sizes():
  assert target_size(1080, 1920, max_pixels=480 * 848, grid=16) == (480, 848)
  assert target_size(10, 10, max_pixels=10_000, grid=16) == (16, 16)
  assert target_size(100_000, 8, max_pixels=407_040, grid=16)[1] == 16


def test_impossible_sizes_are_refused():
  with pytest.raises(ValueError, match="max_pixels=200"):
    target_size(100, 100, max_pixels=200, grid=16)
  with pytest.raises(ValueError, match="at least 1"):
    target_size(0, 100, max_pixels=200, grid=1)


def test_resize_is_antialiased_and_leaves_equal_sizes_alone():
  board_HW1 = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
  frame_HWC = np.repeat(board_HW1, 3, axis=2)
  small_HWC = resize(frame_HWC, (16, 20))
  assert small_HWC.shape == (16, 20, 3) and small_HWC.dtype == np.uint8
  assert np.abs(small_HWC.astype(int) - 127).max() < 30
  assert resize(frame_HWC, (64, 64)) is frame_HWC
