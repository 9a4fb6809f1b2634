"""A request: a clip to generate, checked against the grid it must fit."""

import dataclasses

import numpy as np

from video_dit.config import Grid
from video_dit.media import write


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
  """One clip to generate; one frame is an image.

  Attributes:
    prompt: what it shows; empty asks for any clip.
    height, width: pixels.
    frames: frames at `frames_per_second`.
    frames_per_second: rate of the clip.
    seed: decides the noise: same seed and size, same noise, whatever the prompt.
    guidance: classifier-free guidance scale; None takes the generator's.
    negative: prompt that guidance leads away from; empty is any clip.
    given_FHWC: `(G, height, width, 3)` uint8, the clip's given first frames, which the
      rest continues; None without.
  """

  prompt: str
  height: int
  width: int
  frames: int = 1
  frames_per_second: float = 24.0
  seed: int = 0
  guidance: float | None = None
  negative: str = ""
  given_FHWC: np.ndarray | None = None

  def check(self, grid: Grid) -> None:
    """Refuses a request that does not fit the grid.

    Raises:
      ValueError: names the value, the rule and the nearest valid values.
    """
    for name, unit in zip(("height", "width"), grid.side, strict=True):
      _check_multiple(self, name, unit, f"a multiple of {unit} pixels", 0)
    # Latent frames come in whole patches: frames = 1 + time (k patch - 1).
    span, first = grid.span, grid.least
    rule = "1" if first == 1 else str(first)
    _check_multiple(self, "frames", span, f"{rule} + a multiple of {span}", first)
    self.check_rate()
    if not 0 <= self.seed < 2**64:
      raise ValueError(f"{self}: seed={self.seed} is not in [0, 2**64). Choose another.")
    if self.guidance is not None and not np.isfinite(self.guidance):
      raise ValueError(f"{self}: guidance={self.guidance} must be finite; 1 is off.")
    self._check_given(grid)

  def check_rate(self) -> None:
    """Refuses a frame rate out of range.

    Raises:
      ValueError: names the rate and its bounds.
    """
    least = write.LEAST_RATE
    if not least <= self.frames_per_second <= 1000:
      raise ValueError(
        f"{self}: frames_per_second={self.frames_per_second} is not in [{least}, 1000]."
        " Choose the rate of the training clips."
      )

  def check_format(self, form: str) -> None:
    """Refuses a clip that files of `config.sample.format` cannot hold.

    Raises:
      ValueError: names the format, what it cannot hold and those that can.
    """
    where = f"{self}: config.sample.format={form!r}"
    if form == "png" and self.frames > 1:
      raise ValueError(
        f"{where} holds one frame, but {self.frames} are requested. Choose 'mp4' or"
        " 'gif', or frames=1: an image is always png."
      )
    most = write.MOST_GIF_RATE
    if form == "gif" and self.frames > 1 and self.frames_per_second > most:
      raise ValueError(
        f"{where} has at most {most} frames a second, but {self.frames_per_second:g} are"
        " requested. Choose 'mp4', or a lower frames_per_second."
      )

  def _check_given(self, grid: Grid) -> None:
    if self.given_FHWC is None:
      return
    given = self.given_FHWC
    if given.dtype != np.uint8 or given.shape[1:] != (self.height, self.width, 3):
      raise ValueError(
        f"{self}: given frames are {given.dtype}{given.shape}, must be uint8 (frames,"
        f" {self.height}, {self.width}, 3). Resize them to the request's size first."
      )
    span, first = grid.span, grid.least
    if (given.shape[0] - first) % span or not 0 < given.shape[0] < self.frames:
      below, above = _nearest(given.shape[0], span, first)
      near = [n for n in (below, above) if n < self.frames]
      raise ValueError(
        f"{self}: {given.shape[0]} given frames; must be {first} + a multiple of {span},"
        f" fewer than the request's {self.frames}."
        f" Nearest: {' or '.join(map(str, near)) or 'none: ask for more frames'}."
      )

  def __str__(self) -> str:
    prompt = self.prompt if len(self.prompt) <= 60 else self.prompt[:57] + "..."
    return f"request {prompt!r} ({self.frames}x{self.height}x{self.width})"


def _check_multiple(request: Request, name: str, unit: int, rule: str, first: int):
  value = getattr(request, name)
  if value > 0 and value >= first and (value - first) % unit == 0:
    return
  below, above = _nearest(value, unit, first)
  near = f"{above}" if below == above else f"{below} or {above}"
  raise ValueError(f"{request}: {name}={value} must be {rule}. Nearest: {near}.")


def _nearest(value: int, unit: int, first: int) -> tuple[int, int]:
  """The valid values on both sides of `value`: `first` plus multiples of `unit`."""
  least = first or unit
  below = max(least, first + (value - first) // unit * unit)
  above = max(least, first - (first - value) // unit * unit)
  return below, above
