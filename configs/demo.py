"""The demo: captioned moving shapes, from files to videos on eight simulated devices.

Presets:
  (none): seven to thirteen minutes of training on two CPU cores, depending on load.
  quick: one minute of training, at lower quality.
"""

import ml_collections

from video_dit import config


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The experiment of one preset."""
  if preset not in ("", "quick"):
    raise ValueError(f"{preset!r} is not a preset: there is quick.")
  quick = preset == "quick"
  c = config.template(name="demo", objective="diffusion")
  c.media.frames_per_second = 8.0
  c.media.max_pixels = 64 * 64
  c.media.max_frames = 17
  c.media.min_frames = 1
  c.ingest.measure = False

  # Must describe the autoencoder that configs/autoencoder.py:demo trains.
  c.autoencoder.channels = 12
  c.autoencoder.space = 4
  c.autoencoder.time = 4
  c.autoencoder.patch = 4
  c.autoencoder.widths = (48, 64, 96)
  c.autoencoder.blocks = 1
  c.autoencoder.factorized = True

  # A T5 with random frozen weights: it tells words apart, nothing more.
  c.text.vocabulary = 160
  c.text.width = 64
  c.text.depth = 1
  c.text.heads = 4
  c.text.head_size = 16
  c.text.mlp_width = 128
  c.text.max_tokens = 48

  c.dit.width = 192
  c.dit.depth = 3
  c.dit.heads = 4
  c.dit.rope_side = 4.0
  c.dit.rope_theta = 100.0
  c.dit.rope_seconds = 0.5
  c.dit.remat = "none"
  c.dit.unroll = 3

  c.data.rows = 16
  # Devices that share two cores gain nothing from equal work, so steps stay mixed.
  c.data.balance_rows = 16
  c.data.row_length = 96
  c.data.row_segments = 6
  c.data.row_text = 72
  c.data.threads = 1
  c.data.lookahead = 256
  c.data.caption_dropout = 0.1

  c.optimizer.learning_rate = 3e-3
  c.optimizer.warmup_steps = 40
  c.optimizer.schedule = "cosine"
  c.optimizer.final_fraction = 0.02
  # So few degrees of freedom over so many tokens show even through strong noise: motion
  # and place are decided where a plain schedule hardly trains. What weak noise hides, the
  # decoder repairs.
  c.diffusion.shift = 4.25
  c.diffusion.time_std = 1.4
  c.diffusion.shift_tokens = 48
  c.train.steps = 50 if quick else 1300
  c.train.ema_decay = 0.99
  c.train.compute_dtype = "float32"
  c.train.checkpoint_every = 300
  c.train.evaluate_every = 500
  c.train.evaluate_batches = 2
  c.train.sample_every = 0

  c.sample.steps = 30
  # Content is decided at high noise; guidance at low noise breaks the picture.
  c.sample.guidance = 4.0
  c.sample.guidance_interval = (0.6, 1.0)
  c.sample.height = 32
  c.sample.width = 32
  c.sample.frames = 9
  c.sample.frames_per_second = 8.0
  c.evaluate.adherence = True
  c.evaluate.batches = 2
  return c
