"""Shares of samples that are right, with their confidence intervals."""

import dataclasses
import math

_Z95 = 1.959964  # of the normal distribution, two-sided 95 %


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
  """How many of `n` are right.

  Attributes:
    right: number that are right.
    n: number measured.
    chance: share that blind guessing gets right; None where undefined.
  """

  right: int
  n: int
  chance: float | None = None

  @property
  def fraction(self) -> float | None:
    """Right over measured; None where nothing was measured."""
    return self.right / self.n if self.n else None

  @property
  def interval(self) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927, "Probable Inference", eq. for p)."""
    if not self.n:
      return 0.0, 1.0
    p, square = self.right / self.n, _Z95**2
    scale = 1 + square / self.n
    middle = (p + square / (2 * self.n)) / scale
    spread = p * (1 - p) / self.n + square / (4 * self.n**2)
    half = _Z95 * math.sqrt(spread) / scale
    return max(0.0, middle - half), min(1.0, middle + half)

  def to_json(self) -> dict[str, float | int | list[float] | None]:
    """All values, for `evaluation.json`."""
    return {
      "fraction": self.fraction,
      "right": self.right,
      "n": self.n,
      "interval_95": list(self.interval),
      "chance": self.chance,
    }
