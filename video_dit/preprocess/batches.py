"""Which clips are encoded together, in buffers of which size."""

from collections.abc import Sequence
import dataclasses
import heapq
import math

import numpy as np

from video_dit.preprocess import buffers
from video_dit.preprocess import plan as plan_lib

# Of what is computed: the share that several clips a device may waste, because batches
# are not full or their clips not equally long, on top of what one a device wastes.
MOST_IDLE = 0.03
# More pixels per frame of a batch than this only cost memory: the device is full.
_FRAME_PIXELS = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
  """Clips that are encoded together.

  Attributes:
    indices: of the clips in the plan.
    buffer: frames, height and width that each of them lies in.
    size: clips that the batch is padded to.
    is_exact: every clip of this buffer fills its rows and columns.
  """

  indices: np.ndarray
  buffer: tuple[int, int, int]
  size: int
  is_exact: bool

  @property
  def pixels(self) -> int:
    """What is computed."""
    return self.size * math.prod(self.buffer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
  """How clips may be put together.

  Attributes:
    grid: of the buffers' sides, in pixels; 0: only clips of one size share a batch.
    mixes_lengths: clips of several lengths may share a batch.
    devices: that a batch is split over.
    most_clips: of a batch on one device.
    most_pixels: of a batch on one device; a single clip may have more.
  """

  grid: int
  mixes_lengths: bool
  devices: int = 1
  most_clips: int = 16
  most_pixels: int = 1 << 30


def plan(clips: plan_lib.Plan, wanted: np.ndarray, rules: Rules) -> list[Batch]:
  """Puts the wanted clips into batches.

  Buffers and sizes of batches depend on all clips, wanted or not, so that a run which
  goes on after a kill computes as the one that was killed.

  Args:
    clips: all of them.
    wanted: `(n,)` bool.
    rules: how.
  """
  sizes_N2 = np.stack([clips.height, clips.width], axis=1).astype(np.int64)
  buffers_N2 = sizes_N2
  if rules.grid:
    buffers_N2 = buffers.choose(
      sizes_N2,
      clips.frames,
      rules.grid,
      mixes_lengths=rules.mixes_lengths,
      devices=rules.devices,
    )
  columns = [clips.first_frame, clips.line, -clips.frames.astype(np.int64)]
  order = np.lexsort((*columns, buffers_N2[:, 1], buffers_N2[:, 0]))
  made = []
  for group in _split(order, buffers_N2[order]):
    height, width = buffers_N2[group[0]].tolist()
    is_exact = bool((sizes_N2[group] == buffers_N2[group]).all())
    kinds = [group]
    if not rules.mixes_lengths:
      kinds = _split(group, clips.frames[group][:, None])
    for kind in kinds:
      size = _size(clips.frames[kind], height * width, rules)
      left = kind[wanted[kind]]
      for first in range(0, len(left), size):
        indices = left[first : first + size]
        buffer = int(clips.frames[indices].max()), height, width
        made.append(Batch(indices=indices, buffer=buffer, size=size, is_exact=is_exact))
  return made


def without(batches: Sequence[Batch], present: np.ndarray) -> list[Batch]:
  """The batches without the finished clips, `(n,)` bool; their shapes stay."""
  left = []
  for batch in batches:
    indices = batch.indices[~present[batch.indices]]
    if len(indices):
      left.append(dataclasses.replace(batch, indices=indices))
  return left


def wasted(clips: plan_lib.Plan, batches: Sequence[Batch]) -> float:
  """Share of what is computed for batches that none of their clips needs."""
  if not batches:
    return 0.0
  here = np.concatenate([batch.indices for batch in batches])
  sides = clips.height[here].astype(np.int64) * clips.width[here]
  return 1 - int((sides * clips.frames[here]).sum()) / sum(b.pixels for b in batches)


def _split(indices: np.ndarray, kinds: np.ndarray) -> list[np.ndarray]:
  """Runs of sorted indices of one kind."""
  changes = np.flatnonzero((kinds[1:] != kinds[:-1]).any(axis=1)) + 1
  return [part for part in np.split(indices, changes) if len(part)]


def _size(frames: np.ndarray, area: int, rules: Rules) -> int:
  """Clips of a batch: as many as fill the devices, as long as few more of them idle."""
  fit = rules.most_pixels // (area * int(frames.max()))
  most = max(1, min(rules.most_clips, fit, _FRAME_PIXELS // area))
  size = 1 << (most.bit_length() - 1)
  least = _slots(frames, rules.devices)
  while size > 1:
    if _slots(frames, size * rules.devices) * (1 - MOST_IDLE) <= least:
      break
    size //= 2
  return size * rules.devices


def _slots(frames: np.ndarray, size: int) -> int:
  """Frames computed where clips, the longest first, go in batches of this size."""
  return size * int(frames[::size].sum())


def share(batches: Sequence[Batch], index: int, count: int) -> list[Batch]:
  """The batches of one of several hosts: nearly equal work, no batch twice."""
  hosts = [(0, host) for host in range(count)]
  mine = []
  for i in sorted(range(len(batches)), key=lambda i: (-batches[i].pixels, i)):
    work, host = heapq.heappop(hosts)
    heapq.heappush(hosts, (work + batches[i].pixels, host))
    if host == index:
      mine.append(i)
  return [batches[i] for i in sorted(mine)]
