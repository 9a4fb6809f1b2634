"""Perceptual hashes of frames, and which clips look alike by them.

A frame's hash is pHash's: the signs, about their median, of the 63 lowest frequencies of
the discrete cosine transform of the luma at 32 x 32. Encoding again, another size and a
little colour change few of its bits; other pictures differ in about half of them.

A clip has the hashes of `FRAMES` frames, evenly spaced. Two clips differ by the bits from
each frame of one to the nearest frame of the other, meaned, the greater of both ways: so
clips that start a little apart are still near. Pairs are looked for only among clips that
share 16 neighbouring bits of some frame's hash (`bands`): of two clips with 6 bits of 64
between their frames that finds more than 99 %, and it is decided by the clips alone,
whichever machine looks.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image
import scipy.fft

FRAMES = 4
_SIDE, _LOWEST = 32, 8
# Frames with less structure than this, in levels of luma, have no hash.
_FLAT = 2.0
_BANDS = 4  # of 16 bits


def perceptual(image: Image.Image) -> int:
  """The hash of a frame in grey, 64 bits; 0 where there is nothing to see in it."""
  small_HW = np.asarray(
    image.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=None), np.float32
  )
  if small_HW.std() < _FLAT:
    return 0
  low = scipy.fft.dctn(small_HW, norm="ortho")[:_LOWEST, :_LOWEST].ravel()[1:]
  bits = np.concatenate([[True], low > np.median(low)])  # Never 0.
  return int.from_bytes(np.packbits(bits).tobytes(), "big")


def bands(frames: Iterable[int]) -> list[int]:
  """The buckets in which a clip's duplicates are looked for; none without hashes."""
  found = {
    band << 16 | (frame >> 16 * band) & 0xFFFF
    for frame in frames
    if frame
    for band in range(_BANDS)
  }
  return sorted(found)


def distance(a: np.ndarray, b: np.ndarray) -> float:
  """Bits of 64 between two clips `(n,)`, `(m,)` uint64."""
  bits = np.bitwise_count(a[:, None] ^ b[None, :])
  return float(max(bits.min(axis=1).mean(), bits.min(axis=0).mean()))


def first_alike(
  clips: list[tuple[int, tuple[int, ...]]], most_bits: float
) -> Iterator[tuple[int, int, float]]:
  """Finds, among the clips of one bucket, the first one that each looks like.

  Args:
    clips: number and hashes of each; numbers are their order in the input.
    most_bits: of difference.

  Yields:
    `(number, earlier number, bits)` of clips that look like an earlier one.
  """
  first: dict[tuple[int, ...], int] = {}
  distinct: list[tuple[int, np.ndarray]] = []
  for number, frames in sorted(clips):
    if frames in first:
      yield number, first[frames], 0.0
      continue
    first[frames] = number
    mine = np.array(frames, np.uint64)
    for earlier, theirs in distinct:
      bits = distance(mine, theirs)
      if bits <= most_bits:
        yield number, earlier, bits
        break
    distinct.append((number, mine))
