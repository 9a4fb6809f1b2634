"""DiT-B's depth and width, heads of size 128, on packed rows of native sizes.

Choose the latents and the autoencoder that made them with --config.data.path and
--config.autoencoder.checkpoint. Options not set here keep the defaults of
`video_dit/config/sections.py`.
"""

import ml_collections

from video_dit import config


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The experiment; it has no presets."""
  if preset:
    raise ValueError(f"{preset!r} is not a preset: configs/b.py has none.")
  c = config.template(name="b", objective="diffusion")
  c.dit.depth = 12
  c.dit.width = 768
  c.dit.heads = 6
  c.dit.rope_side = 16.0
  c.dit.remat = "attention"

  # T5 v1.1 base's sizes.
  c.text.vocabulary = 32_000
  c.text.width = 768
  c.text.depth = 12
  c.text.heads = 12
  c.text.mlp_width = 2048

  # A clip of 256 tokens, as an image of 256 x 256 pixels, is not shifted.
  c.diffusion.shift = 1.0
  # 31 latent frames of 17 x 30 tokens are 15,810.
  c.media.max_pixels = 272 * 480
  c.data.row_length = 16_384
  return c
