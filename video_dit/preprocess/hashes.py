"""Perceptual hashes of frames, and which clips look alike by them.

A frame's hash is pHash's: the signs, about their median, of the 63 lowest frequencies of
the discrete cosine transform of the luma at 32 x 32. Encoding again, another size and a
little colour change few of its bits; other pictures differ in about half of them.

A clip has the hashes of `FRAMES` frames, evenly spaced. Two clips differ by the bits from
each frame of one to the nearest frame of the other, meaned, the greater of both ways: so
clips that start a little apart are still near. Pairs are looked for only among clips that
share 16 neighbouring bits of some frame's hash (`bands`): of clips with 6 bits of 64
between their frames, at random places, that finds 97 %, with 5 or fewer over 99 %. It is
decided by the clips alone, whichever machine looks.
"""

import array
from collections.abc import Iterable, Iterator, Sequence

import einops
import numpy as np
from PIL import Image

FRAMES = 4
_SIDE, _LOWEST = 32, 8
# Frames with less structure than this, in levels of luma, have no hash.
_FLAT = 2.0
_BANDS = 4  # of 16 bits
# The lowest frequencies of the cosine transform (DCT-II), `(frequency, place)`; what
# scale each has only moves the median.
_COSINES = np.cos(
  np.pi / _SIDE * np.arange(_LOWEST)[:, None] * (np.arange(_SIDE)[None, :] + 0.5)
).astype(np.float32)
_KEY_BYTES = 32


def perceptual(image: Image.Image) -> int:
  """The hash of a frame in grey, 64 bits; 0 where there is nothing to see in it."""
  small_HW = np.asarray(
    image.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=None), np.float32
  )
  if small_HW.std() < _FLAT:
    return 0
  low = (_COSINES @ small_HW @ _COSINES.T).ravel()[1:]
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


def distances(clip_F: np.ndarray, others_NF: np.ndarray) -> np.ndarray:
  """Bits of 64, `(N,)`, between the frames of one clip and of each of others, uint64."""
  bits_NFF = np.bitwise_count(clip_F[None, :, None] ^ others_NF[:, None, :])
  there_N = bits_NFF.min(axis=2).mean(axis=1)
  return np.maximum(there_N, bits_NFF.min(axis=1).mean(axis=1))


def first_alike(
  clips: Iterable[tuple[int, Sequence[int]]], most_bits: float
) -> Iterator[tuple[int, int, float]]:
  """Finds, among the clips of one bucket, the first one that each looks like.

  Args:
    clips: number and hashes of each; numbers are their order in the input.
    most_bits: of difference.

  Yields:
    `(number, earlier number, bits)` of clips that look like an earlier one.
  """
  ordered = sorted((number, tuple(frames)) for number, frames in clips)
  first: dict[tuple[int, ...], int] = {}
  numbers: list[int] = []
  distinct_NF = np.empty((len(ordered), FRAMES), np.uint64)
  for number, frames in ordered:
    if frames in first:
      yield number, first[frames], 0.0
      continue
    bits_N = distances(np.array(frames, np.uint64), distinct_NF[: len(numbers)])
    near = np.flatnonzero(bits_N <= most_bits)
    if len(near):
      yield number, numbers[near[0]], float(bits_N[near[0]])
    first[frames] = number
    distinct_NF[len(numbers)] = frames
    numbers.append(number)


class Alike:
  """Looks for clips that look like earlier ones, in some 80 bytes a clip and bucket."""

  def __init__(self) -> None:
    self._numbers, self._frames = array.array("Q"), array.array("Q")
    self._keys = bytearray()

  def add(self, number: int, frames: Sequence[int], key: str) -> None:
    """Adds a clip; numbers rise."""
    self._numbers.append(number)
    self._frames.extend(frames)
    self._keys += key.encode("ascii").ljust(_KEY_BYTES)

  def find(self, most_bits: float) -> dict[int, tuple[str, float]]:
    """The key of the first clip that each looks like, and the bits between them."""
    numbers_N = np.array(self._numbers)
    frames_NF = einops.rearrange(np.array(self._frames), "(n f) -> n f", f=FRAMES)
    buckets, clips = _buckets(frames_NF)
    found: dict[int, tuple[int, float]] = {}
    for group in np.split(clips, np.flatnonzero(np.diff(buckets)) + 1):
      if len(group) < 2:
        continue
      pairs = zip(group.tolist(), frames_NF[group].tolist(), strict=True)
      for clip, earlier, bits in first_alike(pairs, most_bits):
        found[clip] = min(found.get(clip, (earlier, bits)), (earlier, bits))
    return {
      int(numbers_N[clip]): (self._key(earlier), bits)
      for clip, (earlier, bits) in found.items()
    }

  def _key(self, clip: int) -> str:
    return self._keys[_KEY_BYTES * clip : _KEY_BYTES * (clip + 1)].decode("ascii").strip()


def _buckets(frames_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """`bands` of all clips: buckets, rising, and the clip in each."""
  parts = []
  clips_N = np.arange(len(frames_NF))
  for f in range(FRAMES):
    for band in range(_BANDS):
      bits_N = (frames_NF[:, f] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
      bucket_N = (np.uint64(band << 16) | bits_N).astype(np.uint32)
      parts.append(np.stack([bucket_N, clips_N], axis=1)[frames_NF[:, f] > 0])
  pairs = np.unique(np.concatenate(parts), axis=0)
  return pairs[:, 0], pairs[:, 1]
