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
import itertools

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
# Clips that are compared at a time with all before them, and pairs of them.
_ROWS, _PAIRS = 128, 1 << 20


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
  first: dict[tuple[int, ...], int] = {}
  for number, frames in sorted((number, tuple(frames)) for number, frames in clips):
    if frames in first:
      yield number, first[frames], 0.0
    else:
      first[frames] = number
  numbers = list(first.values())
  frames_NF = np.array(list(first), np.uint64).reshape(-1, FRAMES)
  found: dict[int, tuple[int, float]] = {}
  for pairs in _candidates(frames_NF, most_bits):
    for later, earlier, bits in zip(*_alike(frames_NF, *pairs, most_bits), strict=True):
      found.setdefault(later, (earlier, bits))
  for later, (earlier, bits) in found.items():
    yield numbers[later], numbers[earlier], float(bits)


def _candidates(
  frames_NF: np.ndarray, most_bits: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields places of clips and of earlier ones that may be alike, by rising place."""
  step = max(1, min(_ROWS, _PAIRS // max(1, len(frames_NF))))
  for begin in range(0, len(frames_NF), step):
    end = min(begin + step, len(frames_NF))
    # Most pairs differ too much in one frame already.
    near = _nearest(frames_NF[begin:end, None], frames_NF[None, :end], 0)
    later, earlier = np.nonzero(near <= FRAMES * most_bits)
    later += begin
    is_before = earlier < later
    yield later[is_before], earlier[is_before]


def _nearest(clips_XF: np.ndarray, others_XF: np.ndarray, f: int) -> np.ndarray:
  """Bits between frame f of clips and the nearest frame of others."""
  nearest = np.bitwise_count(clips_XF[..., f] ^ others_XF[..., 0])
  for other in range(1, FRAMES):
    bits = np.bitwise_count(clips_XF[..., f] ^ others_XF[..., other])
    np.minimum(nearest, bits, out=nearest)
  return nearest


def _alike(
  frames_NF: np.ndarray, later: np.ndarray, earlier: np.ndarray, most_bits: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of pairs of clips those that are alike, and the bits between them."""
  bits = np.zeros(len(later), np.int64)
  for is_back in (False, True):
    sums = np.zeros(len(later), np.int64)
    for f in range(FRAMES):
      pair = frames_NF[later], frames_NF[earlier]
      sums += _nearest(*(pair[::-1] if is_back else pair), f)
      is_near = sums <= FRAMES * most_bits
      later, earlier, sums, bits = (x[is_near] for x in (later, earlier, sums, bits))
    bits = np.maximum(bits, sums)
  return later, earlier, bits / FRAMES


class Alike:
  """Looks for clips that look like earlier ones, in some 250 bytes a clip."""

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
    first_N, bits_N = _same(frames_NF), np.zeros(len(frames_NF))
    is_first = first_N == np.arange(len(frames_NF))
    groups = _groups(frames_NF, np.flatnonzero(is_first & frames_NF.any(axis=1)))
    pairs = (
      (group[later], group[earlier])
      for group in groups
      for later, earlier in _candidates(frames_NF[group], most_bits)
    )
    for later, earlier in _joined(pairs):
      later, earlier, bits = _alike(frames_NF, later, earlier, most_bits)
      order = np.lexsort([earlier, later])
      later, earlier, bits = later[order], earlier[order], bits[order]
      better = (np.diff(later, prepend=-1) > 0) & (earlier < first_N[later])
      first_N[later[better]] = earlier[better]
      bits_N[later[better]] = bits[better]
    first_N[~frames_NF.any(axis=1)] = len(frames_NF)  # Nothing is known of them.
    return {
      int(numbers_N[clip]): (self._key(first_N[clip]), float(bits_N[clip]))
      for clip in np.flatnonzero(first_N < np.arange(len(frames_NF)))
    }

  def _key(self, clip: int) -> str:
    return self._keys[_KEY_BYTES * clip : _KEY_BYTES * (clip + 1)].decode("ascii").strip()


def _joined(
  pairs: Iterable[tuple[np.ndarray, np.ndarray]],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """The same pairs, many at a time."""
  waiting: list[tuple[np.ndarray, np.ndarray]] = []
  count = 0
  for pair in pairs:
    if len(pair[0]):
      waiting.append(pair)
      count += len(pair[0])
    if count > _PAIRS:
      yield _concatenate(waiting)
      waiting, count = [], 0
  if waiting:
    yield _concatenate(waiting)


def _concatenate(
  pairs: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
  later, earlier = zip(*pairs, strict=True)
  return np.concatenate(later), np.concatenate(earlier)


def _same(frames_NF: np.ndarray) -> np.ndarray:
  """For each clip the first one of exactly its hashes, `(N,)`."""
  order = np.lexsort([*frames_NF.T[::-1]])  # Stable: equal ones stay in order.
  sorted_NF = frames_NF[order]
  begins = np.ones(len(frames_NF), bool)
  begins[1:] = (sorted_NF[1:] != sorted_NF[:-1]).any(axis=1)
  first_N = np.empty(len(frames_NF), int)
  first_N[order] = order[begins][np.cumsum(begins) - 1]
  return first_N


def _groups(frames_NF: np.ndarray, clips_M: np.ndarray) -> Iterator[np.ndarray]:
  """Of these clips, those in every bucket of `bands` that holds two or more, in order."""
  for band in range(_BANDS):  # One band at a time, which takes a quarter of the memory.
    parts = []
    for f in range(FRAMES):
      hash_M = frames_NF[clips_M, f]
      bits_M = (hash_M >> np.uint64(16 * band)) & np.uint64(0xFFFF)
      pairs_M = bits_M << np.uint64(48) | clips_M.astype(np.uint64)
      parts.append(pairs_M[hash_M > 0])
    pairs = np.sort(np.concatenate(parts))
    pairs = pairs[np.diff(pairs, prepend=pairs[:1] + np.uint64(1)) > 0]
    clips = (pairs & np.uint64(2**48 - 1)).astype(np.int64)
    ends = np.flatnonzero(np.diff(pairs >> np.uint64(48))) + 1
    for begin, end in itertools.pairwise([0, *ends.tolist(), len(pairs)]):
      if end - begin > 1:
        yield clips[begin:end]
