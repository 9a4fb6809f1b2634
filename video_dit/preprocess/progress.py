"""How fast a data set is made, live and for the summary."""

import collections
from collections.abc import Collection, Sequence
import dataclasses
import math
import sys
import time
from typing import Any

import tqdm

from video_dit.preprocess import batches as batches_lib
from video_dit.preprocess import plan as plan_lib


@dataclasses.dataclass
class Made:
  """What was done with the planned clips.

  Attributes:
    written: records of this run.
    reused: records that were already present.
    failed: clips that could not be decoded.
    frames: of the records of this run.
    pixels, computed: pixels of their frames, and of everything computed for them.
    shapes: buffers that they were encoded in.
    shapes_each: the most that one of this host's devices compiled.
    seconds: from the first batch to the last.
    waited: of these, seconds in which the encoder was idle: the mean of its devices.
    captions_cut: distinct captions of this run longer than `text.max_tokens`.
    captions_encoded: distinct captions of this run.
    hosts: participating hosts, whose times are added in `waited`.
    tiles: what is known of frames that were encoded in tiles, "" where none were.
  """

  written: int = 0
  reused: int = 0
  failed: int = 0
  frames: int = 0
  pixels: int = 0
  computed: int = 0
  shapes: int = 0
  shapes_each: int = 0
  seconds: float = 0.0
  waited: float = 0.0
  captions_cut: int = 0
  captions_encoded: int = 0
  hosts: int = 1
  tiles: str = ""

  def wait(self, seconds: float) -> None:
    """Adds to the time in which the encoder was idle."""
    self.waited += seconds

  def count(self, maker: Any) -> None:
    """Copies what a maker of latents has counted."""
    if captions := getattr(maker, "captions", None):
      self.captions_cut, self.captions_encoded = captions.cut, captions.encoded
      self.tiles = maker.tiler.summary()

  def add(self, other: "Made") -> None:
    """Adds what another host made at the same time."""
    for field in dataclasses.fields(self):
      mine, theirs = getattr(self, field.name), getattr(other, field.name)
      if field.name == "seconds":
        setattr(self, field.name, max(mine, theirs))
      elif field.name == "tiles":
        setattr(self, field.name, mine or theirs)
      elif field.name not in ("reused", "shapes", "shapes_each", "hosts"):
        setattr(self, field.name, mine + theirs)
    self.hosts += 1

  @property
  def wasted(self) -> float:
    """Share of what was computed that no clip needed."""
    return 1 - self.pixels / self.computed if self.computed else 0.0

  @property
  def waiting(self) -> float:
    """Share of the time in which the encoder waited for the decoder."""
    return self.waited / self.seconds / self.hosts if self.seconds else 0.0


class Bar:
  """A line that shows clips, frames and the share of waiting while they are made."""

  def __init__(
    self,
    name: str,
    plan: plan_lib.Plan,
    batches: Sequence[batches_lib.Batch],
    made: Made,
  ):
    """Starts counting.

    Args:
      name: of the data set.
      plan: of all clips.
      batches: to be made.
      made: is updated.
    """
    self._plan, self._made = plan, made
    kinds = {(batch.device, batch.buffer[1:], batch.size) for batch in batches}
    made.shapes = len({kind[1:] for kind in kinds})
    made.shapes_each = max(collections.Counter(kind[0] for kind in kinds).values())
    total = made.reused + sum(len(batch.indices) for batch in batches)
    self._bar = tqdm.tqdm(
      desc=name, total=total, initial=made.reused, unit="clip", mininterval=0.5
    )
    self._begun = time.monotonic()

  def __enter__(self) -> "Bar":
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.close()

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    self._bar.write(text, sys.stderr)

  def wrote(self, batch: batches_lib.Batch, failed: Collection[int]) -> None:
    """Counts a written batch, except for its clips that failed."""
    made, plan = self._made, self._plan
    written = [i for i in batch.indices.tolist() if i not in failed]
    made.failed += len(failed)
    made.written += len(written)
    made.frames += int(plan.frames[written].sum())
    made.pixels += sum(math.prod(plan.shape(i)) for i in written)
    made.computed += batch.pixels if written else 0
    made.seconds = time.monotonic() - self._begun
    shown = f"{made.frames / made.seconds:.1f} frames/s, waits {made.waiting:.0%}"
    self._bar.set_postfix_str(shown, refresh=False)
    self._bar.total -= len(failed)
    self._bar.update(len(written))
