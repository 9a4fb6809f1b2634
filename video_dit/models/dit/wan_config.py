"""Sizes of a published Wan transformer, and the config section that they make."""

import dataclasses
import math

from video_dit import config as config_lib

TEXT_LENGTH = 512  # of all models that Wan-AI published


@dataclasses.dataclass(frozen=True, kw_only=True)
class WanConfig:
  """Sizes of a published transformer.

  Attributes:
    width, depth, heads, mlp_width: of the blocks.
    channels: of the latents.
    patch: latent frames, rows and columns of one token.
    text_width: of the captions' encodings.
    text_length: length that captions are zero-padded to.
    frequencies: of the time embedding.
    epsilon: of the norms.
  """

  width: int
  depth: int
  heads: int
  mlp_width: int
  channels: int
  patch: tuple[int, int, int]
  text_width: int
  text_length: int = TEXT_LENGTH
  frequencies: int = 256
  epsilon: float = 1e-6

  @property
  def patch_dim(self) -> int:
    """Values of one token."""
    return self.channels * math.prod(self.patch)

  def section(self, base: config_lib.DiT) -> config_lib.DiT:
    """The config's section of the published function; how it is computed is `base`'s.

    A head is cut as Wan cuts it: a sixth of its pairs, rounded down, for rows, as many
    for columns, and the rest for time. Positions are indices of tokens.
    """
    pairs, side = self.width // self.heads // 2, self.width // self.heads // 6
    return dataclasses.replace(
      base,
      architecture="wan",
      width=self.width,
      depth=self.depth,
      heads=self.heads,
      mlp_ratio=self.mlp_width / self.width,
      patch=self.patch,
      rope_fractions=((pairs - 2 * side) / pairs, side / pairs, side / pairs),
      rope_theta=10_000.0,
      rope_side=0.0,
      rope_seconds=0.0,
      frequencies=self.frequencies,
      norm_epsilon=self.epsilon,
      text_length=self.text_length,
    )


def of_section(dit: config_lib.DiT, patch_dim: int, text_width: int) -> WanConfig:
  """The sizes that a config section describes."""
  return WanConfig(
    width=dit.width,
    depth=dit.depth,
    heads=dit.heads,
    mlp_width=dit.mlp_width,
    channels=patch_dim // math.prod(dit.patch),
    patch=dit.patch,
    text_width=text_width,
    text_length=dit.text_length,
    frequencies=dit.frequencies,
    epsilon=dit.norm_epsilon,
  )
