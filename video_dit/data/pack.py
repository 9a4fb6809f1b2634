"""Packing by index: which clips share a row, planned ahead from the index alone.

An epoch's plan is a function of (seed, epoch): the clips are shuffled and laid into rows
one row at a time. A row starts with the oldest clip that waits, then takes the longest
that fits among the next `lookahead` clips of the shuffle; its end is closed by the best
pair. Nothing is dropped or repeated within an epoch. The rows of all epochs, end to end,
are cut into steps, so that an epoch's last rows share a step with the next one's first:
the position in the data is the step, and nothing else.
"""

import bisect
from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import threading

import numpy as np

from video_dit import config
from video_dit.data import pieces as pieces_lib

_SHIFT = 40  # a waiting clip is one integer, tokens << _SHIFT | place in the shuffle
_PLACE = (1 << _SHIFT) - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """The rows of one epoch.

  Attributes:
    order: `(n,)` int32, pieces in the order of the rows.
    starts: `(rows + 1,)` int32, where each row starts in `order`.
    fill: share of the rows' tokens that is data.
    text_fill: share of the rows' text tokens that is captions.
  """

  order: np.ndarray
  starts: np.ndarray
  fill: float
  text_fill: float

  def __len__(self) -> int:
    return len(self.starts) - 1

  def row(self, i: int) -> np.ndarray:
    """Pieces of row i."""
    return self.order[self.starts[i] : self.starts[i + 1]]


def plan_epoch(
  tokens: np.ndarray,
  text_tokens: np.ndarray,
  data: config.Data,
  seed: int,
  epoch: int,
  *,
  shuffle: bool = True,
) -> Plan:
  """Plans the rows of one epoch.

  Args:
    tokens, text_tokens: `(n,)` of each piece, within `row_length` and `row_text`.
    data: the limits of a row, and `lookahead`.
    seed, epoch: decide the order.
    shuffle: or keep the order of the pieces, as held-out data do.
  """
  order = np.arange(len(tokens), dtype=np.int32)
  if shuffle:
    order = np.random.default_rng([seed, epoch]).permutation(order)
  places, starts = _pack(
    np.ascontiguousarray(tokens[order], np.int32),
    np.ascontiguousarray(text_tokens[order], np.int32),
    data,
  )
  rows = max(len(starts) - 1, 1)
  return Plan(
    order=order[places],
    starts=starts,
    fill=float(tokens.sum(dtype=np.int64)) / (rows * data.row_length),
    text_fill=float(text_tokens.sum(dtype=np.int64)) / (rows * data.row_text),
  )


def _pack(
  tokens: np.ndarray, text_tokens: np.ndarray, data: config.Data
) -> tuple[np.ndarray, np.ndarray]:
  """Lays a stream of pieces into rows; returns places in the stream and rows' starts."""
  num = len(tokens)
  size, text = tokens.data, text_tokens.data
  places = np.empty(num, np.int32)
  out = places.data
  placed = bytearray(num)
  starts = [0]
  arriving = _arriving(tokens)
  waiting = sorted(itertools.islice(arriving, data.lookahead))
  done = oldest = 0
  while waiting:
    left, text_left, room = data.row_length, data.row_text, data.row_segments
    oldest = placed.index(0, oldest)
    pick = bisect.bisect_left(waiting, size[oldest] << _SHIFT | oldest)
    while pick >= 0:
      piece = waiting.pop(pick)
      place = piece & _PLACE
      left -= piece >> _SHIFT
      text_left -= text[place]
      room -= 1
      placed[place] = 1
      out[done] = place
      done += 1
      if (fresh := next(arriving, None)) is not None:
        bisect.insort(waiting, fresh)
      if not waiting or not room:
        break
      pick = bisect.bisect(waiting, left << _SHIFT | _PLACE) - 1
      if pick >= 0:
        longest, shortest = waiting[pick] >> _SHIFT, waiting[0] >> _SHIFT
        if 2 * shortest <= left < longest + shortest and longest < left and room > 1:
          pick = _closing(waiting, left, pick)
        while pick >= 0 and text[waiting[pick] & _PLACE] > text_left:
          pick -= 1
    starts.append(done)
  return places, np.asarray(starts, np.int32)


def _arriving(tokens: np.ndarray) -> Iterator[int]:
  """The stream's pieces as integers; made a block at a time, to keep memory small."""
  for start in range(0, len(tokens), 65_536):
    block = tokens[start : start + 65_536].astype(np.int64)
    yield from (block << _SHIFT | np.arange(start, start + len(block))).tolist()


def _closing(waiting: list[int], left: int, pick: int) -> int:
  """Index of the longer of the two pieces that fill `left` best, or of `pick` if it does.

  Args:
    waiting: pieces sorted by tokens.
    left: tokens left in the row.
    pick: the longest piece that fits.
  """
  best, found = waiting[pick] >> _SHIFT, pick
  low, high = 0, pick
  while low < high and best < left:
    both = (waiting[low] >> _SHIFT) + (waiting[high] >> _SHIFT)
    if both > left:
      high -= 1
    else:
      if both > best:
        best, found = both, high
      low += 1
  return found


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One row of a step.

  Attributes:
    epoch: that the row belongs to.
    pieces: numbers of its pieces.
  """

  epoch: int
  pieces: np.ndarray


class Steps:
  """The rows of every step of a run: a function of (seed, step). Safe among threads.

  Attributes:
    pieces: what is packed.
    epoch_rows: rows of each epoch planned so far; worth saving with a checkpoint of a
      run on very many clips, since a start then plans only the epoch that it starts in.
  """

  def __init__(
    self,
    pieces: pieces_lib.Pieces,
    data: config.Data,
    seed: int,
    *,
    shuffle: bool = True,
    epoch_rows: Sequence[int] = (),
  ):
    """Plans nothing yet.

    Args:
      pieces: what is packed.
      data: `rows` make a step.
      seed: of the order.
      shuffle: or keep the order of the pieces.
      epoch_rows: as an earlier object of the same arguments had them.

    Raises:
      ValueError: there is nothing to pack.
    """
    if not len(pieces):
      raise ValueError(f"{data.path}: no clips to pack. Preprocess some.")
    self.pieces = pieces
    self.epoch_rows = list(epoch_rows)
    self._data = data
    self._seed = seed
    self._shuffle = shuffle
    self._plans: dict[int, Plan] = {}
    self._lock = threading.Lock()

  def plan(self, epoch: int) -> Plan:
    """The plan of one epoch; the last two asked for are kept."""
    with self._lock:
      return self._plan(epoch)

  def rows_for_step(self, step: int) -> list[Row]:
    """Rows `[step * rows, (step + 1) * rows)` of the epochs laid end to end."""
    rows: list[Row] = []
    with self._lock:
      epoch, first = 0, step * self._data.rows
      while first >= self._num_rows(epoch):
        first -= self._num_rows(epoch)
        epoch += 1
      while len(rows) < self._data.rows:
        plan = self._plan(epoch)
        last = min(len(plan), first + self._data.rows - len(rows))
        rows += [Row(epoch, plan.row(i)) for i in range(first, last)]
        epoch, first = epoch + 1, 0
    return rows

  def epoch(self, step: int) -> int:
    """Epoch of the step's first row."""
    return self.rows_for_step(step)[0].epoch

  def report(self, epoch: int = 0) -> dict[str, float]:
    """How well an epoch is packed: clips, pieces, rows, fill and text_fill."""
    plan = self.plan(epoch)
    return {
      "clips": int(self.pieces.clip[-1]) + 1,
      "pieces": len(self.pieces),
      "rows": len(plan),
      "fill": plan.fill,
      "text_fill": plan.text_fill,
    }

  def _num_rows(self, epoch: int) -> int:
    if epoch >= len(self.epoch_rows):
      self._plan(epoch)
    return self.epoch_rows[epoch]

  def _plan(self, epoch: int) -> Plan:
    if epoch not in self._plans:
      pieces = self.pieces
      plan = plan_epoch(
        pieces.tokens,
        pieces.text_tokens,
        self._data,
        self._seed,
        epoch,
        shuffle=self._shuffle,
      )
      if len(self._plans) == 2:
        self._plans.pop(min(self._plans))
      self._plans[epoch] = plan
      if epoch == len(self.epoch_rows):
        self.epoch_rows.append(len(plan))
    return self._plans[epoch]
