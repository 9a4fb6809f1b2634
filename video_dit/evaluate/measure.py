"""Measures samples against what their prompts ask for, and counts what is right."""

from collections.abc import Iterable
import dataclasses

import numpy as np

from video_dit.evaluate import adherence, share
from video_dit.evaluate import samples as samples_lib
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

  Attributes:
    sample: its record.
    frames_FHWC: its decoded frames.
    measured: what the rule sees; None where the sample has no truth.
    right: by measure.
  """

  sample: samples_lib.Sample
  frames_FHWC: np.ndarray
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


def judge(sample: samples_lib.Sample, frames_FHWC: np.ndarray) -> Judged:
  """Applies the rule to one sample; one without truth is passed through."""
  if not sample.truth:
    return Judged(sample=sample, frames_FHWC=frames_FHWC)
  measured = adherence.measure(frames_FHWC)
  right = adherence.judge(measured, sample.truth)
  return Judged(sample=sample, frames_FHWC=frames_FHWC, measured=measured, right=right)


def count(judged: Iterable[Judged]) -> dict[str, share.Share]:
  """Shares that are right, by measure; a sample counts where it has truth."""
  judged = list(judged)
  shares = {}
  for name in MEASURES:
    answers = [bool(j.right[name]) for j in judged if name in j.right]
    shares[name] = share.Share(right=sum(answers), n=len(answers), chance=CHANCE[name])
  return shares
