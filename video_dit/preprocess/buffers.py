"""A few buffers that clips of all sizes are encoded in, wasting little.

A size of its own for each clip would mean a compilation for each. A clip may lie in any
buffer that is no smaller, and comes out the same; what it leaves empty is computed for
nothing. So buffers are chosen for the sizes that there are: all sizes at first, then two
at a time become one, the pair that adds the least, as long as the waste is within its
limit. Thousands of sizes become some dozens.
"""

import numpy as np

# Of what is computed: the share that may be wasted with one clip at a time. Several may
# waste `batches.MOST_IDLE` more.
MOST_EMPTY = 0.06
_MOST_SIZES = 1024


def choose(sizes_N2: np.ndarray, frames_N: np.ndarray, grid: int) -> np.ndarray:
  """Chooses buffers and puts each clip in one.

  Args:
    sizes_N2: height and width of each clip in pixels, multiples of `grid`.
    frames_N: of each clip.
    grid: of the buffers' sides.

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
  frames_K = np.bincount(kind_U, weights=frames_U)
  needed = float((sizes_U2.prod(axis=1) * frames_U).sum())
  merged_K = _merge(kinds_K2.astype(float), frames_K, needed / (1 - MOST_EMPTY))
  buffers_K2 = np.empty_like(kinds_K2)
  for group in np.unique(merged_K):
    buffers_K2[merged_K == group] = kinds_K2[merged_K == group].max(axis=0)
  # A kind that was snapped to a coarser cell may still be larger than necessary.
  buffers_U2 = buffers_K2[kind_U]
  for buffer in np.unique(buffers_U2, axis=0):
    here = (buffers_U2 == buffer[None]).all(axis=1)
    buffers_U2[here] = sizes_U2[here].max(axis=0)
  return buffers_U2[size_N]


def _merge(sizes_K2: np.ndarray, frames_K: np.ndarray, most: float) -> np.ndarray:
  """Which sizes share a buffer, a number for each, so that they cost at most `most`."""
  height_K, width_K, frames_K = *sizes_K2.T.copy(), frames_K.copy()
  merged_K = np.arange(len(sizes_K2))
  added_KK = np.full((len(sizes_K2), len(sizes_K2)), np.inf)
  alive_K = np.ones(len(sizes_K2), bool)

  def weigh(i: int) -> None:
    area_K = np.maximum(height_K[i], height_K) * np.maximum(width_K[i], width_K)
    added_K = (area_K - height_K[i] * width_K[i]) * frames_K[i]
    added_K += (area_K - height_K * width_K) * frames_K
    added_K[i] = np.inf
    added_K[~alive_K] = np.inf
    added_KK[i], added_KK[:, i] = added_K, added_K

  for i in range(len(sizes_K2)):
    weigh(i)
  total = (height_K * width_K * frames_K).sum()
  while alive_K.sum() > 1:
    i, j = divmod(int(added_KK.argmin()), len(sizes_K2))
    total += added_KK[i, j]
    if total > most:
      break
    height_K[i] = max(height_K[i], height_K[j])
    width_K[i] = max(width_K[i], width_K[j])
    frames_K[i] += frames_K[j]
    merged_K[merged_K == j] = i
    alive_K[j] = False
    added_KK[j], added_KK[:, j] = np.inf, np.inf
    weigh(i)
  return merged_K
