"""Sizes on a grid within a pixel budget, and resizing to them."""

import functools
import math

import numpy as np
from PIL import Image

# Weight of the pixel budget, in log area, against the aspect ratio.
_AREA_WEIGHT = 0.1


@functools.lru_cache(1 << 12)
def target_size(
  height: int, width: int, *, max_pixels: int, grid: int
) -> tuple[int, int]:
  """The size that a frame is resized to: on the grid, within the budget, same shape.

  Nothing is cropped, so a size off the grid changes its aspect ratio a little. Among
  the sizes on the grid that neither exceed the budget nor the source, this is the one
  that keeps the aspect ratio best, a loss of ten percent of the area counting like a
  change of one percent of the ratio. A source that is on the grid and within the
  budget keeps its size.

  Args:
    height: of the source, in pixels.
    width: of the source, in pixels.
    max_pixels: greatest number of pixels of the result.
    grid: both sides of the result are multiples of it.

  Returns:
    `(height, width)` in pixels; never larger than the source, except that each side
    has at least one grid cell.

  Raises:
    ValueError: a side or the grid is below 1, or one grid cell exceeds the budget.
  """
  if min(height, width, grid) < 1:
    raise ValueError(f"size {height}x{width} on grid {grid}: each must be at least 1.")
  if grid * grid > max_pixels:
    raise ValueError(
      f"max_pixels={max_pixels} is below one cell of grid {grid}: choose at least"
      f" {grid * grid}."
    )
  scale = min(1.0, math.sqrt(max_pixels / (height * width)))
  best, best_cost = (grid, grid), math.inf
  # Columns compensate for a grid row too few or too many; three rows are plenty.
  top = max(1, min(math.ceil(height * scale / grid), max_pixels // grid**2))
  for rows in range(max(1, top - 3), top + 1):
    ideal = rows * width / height
    for columns in {max(1, math.floor(ideal)), max(1, math.ceil(ideal))}:
      columns = min(columns, max(1, width // grid), max_pixels // (grid * grid * rows))
      if columns < 1 or rows > max(1, height // grid):
        continue
      shape = abs(math.log(columns * height / (rows * width)))
      area = math.log(height * width * scale**2 / (rows * columns * grid * grid))
      cost = shape + _AREA_WEIGHT * max(0.0, area)
      if cost < best_cost:
        best, best_cost = (rows * grid, columns * grid), cost
  return best


def resize(frame_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes one frame by an antialiased bicubic filter.

  Args:
    frame_HWC: uint8 RGB frame.
    size: `(height, width)` of the result.

  Returns:
    The uint8 frame of that size; the same array where nothing changes.
  """
  height, width = size
  if frame_HWC.shape[:2] == (height, width):
    return frame_HWC
  image = Image.fromarray(frame_HWC)
  return np.array(image.resize((width, height), Image.Resampling.BICUBIC))
