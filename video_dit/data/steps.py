"""The rows of every step of a run.

The rows of all epochs, end to end, are cut into steps, so that an epoch's last rows share
a step with the next one's first: the position in the data is the step, and nothing else.
"""

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
  ):
    """Plans nothing yet.

    Args:
      pieces: what is packed.
      data: `rows` make a step.
      seed: of the order.
      shuffle: or keep the order of the pieces.

    Raises:
      ValueError: there is nothing to pack.
    """
    if not len(pieces):
      raise ValueError(f"{data.path}: no clips to pack. Preprocess some.")
    self.pieces = pieces
    self._data = data
    self._seed = seed
    self._shuffle = shuffle
    self._plans: dict[int, pack.Plan] = {}
    self._epoch_rows: list[int] = []  # of each epoch planned so far
    self._lock = threading.Lock()

  def known(self) -> dict[str, Any]:
    """What spares `learn` the planning of past epochs; JSON, a few bytes an epoch.

    Does not wait for an epoch that is being planned.
    """
    return {"order": self._order, "epoch_rows": list(self._epoch_rows)}

  def learn(self, known: Mapping[str, Any]) -> None:
    """Takes over `known` of an earlier start, unless its rows were others."""
    with self._lock:
      if known.get("order") == self._order:
        self._epoch_rows += known["epoch_rows"][len(self._epoch_rows) :]

  def plan(self, epoch: int) -> pack.Plan:
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

  @functools.cached_property
  def _order(self) -> str:
    """Fingerprint of all that the rows of an epoch depend on."""
    data = dataclasses.replace(self._data, path="", threads=0, prefetch=0)
    digest = hashlib.sha256(repr((data, self._seed, self._shuffle)).encode())
    for column in (self.pieces.tokens, self.pieces.text_tokens):
      digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()[:16]

  def _num_rows(self, epoch: int) -> int:
    if epoch >= len(self._epoch_rows):
      self._plan(epoch)
    return self._epoch_rows[epoch]

  def _plan(self, epoch: int) -> pack.Plan:
    if epoch not in self._plans:
      pieces = self.pieces
      plan = pack.plan_epoch(
        pieces.tokens,
        pieces.text_tokens,
        self._data,
        self._seed,
        epoch,
        head=-sum(self._num_rows(e) for e in range(epoch)) % self._data.rows,
        shuffle=self._shuffle,
      )
      if len(self._plans) == 2:
        self._plans.pop(min(self._plans))
      self._plans[epoch] = plan
      if epoch == len(self._epoch_rows):
        self._epoch_rows.append(len(plan))
    return self._plans[epoch]
