"""A few buffers that clips of all sizes are encoded in, wasting little.

A size of its own for each clip would mean a compilation for each. A clip may lie in any
buffer that is no smaller, and comes out the same; what it leaves empty is computed for
nothing. So buffers are chosen for the sizes that there are: all sizes at first, then two
at a time become one, the pair that adds the least, as long as the waste is within its
limit. Thousands of sizes become some dozens.
"""

import numpy as np

# Of what is computed: the share that may be wasted because clips are smaller than
# their buffers. Batches that are not full may waste `plan.MOST_IDLE` more.
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
  needed = float((sizes_N2.prod(axis=1, dtype=np.int64) * frames_N).sum())
  snapped_N2 = np.asarray(sizes_N2, np.int64)
  cell = grid
  while len(kinds_K2 := np.unique(snapped_N2, axis=0)) > _MOST_SIZES:
    cell *= 2
    snapped_N2 = -(-np.asarray(sizes_N2, np.int64) // cell) * cell
  kinds_K2, kind_N = np.unique(snapped_N2, axis=0, return_inverse=True)
  frames_K = np.bincount(kind_N.ravel(), weights=frames_N)
  merged_K = _merge(kinds_K2.astype(float), frames_K, needed / (1 - MOST_EMPTY))
  buffers_K2 = np.empty_like(kinds_K2)
  for group in np.unique(merged_K):
    buffers_K2[merged_K == group] = kinds_K2[merged_K == group].max(axis=0)
  # A kind that was snapped to a coarser cell may still be larger than necessary.
  buffers_N2 = buffers_K2[kind_N.ravel()]
  for buffer in np.unique(buffers_N2, axis=0):
    here = (buffers_N2 == buffer[None]).all(axis=1)
    buffers_N2[here] = sizes_N2[here].max(axis=0)
  return buffers_N2


def _merge(sizes_K2: np.ndarray, frames_K: np.ndarray, most: float) -> np.ndarray:
  """Which sizes share a buffer: a number for each; the cost stays within `most`."""
  height_K, width_K = sizes_K2[:, 0].copy(), sizes_K2[:, 1].copy()
  frames_K = frames_K.copy()
  merged_K = np.arange(len(sizes_K2))
  cost_K = height_K * width_K * frames_K
  added_KK = np.full((len(sizes_K2), len(sizes_K2)), np.inf)

  def weigh(i: int) -> None:
    area_K = np.maximum(height_K[i], height_K) * np.maximum(width_K[i], width_K)
    added_K = area_K * (frames_K[i] + frames_K) - cost_K[i] - cost_K
    added_K[i] = np.inf
    added_K[~alive_K] = np.inf
    added_KK[i], added_KK[:, i] = added_K, added_K

  alive_K = np.ones(len(sizes_K2), bool)
  for i in range(len(sizes_K2)):
    weigh(i)
  total = cost_K.sum()
  while alive_K.sum() > 1:
    i, j = divmod(int(added_KK.argmin()), len(sizes_K2))
    total += added_KK[i, j]
    if total > most:
      break
    height_K[i] = max(height_K[i], height_K[j])
    width_K[i] = max(width_K[i], width_K[j])
    frames_K[i] += frames_K[j]
    cost_K[i] = height_K[i] * width_K[i] * frames_K[i]
    merged_K[merged_K == j] = i
    alive_K[j] = False
    added_KK[j], added_KK[:, j] = np.inf, np.inf
    weigh(i)
  return merged_K
