"""A DiT of 7.6 billion parameters on rows of a minute of video.

Depth, width and heads of the field's 7B transformers (28 x 4096, 32 heads of 128), with
one modulation for all blocks as Wan has it. A row is 460,800 tokens: 30 frames a second
for a minute, at 256 tokens a frame. Meant for 64 v5p chips:

  --mesh=tpu,fsdp=8,context=8

Choose the latents and the autoencoder that made them with --config.data.path and
--config.autoencoder.checkpoint. Options not set here keep the defaults of
`video_dit/config/sections.py`.
"""

import ml_collections

from video_dit import config


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The experiment; it has no presets."""
  if preset:
    raise ValueError(f"{preset!r} is not a preset: configs/7b.py has none.")
  c = config.template(name="7b", objective="diffusion")
  c.dit.architecture = "wan"
  c.dit.depth = 28
  c.dit.width = 4096
  c.dit.heads = 32
  c.dit.remat = "attention"

  # Heads divide over the context axis: each device attends to whole rows with four heads.
  c.mesh.fsdp = 8
  c.mesh.context = 8

  # T5 v1.1 XXL's sizes are the defaults.
  c.text.vocabulary = 32_000
  c.text.dtype = "bfloat16"

  c.media.frames_per_second = 30.0
  # 450 latent frames of 32 x 32 tokens.
  c.media.max_pixels = 512 * 512
  c.media.max_frames = 1797
  c.data.rows = 8
  c.data.row_length = 460_800
  c.data.row_segments = 64
  c.data.row_text = 4096

  # A clip of 256 tokens, as an image of 256 x 256 pixels, is not shifted.
  c.diffusion.shift = 1.0
  return c
