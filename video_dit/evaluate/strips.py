"""Filmstrips: some frames of a clip side by side, as one picture for a page.

A clip is first reduced to a few small frames (`few`), which is all that is kept of it: so
memory does not grow with the clips' lengths and sizes.
"""

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


def few(frames_FHWC: np.ndarray) -> np.ndarray:
  """Evenly spaced frames of a clip, including the first and the last, made small.

  Args:
    frames_FHWC: uint8.

  Returns:
    At most `COUNT` frames of at most `HEIGHT` rows, averaged down where there were more;
    a clip that is small already keeps its pixels. Never a view of the clip.
  """
  num = min(COUNT, len(frames_FHWC))
  picks = np.unique(np.rint(np.linspace(0, len(frames_FHWC) - 1, num)).astype(int))
  if frames_FHWC.shape[1] <= HEIGHT:
    return frames_FHWC[picks]
  return np.stack([_resized(frames_FHWC[i], _width(frames_FHWC)) for i in picks])


def strip(frames_FHWC: np.ndarray, *, cell_width: int = 0) -> np.ndarray:
  """The few frames of a clip beside each other; small ones are enlarged.

  Args:
    frames_FHWC: uint8, whole or already from `few`, which makes no difference.
    cell_width: least width that a frame takes, as pixels of the strip.

  Returns:
    `(HEIGHT, width, 3)` uint8.
  """
  width = _width(frames_FHWC)
  cells = [_resized(frame_HWC, width) for frame_HWC in few(frames_FHWC)]
  behind = _GAP + max(0, cell_width - width)
  padded = [np.pad(c, ((0, 0), (0, behind), (0, 0)), constant_values=255) for c in cells]
  return einops.rearrange(np.stack(padded), "n h w c -> h (n w) c")[:, :-_GAP]


def _resized(frame_HWC: np.ndarray, width: int) -> np.ndarray:
  """A frame of `HEIGHT` rows; pixels are repeated where it is smaller, else averaged."""
  method = Image.Resampling.NEAREST if len(frame_HWC) < HEIGHT else Image.Resampling.BOX
  return np.asarray(Image.fromarray(frame_HWC).resize((width, HEIGHT), method))


def _width(frames_FHWC: np.ndarray) -> int:
  """Of a frame in its strip."""
  height, width = frames_FHWC.shape[1:3]
  return max(1, round(width * HEIGHT / height))


def pair(first_FHWC: np.ndarray, second_FHWC: np.ndarray) -> np.ndarray:
  """Two strips, frame above frame whatever their shapes; clips as `strip` takes them."""
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
