"""Rows into steps of equal work.

A row's work is the sum of the squares of its segments: attention's, within each segment.
All other work is linear in the row's length, padding included: the same for every row, so
that it only dilutes the differences measured here.

A row with one very long clip costs more than any row without one, so if each device takes
one row a step, their work is equal only if such rows share a step. Rows are sorted by
their work, as loosely as the bound on imbalance allows, and cut into steps, which are
shuffled. The more rows a device takes, the looser: sums of eight well chosen rows are
nearly equal with little sorting or none. Sorted steps differ in their mix of lengths;
`docs/data.md` says by how much.

All sorts are stable: the order of ties in others depends on the processor's vector width,
and the hosts of a run must agree.
"""

import bisect

import einops
import numpy as np

# Imbalance below which steps are not sorted further, since sorting makes the lengths in a
# step more alike; it holds for 19 of 20 steps.
_MOST = 0.01
# How far rows stray from their place in the order of work, in factors of e: from a
# plain shuffle to hardly at all.
_STRAY = (100.0, *(8.0 * 0.7**i for i in range(24)))


def work(tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
  """The work of each row.

  Args:
    tokens: `(n,)` of all segments, row after row.
    starts: `(rows + 1,)` where each row starts; no row is empty.

  Returns:
    `(rows,)` float64, sums of squares.
  """
  squares = np.square(tokens, dtype=np.float64)
  return np.add.reduceat(squares, starts[:-1]) if len(starts) > 1 else squares[:0]


def imbalance(work_SR: np.ndarray, shards: int) -> np.ndarray:
  """How much longer the slowest shard of each step works than the mean.

  Args:
    work_SR: work of each row of each step; neighbouring rows share a shard.
    shards: of a step.

  Returns:
    `(steps,)` greatest over mean work, less 1.
  """
  work_SH = einops.reduce(work_SR, "s (shard r) -> s shard", "sum", shard=shards)
  return work_SH.max(axis=1) / work_SH.mean(axis=1) - 1


def arrange(
  work_R: np.ndarray,
  rows: int,
  group: int,
  head: int,
  level: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Orders the rows of an epoch so that the devices' shares of each step are equal work.

  Args:
    work_R: work of each row.
    rows: of a step.
    group: neighbouring rows that one device takes; divides `rows`.
    head: first rows of the epoch, which complete a step of the epoch before.
    level: work of the rows that share a step with another epoch's.
    rng: shuffles.

  Returns:
    A permutation: `head` rows, whole steps, and the rows that are left.
  """
  num = len(work_R)
  head = min(head, num)
  ends = head + (num - head) % rows
  order = np.argsort(work_R, kind="stable")
  middle = np.searchsorted(work_R[order], level)
  first = round((middle - ends / 2) / rows) * rows
  first = min(max(first, 0), num - ends)
  outer = rng.permutation(order[first : first + ends])
  if ends == num:
    return outer
  inner = np.delete(order, slice(first, first + ends))
  noise = rng.random(len(inner))

  def steps(stray: float) -> np.ndarray:
    place = np.log(work_R[inner]) + stray * noise
    loosely = inner[np.argsort(place, kind="stable")]
    return _even(einops.rearrange(loosely, "(s r) -> s r", r=rows), work_R)

  def is_even(stray: float) -> bool:
    uneven = imbalance(work_R[steps(stray)], rows // group)
    return bool(np.quantile(uneven, 0.95) < _MOST)

  loosest = bisect.bisect_left(_STRAY, True, hi=len(_STRAY) - 1, key=is_even)
  shuffled = rng.permutation(steps(_STRAY[loosest]))
  inner = einops.rearrange(shuffled, "s r -> (s r)")
  return np.concatenate([outer[:head], inner, outer[head:]])


def _even(steps_SR: np.ndarray, work_R: np.ndarray) -> np.ndarray:
  """Orders each step's rows so that its halves, quarters, ... have nearly equal work.

  The costliest row is followed by the cheapest, then pairs by pairs, and so on.
  """
  blocks_SBR = einops.rearrange(steps_SR, "s b -> s b 1")
  while (num := blocks_SBR.shape[1]) and num % 2 == 0:
    work_SB = work_R[blocks_SBR].sum(axis=2)
    order_SB = np.argsort(work_SB, axis=1, kind="stable")
    blocks_SBR = np.take_along_axis(
      blocks_SBR, einops.rearrange(order_SB, "s b -> s b 1"), axis=1
    )
    low, high = blocks_SBR[:, : num // 2], blocks_SBR[:, : num // 2 - 1 : -1]
    blocks_SBR = np.concatenate([high, low], axis=2)
  return einops.rearrange(blocks_SBR, "s b r -> s (b r)")
