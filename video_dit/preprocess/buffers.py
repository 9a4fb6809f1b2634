"""A few buffers that clips of all sizes are encoded in, wasting little.

A size of its own for each clip would mean a compilation for each. A clip may lie in any
buffer that is no smaller, and comes out the same; what it leaves empty is computed for
nothing, as is what fills up a batch with fewer clips than there are devices, and what
follows its shorter clips. So buffers are chosen for the sizes that there are: all sizes
at first, then two at a time become one, the pair that adds the least, as long as that
saves more than it adds, or the waste is within its limit. Thousands of sizes become some
dozens; the more devices there are, the more of the rare ones join others.
"""

import dataclasses
import math

import numpy as np

# Of what is computed: the share that may be wasted with one clip a device. Several may
# waste `batches.MOST_IDLE` more.
MOST_EMPTY = 0.06
# Where the least that is possible wastes more than that: what may be added to it, because
# every buffer costs a compilation. With 1 % there are half as many.
_MORE_EMPTY = 0.01
_MOST_SIZES = 1024


def choose(
  sizes_N2: np.ndarray,
  frames_N: np.ndarray,
  grid: int,
  *,
  mixes_lengths: bool = True,
  devices: int = 1,
) -> np.ndarray:
  """Chooses buffers and puts each clip in one.

  Args:
    sizes_N2: height and width of each clip in pixels, multiples of `grid`.
    frames_N: of each clip.
    grid: of the buffers' sides.
    mixes_lengths: clips of several lengths may share a batch, the longest first.
    devices: that a batch is split over; one with fewer clips is filled up.

  Returns:
    `(N, 2)`, height and width of each clip's buffer, no smaller than its own.
  """
  if not len(sizes_N2):
    return np.empty((0, 2), int)
  # Clips may be millions, their sizes are thousands: all but counting is on those.
  codes_N = sizes_N2[:, 0].astype(np.int64) << 32 | sizes_N2[:, 1].astype(np.int64)
  codes_U, size_N = np.unique(codes_N, return_inverse=True)
  sizes_U2 = np.stack([codes_U >> 32, codes_U & 0xFFFFFFFF], axis=1)
  frames_U = np.bincount(size_N, weights=frames_N)
  snapped_U2, cell = sizes_U2, grid
  while len(np.unique(snapped_U2, axis=0)) > _MOST_SIZES:
    cell *= 2
    snapped_U2 = -(-sizes_U2 // cell) * cell
  kinds_K2, kind_U = np.unique(snapped_U2, axis=0, return_inverse=True)
  kind_U = kind_U.ravel()
  slots = _Slots.of(kind_U[size_N], frames_N, mixes_lengths, devices)
  needed = float((sizes_U2.prod(axis=1) * frames_U).sum())
  merged_K = _merge(kinds_K2.astype(float), slots, needed / (1 - MOST_EMPTY))
  buffers_K2 = np.empty_like(kinds_K2)
  for group in np.unique(merged_K):
    buffers_K2[merged_K == group] = kinds_K2[merged_K == group].max(axis=0)
  # A kind that was snapped to a coarser cell may still be larger than necessary.
  buffers_U2 = buffers_K2[kind_U]
  for buffer in np.unique(buffers_U2, axis=0):
    here = (buffers_U2 == buffer[None]).all(axis=1)
    buffers_U2[here] = sizes_U2[here].max(axis=0)
  return buffers_U2[size_N]


@dataclasses.dataclass(frozen=True)
class _Slots:
  """How many frames are computed for clips of some kinds, in batches of one a device.

  Attributes:
    counts_KL: clips of each kind of a length; of at least it, where lengths are mixed.
    weights_L: frames that a batch with such clips has for them.
    devices: clips of a batch.
  """

  counts_KL: np.ndarray
  weights_L: np.ndarray
  devices: int

  @classmethod
  def of(
    cls, kind_N: np.ndarray, frames_N: np.ndarray, mixes_lengths: bool, devices: int
  ) -> "_Slots":
    """Counts clips of kinds 0 .. K - 1."""
    lengths_L, length_N = np.unique(frames_N, return_inverse=True)
    shape = int(kind_N.max()) + 1, len(lengths_L)
    place_N = kind_N * shape[1] + length_N
    counts_KL = np.bincount(place_N, minlength=math.prod(shape)).reshape(shape)
    if not mixes_lengths:
      return cls(counts_KL, lengths_L, devices)
    # A batch is as long as its longest clip: of each length more than the one below it
    # pay those batches that have a clip of at least it.
    longer_KL = counts_KL[:, ::-1].cumsum(axis=1)[:, ::-1]
    return cls(longer_KL, np.diff(lengths_L, prepend=0), devices)

  def frames(self, counts_KL: np.ndarray) -> np.ndarray:
    """Frames computed for each row of counts, those that fill up batches included."""
    batches_KL = -(-counts_KL // self.devices)
    return self.devices * (batches_KL @ self.weights_L)


def _merge(sizes_K2: np.ndarray, slots: _Slots, most: float) -> np.ndarray:
  """Which sizes share a buffer: a number for each.

  The cost is within `most`, or little more than the least that was found.
  """
  height_K, width_K = sizes_K2[:, 0].copy(), sizes_K2[:, 1].copy()
  counts_KL = slots.counts_KL.copy()
  merged_K = np.arange(len(sizes_K2))
  cost_K = height_K * width_K * slots.frames(counts_KL)
  added_KK = np.full((len(sizes_K2), len(sizes_K2)), np.inf)

  def weigh(i: int) -> None:
    area_K = np.maximum(height_K[i], height_K) * np.maximum(width_K[i], width_K)
    frames_K = slots.frames(counts_KL[i] + counts_KL)
    added_K = area_K * frames_K - cost_K[i] - cost_K
    added_K[i] = np.inf
    added_K[~alive_K] = np.inf
    added_KK[i], added_KK[:, i] = added_K, added_K

  alive_K = np.ones(len(sizes_K2), bool)
  for i in range(len(sizes_K2)):
    weigh(i)
  total = least = cost_K.sum()
  while alive_K.sum() > 1:
    i, j = divmod(int(added_KK.argmin()), len(sizes_K2))
    total += added_KK[i, j]
    least = min(least, total)
    if total > max(most, least / (1 - _MORE_EMPTY)):
      break
    height_K[i] = max(height_K[i], height_K[j])
    width_K[i] = max(width_K[i], width_K[j])
    counts_KL[i] += counts_KL[j]
    cost_K[i] = height_K[i] * width_K[i] * slots.frames(counts_KL[i])
    merged_K[merged_K == j] = i
    alive_K[j] = False
    added_KK[j], added_KK[:, j] = np.inf, np.inf
    weigh(i)
  return merged_K
