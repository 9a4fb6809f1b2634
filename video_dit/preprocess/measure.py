"""What is measured of a frame: numbers that tell good clips from others, cheaply.

Frames come small (`ingest.side`), so nothing here depends on the size of the source:

- level: the luma, of 255, that 98 % of the pixels do not exceed; black frames are low;
- change: the greatest change of mean luma in any part of the frame, one of about 22 x 40,
  since the frame measured before; of a frozen video it is the coding noise. What swings
  in time with the measures comes back to where it was, so it is measured until the very
  next frame of the file too (`next_change`);
- motion: speed along the brightness gradient, by least squares over the same parts
  (Horn and Schunck's constraint, 1981: I_x u + I_y v + I_t = 0, of which the part along
  the gradient is known), in frame heights a second. A light that changes counts as
  motion; what moves farther than its own structure counts for too little, so it is
  measured since the frame before (`motion`) and until the very next one (`onward`);
- sharpness: the variance of the Laplacian of the luma (Pech-Pacheco et al., 2000);
- text: the share of the frame under overlaid text, see `overlay`;
- hash: the perceptual hash of the frame, see `hashes`.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from video_dit.preprocess import hashes, overlay

# One frame measured. `tick` counts frames at the clips' rate.
DTYPE = np.dtype(
  [
    ("tick", "<i4"),
    ("level", "u1"),
    ("change", "<f4"),
    ("motion", "<f4"),
    ("onward", "<f4"),
    ("next_change", "<f4"),
    ("sharpness", "<f4"),
    ("text", "<f4"),
    ("hash", "<u8"),
  ]
)
ONWARD = slice(3, 5)  # Places, behind `tick`, of what the next frame tells.
# Along the longer side, each of 4 x 4 pixels at least: finer ones see the coding noise.
_PARTS, _PART_SIDE = 40, 4
_BRIGHTEST = 0.98
# Of the squared gradient, per part: below it no motion is visible.
_FLAT = 1.0


@dataclasses.dataclass(frozen=True)
class Before:
  """What the next frame is compared with."""

  seconds: float
  parts_HW: np.ndarray
  words_HW: np.ndarray


def measure(
  frame_HWC: np.ndarray, seconds: float, before: Before | None
) -> tuple[list, Before]:
  """Measures one frame.

  Args:
    frame_HWC: uint8 RGB, already small.
    seconds: its time.
    before: of the frame measured before it, None for the first.

  Returns:
    The fields of `DTYPE` behind `tick`, and what the next frame is compared with. The
    first frame has no change and no motion; what needs the next frame is unknown, NaN.
  """
  image = Image.fromarray(frame_HWC).convert("L")
  luma_HW = np.asarray(image)
  parts_HW = _parts(image)
  words_HW = overlay.words(luma_HW)
  change = motion = 0.0
  if before is not None and before.parts_HW.shape == parts_HW.shape:
    change = float(np.abs(parts_HW - before.parts_HW).max())
    motion = _speed(before.parts_HW, parts_HW) / max(seconds - before.seconds, 1e-3)
  stays_HW = words_HW
  if before is not None and before.words_HW.shape == words_HW.shape:
    stays_HW = words_HW & before.words_HW
  fields = [
    _level(luma_HW),
    change,
    motion,
    math.nan,
    math.nan,
    _sharpness(luma_HW),
    float(stays_HW.mean()) if stays_HW.size else 0.0,
    hashes.perceptual(image),
  ]
  return fields, Before(seconds, parts_HW, words_HW)


def onward(frame_HWC: np.ndarray, seconds: float, before: Before) -> list[float]:
  """Motion and change from the frame measured last to the next of the file, uint8 RGB."""
  parts_HW = _parts(Image.fromarray(frame_HWC).convert("L"))
  if parts_HW.shape != before.parts_HW.shape:
    return [0.0, 0.0]
  speed = _speed(before.parts_HW, parts_HW) / max(seconds - before.seconds, 1e-3)
  return [speed, float(np.abs(parts_HW - before.parts_HW).max())]


def held(fields: list, before: Before) -> list:
  """The fields of a frame that is measured again, unchanged."""
  words_HW = before.words_HW
  text = float(words_HW.mean()) if words_HW.size else 0.0
  level, sharpness, bits = fields[0], fields[5], fields[7]
  return [level, 0.0, 0.0, 0.0, 0.0, sharpness, text, bits]


def size(height: int, width: int, side: int) -> tuple[int, int]:
  """The size at which frames are measured: the longer side at most `side` pixels."""
  scale = min(1.0, side / max(height, width))
  return max(1, round(height * scale)), max(1, round(width * scale))


def _parts(image: Image.Image) -> np.ndarray:
  """Mean luma of each part of the frame, float32."""
  width, height = image.size
  scale = min(1.0 / _PART_SIDE, _PARTS / max(width, height))
  grid = max(1, round(width * scale)), max(1, round(height * scale))
  return np.asarray(image.resize(grid, Image.Resampling.BOX), np.float32)


def _level(luma_HW: np.ndarray) -> int:
  counts = np.cumsum(np.bincount(luma_HW.ravel(), minlength=256))
  return int(np.searchsorted(counts, _BRIGHTEST * counts[-1]))


def _speed(before_HW: np.ndarray, now_HW: np.ndarray) -> float:
  """Frame heights moved along the gradient between two frames."""
  mean_HW = 0.5 * (before_HW + now_HW)
  square_HW = np.zeros_like(mean_HW)
  for axis in (0, 1):
    if mean_HW.shape[axis] > 1:
      square_HW += np.gradient(mean_HW, axis=axis) ** 2
  change_HW = np.abs(now_HW - before_HW)
  moved = float((change_HW * np.sqrt(square_HW)).sum())
  return moved / float((square_HW + _FLAT).sum()) / mean_HW.shape[0]


def _sharpness(luma_HW: np.ndarray) -> float:
  if min(luma_HW.shape) < 3:
    return 0.0
  x_HW = luma_HW.astype(np.int16)
  inner_HW = x_HW[1:-1, 1:-1]
  around_HW = x_HW[:-2, 1:-1] + x_HW[2:, 1:-1] + x_HW[1:-1, :-2] + x_HW[1:-1, 2:]
  return float((around_HW - 4 * inner_HW).astype(np.float32).var())
