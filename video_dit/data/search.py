"""Clips into rows, one row at a time: searches for a set of clips that fills the row.

Slower than `fit`, and better where few lengths of clip meet a short row, so that only
certain sums fill it exactly.
"""

import bisect
import collections

import numpy as np

from video_dit import config

# With more clips to choose from, the short ones, which close rows, are left to the end.
_MOST_WAITING = 64
_MOST_TRIES = 64


def search(
  tokens: np.ndarray, text_tokens: np.ndarray, data: config.Data
) -> tuple[np.ndarray, np.ndarray]:
  """Lays a stream of clips into rows; arguments and results as `fit.fit`'s.

  A row starts with the clip that has waited longest.
  """
  size, text = tokens.tolist(), text_tokens.tolist()
  waiting = _Waiting(size, min(data.lookahead, _MOST_WAITING))
  places: list[int] = []
  starts = [0]
  while (oldest := waiting.oldest()) is not None:
    row, text_left = [oldest], data.row_text - text[oldest]
    waiting.remove(oldest)
    room, most = data.row_length - size[oldest], data.row_segments - 1
    for length in _best_sum(waiting.lengths, waiting.counts, room, most):
      for place in waiting.of[length]:
        if text[place] <= text_left:
          waiting.remove(place)
          row.append(place)
          text_left -= text[place]
          break
    waiting.admit(len(row))
    places += row
    starts.append(len(places))
  return np.asarray(places, np.int32), np.asarray(starts, np.int32)


class _Waiting:
  """The waiting clips, by length.

  Attributes:
    of: places of the clips of each length, oldest first.
    lengths: that occur, ascending.
    counts: clips of each length.
  """

  def __init__(self, size: list[int], most: int):
    self.of: dict[int, list[int]] = collections.defaultdict(list)
    self.lengths: list[int] = []
    self.counts: dict[int, int] = collections.defaultdict(int)
    self._size = size
    self._placed = bytearray(len(size))
    self._come = self._first = 0
    self.admit(most)

  def admit(self, num: int) -> None:
    """Lets the next clips of the stream in."""
    for place in range(self._come, min(self._come + num, len(self._size))):
      length = self._size[place]
      if not self.of[length]:
        bisect.insort(self.lengths, length)
      self.of[length].append(place)
      self.counts[length] += 1
      self._come = place + 1

  def oldest(self) -> int | None:
    """Place of the clip that waits longest."""
    self._first = self._placed.find(0, self._first)
    return None if self._first < 0 else self._first

  def remove(self, place: int) -> None:
    """Takes a clip out."""
    length = self._size[place]
    self._placed[place] = 1
    self.of[length].remove(place)
    self.counts[length] -= 1
    if not self.of[length]:
      del self.lengths[bisect.bisect_left(self.lengths, length)]


def _best_sum(
  lengths: list[int], counts: dict[int, int], room: int, most: int
) -> list[int]:
  """Lengths of the clips that fill the room best; stops at the first that fills it.

  Args:
    lengths: that occur, ascending.
    counts: clips of each length.
    room: tokens to fill.
    most: the largest number of clips.
  """
  best: list[int] = []
  chosen: list[int] = []
  least, tries = room, _MOST_TRIES

  def go(end: int, left: int) -> None:
    nonlocal best, least, tries
    tries -= 1
    if left < least:
      best, least = chosen.copy(), left
    end = min(end, bisect.bisect_right(lengths, left))
    while end and least and tries and len(chosen) < most:
      length = lengths[end - 1]
      if counts[length]:
        counts[length] -= 1
        chosen.append(length)
        go(end, left - length)
        counts[chosen.pop()] += 1
      end -= 1

  go(len(lengths), room)
  return best
