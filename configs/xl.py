"""DiT-XL's depth and width, heads of size 128, on packed rows of native sizes.

Presets:
  (none): 1,152 wide, 827 M parameters; 9 heads of 128 fill matrix units of 128.
  v6e: 1,280 wide, 1,015 M parameters; 5 heads of 256 fill matrix units of 256 (v6e, 7x).

Choose the latents and the autoencoder that made them with --config.data.path and
--config.autoencoder.checkpoint. Options not set here keep the defaults of
`video_dit/config/sections.py`.
"""

import ml_collections

from video_dit import config


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The experiment of one preset."""
  if preset not in ("", "v6e"):
    raise ValueError(f"{preset!r} is not a preset: there is v6e.")
  c = config.template(name="xl", objective="diffusion")
  c.dit.depth = 28
  c.dit.width, c.dit.heads = (1280, 5) if preset else (1152, 9)
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
