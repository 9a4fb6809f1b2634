"""Measures samples against what their prompts ask for, and counts what is right."""

from collections.abc import Iterable
import dataclasses

import numpy as np

from video_dit.evaluate import adherence, nearest, share, strips
from video_dit.generator import records
from video_dit.media import shapes

MEASURES = ("colour", "direction", "shape", "wholeness")
# Shares that a blind guess among the demo's words gets right.
CHANCE = {
  "colour": 1 / len(shapes.COLOURS),
  "direction": 1 / len(shapes.DIRECTIONS),
  "shape": 1 / len(shapes.SHAPES),
  "wholeness": None,
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
  """One sample, what its pixels show, and which of it is right.

  There may be thousands of samples, so of their frames only these two sizes are kept.

  Attributes:
    sample: its record.
    few_FHWC: some small frames to look at, from `strips.few`.
    grid_FHWC: the clip on the grid of the copy check, from `nearest.on_grid`.
    measured: what the rule sees; None where the sample has no truth.
    right: by measure.
  """

  sample: records.Sample
  few_FHWC: np.ndarray
  grid_FHWC: np.ndarray
  measured: adherence.Measured | None = None
  right: dict[str, bool] = dataclasses.field(default_factory=dict)

  def verdict(self) -> str:
    """Every measure with a tick or a cross, and what was seen instead."""
    words = []
    for name, right in self.right.items():
      seen = None if name == "wholeness" else getattr(self.measured, name) or "unclear"
      missed = f"✗\N{NO-BREAK SPACE}{name}{f' ({seen})' if seen else ''}"
      words.append(f"✓\N{NO-BREAK SPACE}{name}" if right else missed)
    return " ".join(words)


def judge(
  sample: records.Sample, frames_FHWC: np.ndarray, *, rule: bool = True
) -> Judged:
  """Reduces a sample to what is kept of it, and applies the rule if it has truth.

  Args:
    sample: its record.
    frames_FHWC: its decoded frames.
    rule: apply it.
  """
  judged = Judged(
    sample=sample,
    few_FHWC=strips.few(frames_FHWC),
    grid_FHWC=nearest.on_grid(frames_FHWC),
  )
  if not (rule and sample.truth):
    return judged
  measured = adherence.measure(frames_FHWC)
  right = adherence.judge(measured, sample.truth)
  return dataclasses.replace(judged, measured=measured, right=right)


def count(judged: Iterable[Judged]) -> dict[str, share.Share]:
  """Shares that are right, by measure; a sample counts where it has truth."""
  judged = list(judged)
  shares = {}
  for name in MEASURES:
    answers = [bool(j.right[name]) for j in judged if name in j.right]
    shares[name] = share.Share(right=sum(answers), n=len(answers), chance=CHANCE[name])
  return shares
