"""DiT-XL's depth and width, heads of size 128, on packed rows of native sizes.

Choose the latents and the autoencoder that made them with --config.data.path and
--config.autoencoder.checkpoint. What is not said here is the default of
`video_dit/config/sections.py`.
"""

import ml_collections

from video_dit import config


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The experiment; it has no presets."""
  if preset:
    raise ValueError(f"{preset!r} is no preset: configs/xl.py has none.")
  c = config.template(name="xl", objective="diffusion")
  c.dit.depth = 28
  c.dit.width = 1152
  c.dit.heads = 9
  c.dit.rope_side = 16.0
  # 2 GB a row of 32k tokens, and no forward kernel runs twice.
  c.dit.remat = "attention"

  # T5 v1.1 XL's sizes.
  c.text.vocabulary = 32_000
  c.text.width = 2048
  c.text.depth = 24
  c.text.heads = 32
  c.text.mlp_width = 5120

  # A clip of 256 tokens, as an image of 256 x 256 pixels, is not shifted.
  c.diffusion.shift = 1.0
  return c
