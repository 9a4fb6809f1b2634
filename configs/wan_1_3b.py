"""Wan 2.1 T2V 1.3B, fine-tuned on packed rows of a clip of 81 frames at 480p each.

Name the published folders, of diffusers or of Wan-AI, and the latents that the encoders
among them made:

  --config.dit.checkpoint=Wan2.1-T2V-1.3B-Diffusers/transformer
  --config.autoencoder.checkpoint=Wan2.1-T2V-1.3B-Diffusers/vae
  --config.text.checkpoint=Wan2.1-T2V-1.3B-Diffusers/text_encoder
  --config.data.path=data

Without `dit.checkpoint` the same transformer is trained from random weights.
"""

import ml_collections

from video_dit import config


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The experiment; it has no presets."""
  if preset:
    raise ValueError(f"{preset!r} is not a preset: configs/wan_1_3b.py has none.")
  c = config.template(name="wan_1_3b", objective="diffusion")
  c.dit.architecture = "wan"
  c.dit.width = 1536
  c.dit.depth = 30
  c.dit.heads = 12
  c.dit.mlp_ratio = 8960 / 1536
  # Of the 64 pairs of a head. Wan counts latent frames, whatever their rate.
  c.dit.rope_fractions = (22 / 64, 21 / 64, 21 / 64)
  c.dit.rope_seconds = 0.0
  c.dit.text_length = 512
  c.dit.remat = "attention"

  # UMT5-XXL, as Wan was trained with: the defaults' sizes, 512 tokens.
  c.text.vocabulary = 256_384
  c.text.max_tokens = 512
  c.text.dtype = "bfloat16"

  c.media.frames_per_second = 16.0
  c.media.max_pixels = 480 * 832
  c.media.max_frames = 81

  # 21 latent frames of 30 x 52 tokens are 32,760.
  c.data.row_length = 32_768
  c.data.row_segments = 32
  c.data.row_text = 2048

  # Shifted by 3 at 480p, as the 480p models are sampled. Smaller clips are shifted less,
  # unlike theirs; shift_tokens = 1 with max_shift = 3 shifts every clip by 3.
  c.diffusion.shift = 3.0
  c.diffusion.shift_tokens = 32_760

  c.optimizer.learning_rate = 1e-5
  c.optimizer.warmup_steps = 100
  c.train.steps = 10_000
  c.train.ema_decay = 0.999

  c.sample.sampler = "unipc"
  c.sample.height = 480
  c.sample.width = 832
  c.sample.frames = 81
  c.sample.frames_per_second = 16.0
  return c
