"""The rows of every step of a run.

The rows of all epochs, end to end, are cut into steps, so that an epoch's last rows share
a step with the next one's first: the position in the data is the step, and nothing else.
"""

import array
import bisect
from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import threading
from typing import Any

import numpy as np

from video_dit import config
from video_dit.data import pack
from video_dit.data import pieces as pieces_lib
from video_dit.data import visits as visits_lib

# What decides, with the pieces and the seed, which of them share a row, and the order.
_PACKING = ("row_length", "row_segments", "row_text", "lookahead", "balance_rows")


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One row of a step.

  Attributes:
    epoch: that the row belongs to.
    pieces: numbers of its pieces.
    copies: of each piece, how often it has come before in the epoch.
  """

  epoch: int
  pieces: np.ndarray
  copies: np.ndarray


class Steps:
  """The rows of every step of a run: a function of (seed, step). Thread-safe.

  Attributes:
    pieces: what is packed.
  """

  def __init__(
    self,
    pieces: pieces_lib.Pieces,
    data: config.Data,
    seed: int,
    *,
    shuffle: bool = True,
    visits: visits_lib.Visits | None = None,
  ):
    """Plans nothing yet.

    Args:
      pieces: what is packed.
      data: `rows` make a step.
      seed: of the order.
      shuffle: or keep the order of the pieces.
      visits: how often each clip comes in an epoch; None is once.

    Raises:
      ValueError: there is nothing to pack.
    """
    if not len(pieces):
      raise ValueError(f"{data.path}: no clips to pack. Preprocess some.")
    self.pieces = pieces
    self._data = data
    self._seed = seed
    self._shuffle = shuffle
    self._visits = visits
    self._plans: dict[int, pack.Plan] = {}
    # The rows before each epoch from `_first` to the one after the last planned.
    self._first, self._starts = 0, array.array("q", [0])
    self._lock = threading.Lock()

  def known(self, step: int) -> dict[str, Any]:
    """What spares `learn` the planning of epochs before that of `step`; JSON.

    Does not wait for an epoch that is being planned.
    """
    epoch, start = self._before(step * self._data.rows)
    step_rows = self._data.rows
    facts = {"packing": self.packing, "step_rows": step_rows}
    return facts | {"epoch": epoch, "rows_before": start}

  def learn(self, known: Mapping[str, Any]) -> None:
    """Takes over `known` of an earlier start, unless its rows were others.

    Rows of earlier epochs can still be asked for, and are planned from the first.
    """
    facts = {"packing": self.packing, "step_rows": self._data.rows}
    if any(known.get(name) != value for name, value in facts.items()):
      return
    with self._lock:
      if known["epoch"] >= self._first + len(self._starts):
        self._first = known["epoch"]
        self._starts = array.array("q", [known["rows_before"]])

  def plan(self, epoch: int) -> pack.Plan:
    """The plan of one epoch; the last two asked for are kept."""
    with self._lock:
      found, start = 0, 0
      if epoch >= self._first:
        found = min(epoch, self._first + len(self._starts) - 1)
        start = self._starts[found - self._first]
      while found < epoch:
        found, start = found + 1, start + len(self._plan(found, start))
      return self._plan(epoch, start)

  def rows_for_step(self, step: int) -> list[Row]:
    """Rows `[step * rows, (step + 1) * rows)` of the epochs laid end to end."""
    rows: list[Row] = []
    next_row, end = step * self._data.rows, (step + 1) * self._data.rows
    with self._lock:
      epoch, start = self._before(next_row)
      while next_row < end:
        plan = self._plan(epoch, start)
        last = min(start + len(plan), end)
        rows += [_row(plan, epoch, i - start) for i in range(next_row, last)]
        next_row = max(next_row, last)
        epoch, start = epoch + 1, start + len(plan)
    return rows

  def report(self, epoch: int = 0) -> dict[str, float]:
    """How well an epoch is packed: clips, pieces, rows, fill and text_fill."""
    plan = self.plan(epoch)
    return {
      "clips": int(self.pieces.clip[-1]) + 1,
      "pieces": len(plan.order),
      "rows": len(plan),
      "fill": plan.fill,
      "text_fill": plan.text_fill,
    }

  @functools.cached_property
  def packing(self) -> str:
    """Fingerprint of what decides the rows, but for how many of them make a step."""
    values = [getattr(self._data, key) for key in _PACKING]
    digest = hashlib.sha256(repr((values, self._seed, self._shuffle)).encode())
    for column in (self.pieces.tokens, self.pieces.text_tokens):
      digest.update(np.ascontiguousarray(column).data)
    if self._visits:
      digest.update(self._visits.counts(0).data)
      digest.update(self._visits.counts(1).data)
    return digest.hexdigest()[:16]

  def _before(self, row: int) -> tuple[int, int]:
    """The last known epoch that starts at or before a row, and the rows before it."""
    i = bisect.bisect_right(self._starts, row) - 1
    return (0, 0) if i < 0 else (self._first + i, self._starts[i])

  def _plan(self, epoch: int, start: int) -> pack.Plan:
    """The plan of an epoch that has `start` rows before it."""
    if epoch not in self._plans:
      pieces, chosen = self.pieces, None
      if self._visits:
        counts = self._visits.counts(epoch)[pieces.clip]
        chosen = np.repeat(np.arange(len(pieces), dtype=np.int32), counts)
      plan = pack.plan_epoch(
        pieces.tokens if chosen is None else pieces.tokens[chosen],
        pieces.text_tokens if chosen is None else pieces.text_tokens[chosen],
        self._data,
        self._seed,
        epoch,
        head=-start % self._data.rows,
        shuffle=self._shuffle,
      )
      if chosen is not None:
        copies = np.arange(len(chosen)) - np.repeat(np.cumsum(counts) - counts, counts)
        copies = copies.astype(np.int32)[plan.order]
        plan = dataclasses.replace(plan, order=chosen[plan.order], copies=copies)
      if len(self._plans) == 2:
        self._plans.pop(min(self._plans))
      self._plans[epoch] = plan
      if epoch + 1 == self._first + len(self._starts):
        self._starts.append(start + len(plan))
    return self._plans[epoch]


def _row(plan: pack.Plan, epoch: int, i: int) -> Row:
  """Row i of an epoch's plan."""
  pieces = plan.row(i)
  if plan.copies is None:
    return Row(epoch, pieces, np.zeros_like(pieces))
  return Row(epoch, pieces, plan.copies[plan.starts[i] : plan.starts[i + 1]])
