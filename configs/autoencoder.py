"""The autoencoder, trained on windows of clips.

Presets:
  (none): 8 x 8 pixels and 4 frames a latent, 16 channels; needs an accelerator.
  demo: 4 x 4 pixels and 4 frames a latent, small enough for two CPU cores.
  demo_quick: the same, trained for less time.
"""

import ml_collections

from video_dit import config


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The experiment of one preset."""
  c = config.template(name="autoencoder", objective="reconstruction")
  c.data.window_frames = 17
  c.data.window_side = 256
  c.data.rows = 8
  c.train.accumulate = 4
  c.train.steps = 200_000
  c.train.ema_decay = 0.999
  c.optimizer.learning_rate = 1e-4
  c.optimizer.schedule = "cosine"
  if preset in ("demo", "demo_quick"):
    _demo(c, quick=preset == "demo_quick")
  elif preset:
    raise ValueError(f"{preset!r} is not a preset: there are demo and demo_quick.")
  return c


def _demo(c: ml_collections.ConfigDict, *, quick: bool) -> None:
  c.name = "demo_autoencoder"
  c.autoencoder.channels = 12
  c.autoencoder.space = 4
  c.autoencoder.time = 4
  c.autoencoder.patch = 4
  c.autoencoder.widths = (48, 64, 96)
  c.autoencoder.blocks = 1
  c.autoencoder.factorized = True
  c.media.frames_per_second = 8.0
  c.media.max_pixels = 64 * 64
  c.media.max_frames = 17
  c.media.min_frames = 1
  c.ingest.measure = False
  c.data.window_frames = 9
  c.data.window_side = 32
  c.data.rows = 8
  c.train.accumulate = 1
  c.data.threads = 1
  c.reconstruction.l2 = 1.0
  c.reconstruction.gradient = 0.5
  c.reconstruction.kl = 2e-3
  c.reconstruction.noise = 0.5
  c.reconstruction.remat = False
  c.optimizer.learning_rate = 2e-3
  c.optimizer.warmup_steps = 20
  c.optimizer.final_fraction = 0.02
  c.optimizer.weight_decay = 0.0
  c.train.steps = 100 if quick else 700
  c.train.ema_decay = 0.98
  c.train.compute_dtype = "float32"
  c.train.checkpoint_every = 100
  c.train.evaluate_every = 350
  c.train.evaluate_batches = 2
  c.train.sample_every = 0
