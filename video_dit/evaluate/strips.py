"""Filmstrips: some frames of a clip side by side, as one picture for a page."""

from collections.abc import Iterator, Sequence
import contextlib
import pathlib
import tempfile

import einops
import numpy as np
from PIL import Image

HEIGHT = 72
COUNT = 6
_GAP = 3


def strip(
  frames_FHWC: np.ndarray, *, count: int = COUNT, cell_width: int = 0
) -> np.ndarray:
  """Evenly spaced frames of one clip, including the first and the last.

  Args:
    frames_FHWC: uint8.
    count: most frames shown.
    cell_width: least width that a frame takes, as pixels of the strip.

  Returns:
    `(HEIGHT, width, 3)` uint8.
  """
  num = min(count, len(frames_FHWC))
  picks = np.unique(np.rint(np.linspace(0, len(frames_FHWC) - 1, num)).astype(int))
  height = frames_FHWC.shape[1]
  size = (_width(frames_FHWC), HEIGHT)
  # Small clips keep their pixels; large ones are averaged down.
  method = Image.Resampling.NEAREST if height < HEIGHT else Image.Resampling.BOX
  cells = [
    np.asarray(Image.fromarray(frames_FHWC[i]).resize(size, method)) for i in picks
  ]
  behind = _GAP + max(0, cell_width - size[0])
  padded = [np.pad(c, ((0, 0), (0, behind), (0, 0)), constant_values=255) for c in cells]
  return einops.rearrange(np.stack(padded), "n h w c -> h (n w) c")[:, :-_GAP]


def _width(frames_FHWC: np.ndarray) -> int:
  """Of a frame in its strip."""
  height, width = frames_FHWC.shape[1:3]
  return max(1, round(width * HEIGHT / height))


def pair(first_FHWC: np.ndarray, second_FHWC: np.ndarray) -> np.ndarray:
  """Two strips, frame above frame whatever their shapes."""
  clips = (first_FHWC, second_FHWC)
  cell = max(map(_width, clips))
  return stack([strip(clip, cell_width=cell) for clip in clips])


def stack(strips: Sequence[np.ndarray]) -> np.ndarray:
  """Strips below each other, on white."""
  width = max(s.shape[1] for s in strips)
  padded = [
    np.pad(s, ((0, _GAP), (0, width - s.shape[1]), (0, 0)), constant_values=255)
    for s in strips
  ]
  return np.concatenate(padded)[:-_GAP]


@contextlib.contextmanager
def as_files(
  pictures: Sequence[tuple[str, np.ndarray]],
) -> Iterator[list[tuple[str, pathlib.Path]]]:
  """Pictures as png files while the context lasts, for a page that takes their bytes.

  Args:
    pictures: captions and `(H, W, 3)` uint8.
  """
  with tempfile.TemporaryDirectory() as folder:
    paths = []
    for i, (caption, picture) in enumerate(pictures):
      path = pathlib.Path(folder) / f"{i}.png"
      Image.fromarray(picture).save(path, optimize=True)
      paths.append((caption, path))
    yield paths
