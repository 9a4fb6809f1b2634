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
    device: number of the one that it is encoded on.
  """

  indices: np.ndarray
  buffer: tuple[int, int, int]
  size: int
  is_exact: bool
  device: int = 0

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
    devices: of a host, that work side by side, each on batches of its own.
    hosts: that share the batches.
    most_clips: of a batch.
    most_pixels: of a batch; a single clip may have more.
  """

  grid: int
  mixes_lengths: bool
  devices: int = 1
  hosts: int = 1
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
    buffers_N2 = buffers.choose(sizes_N2, clips.frames, rules.grid)
  if (devices := rules.devices * rules.hosts) > 1 and len(clips):
    # No batch is more than a device's share, or others would have nothing to do.
    share = int((sizes_N2.prod(axis=1) * clips.frames).sum()) // devices
    rules = dataclasses.replace(rules, most_pixels=min(rules.most_pixels, share))
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
  """Clips of a batch: as many as fill a device, as long as few of them idle."""
  fit = rules.most_pixels // (area * int(frames.max()))
  most = max(1, min(rules.most_clips, fit, _FRAME_PIXELS // area))
  size = 1 << (most.bit_length() - 1)
  least = int(frames.sum())
  while size > 1 and size * int(frames[::size].sum()) * (1 - MOST_IDLE) > least:
    size //= 2  # A batch takes as long as its first clip, the longest.
  return size


def over_devices(batches: Sequence[Batch], count: int) -> list[Batch]:
  """Gives each of several devices a run of the batches, of nearly equal work.

  As batches of one buffer follow each other, most devices compile but a part of the
  shapes.

  Returns:
    The batches with their devices, in the order in which they would be done if work took
    as long as it has pixels.
  """
  if count == 1 or not batches:
    return list(batches)
  work_B = np.array([batch.pixels for batch in batches], np.float64)
  done_B = work_B.cumsum()
  share = done_B[-1] / count
  # Each goes where its middle lies.
  device_B = np.minimum((done_B - work_B / 2) // share, count - 1).astype(int)
  for device in range(count):
    mine_B = device_B == device
    done_B[mine_B] = work_B[mine_B].cumsum()
  order = np.argsort(done_B, kind="stable")
  return [dataclasses.replace(batches[i], device=int(device_B[i])) for i in order]


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
