"""Windows of pixels for the autoencoder's training.

A step takes the next `data.rows` clips of the epochs' shuffles, laid end to end, and one
window of each: `window_frames` frames of `window_side` by `window_side` pixels, at a
place drawn from (seed, step, key). A shorter clip holds its last frame, so that an image
is a still clip; a smaller one repeats its edges.
"""

import bisect
import threading

import numpy as np

from video_dit import config
from video_dit.data import assemble, batch, schema
from video_dit.data import visits as visits_lib


class Order:
  """Record numbers of every step: a function of (seed, step). Thread-safe."""

  def __init__(
    self, num: int, rows: int, seed: int, visits: visits_lib.Visits | None = None
  ):
    """Shuffles nothing yet.

    Args:
      num: records of the data set.
      rows: records of a step.
      seed: of the shuffles.
      visits: how often each record comes in an epoch; None is once.
    """
    self._num = num
    self._visits = visits
    self._rows = rows
    self._seed = seed
    self._epochs: dict[int, np.ndarray] = {}
    self._lock = threading.Lock()

  def __call__(self, step: int) -> list[int]:
    """The records of one step."""
    places = range(step * self._rows, (step + 1) * self._rows)
    with self._lock:
      return [self._record(i) for i in places]

  def _record(self, place: int) -> int:
    """The record at a place of the epochs laid end to end."""
    if self._visits is None:
      epoch, start = place // self._num, place // self._num * self._num
    else:
      before = self._visits.before
      epoch = bisect.bisect_right(range(place + 1), place, key=before) - 1
      start = before(epoch)
    return int(self._epoch(epoch)[place - start])

  def _epoch(self, epoch: int) -> np.ndarray:
    if epoch not in self._epochs:
      if len(self._epochs) == 2:
        self._epochs.pop(min(self._epochs))
      order = np.arange(self._num, dtype=np.int32)
      if self._visits:
        order = np.repeat(order, self._visits.counts(epoch))
      self._epochs[epoch] = np.random.default_rng([self._seed, epoch]).permutation(order)
    return self._epochs[epoch]


def window(
  record: schema.PixelRecord, data: config.Data, *, seed: int, step: int
) -> np.ndarray:
  """One window of a clip.

  Args:
    record: the clip.
    data: `window_frames` and `window_side`.
    seed, step: decide, with the record's key, where the window lies.

  Returns:
    `(F, H, W, 3)` uint8.
  """
  key = assemble.segment_key(record.key)
  rng = np.random.default_rng([seed, step, *key.tolist()])
  wanted = (data.window_frames, data.window_side, data.window_side)
  cuts, pads = [], []
  for extent, want in zip(record.clip.shape[:3], wanted, strict=True):
    start = int(rng.integers(max(extent - want, 0) + 1))
    cuts.append(slice(start, start + want))
    pads.append((0, max(want - extent, 0)))
  return np.pad(record.clip[tuple(cuts)], (*pads, (0, 0)), mode="edge")


def stack(
  records: list[schema.PixelRecord], data: config.Data, *, seed: int, step: int
) -> batch.Windows:
  """One window of each record."""
  return batch.Windows(
    clips=np.stack([window(record, data, seed=seed, step=step) for record in records]),
    keys=np.stack([assemble.segment_key(record.key) for record in records]),
  )
