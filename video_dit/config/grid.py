"""The extents that a clip may have: whole latents, and whole patches of them."""

import dataclasses
import math

from video_dit.config.sections import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
  """What a clip's extents must be multiples of.

  Attributes:
    space: pixels per latent row and column.
    time: frames per latent frame, after the first.
    patch: latent frames, rows and columns of one token.
  """

  space: int
  time: int
  patch: tuple[int, int, int] = (1, 1, 1)

  @classmethod
  def of(cls, config: Config) -> "Grid":
    """The grid that a config asks for; pixels need no patches."""
    arch = config.autoencoder
    patch = config.dit.patch if config.objective == "diffusion" else (1, 1, 1)
    return cls(space=arch.space, time=arch.time, patch=patch)

  @property
  def side(self) -> tuple[int, int]:
    """Pixels per token in height and width."""
    return self.space * self.patch[1], self.space * self.patch[2]

  @property
  def cell(self) -> int:
    """Pixels of the least square of whole tokens."""
    return math.lcm(*self.side)

  @property
  def span(self) -> int:
    """Frames per token, after the first."""
    return self.time * self.patch[0]

  @property
  def least(self) -> int:
    """Frames of the shortest clip."""
    return self.frames(self.patch[0])

  def frames(self, latent_frames: int) -> int:
    """Frames of a clip of so many latent frames."""
    return 1 + (latent_frames - 1) * self.time if latent_frames else 0

  def latent_frames(self, frames: int) -> int:
    """Latent frames of the longest clip that `frames` frames give; may be 0."""
    whole = 1 + (frames - 1) // self.time if frames > 0 else 0
    return whole // self.patch[0] * self.patch[0]

  def floor(self, frames: int) -> int:
    """The longest clip that `frames` frames give."""
    return self.frames(self.latent_frames(frames))

  def latent(self, height: int, width: int, frames: int) -> tuple[int, int, int]:
    """Latent frames, rows and columns of a clip on this grid."""
    return self.latent_frames(frames), height // self.space, width // self.space

  def tokens(self, height: int, width: int, frames: int) -> tuple[int, int, int]:
    """Tokens of a clip on this grid in time, height and width."""
    t, h, w = self.latent(height, width, frames)
    return t // self.patch[0], h // self.patch[1], w // self.patch[2]
