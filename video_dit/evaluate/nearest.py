"""The copy check: the training clip nearest to each generated clip."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

# Frames, rows and columns of the grid that clips of all sizes are compared on.
_GRID = (8, 16, 16)


def on_grid(frames_FHWC: np.ndarray) -> np.ndarray:
  """Resamples a clip to the grid: nearest frames in time, averaged pixels in space.

  Args:
    frames_FHWC: uint8; an image is held still.

  Returns:
    `(*_GRID, 3)` uint8, 6 KiB.
  """
  count, rows, columns = _GRID
  chosen = np.rint(np.linspace(0, len(frames_FHWC) - 1, count)).astype(int)
  small = {
    index: Image.fromarray(frames_FHWC[index]).resize(
      (columns, rows), Image.Resampling.BOX
    )
    for index in set(chosen.tolist())
  }
  return np.stack([np.asarray(small[index]) for index in chosen.tolist()])


def nearest(
  generated: Sequence[np.ndarray], training: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the training clip nearest to each generated clip.

  Memory grows only with the number of generated clips: training clips are read one by
  one, and may come from a generator.

  Args:
    generated: clips on the grid, from `on_grid`.
    training: clips `(F, H, W, 3)` uint8 of any sizes and lengths.

  Returns:
    Indices `(generated,)` int64 into `training` and distances `(generated,)` float32:
    the root mean square of the differences of pixel values, from 0 to 255.

  Raises:
    ValueError: there is no training clip.
  """
  targets = np.zeros((len(generated), *_GRID, 3), np.float32)
  for index, clip in enumerate(generated):
    targets[index] = clip
  indices = np.full(len(generated), -1, np.int64)
  squares = np.full(len(generated), np.inf, np.float32)
  for index, clip in enumerate(training):
    square = np.mean((targets - on_grid(clip)[None]) ** 2, axis=(1, 2, 3, 4))
    closer = square < squares
    indices[closer], squares[closer] = index, square[closer]
  if len(generated) and indices[0] < 0:
    raise ValueError("training: there are no clips to compare with. Name a data set.")
  return indices, np.sqrt(squares)
