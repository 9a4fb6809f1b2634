"""Perceptual hashes of frames, and which clips look alike by them.

A frame's hash is pHash's: the signs, about their median, of the 63 lowest frequencies of
the discrete cosine transform of the luma at 32 x 32. Encoding again, another size and a
little colour change few of its bits; other pictures differ in about half of them.

A clip has the hashes of `FRAMES` frames, evenly spaced. Two clips differ by the bits from
each frame of one to the nearest frame of the other, meaned, the greater of both ways: so
clips that start a little apart are still near. Pairs are looked for only among clips that
share 16 neighbouring bits of some frame's hash, a bucket: of clips with 6 bits of 64
between their frames, at random places, that finds 97 %, with 5 or fewer over 99 %.

A clip goes only where one that stays looks like it: in a slow pan each clip looks like
the one before, and the last not like the first. So clips are gone through in order, each
set against those that stay, some thousand at a time.
"""

import array
from collections.abc import Iterator, Sequence

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
# Clips that are decided on together, and pairs that are compared at a time.
_CLIPS, _PAIRS = 2048, 1 << 15


def perceptual(image: Image.Image) -> int:
  """The hash of a frame in grey, 64 bits; 0 if it shows nothing."""
  small_HW = np.asarray(
    image.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=None), np.float32
  )
  if small_HW.std() < _FLAT:
    return 0
  low = (_COSINES @ small_HW @ _COSINES.T).ravel()[1:]
  bits = np.concatenate([[True], low > np.median(low)])  # Never 0.
  return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Alike:
  """Finds clips that look like kept ones, in some 250 bytes a clip."""

  def __init__(self) -> None:
    self._frames, self._is_held = array.array("Q"), bytearray()
    self._keys = bytearray()

  def add(self, key: str, frames: Sequence[int], *, is_held: bool = False) -> None:
    """Adds a clip; of two alike the held one is kept, or the one added first."""
    self._frames.extend(frames)
    self._is_held.append(is_held)
    self._keys += key.encode("ascii").ljust(_KEY_BYTES)

  def find(self, most_bits: float) -> dict[str, tuple[str, float]]:
    """Finds the clips to remove.

    Args:
      most_bits: of difference between clips that look alike.

    Returns:
      By key, the key of the first one that stays and looks like it, and the bits between
      them.
    """
    order_N = np.argsort(~np.array(self._is_held, bool), kind="stable")
    frames_NF = einops.rearrange(np.array(self._frames), "(n f) -> n f", f=FRAMES)
    frames_NF = frames_NF[order_N]
    first_N = _same(frames_NF)
    is_known_N = frames_NF.any(axis=1)
    own_M = np.flatnonzero((first_N == np.arange(len(first_N))) & is_known_N)
    stays_N, bits_N = first_N.copy(), np.zeros(len(first_N))
    like_M, bits_M = _stay(frames_NF[own_M], most_bits)
    stays_N[own_M], bits_N[own_M] = own_M[like_M], bits_M
    stays_N, bits_N = stays_N[first_N], bits_N[first_N]
    gone = np.flatnonzero((stays_N != np.arange(len(stays_N))) & is_known_N)
    places = zip(order_N[gone], order_N[stays_N[gone]], bits_N[gone], strict=True)
    return {self._key(i): (self._key(stays), float(bits)) for i, stays, bits in places}

  def _key(self, clip: int) -> str:
    return self._keys[_KEY_BYTES * clip : _KEY_BYTES * (clip + 1)].decode("ascii").strip()


def _same(frames_NF: np.ndarray) -> np.ndarray:
  """For each clip the first one of exactly its hashes, `(N,)`."""
  order = np.lexsort([*frames_NF.T[::-1]])  # Stable: equal ones stay in order.
  sorted_NF = frames_NF[order]
  begins = np.ones(len(frames_NF), bool)
  begins[1:] = (sorted_NF[1:] != sorted_NF[:-1]).any(axis=1)
  first_N = np.empty(len(frames_NF), int)
  first_N[order] = order[begins][np.cumsum(begins) - 1]
  return first_N


def _stay(frames_MF: np.ndarray, most_bits: float) -> tuple[np.ndarray, np.ndarray]:
  """For each clip, none twice, the first that stays and is like it; itself if it stays.

  Returns:
    Their places, and the bits between the two.
  """
  like_M, bits_M = np.arange(len(frames_MF)), np.zeros(len(frames_MF))
  staying = _Buckets(frames_MF)
  for begin in range(0, len(frames_MF), _CLIPS):
    frames_BF = frames_MF[begin : begin + _CLIPS]
    here = begin + np.arange(len(frames_BF))
    clips, buckets = _entries(frames_BF)
    for later, earlier in staying.pairs(here[clips], buckets):
      later, earlier, _ = _alike(frames_MF, later, earlier, most_bits)
      np.minimum.at(like_M, later, earlier)
    stays = like_M[here] == here
    is_near_BB = np.zeros((len(here), len(here)), bool)
    for later, earlier in _pairs_within(clips[stays[clips]], buckets[stays[clips]]):
      later, earlier, _ = _alike(frames_BF, later, earlier, most_bits)
      is_near_BB[later, earlier] = True
    for i in np.flatnonzero(is_near_BB.any(axis=1)):
      near = np.flatnonzero(is_near_BB[i] & stays)
      if len(near):
        stays[i], like_M[here[i]] = False, here[near[0]]
    staying.add(here[clips][stays[clips]], buckets[stays[clips]])
    gone = here[~stays]
    _, _, bits_M[gone] = _alike(frames_MF, gone, like_M[gone], most_bits)
  return like_M, bits_M


class _Buckets:
  """Clips by bucket, in order, with room for each that may come."""

  def __init__(self, frames_MF: np.ndarray):
    counts = np.zeros(_BANDS << 16, np.int64)
    for begin in range(0, len(frames_MF), _CLIPS):
      _, buckets = _entries(frames_MF[begin : begin + _CLIPS])
      counts += np.bincount(buckets, minlength=len(counts))
    self._begins = np.cumsum(counts) - counts
    self._held = np.zeros_like(counts)
    self._clips = np.empty(counts.sum(), np.uint32)

  def add(self, clips: np.ndarray, buckets: np.ndarray) -> None:
    """Adds clips that come after all that are here."""
    clips, buckets, begins = _by_bucket(clips, buckets)
    places = np.arange(len(clips)) - begins
    self._clips[self._begins[buckets] + self._held[buckets] + places] = clips
    self._held += np.bincount(buckets, minlength=len(self._held))

  def pairs(
    self, clips: np.ndarray, buckets: np.ndarray
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields pairs of these clips and those that are in the same buckets."""
    begins, counts = self._begins[buckets], self._held[buckets]
    for whose, places in _ranges(begins, counts):
      yield clips[whose], self._clips[places].astype(np.int64)


def _entries(frames_XF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Places of clips, in order, with the buckets of each; none where nothing is known."""
  shifts = np.arange(0, 16 * _BANDS, 16, dtype=np.uint64)
  bits_XFB = (frames_XF[..., None] >> shifts) & np.uint64(0xFFFF)
  bits_XFB |= np.arange(_BANDS, dtype=np.uint64) << np.uint64(16)
  buckets_XE = einops.rearrange(bits_XFB.astype(np.int64), "x f b -> x (f b)")
  buckets_XE[np.repeat(frames_XF == 0, _BANDS, axis=1)] = -1
  buckets_XE = np.sort(buckets_XE, axis=1)
  clips, entries = np.nonzero(np.diff(buckets_XE, axis=1, prepend=-1))
  return clips, buckets_XE[clips, entries]


def _by_bucket(
  clips: np.ndarray, buckets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The same by bucket, in order within each, and where the bucket of each begins."""
  order = np.argsort(buckets, kind="stable")
  clips, buckets = clips[order], buckets[order]
  begins = np.flatnonzero(np.diff(buckets, prepend=-1))
  counts = np.diff(begins, append=len(buckets))
  return clips, buckets, np.repeat(begins, counts)


def _pairs_within(
  clips: np.ndarray, buckets: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields pairs of clips of the same bucket, the later one first."""
  clips, _, begins = _by_bucket(clips, buckets)
  for whose, places in _ranges(begins, np.arange(len(clips)) - begins):
    yield clips[whose], clips[places]


def _ranges(
  begins: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields what lies in ranges, with the number of its range, some ranges at a time."""
  ends = np.cumsum(counts)
  first = 0
  while first < len(counts):
    most = ends[first] - counts[first] + _PAIRS
    last = max(first + 1, int(np.searchsorted(ends, most, side="right")))
    some = slice(first, last)
    whose = np.repeat(np.arange(first, last), counts[some])
    offsets = begins[some] - (ends[some] - counts[some])
    total = int(ends[last - 1] - ends[first] + counts[first])
    place = np.arange(total) + (ends[first] - counts[first])
    yield whose, place + np.repeat(offsets, counts[some])
    first = last


def _alike(
  frames_NF: np.ndarray, later: np.ndarray, earlier: np.ndarray, most_bits: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of pairs of clips those that are alike, and the bits between them."""
  bits = np.zeros(len(later), np.int64)
  for is_back in (False, True):
    sums = np.zeros(len(later), np.int64)
    for f in range(FRAMES):
      pair = frames_NF.take(later, axis=0), frames_NF.take(earlier, axis=0)
      sums += _nearest(*(pair[::-1] if is_back else pair), f)
      is_near = sums <= FRAMES * most_bits
      later, earlier, sums, bits = (x[is_near] for x in (later, earlier, sums, bits))
    bits = np.maximum(bits, sums)
  return later, earlier, bits / FRAMES


def _nearest(clips_XF: np.ndarray, others_XF: np.ndarray, f: int) -> np.ndarray:
  """Bits between frame f of clips and the nearest frame of others."""
  nearest = np.bitwise_count(clips_XF[..., f] ^ others_XF[..., 0])
  for other in range(1, FRAMES):
    bits = np.bitwise_count(clips_XF[..., f] ^ others_XF[..., other])
    np.minimum(nearest, bits, out=nearest)
  return nearest
